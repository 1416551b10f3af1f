"""What can go wrong, as one plain sentence: the value, what was expected, what to do."""

from collections.abc import Iterable
from difflib import get_close_matches

EXIT_FAILED = 1  # one sentence on stderr says why
EXIT_STOPPED = 75  # stopped on request with everything saved; run again with --resume
EXIT_DIVERGED = 76  # losses or weights went out of bounds; the last good checkpoint is kept
EXIT_INTERRUPTED = 130  # immediately, on a second signal or outside of training


LONGEST = 1200  # characters of a sentence
MOST_NAMES = 20  # that are listed where none is near
LONGEST_WORD = 100  # that names are compared with: it takes as long as both are


class InputError(ValueError):
    """The request cannot be carried out as given; the message is one sentence for the user, in one line.

    What it quotes may be of any length and hold anything: the middle of a long sentence is left out.
    """

    def __init__(self, sentence: str) -> None:
        line = " ".join(sentence.splitlines())
        super().__init__(line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}")


class DivergedError(ArithmeticError):
    """A loss has grown beyond what the recipe allows."""


class NonFiniteError(DivergedError):
    """A loss, a gradient or a weight stopped being a finite number; no such weight is saved."""


class Stopped(Exception):
    """The run was stopped on request after saving its state."""


def nearest(word: str, names: Iterable[str]) -> str:
    """'did you mean X or Y?' for the names closest to `word`, else a list of all of them."""
    names = sorted(names)
    close = get_close_matches(word[:LONGEST_WORD].lower(), [name[:LONGEST_WORD] for name in names], n=3, cutoff=0.5)
    more = ", ..." if len(names) > MOST_NAMES else "."
    return f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(names[:MOST_NAMES])}{more}"


def reason(error: BaseException, limit: int = 200) -> str:
    """What an exception says, in one line of at most `limit` characters; its type where it says nothing."""
    return " ".join(str(error).split())[:limit] or type(error).__name__
