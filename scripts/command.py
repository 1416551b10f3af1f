"""What the command lines of all scripts share: help, scale, the folder of results, and how they call `dualoptim`."""

import contextlib
import os
import shlex
import subprocess
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from dualoptim_diffusion.core.threads import choose_wait_policy
from tables import RESULTS

ELSEWHERE = ("--out", "--runs", "--jobs")  # where files lie and how many are made at once changes no figure
ROOT = Path(__file__).resolve().parents[1]


def parser(script: str, doc: str | None, scales: Sequence[str] = ("full",)) -> ArgumentParser:
    """A parser whose help begins with the first paragraph of the script's docstring."""
    about = " ".join((doc or "").partition("\n\n")[0].split())
    options = ArgumentParser(prog=Path(script).name, description=about)
    options.add_argument(
        "--scale", choices=(*scales, "toy"), default=scales[0],
        help="toy: the whole script on a tiny model in seconds; its figures mean nothing [default: %(default)s]",
    )  # fmt: skip
    options.add_argument("--out", type=Path, help="folder of the results [default: scripts/results; toy: a new folder]")
    return options


def parse(options: ArgumentParser, words: Sequence[str] | None) -> Namespace:
    """The arguments; `toy` says whether the scale is toy, and the folder `out` is there."""
    arguments = options.parse_args(words)
    if words is None:  # a process of its own
        choose_wait_policy()  # of the processes that it starts; torch may be here already
    arguments.toy = arguments.scale == "toy"
    if arguments.out is None:
        arguments.out = Path(tempfile.mkdtemp(prefix="toy_")) if arguments.toy else RESULTS
        if arguments.toy:
            print(f"Results are written to {arguments.out}.")
    arguments.out = arguments.out.resolve()
    arguments.out.mkdir(parents=True, exist_ok=True)
    return arguments


def command_line(script: str, words: Sequence[str] | None) -> str:
    """The command that gave these results, for the file that holds them."""
    path = Path(script).resolve().relative_to(ROOT)
    given = list(sys.argv[1:] if words is None else words)
    for option in ELSEWHERE:
        if option in given:
            place = given.index(option)
            del given[place : place + 2]
    return shlex.join(["python", path.as_posix(), *given])


def dualoptim(*words: str, log: IO[str] | None = None, here: bool = False, threads: int | None = None) -> int:
    """Calls the package's command line and returns its exit code.

    Args:
        log: a file for all that it prints; without one only its errors are shown.
        here: in this process, which saves the seconds that importing takes.
        threads: of the new process.
    """
    if here:
        return _call(words, log)
    command = [sys.executable, "-m", "dualoptim_diffusion", *words]
    environment = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    done = subprocess.run(command, stdout=log or subprocess.DEVNULL, stderr=log, env=environment, check=False)
    return done.returncode


def _call(words: Sequence[str], log: IO[str] | None) -> int:
    from accelerate.state import AcceleratorState

    from dualoptim_diffusion.cli import main

    AcceleratorState._reset_state(reset_partial_state=True)  # as in a new process
    before, sys.argv = sys.argv, ["dualoptim", *words]
    try:
        with (
            open(os.devnull, "w") as nothing,
            contextlib.redirect_stdout(log or nothing),
            contextlib.redirect_stderr(log or sys.stderr),
        ):
            main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0
