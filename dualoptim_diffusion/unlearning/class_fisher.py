"""Fisher information class by class: one pass over the training images serves the mask of every class."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dualoptim_diffusion.files.cache import get_or_make_tensors

if TYPE_CHECKING:
    from accelerate import Accelerator

Fisher = dict[str, Tensor]  # sums over batches of squared gradients, by parameter name
Gradients = Callable[[int], Iterator[Mapping[str, Tensor]]]  # of a class: one entry a batch of its images

CACHE_ALL = 20  # of more classes only the sums asked for are cached; the others are in the total
NOISE = 1e-12  # of the total: what a subtraction in float64 may leave where nothing is left


class ClassFishers:
    """Squared gradients summed over batches of one class each, and over all classes; cached in a folder.

    Args:
        folder: of one model, data set and way of drawing batches.
        labels: of all classes.
        gradients: of a class, always the same batches.
        accelerator: all of its processes find the same files, and the main one writes.
    """

    def __init__(
        self,
        folder: Path,
        labels: Sequence[int],
        gradients: Gradients,
        accelerator: "Accelerator | None" = None,
    ) -> None:
        self._folder, self._labels, self._gradients = folder, list(labels), gradients
        self._accelerator = accelerator

    def forget_and_retain(self, forget_classes: Sequence[int]) -> tuple[Fisher, Fisher]:
        """(F_f, F_r): sums over the classes named, and over all others.

        The others' are the total without those, so a thousand classes need no thousand sums.
        """
        total = self._cached("total", lambda: self._all_classes(forget_classes))
        forget: Fisher = {}
        for label in forget_classes:
            add(forget, self._cached_class(label))
        return forget, without(total, forget)

    def _of_class(self, label: int) -> Fisher:
        fisher: Fisher = {}
        for gradient in self._gradients(label):  # summed on the device, but for one without float64
            wide = {name: (g.cpu() if g.device.type == "mps" else g).double() for name, g in gradient.items()}
            add(fisher, {name: value.square() for name, value in wide.items()})
        return {name: value.float().cpu() for name, value in fisher.items()}  # as cached, so the total is of the same

    def _all_classes(self, forget_classes: Sequence[int]) -> Fisher:
        total: Fisher = {}
        for label in self._labels:
            cached = len(self._labels) <= CACHE_ALL or label in forget_classes
            add(total, self._cached_class(label) if cached else self._of_class(label))
        return total

    def _cached_class(self, label: int) -> Fisher:
        return self._cached(f"class_{label:04d}", lambda: self._of_class(label))

    def _cached(self, name: str, make: Callable[[], Fisher]) -> Fisher:
        return get_or_make_tensors(self._folder / f"{name}.safetensors", make, self._accelerator)


def add(total: Fisher, part: Mapping[str, Tensor]) -> None:
    """Adds in float64, in place."""
    for name, value in part.items():
        total[name] = total[name].add_(value) if name in total else value.double()


def without(total: Mapping[str, Tensor], part: Mapping[str, Tensor]) -> Fisher:
    """`total` - `part`, at least 0, and 0 where what is left is rounding of the subtraction."""
    rest: Fisher = {}
    for name, value in total.items():
        left = (value - part[name].double()).clamp(min=0) if name in part else value
        rest[name] = torch.where(left < NOISE * value, 0.0, left)
    return rest
