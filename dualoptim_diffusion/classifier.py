"""The classifier behind FA, RA and FD[classifier]: a timm network, its preprocessing, classes and accuracy."""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import interpolate

from dualoptim_diffusion.checkpoint import atomic_path
from dualoptim_diffusion.errors import InputError
from dualoptim_diffusion.models import weights_sha256

PIXEL_MEAN, PIXEL_STD = 127.5, 127.5  # uint8 -> [-1, 1]


@dataclass(frozen=True)
class ClassifierInfo:
    """What is needed to rebuild and to trust a classifier.

    Attributes:
        name: timm's model name.
        image_size: side in pixels that images are resized to (bilinear).
        in_channels: of the images.
        id2label: names of its classes.
        accuracy: share of held-out real images of each class classified right, by class name; empty before training.
        n_held_out: how many held-out images of each class that was measured on.
    """

    name: str
    image_size: int
    in_channels: int
    id2label: dict[int, str]
    accuracy: dict[str, float]
    n_held_out: dict[str, int]


class Classifier:
    """uint8 images [B, C, H, W] -> penultimate features and logits, on the classifier's own device."""

    def __init__(self, network: nn.Module, info: ClassifierInfo) -> None:
        self.network, self.info = network.eval(), info

    @classmethod
    def create(cls, info: ClassifierInfo) -> "Classifier":
        """A classifier with fresh weights.

        Raises:
            InputError: if timm has no such model.
        """
        import timm

        if info.name not in timm.list_models(info.name):
            raise InputError(f"timm has no model {info.name!r}; `timm.list_models()` names them all.")
        network = timm.create_model(info.name, num_classes=len(info.id2label), in_chans=info.in_channels)
        return cls(network, info)

    @cached_property
    def sha256(self) -> str:
        """Hash of the weights."""
        return weights_sha256(self.network.state_dict())

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def preprocess(self, images: Tensor) -> Tensor:
        """uint8 [B, C, H, W] -> float [B, C, image_size, image_size] in [-1, 1]."""
        scaled = (images.to(self.device).float() - PIXEL_MEAN) / PIXEL_STD
        size = (self.info.image_size, self.info.image_size)
        return interpolate(scaled, size=size, mode="bilinear", align_corners=False, antialias=True)

    @torch.no_grad()
    def __call__(self, images: Tensor, batch_size: int = 256) -> tuple[Tensor, Tensor]:
        """features [N, D] and predicted class ids [N], both on the CPU."""
        self.network.eval()
        network: Any = self.network
        features, predictions = [], []
        for part in images.split(batch_size):
            pooled = network.forward_head(network.forward_features(self.preprocess(part)), pre_logits=True)
            features.append(pooled.cpu())
            predictions.append(network.get_classifier()(pooled).argmax(1).cpu())
        return torch.cat(features), torch.cat(predictions)

    def save(self, folder: Path) -> None:
        """Writes classifier.json and classifier.safetensors in one piece."""
        with atomic_path(folder) as beside:
            beside.mkdir()
            weights = {name: value.contiguous() for name, value in self.network.state_dict().items()}
            save_file(weights, beside / "classifier.safetensors")
            text = json.dumps(asdict(self.info), indent=1)
            (beside / "classifier.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Classifier":
        """Reads a folder written by `save`.

        Raises:
            InputError: if it is not one, or its weights do not fit the network it names.
        """
        try:
            stored = json.loads((folder / "classifier.json").read_text(encoding="utf-8"))
            stored["id2label"] = {int(i): name for i, name in stored["id2label"].items()}
            classifier = cls.create(ClassifierInfo(**stored))
            classifier.network.load_state_dict(load_file(folder / "classifier.safetensors"))
        except (OSError, LookupError, TypeError, AttributeError, ValueError, SafetensorError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{folder} is not a folder of `dualoptim train-classifier` ({reason}).") from None
        return classifier
