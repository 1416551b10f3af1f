#!/usr/bin/env bash
# Forgets the handwritten digit "three": makes .venv, installs, pretrains a small conditional DDPM on scikit-learn's
# digits (kept for the next time), forgets with SFRon + DualOptim, samples, evaluates and writes a report.
# Arguments go to `dualoptim forget`, such as --class eight instead of three.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
environment ""
[ $# -gt 0 ] || set -- --class three --out runs/demo --overwrite
start=$SECONDS
.venv/bin/dualoptim forget digits_sfron_dual "$@"
echo "Took $((SECONDS - start)) s after installation."
