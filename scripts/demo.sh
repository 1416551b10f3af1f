#!/usr/bin/env bash
# Forgets a handwritten digit: makes .venv, installs, pretrains a small conditional DDPM on scikit-learn's digits (kept
# for the next time), forgets with SFRon + DualOptim, samples, evaluates and writes a report into runs/demo.
#   bash scripts/demo.sh [CLASS [RECIPE]]    three, or any of zero ... nine; digits_sfron_dual, or any of digits_*
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
environment ""
start=$SECONDS
.venv/bin/dualoptim forget "${2:-digits_sfron_dual}" --class "${1:-three}" --out runs/demo --overwrite
echo "Took $((SECONDS - start)) s after installation."
