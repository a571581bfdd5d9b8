#!/usr/bin/env bash
# Every supported Python that is here: environment, install, import of all modules, core tests; ends in a table.
#
#   tools/check_pythons.sh [VERSION …]   3.10 3.11 3.12 3.13 by default
#
# About 6 GB and 3 minutes for each, deleted afterwards; pip's log of a failed install stays on the screen.
# Exit code: 1 if a Python that is here fails.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
. tools/find_python.sh
[ $# -gt 0 ] || set -- 3.10 3.11 3.12 3.13
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
table=""
failed=0

check() { # VERSION PYTHON: prints, and sets `result`
  local env="$folder/$1"
  result="no environment"
  "$2" -m venv "$env" || return 1
  local python="$env/bin/python"
  result="install failed"
  "$python" -m pip install --quiet --disable-pip-version-check --no-deps 'setuptools>=70.1,<82' || return 1
  if [ "$1" = 3.10 ]; then
    # The lock file has no torch for it. pip takes the newest versions within setup.py.
    "$python" -m pip install --quiet --disable-pip-version-check --no-build-isolation '.[all,test]' || return 1
    "$python" -m pip uninstall --quiet --yes opencv-python opencv-contrib-python || return 1
    "$python" -m pip install --quiet --disable-pip-version-check opencv-contrib-python-headless || return 1
  else
    "$python" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/lock.txt || return 1
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation . || return 1
  fi
  result="import failed"
  # From outside the tree, so that what was installed is imported.
  (cd "$folder" && "$python" - <<'EOF') || return 1
import importlib, pkgutil
from hocp_mm import compat
compat.apply()
import hocp_mm
names = [m.name for m in pkgutil.walk_packages(hocp_mm.__path__, "hocp_mm.") if not m.name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
print(f"{len(names)} modules imported")
EOF
  result="core tests failed"
  OMP_NUM_THREADS=1 "$python" -m pytest -q -p no:cacheprovider tests/functional tests/layers tests/test_registry.py || return 1
  result="passed"
}

for version in "$@"; do
  python="$(find_python "$version")"
  if [ -z "$python" ]; then
    table+="$version"$'\t'"not here"$'\n'
    continue
  fi
  echo "==> $("$python" --version)"
  check "$version" "$python" || failed=1
  table+="$version"$'\t'"$("$python" -c 'import platform; print(platform.python_version())')"$'\t'"$result"$'\n'
  rm -rf "${folder:?}/$version"
done
printf '\npython\tfound\tresult\n%s' "$table" | expand -t 10
exit "$failed"
