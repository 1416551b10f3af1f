"""What a process finds when it starts, made fit: streams, libraries, a launcher's variables, a home. No torch here."""

import io
import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path

from dualoptim_diffusion.core.terminal import say_once

LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")  # numbers that a launcher sets for each process
MEETING_PLACE = "MASTER_ADDR"
LOG = logging.getLogger("dualoptim_diffusion")


def settle_streams() -> None:
    """Characters that the output's encoding has not are written as escapes, and what is closed takes all in silence.

    By default Python ends at such a character, and without an object to write to.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # until the process ends
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def show_libraries(shown: bool) -> None:
    """Whether warnings and log lines of libraries reach the screen, and the tracebacks that are logged here.

    Commands hide them: what a user must know, they say themselves. Errors of libraries are always shown, and warnings
    that python -W or PYTHONWARNINGS asks for. Their progress bars are drawn on a terminal alone.
    """
    logging.disable(logging.NOTSET if shown else logging.WARNING)
    if not sys.warnoptions:
        warnings.simplefilter("default" if shown else "ignore")
    if shown:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
        LOG.setLevel(logging.DEBUG)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "WARNING" if shown else "ERROR")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported; `progress` writes lines all the same
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def drop_stray_launcher() -> None:
    """Takes a launcher's variables away where some are missing or are no numbers: then nobody has launched processes.

    Schedulers of clusters and earlier shells leave single ones behind, and one process would wait for others.
    """
    found = {name: os.environ[name] for name in (*LAUNCHED, MEETING_PLACE) if name in os.environ}
    whole = MEETING_PLACE in found and all(found.get(name, "").isdecimal() for name in LAUNCHED)
    if found and not whole:
        for name in found:
            del os.environ[name]
        say_once(
            f"{', '.join(f'{name}={value!r}' for name, value in found.items())} of the environment is left out: a "
            f"launcher would set all of {', '.join((*LAUNCHED, MEETING_PLACE))}."
        )


def home() -> Path:
    """The user's home folder, or a folder among temporary ones where there is none."""
    try:
        return Path.home()
    except RuntimeError:  # no HOME, and a user id that the system does not know
        other = Path(tempfile.gettempdir()) / f"home-{os.getuid() if hasattr(os, 'getuid') else 0}"
        say_once(f"There is no home folder; {other} is used. HOME or DUALOPTIM_CACHE names another.")
        return other
