#!/usr/bin/env bash
# Lint, types and the whole test suite, offline but for the package registry: bash scripts/test.sh [pytest arguments]
# bash scripts/test.sh -m "not slow" is the inner loop.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/python -m mypy
# a file of tests a core: what a file makes once is made once
OMP_NUM_THREADS=1 .venv/bin/python -m pytest --numprocesses auto --dist loadfile "$@"
