#!/bin/sh
# Creates the environment (default .venv) with everything of setup.cfg's extra `all`, and marks it installed.
set -eu
venv=${1:-.venv}
python=$(scripts/check_machine.sh)
# uv keeps its cache in the home directory, and without a writable one beside the environment.
[ -w "${HOME:-/nonexistent}" ] || export UV_CACHE_DIR="$PWD/$venv/cache"
echo "Creating $venv with $("$python" --version) (the first time downloads about 3 GB of packages) ..."
"$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check uv
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --editable '.[all]'
touch "$venv/.installed"
echo "Created $venv."
