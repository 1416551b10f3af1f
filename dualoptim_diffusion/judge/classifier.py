"""The classifier behind FA, RA and FD[classifier]: a timm network, its preprocessing, classes and accuracy."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import interpolate

from dualoptim_diffusion.core.classes import NONE_OF_THESE
from dualoptim_diffusion.core.errors import InputError, reason
from dualoptim_diffusion.core.training_config import ClassifierConfig
from dualoptim_diffusion.files.atomic import atomic_path
from dualoptim_diffusion.files.json_files import read_json
from dualoptim_diffusion.files.weight_files import weights_sha256
from dualoptim_diffusion.judge.timm_models import load_weights, timm_model
from dualoptim_diffusion.models.images import check_images

CLASSIFIER = "classifier.json"  # what a classifier's folder says of it
HALF = (0.5,)  # mean and std that bring [0, 1] to [-1, 1]


@dataclass(frozen=True)
class ClassifierInfo:
    """What is needed to rebuild and to trust a classifier.

    Attributes:
        name: timm's model name.
        image_size: side in pixels that images are resized to (bilinear).
        in_channels: of its inputs; grey images fill all of them.
        id2label: names of its classes.
        accuracy: share of held-out real images of each class classified right, by class name; empty before training.
        n_held_out: how many held-out images of each class that was measured on.
        mean, std: of pixel values in [0, 1], one for all channels or one each; inputs are (x - mean) / std.
        task: what it was trained to tell; its classes are those of the task.
    """

    name: str
    image_size: Annotated[int, Field(ge=1)]
    in_channels: Annotated[int, Field(ge=1)]
    id2label: dict[int, str]
    accuracy: dict[str, float] = field(default_factory=dict)
    n_held_out: dict[str, int] = field(default_factory=dict)
    mean: Sequence[float] = HALF
    std: Sequence[float] = HALF
    task: str = "classes"


class Classifier:
    """uint8 images [B, C, H, W] -> penultimate features and logits, computed on the classifier's own device."""

    def __init__(self, network: nn.Module, info: ClassifierInfo) -> None:
        self.network, self.info = network.eval(), info

    @classmethod
    def create(cls, info: ClassifierInfo) -> "Classifier":
        """A classifier with fresh weights.

        Raises:
            InputError: if timm has no such model.
        """
        return cls(timm_model(info.name, num_classes=len(info.id2label), in_chans=info.in_channels), info)

    @cached_property
    def sha256(self) -> str:
        """Hash of the weights."""
        return weights_sha256(self.network.state_dict())

    @property
    def may_answer_none(self) -> bool:
        """Whether "none of these" is among its answers; it is the last."""
        return list(self.info.id2label.values())[-1:] == [NONE_OF_THESE]

    @property
    def num_classes(self) -> int:
        """Of its answers those that are classes; they come first."""
        return len(self.info.id2label) - self.may_answer_none

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def preprocess(self, images: Tensor) -> Tensor:
        """uint8 [B, C, H, W] -> normalised float [B, in_channels, image_size, image_size]."""
        images = images.expand(-1, self.info.in_channels, -1, -1) if images.shape[1] == 1 else images
        mean, std = (torch.tensor(part, device=self.device).view(-1, 1, 1) for part in (self.info.mean, self.info.std))
        scaled = (images.to(self.device).float() / 255 - mean) / std
        size = (self.info.image_size, self.info.image_size)
        return interpolate(scaled, size=size, mode="bilinear", align_corners=False, antialias=True)

    @torch.no_grad()
    def __call__(self, images: Tensor, batch_size: int = 256) -> tuple[Tensor, Tensor]:
        """features [N, D] and logits [N, K], both on the CPU; the predicted class is the largest logit.

        A network without a head has no logits: K is 0.

        Raises:
            InputError: if the images are not uint8 [N, 1 or 3, H, W].
        """
        check_images(images)
        self.network.eval()
        network: Any = self.network
        features, logits = [], []
        for part in images.split(batch_size):
            pooled = network.forward_head(network.forward_features(self.preprocess(part)), pre_logits=True)
            features.append(pooled.cpu())
            head = network.get_classifier()
            logits.append(pooled[:, :0].cpu() if isinstance(head, nn.Identity) else head(pooled).cpu())
        return torch.cat(features), torch.cat(logits)

    def check(self) -> None:
        """Judges one black image.

        Raises:
            InputError: if its size, mean or deviation do not fit the network.
        """
        try:
            self(torch.zeros(1, self.info.in_channels, 8, 8, dtype=torch.uint8))
        except (RuntimeError, ValueError, TypeError, LookupError, AssertionError) as error:  # as the network pleases
            raise InputError(
                f"The network {self.info.name} does not take images of {self.info.in_channels} channels and "
                f"{self.info.image_size} pixels a side with mean {list(self.info.mean)} and std {list(self.info.std)} "
                f"({reason(error)}); set classifier.image_size to its own, and mean and std to one value or one per "
                "channel."
            ) from None

    def save(self, folder: Path) -> None:
        """Writes classifier.json and classifier.safetensors in one piece."""
        with atomic_path(folder) as beside:
            beside.mkdir()
            weights = {name: value.contiguous() for name, value in self.network.state_dict().items()}
            save_file(weights, beside / "classifier.safetensors")
            text = json.dumps(asdict(self.info), indent=1)
            (beside / CLASSIFIER).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> "Classifier":
        """Reads a folder written by `save`.

        Raises:
            InputError: if it is not one, or its weights do not fit the network it names.
        """
        folder = Path(folder)
        try:
            stored = read_json(folder / CLASSIFIER)
            classifier = cls.create(TypeAdapter(ClassifierInfo).validate_python(stored))
            classifier.network.load_state_dict(load_file(folder / "classifier.safetensors"))
            classifier.check()
        except (OSError, LookupError, TypeError, AttributeError, ValueError, SafetensorError, RuntimeError) as error:
            raise InputError(f"{folder} is not a folder of `dualoptim train-classifier` ({reason(error)}).") from None
        return classifier


def new_classifier(
    config: ClassifierConfig,
    id2label: Mapping[int, str],
    in_channels: int,
    num_steps: int,
    with_none: bool = False,
    task: str = "classes",
) -> Classifier:
    """The network to train, or, with no steps to train it for, to judge as it is.

    Args:
        config: names the network and where its weights come from: fresh, timm's published ones, or a file.
        id2label: names of the classes to tell apart.
        in_channels: of the images; published weights and files take 3.
        with_none: adds the answer "none of these" after the classes.
        task: what it will be trained to tell, whose classes those are.

    Raises:
        InputError: if the weights cannot be had, or nothing would train a fresh head.
    """
    classes = dict(id2label) | ({len(id2label): NONE_OF_THESE} if with_none else {})
    channels = 3 if config.pretrained or config.checkpoint is not None else in_channels
    network = timm_model(config.name, config.pretrained, num_classes=len(classes), in_chans=channels)
    head_is_trained = config.pretrained and network.pretrained_cfg["num_classes"] == len(classes)
    if config.checkpoint is not None:
        head_is_trained = load_weights(network, Path(config.checkpoint), head_may_differ=num_steps > 0)
    if num_steps == 0 and not head_is_trained:
        raise InputError(
            f"{config.name} would judge {len(classes)} classes by a head that nothing has trained; set "
            "training.num_steps, or give classifier.checkpoint."
        )
    published = network.pretrained_cfg if config.pretrained else {"mean": HALF, "std": HALF}
    mean, std = (tuple(getattr(config, key) or published[key]) for key in ("mean", "std"))
    info = ClassifierInfo(config.name, config.image_size, channels, classes, mean=mean, std=std, task=task)
    (classifier := Classifier(network, info)).check()
    return classifier


def timm_network(name: str, weights: str | Path | None, image_size: int | None = None) -> Classifier:
    """Any timm model as a source of features: with its published weights, or those of a file.

    Args:
        image_size: of a vision transformer, another than the one it was trained at; its position table is resampled.

    Raises:
        InputError: if there is no such model, or its weights cannot be had.
    """
    from timm.data import resolve_data_config

    options = {} if image_size is None else {"dynamic_img_size": True}
    network = timm_model(name, pretrained=weights is None, **options)
    if weights is not None:
        load_weights(network, Path(weights), head_may_differ=False)
    data = resolve_data_config({}, model=network)
    side = image_size or data["input_size"][1]
    return Classifier(network, ClassifierInfo(name, side, 3, {}, mean=data["mean"], std=data["std"]))
