"""Image sets kept as uint8, and the forget/retain split."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

import torch
from torch import Tensor

from dualoptim_diffusion.config import DataConfig
from dualoptim_diffusion.errors import InputError

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGITS_MAX = 16  # scikit-learn's digits are grey levels 0..16
HELD_OUT = 0.2  # share of each class that no model is trained on
HELD_OUT_SEED = 0


@dataclass(frozen=True)
class ImageSet:
    """Images uint8 [N, C, H, W] with class labels int64 [N] and the names of all classes."""

    images: Tensor
    class_labels: Tensor
    id2label: dict[int, str]

    def __len__(self) -> int:
        return len(self.images)

    def of_classes(self, class_ids: Sequence[int]) -> "ImageSet":
        """The images of the given classes, in their order here."""
        chosen = torch.isin(self.class_labels, torch.tensor(class_ids))
        return ImageSet(self.images[chosen], self.class_labels[chosen], self.id2label)

    @cached_property
    def sha256(self) -> str:
        """Hash of pixels and labels."""
        content = sha256(repr(tuple(self.images.shape)).encode())
        content.update(self.images.contiguous().numpy().tobytes())
        content.update(self.class_labels.numpy().tobytes())
        return content.hexdigest()


def load_dataset(config: DataConfig) -> tuple[ImageSet, ImageSet]:
    """Training and held-out images of the named data set."""
    return {"digits": _digits}[config.name]()


def _digits() -> tuple[ImageSet, ImageSet]:
    """scikit-learn's 1,797 handwritten digits, 8x8 grey; a fixed fifth of each class is held out."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = torch.from_numpy(raw.images).mul(255 / DIGITS_MAX).round().to(torch.uint8)[:, None]  # [N, 1, 8, 8]
    labels = torch.from_numpy(raw.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(HELD_OUT_SEED))
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for class_id in range(len(DIGIT_NAMES)):
        members = order[labels[order] == class_id]
        held_out[members[: round(HELD_OUT * len(members))]] = True
    id2label = dict(enumerate(DIGIT_NAMES))
    train, test = (ImageSet(images[part], labels[part], id2label) for part in (~held_out, held_out))
    return train, test


def split(dataset: ImageSet, forget_classes: Sequence[int], left_out: Sequence[int] = ()) -> tuple[ImageSet, ImageSet]:
    """forget_set and retain_set: disjoint, and together the whole data set but for the classes left out.

    Raises:
        InputError: if either would be empty.
    """
    retained = [i for i in dataset.id2label if i not in forget_classes and i not in left_out]
    forget_set, retain_set = dataset.of_classes(forget_classes), dataset.of_classes(retained)
    for part, name in ((forget_set, "forget"), (retain_set, "retain")):
        if not len(part):
            named = ", ".join(dataset.id2label[i] for i in forget_classes)
            raise InputError(f"The {name} set is empty when forgetting {named}; the data must hold both.")
    return forget_set, retain_set
