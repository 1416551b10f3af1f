# Sourced by demo.sh and test.sh: makes .venv beside the README once, and reuses it while pyproject.toml stays the same.
#   environment "EXTRAS"    EXTRAS such as [test], or nothing
# TORCH_INDEX may name another package index for the torch and torchvision pair, such as one with CPU builds.
# PYTHON may name the Python to build it with (3.10 or newer).

export PYTHONDONTWRITEBYTECODE=  # with it every process compiles torch and all else anew, which takes longer than it runs

environment() {
    local extras="$1" root stamp wanted
    root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
    venv="$root/.venv"
    "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
        echo "Python 3.10 or newer is needed; name one with PYTHON=/path/to/python3." >&2
        return 1
    }
    stamp="$venv/installed$extras"
    wanted="$(cksum < "$root/pyproject.toml") $root ${TORCH_INDEX:-}"
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        return 0
    fi
    echo "Setting up $venv (about 5 GB with CUDA libraries; set TORCH_INDEX for a smaller CPU pair) ..." >&2
    [ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv" || return 1
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check uv || return 1
    # torch and torchvision first and from one place: a mixed pair fails when it is imported
    "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} \
        torch torchvision || return 1
    "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --editable "$root$extras" || return 1
    echo "$wanted" > "$stamp"
}
