#!/usr/bin/env bash
# Build wheel and sdist into dist/, check them, and run the import tests against the installed wheel: `make wheel`.
# The tests are those of the sdist, unpacked without its `hocp_mm`: nothing of the working tree is imported.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools="$PWD/.venv-tools/bin/python" stack="$PWD/.venv/bin/python"

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
rm -rf dist build ./*.egg-info
"$tools" -m build --no-isolation --outdir dist . >"$folder/build.log" 2>&1 || { cat "$folder/build.log" >&2; exit 1; }
rm -rf build ./*.egg-info
"$tools" -m twine check --strict dist/*

"$stack" -m venv --without-pip "$folder/env"
# The packages of .venv, below the wheel; an editable hocp_mm there takes effect through a .pth file, which a folder
# that is itself named in a .pth file does not get read.
site="$("$folder/env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
"$stack" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$site/stack.pth"
"$stack" -m pip --disable-pip-version-check --python "$folder/env/bin/python" install --quiet --no-deps --no-index --ignore-installed dist/*.whl
mkdir "$folder/tests"
tar -xzf dist/*.tar.gz -C "$folder/tests" --strip-components 1
rm -rf "$folder"/tests/hocp_mm "$folder"/tests/*.egg-info
cd "$folder/tests"
origin="$("$folder/env/bin/python" -c 'import hocp_mm; print(hocp_mm.__file__)')"
case "$origin" in "$site"/*) ;; *) echo "check_wheel.sh: hocp_mm must come from the wheel, got $origin" >&2; exit 1 ;; esac
env -u PYTHONPATH "$folder/env/bin/python" -m pytest -q -p no:cacheprovider -o testpaths=tests \
  tests/test_packaging.py tests/test_clean_environment.py tests/test_registry.py tests/system/test_isolation.py \
  tests/functional/native/test_build.py "$@"
