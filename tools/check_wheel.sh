#!/bin/sh
# The built wheel, in an empty environment: the command is there, and the packaged model answers.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
uv=.venv/bin/uv

"$uv" build --quiet --wheel --out-dir "$work"
"$uv" venv --quiet --python .venv/bin/python "$work/env"
VIRTUAL_ENV="$work/env" "$uv" pip install --quiet "$work"/*.whl
cd "$work"
PATH="$work/env/bin:$PATH"
HOME="$work" XDG_STATE_HOME="$work/state" XDG_CACHE_HOME="$work/cache" XDG_CONFIG_HOME="$work/config"
export PATH HOME XDG_STATE_HOME XDG_CACHE_HOME XDG_CONFIG_HOME
ssis --version
ssis serve --port 0 --quiet --log-level warning --no-access-log --once >answer
test -s answer
echo "the wheel installs, and its model answers"
