#!/bin/sh
# Names what is missing on this machine, one line each, before anything is downloaded.
set -u
missing=0
say() { echo "missing: $1" >&2; missing=1; }

if [ -z "${PYTHON:-}" ]; then
    say "Python 3.11 or newer (Debian, Ubuntu: apt-get install python3)"
elif ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    say "Python 3.11 or newer: $PYTHON is none"
else
    "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null ||
        say "Python's venv module (Debian, Ubuntu: apt-get install python3-venv)"
    "$PYTHON" -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' 2>/dev/null ||
        [ "$(uname -s)" = Darwin ] ||
        say "libgomp, the OpenMP runtime (Debian, Ubuntu: apt-get install libgomp1)"
fi
exit "$missing"
