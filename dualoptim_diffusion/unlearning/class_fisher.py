"""Fisher information class by class: one pass over the training images serves the mask of every class."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dualoptim_diffusion.files.atomic import atomic_path

Fisher = dict[str, Tensor]  # sums over batches of squared gradients, by parameter name
Gradients = Callable[[int], Iterator[Mapping[str, Tensor]]]  # of a class: one entry a batch of its images

KEEP_ALL = 20  # of more classes only the sums asked for are kept on disk; the others are in the total
NOISE = 1e-12  # of the total: what a subtraction in float64 may leave where nothing is left


class ClassFishers:
    """Squared gradients summed over batches of one class each, and over all classes; kept in a folder.

    Args:
        folder: of one model, data set and way of drawing batches.
        labels: of all classes.
        gradients: of a class, always the same batches.
        writes: whether this process writes the folder.
        wait: for all other processes, so that each finds the same files.
    """

    def __init__(
        self,
        folder: Path,
        labels: Sequence[int],
        gradients: Gradients,
        writes: bool = True,
        wait: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder, self._labels, self._gradients = folder, list(labels), gradients
        self._writes, self._wait = writes, wait

    def forget_and_retain(self, forget_classes: Sequence[int]) -> tuple[Fisher, Fisher]:
        """(F_f, F_r): sums over the classes named, and over all others.

        The others' are the total without those, so a thousand classes need no thousand sums.
        """
        total = self._kept("total", lambda: self._all_classes(forget_classes))
        forget: Fisher = {}
        for label in forget_classes:
            add(forget, self._kept_class(label))
        return forget, without(total, forget)

    def _of_class(self, label: int) -> Fisher:
        fisher: Fisher = {}
        for gradient in self._gradients(label):  # summed on the device, but for one without float64
            wide = {name: (g.cpu() if g.device.type == "mps" else g).double() for name, g in gradient.items()}
            add(fisher, {name: value.square() for name, value in wide.items()})
        return {name: value.float().cpu() for name, value in fisher.items()}  # as kept, so the total holds the same

    def _all_classes(self, forget_classes: Sequence[int]) -> Fisher:
        total: Fisher = {}
        for label in self._labels:
            kept = len(self._labels) <= KEEP_ALL or label in forget_classes
            add(total, self._kept_class(label) if kept else self._of_class(label))
        return total

    def _kept_class(self, label: int) -> Fisher:
        return self._kept(f"class_{label:04d}", lambda: self._of_class(label))

    def _kept(self, name: str, make: Callable[[], Fisher]) -> Fisher:
        path, fisher = self._folder / f"{name}.safetensors", None
        self._wait()
        with suppress(OSError, SafetensorError):  # absent or damaged: made below
            fisher = load_file(path)
        self._wait()  # all have looked before one writes
        if fisher is None:
            fisher = make()
            if self._writes:
                with atomic_path(path) as beside:
                    save_file({key: value.contiguous() for key, value in fisher.items()}, beside)
        return fisher


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
