"""What can go wrong, as one plain sentence for people: the value, what was expected, what to do."""

from collections.abc import Iterable
from difflib import get_close_matches

EXIT_FAILED = 1  # one sentence on stderr says why
EXIT_STOPPED = 75  # stopped on request with everything saved; run again with --resume


class InputError(ValueError):
    """The request cannot be carried out as given; the message is one sentence for the user."""


class NonFiniteError(ArithmeticError):
    """A loss or a gradient stopped being a finite number; no weight was changed by it."""


class Stopped(Exception):
    """The run was stopped on request after saving its state."""


def nearest(word: str, names: Iterable[str]) -> str:
    """'did you mean X or Y?' for the names closest to `word`, else a list of all of them."""
    names = sorted(names)
    close = get_close_matches(word.lower(), names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(names)}."
