"""When a run has left the region where anything useful can come of it: stop, and keep the last good state."""

from collections import deque
from collections.abc import Mapping

from dualoptim_diffusion.core.errors import DivergedError

WINDOW = 20  # steps whose mean is compared: one batch says little


class DriftGuard:
    """Watches losses by name of the record; each is compared with its own beginning.

    Args:
        factors: how many times its mean magnitude over the first 20 steps the mean over the last 20 may become.
    """

    def __init__(self, factors: Mapping[str, float]) -> None:
        self._factors = dict(factors)
        self._first: dict[str, list[float]] = {key: [] for key in factors}
        self._last: dict[str, deque[float]] = {key: deque(maxlen=WINDOW) for key in factors}

    def see(self, record: Mapping[str, float]) -> None:
        """Takes in one step.

        Raises:
            DivergedError: if a loss has grown beyond its factor.
        """
        for key in self._factors.keys() & record.keys():
            first, last, value = self._first[key], self._last[key], abs(record[key])
            last.append(value)
            if len(first) < WINDOW:
                first.append(value)
                continue
            now, start = sum(last) / WINDOW, sum(first) / WINDOW
            if now > self._factors[key] * start:
                phase = key.removesuffix("_loss")
                raise DivergedError(
                    f"After step {record['step']:.0f} the {phase} loss averages {now:.3g}, more than "
                    f"{self._factors[key]:g} times the {start:.3g} of the first {WINDOW} steps "
                    f"(run.stop_when.{phase}_factor). Lower the learning rates, or raise the factor."
                )
