#!/usr/bin/env bash
# Makes .venv with the test extra and runs linter, type checker and test suite. Arguments go to pytest. Without any, two
# processes of one thread share the suite, and the numerical tests run once more as on a processor of another kind;
# scripts/numerics.sh goes through all kinds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
environment "[test]"
.venv/bin/ruff check .
.venv/bin/mypy
if [ $# -gt 0 ]; then
    exec .venv/bin/python -m pytest "$@"
fi
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
.venv/bin/python -m pytest --numprocesses 2 --dist loadfile
export ONEDNN_MAX_CPU_ISA=SSE41 ATEN_CPU_CAPABILITY=default
grep -rlw numerical tests --include='test_*.py' | xargs .venv/bin/python -m pytest --numprocesses 2 --dist loadfile -m numerical
