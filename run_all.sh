#!/usr/bin/env bash
# Runs a profile's notebooks and writes results/<profile>/. The first call also sets Python up. See ./run_all.sh --help.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$root/tools/setup.sh"
setup_python "$root"
exec "$PYTHON" -P -m suite.runner "$@"
