"""Image sets: uint8 pixels with labels and class names, and the forget/retain split."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

import torch
from torch import Tensor

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.data.stored import Stored


@dataclass(frozen=True)
class ImageSet:
    """Images uint8 [N, C, H, W], in memory or read from files when indexed, with labels int64 [N] and class names.

    For a model of latents the same class holds what its autoencoder made of the images.

    Raises:
        InputError: if there are more or fewer labels than images, or a label has no name.
    """

    images: Tensor | Stored
    class_labels: Tensor
    id2label: dict[int, str]

    def __post_init__(self) -> None:
        labels = self.class_labels
        if labels.dtype != torch.int64 or labels.shape != (len(self.images),):
            given = f"{labels.dtype} {list(labels.shape)}"
            raise InputError(f"Labels are given as {given}, expected torch.int64 [{len(self.images)}], one an image.")
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.id2label):
            raise InputError(
                f"Labels run from {labels.min()} to {labels.max()}, expected ids from 0 to {len(self.id2label) - 1}."
            )

    def __len__(self) -> int:
        return len(self.class_labels)

    def at(self, indices: Tensor) -> "ImageSet":
        """The images at these indices, in their order; none is read for it."""
        images = self.images[indices] if isinstance(self.images, Tensor) else self.images.at(indices)
        return ImageSet(images, self.class_labels[indices], self.id2label)

    def of_classes(self, class_ids: Sequence[int]) -> "ImageSet":
        """The images of the given classes, in their order here."""
        return self.at(torch.isin(self.class_labels, torch.tensor(class_ids)).nonzero()[:, 0])

    def batches(self, size: int = 256) -> Iterator[Tensor]:
        """All images, uint8 [<= size, C, H, W] at a time."""
        return (self.images[first : first + size] for first in range(0, len(self), size))

    @cached_property
    def pixels_sha256(self) -> str:
        """Hash of the pixels; of names, sizes and dates of the files where they are not in memory."""
        if isinstance(self.images, Tensor):
            return sha256(self.images.contiguous().numpy()).hexdigest()
        return self.images.sha256

    @cached_property
    def sha256(self) -> str:
        """Hash of pixels and labels."""
        content = sha256(repr(tuple(self.images.shape)).encode())
        if isinstance(self.images, Tensor):
            content.update(self.images.contiguous().numpy())
        else:
            content.update(self.images.sha256.encode())
        content.update(self.class_labels.contiguous().numpy())
        return content.hexdigest()


def split(dataset: ImageSet, forget_classes: Sequence[int], left_out: Sequence[int] = ()) -> tuple[ImageSet, ImageSet]:
    """forget_set and retain_set: disjoint, and together the whole data set but for the classes left out.

    Raises:
        InputError: if either would be empty.
    """
    retained = [i for i in dataset.id2label if i not in forget_classes and i not in left_out]
    forget_set, retain_set = dataset.of_classes(forget_classes), dataset.of_classes(retained)
    for part, name in ((forget_set, "forget"), (retain_set, "retain")):
        if not len(part):
            raise InputError(_empty(name, forget_classes, dataset.id2label))
    return forget_set, retain_set


def _empty(name: str, forget_classes: Sequence[int], id2label: Mapping[int, str]) -> str:
    named = ", ".join(id2label[i] for i in forget_classes)
    return f"The {name} set is empty when forgetting {named}; the data must hold both."
