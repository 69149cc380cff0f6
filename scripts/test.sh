#!/usr/bin/env bash
# Lint and the whole test suite, offline but for the package registry: bash scripts/test.sh [pytest arguments]
set -euo pipefail
source "$(dirname "$0")/setup.sh"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
# a file of tests a core: what a file makes once is made once
OMP_NUM_THREADS=1 .venv/bin/python -m pytest --numprocesses auto --dist loadfile "$@"
