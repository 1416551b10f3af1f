#!/usr/bin/env bash
# Runs the tests marked numerical under every instruction set that torch can be held to, with one thread and with two.
#   scripts/numerics.sh [PYTHON]    .venv/bin/python by default; fails where any of them fails
# What the processor lacks is not used, whatever is asked for.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${1:-.venv/bin/python}"
failed=0
"$python" -c 'import torch; print("torch", torch.__version__)'

for pair in SSE41:default AVX2:avx2 AVX512_CORE:avx512 default:; do
    onednn="${pair%:*}" aten="${pair#*:}" # of oneDNN's kernels, and of torch's own
    for threads in 1 2; do
        settings=(OMP_NUM_THREADS="$threads" OMP_WAIT_POLICY=passive)
        [ "$onednn" = default ] || settings+=(ONEDNN_MAX_CPU_ISA="$onednn" ATEN_CPU_CAPABILITY="$aten")
        output="$(env "${settings[@]}" "$python" -m pytest -m numerical 2>&1)" || failed=1
        printf '%-12s %s thread(s): %s\n' "$onednn" "$threads" "$(tail -n 1 <<< "$output")"
        grep '^FAILED\|^ERROR' <<< "$output" || true
    done
done
exit "$failed"
