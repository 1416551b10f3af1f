"""What can go wrong, as one plain sentence: the value, what was expected, what to do."""

from collections.abc import Iterable
from difflib import get_close_matches

EXIT_FAILED = 1  # one sentence on stderr says why
EXIT_STOPPED = 75  # stopped on request with everything saved; run again with --resume
EXIT_DIVERGED = 76  # losses or weights went out of bounds; the last good checkpoint is kept
EXIT_INTERRUPTED = 130  # immediately, on a second signal or outside of training


class InputError(ValueError):
    """The request cannot be carried out as given; the message is one sentence for the user, in one line."""

    def __init__(self, sentence: str) -> None:
        super().__init__(" ".join(sentence.splitlines()))  # names of others in it may hold line breaks


class DivergedError(ArithmeticError):
    """A loss has grown beyond what the recipe allows."""


class NonFiniteError(DivergedError):
    """A loss, a gradient or a weight stopped being a finite number; no such weight is saved."""


class Stopped(Exception):
    """The run was stopped on request after saving its state."""


def nearest(word: str, names: Iterable[str]) -> str:
    """'did you mean X or Y?' for the names closest to `word`, else a list of all of them."""
    names = sorted(names)
    close = get_close_matches(word.lower(), names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(names)}."


def reason(error: BaseException, limit: int = 200) -> str:
    """What an exception says, in one line of at most `limit` characters; its type where it says nothing."""
    return " ".join(str(error).split())[:limit] or type(error).__name__
