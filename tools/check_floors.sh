#!/usr/bin/env bash
# The suite with the lowest version of everything that setup.py declares: tools/check_floors.sh [options of pytest]
#
#   PYTHON=/path/to/python3.10    the lowest Python (default: python3.10, else the lowest one here, and it says so)
#   FLOORS_ENV=folder             keep the environment there, and use it again; deleted afterwards by default
#
# About 6 GB and 2 minutes for the environment. Exit code: pytest's; 2 if there is no environment to run it in.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$root/tools/find_python.sh"

python="${PYTHON:-}"
for candidate in 3.10 3.11 3.12 3.13; do
  [ -n "$python" ] || python="$(find_python "$candidate")"
done
if [ -z "$python" ]; then
  echo "check_floors.sh: no Python from 3.10 to 3.13 with ensurepip here; name one: PYTHON=/path/to/python3.10" >&2
  exit 2
fi
version="$("$python" -c 'import platform; print(platform.python_version())')"
case "$version" in 3.10.*) ;; *) echo "check_floors.sh: the floor is Python 3.10, but this run has $version." ;; esac

env="${FLOORS_ENV:-}"
if [ -z "$env" ]; then
  env="$(mktemp -d)"
  trap 'rm -rf "$env"' EXIT
fi
if [ ! -f "$env/.complete" ]; then
  "$python" -m venv --clear "$env" || exit 2
  # pip cannot ask for the lowest versions; uv can.
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check uv || exit 2
  # One headless OpenCV for all, as in requirements/lock.txt.
  cat >"$env/overrides.txt" <<'EOF'
opencv-python ; sys_platform == 'never'
opencv-contrib-python ; sys_platform == 'never'
EOF
  "$env/bin/uv" pip install --python "$env/bin/python" --resolution lowest-direct --override "$env/overrides.txt" \
    "${root}[all,test]" 'opencv-contrib-python-headless>=4.11' || exit 2
  # The tests are to find the working tree, not the copy.
  "$env/bin/uv" pip uninstall --python "$env/bin/python" hocp-mm || exit 2
  touch "$env/.complete"
fi
"$env/bin/uv" pip list --python "$env/bin/python" | grep -iE '^(torch|torchvision|timm|mm[a-z0-9-]+|numpy|safetensors|pillow|av|matplotlib|scikit-image|filelock|tqdm|setuptools) '
cd "$root"
export PYTHONPATH="$root" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# As PARALLEL of the Makefile.
"$env/bin/python" -m pytest -q -p no:cacheprovider -n auto --maxprocesses 4 --dist loadfile "$@"
