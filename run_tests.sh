#!/usr/bin/env bash
# Lints and tests everything; arguments go to pytest. The first call also sets Python up.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$root/tools/setup.sh"
setup_python "$root"
cd "$root"
status=0
"$PYTHON" -m ruff check . || status=$?
"$PYTHON" -m pytest "$@" || status=$?
exit "$status"
