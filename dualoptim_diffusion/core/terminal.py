"""What a command says while it works, on stderr: sentences, and how far it is."""

import re
import sys
import unicodedata
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

EVERY = 60.0  # seconds between two lines about one piece of work, where there is no terminal


def printable(text: str) -> str:
    """The text with what a terminal would obey, turn around or fail to encode written as escapes such as \\x1b."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    unsafe = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")  # control, half of a pair, line breaks
    turns = unicodedata.bidirectional(character) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    return character.encode("unicode_escape").decode() if unsafe or turns else character


def printable_lines(text: str) -> str:
    """The same, but for line breaks and tabulators."""
    return re.sub(r"[^\n\t]+", lambda part: printable(part[0]), text)


def say(text: str) -> None:
    """Logs go to stderr; stdout is for results."""
    from tqdm import tqdm  # late: what it reads of the environment is set by then

    tqdm.write(printable_lines(text), file=sys.stderr)


@cache
def say_once(text: str) -> None:
    """What is true for as long as the process runs."""
    say(text)


def progress(*arguments: Any, **options: Any) -> "tqdm[Any]":
    """A progress bar of tqdm's, with its arguments; in a file or a pipe one line a minute, of what takes so long."""
    from tqdm import tqdm

    if "desc" in options:
        options["desc"] = printable(options["desc"])
    if not sys.stderr.isatty():
        options |= {"file": _Lines(), "mininterval": EVERY, "maxinterval": EVERY, "miniters": 1, "delay": EVERY}
        options["disable"] = False  # where bars of libraries are off
    return tqdm(*arguments, **options)


class _Lines:
    """What tqdm writes over one line, line by line on stderr."""

    def write(self, text: str) -> None:
        if line := text.strip():
            print(line, file=sys.stderr)

    def flush(self) -> None:
        sys.stderr.flush()
