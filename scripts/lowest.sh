#!/usr/bin/env bash
# Runs tests with the lowest versions of the libraries that pyproject.toml allows, in .venv-lowest (about 5 GB more).
# Arguments go to pytest; without any, all tests but those of the scripts run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
environment "[test]"
python=.venv-lowest/bin/python
[ -x "$python" ] || .venv/bin/uv venv --quiet --python "${PYTHON:-python3}" .venv-lowest
.venv/bin/uv pip install --quiet --python "$python" bitsandbytes hypothesis psutil pytest pytest-xdist tensorboard
.venv/bin/uv pip install --quiet --python "$python" --resolution lowest-direct --editable .
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
if [ $# -gt 0 ]; then
    exec "$python" -m pytest "$@"
fi
exec "$python" -m pytest --numprocesses 2 --dist loadfile --ignore tests/test_scripts.py --ignore tests/studies
