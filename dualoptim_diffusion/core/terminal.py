"""What a command says while it works, on stderr: sentences, and how far it is."""

import sys
from typing import Any

from tqdm import tqdm

EVERY = 60.0  # seconds between two lines about one piece of work, where there is no terminal


def say(text: str) -> None:
    """Logs go to stderr; stdout is for results."""
    tqdm.write(text, file=sys.stderr)


def progress(*arguments: Any, **options: Any) -> "tqdm[Any]":
    """A progress bar of tqdm's, with its arguments; in a file or a pipe one line a minute, of what takes so long."""
    if not sys.stderr.isatty():
        options |= {"file": _Lines(), "mininterval": EVERY, "maxinterval": EVERY, "miniters": 1, "delay": EVERY}
    return tqdm(*arguments, **options)


class _Lines:
    """What tqdm writes over one line, line by line on stderr."""

    def write(self, text: str) -> None:
        if line := text.strip():
            print(line, file=sys.stderr)

    def flush(self) -> None:
        sys.stderr.flush()
