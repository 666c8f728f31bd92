#!/usr/bin/env bash
# Makes venv/ beside this file and installs the pinned requirements, and what they require at the versions of constraints.txt; seconds when nothing changed.
#   ./setup.sh          what the study needs
#   ./setup.sh --dev    that, and what the tests need
# PYTHON=/path/to/python3.12 ./setup.sh   chooses the interpreter
set -euo pipefail
cd "$(dirname "$0")"

files=(requirements.txt)
case "${1:-}" in
  "") ;;
  --dev) files+=(requirements-dev.txt) ;;
  *) echo "setup.sh: unknown option $1; there is only --dev" >&2; exit 2 ;;
esac

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

python=${PYTHON:-}
if [ -z "$python" ]; then
  for candidate in python3 python3.13 python3.12 python3.11 python; do
    if command -v "$candidate" >/dev/null && new_enough "$candidate"; then python=$candidate; break; fi
  done
fi
if [ -z "$python" ] || ! new_enough "$python"; then
  found=$("${python:-python3}" --version 2>&1 || echo "no Python")
  echo "setup.sh: Python 3.11 or newer is needed, found: $found. Install it, or name it: PYTHON=/path/to/python3.11 ./setup.sh" >&2
  exit 2
fi

# A virtual environment whose interpreter is gone or too old is made anew.
if [ ! -x venv/bin/python ] || ! new_enough venv/bin/python; then
  rm -rf venv
  "$python" -m venv venv
fi

# What was installed last, with which interpreter: unchanged means there is nothing to do.
stamp="$(venv/bin/python --version) $(cat "${files[@]}" constraints.txt | cksum)"
if ! grep -qxF "$stamp" venv/.installed 2>/dev/null; then
  arguments=(-c constraints.txt)
  for file in "${files[@]}"; do arguments+=(-r "$file"); done
  venv/bin/python -m pip install --quiet --disable-pip-version-check "${arguments[@]}"
  echo "$stamp" >> venv/.installed
fi
