"""The command line as a user calls it, in this process and in others."""

import json
import subprocess
import sys
from typing import Any, NamedTuple

from dualoptim_diffusion.core.errors import EXIT_FAILED


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def call(*arguments: object) -> int:
    """The command line in this process; returns its exit code."""
    from dualoptim_diffusion.cli import main

    if "accelerate" in sys.modules:
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)  # as in a new process
    before, sys.argv = sys.argv, ["dualoptim", *map(str, arguments)]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0


def launch(*arguments: object) -> dict[str, Any]:
    """The command under two processes; what it printed as JSON."""
    # `accelerate launch --cpu` starts one process where there is no MPI
    options = "-m torch.distributed.run --standalone --nproc_per_node 2 -m dualoptim_diffusion"
    command = [sys.executable, *options.split(), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def refused(outcome: Outcome, sentence: str, code: int = EXIT_FAILED) -> None:
    assert outcome.code == code
    assert outcome.out == ""
    complaint = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert len(complaint) == 1
    assert sentence in complaint[0]
    assert "Traceback" not in outcome.err
