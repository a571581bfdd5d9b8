# To be sourced. find_python 3.12 prints the first Python of that version that can make environments, or nothing:
# from PATH, then from pyenv, whose versions need not be on it.
# shellcheck shell=bash
find_python() {
  local candidate
  for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
    if "$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then
      command -v "$candidate"
      return
    fi
  done
}
