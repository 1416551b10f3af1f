"""Making the next batch on the CPU while a GPU works on the present one."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Made = TypeVar("Made")


class Ahead(Generic[Made]):
    """update -> what `make` gives for it; that of the next update is made by a thread meanwhile.

    Args:
        make: a pure function of the update, so the result is the same with and without the thread.
        enabled: where the CPU computes the updates too, a thread would only take its cores away.
    """

    def __init__(self, make: Callable[[int], Made], enabled: bool) -> None:
        self._make = make
        self._thread = ThreadPoolExecutor(1) if enabled else None
        self._next: tuple[int, Future[Made]] | None = None

    def __call__(self, update: int) -> Made:
        if self._thread is None:
            return self._make(update)
        number, waiting = self._next or (None, None)
        made = waiting.result() if waiting is not None and number == update else self._make(update)
        self._next = update + 1, self._thread.submit(self._make, update + 1)
        return made
