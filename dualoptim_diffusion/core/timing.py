"""Wall time of the parts of a command."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter


@contextmanager
def timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    """Adds the wall time of the block to `seconds[part]`."""
    start = perf_counter()
    yield
    seconds[part] = seconds.get(part, 0.0) + perf_counter() - start
