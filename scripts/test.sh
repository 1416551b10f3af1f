#!/usr/bin/env bash
# Makes .venv with the test extra and runs linter, type checker and test suite. Arguments go to pytest. Without any, the
# numerical tests run once more as on a processor of another kind; scripts/numerics.sh goes through all kinds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
environment "[test]"
.venv/bin/ruff check .
.venv/bin/mypy
.venv/bin/python -m pytest "$@"
if [ $# = 0 ]; then
    ONEDNN_MAX_CPU_ISA=SSE41 ATEN_CPU_CAPABILITY=default OMP_NUM_THREADS=1 .venv/bin/python -m pytest -m numerical
fi
