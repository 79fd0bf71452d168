#!/usr/bin/env bash
# Finds a Python that Whetstone supports and hands over to setup.py. PYTHON=... chooses one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

supported='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'

if [ -n "${PYTHON:-}" ]; then
  if ! command -v "$PYTHON" >/dev/null; then
    echo "setup: PYTHON=$PYTHON: there is no such program" >&2
    exit 1
  fi
  if ! "$PYTHON" -c "$supported"; then
    echo "setup: PYTHON=$PYTHON is $("$PYTHON" --version 2>&1); Whetstone needs Python 3.10, 3.11, 3.12 or 3.13" >&2
    exit 1
  fi
  exec "$PYTHON" scripts/setup.py
fi

# python3 comes first: where ROS 2 is installed, that is the one that ROS was built for.
for candidate in python3 python3.12 python3.11 python3.13 python3.10; do
  if command -v "$candidate" >/dev/null && "$candidate" -c "$supported" 2>/dev/null; then
    exec "$candidate" scripts/setup.py
  fi
done

found="$(command -v python3 >/dev/null && python3 --version 2>&1 || echo 'no python3 at all')"
echo "setup: Whetstone needs Python 3.10, 3.11, 3.12 or 3.13; found $found." >&2
echo "setup: install one (for example: apt-get install python3 python3-venv python3-dev) or name it: make setup PYTHON=/path/to/python3.12" >&2
exit 1
