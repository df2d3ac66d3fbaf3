#!/usr/bin/env bash
# Remakes requirements.lock from the ranges in pyproject.toml, for every supported Python and system. Needs uv.
# PyTorch's pair is written by hand: what a resolver says of it depends on the machine (builds with and without CUDA),
# and so do the packages that a CUDA build brings along; pip fetches those with torch itself.
# No hashes: docs/limits.md says why.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
pair=$'torch==2.13.0\ntorchvision==0.28.0'
pins=$(uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --no-header --no-annotate \
    --constraint <(printf '%s\n' "$pair"))
{
    echo "# Exact pins of everything the suite runs with, for Python 3.11 to 3.13. To remake: tools/lock.sh (needs uv)."
    echo "# The pair below stands apart: a CPU, CUDA or ROCm build of these versions will do."
    printf '%s\n' "$pair"
    echo
    grep -vE '^(torch|torchvision|triton|(nvidia|cuda)-[a-z0-9-]+)==' <<<"$pins"
} >requirements.lock.new
mv requirements.lock.new requirements.lock
