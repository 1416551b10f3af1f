"""Wall time of the parts of a command."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import perf_counter

_SECONDS: ContextVar[dict[str, float] | None] = ContextVar("seconds", default=None)


@contextmanager
def timings(separate: bool = False) -> Iterator[dict[str, float]]:
    """Collects what every `timed` block inside this one takes: seconds by part.

    Args:
        separate: do not add to an enclosing `timings`, as is done otherwise.
    """
    if not separate and (outer := _SECONDS.get()) is not None:
        yield outer
        return
    seconds: dict[str, float] = {}
    token = _SECONDS.set(seconds)
    try:
        yield seconds
    finally:
        _SECONDS.reset(token)


@contextmanager
def timed(part: str) -> Iterator[None]:
    """Adds the wall time of the block to the enclosing `timings`, if there is one."""
    start = perf_counter()
    yield
    if (seconds := _SECONDS.get()) is not None:
        seconds[part] = seconds.get(part, 0.0) + perf_counter() - start
