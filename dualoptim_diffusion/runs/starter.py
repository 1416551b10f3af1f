"""`dualoptim init`: recipes for one's own images and model, with numbers that suit them."""

import shlex
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from dualoptim_diffusion.core.classes import same_classes, some
from dualoptim_diffusion.core.config import DataConfig
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.data import folder
from dualoptim_diffusion.data.hub_images import is_saved, unpack
from dualoptim_diffusion.files.atomic import atomic_path, refuse_filled
from dualoptim_diffusion.files.class_folders import Listing
from dualoptim_diffusion.files.image_files import size_of
from dualoptim_diffusion.judge.classifier import CLASSIFIER
from dualoptim_diffusion.models.loading import load_model
from dualoptim_diffusion.runs.dry_run import plan
from dualoptim_diffusion.runs.experiment import open_experiment

SIDES = (8, 64)  # that a pixel model is made for; other images are resized
USUAL_SIDE = {"cuda": 64, "cpu": 32}  # of resized ones
PHOTOS = "photos"  # folder of images that are unpacked
LOOKED_AT = 50  # files whose sizes are compared
SEEDS = {"cuda": "0-499", "cpu": "0-99"}  # of each class


class Photos(NamedTuple):
    """What a folder or a table of images holds.

    Attributes:
        counts: training images of each class.
        held_out: images of its test set; 0 where a fifth of each class is held out.
        side: all images are squares of this side; None where they differ.
    """

    id2label: dict[int, str]
    counts: dict[str, int]
    held_out: int
    side: int | None
    channels: int


class Size(NamedTuple):
    """Of a base model that is trained from scratch, by what trains it.

    Attributes:
        num_steps: least and most; between them as many as pass over the images EPOCHS times.
    """

    width: int
    layers_per_block: int
    num_steps: tuple[int, int]
    batch_size: int


SIZES = {"cuda": Size(128, 2, (2000, 20_000), 128), "cpu": Size(32, 1, (500, 2000), 64)}
EPOCHS = {"base": 200, "classifier": 100}
CLASSIFIER_STEPS = (300, 1000)  # least and most


def write_recipes(photos: Path | str, out: Path, model: Path | None, classifier: Path | None) -> dict[str, Any]:
    """Writes a forgetting recipe, and those of the networks that are not given, and tries them without running.

    Args:
        photos: a folder of classes or a table of images; or a data set of the package `datasets`, saved to a folder or
            by its id on the hub as text, whose images are written beside the recipes.

    Returns:
        What was found, the files, the plan of `--dry-run`, and the commands to run next.

    Raises:
        InputError: if the folder holds no classes of images, the model draws others, or `out` holds recipes already.
    """
    refuse_filled(out)
    if classifier is not None and not (classifier / CLASSIFIER).is_file():
        raise InputError(f"{classifier} is not a folder of `dualoptim train-classifier`; leave --classifier out.")
    with atomic_path(out) as beside:  # nothing stays where the recipes turn out not to work
        beside.mkdir()
        unpacked = isinstance(photos, str) or is_saved(photos)
        path = unpack(str(photos), beside / PHOTOS, saved=isinstance(photos, Path)) if unpacked else Path(photos)
        found = look(path)
        if len(found.id2label) < 2:
            raise InputError(f"{photos} holds one class, {found.id2label[0]!r}; something must be left to retain.")
        kind = "cuda" if torch.cuda.is_available() else "cpu"
        side = _side(found, model, kind)
        where = f"{PHOTOS}/{path.name}" if unpacked else str(path.resolve())
        data = {"name": "image_folder", "path": where, "channels": found.channels}
        data |= {} if found.side == side else {"image_size": side}
        recipes = _recipes(data, side, kind, sum(found.counts.values()), model, classifier)
        label = max(found.id2label, key=lambda i: found.counts[found.id2label[i]])
        for name, content in recipes.items():
            text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)
            (beside / name).write_text(f"{COMMENTS[name]}\n{text}", encoding="utf-8")
        planned = plan(open_experiment(str(beside / "forget.yaml"), [f"id:{label}"]))
    command = ["dualoptim", "forget", str(out / "forget.yaml"), "--class", found.id2label[label]]
    return {
        "found": found._asdict(),
        "files": [str(out / name) for name in recipes],
        "plan": planned,
        "next": [shlex.join([*command, "--dry-run"]), shlex.join([*command, "--out", str(out / "run")])],
    }


def look(photos: Path) -> Photos:
    """Classes, counts, sizes and colour of a folder or a table of images."""
    config = DataConfig(name="image_folder", path=str(photos))
    listing: Listing = folder.read_listing(config)
    entries = listing.train.images
    chosen = entries[:: max(1, len(entries) // LOOKED_AT)]
    sizes = {size_of(entry.path) for entry in chosen}
    width, height = min(sizes)
    side = width if len(sizes) == 1 and width == height else None
    reading = folder.reading_of(listing, config, side or min(width, height))
    counts = Counter(listing.train.labels)
    named = {name: counts[i] for i, name in listing.id2label.items()}
    return Photos(listing.id2label, named, len(listing.test.images), side, reading.shape[0])


def _side(found: Photos, model: Path | None, kind: str) -> int:
    """Pixels a side that the recipes work with: the model's, the images' own, or a usual one.

    Raises:
        InputError: if the model draws other classes or channels.
    """
    if model is None:
        low, high = SIDES
        own = found.side is not None and low <= found.side <= high and found.side % 4 == 0
        return found.side if own and found.side else USUAL_SIDE[kind]
    loaded = load_model(model)
    if not same_classes(loaded.id2label, found.id2label):
        raise InputError(
            f"The model {model} draws {some(loaded.id2label)}, the images are of {some(found.id2label)}; name the "
            "folders after the model's classes, so that they sort in its order."
        )
    channels, side = loaded.image_shape[0], loaded.image_shape[-1]
    if channels != found.channels:
        raise InputError(
            f"The model {model} draws {channels} channels, the images have {found.channels}; use images of its kind."
        )
    return side


COMMENTS = {
    "forget.yaml": "# SFRon with two Adams. Tune method.forget_lr first: a higher one forgets and harms more.",
    "pretrain.yaml": "# The base model, a U-Net trained from scratch. More training.num_steps give better images.",
    "classifier.yaml": "# The classifier that judges the images. Training prints its accuracy on held-out images.",
    "features.yaml": "# Features for distances: of a network that tells rotations, and never saw a class as such.",
}


def _steps(count: int, epochs: int, batch_size: int, bounds: tuple[int, int]) -> int:
    """As many as pass over so many images so often, within bounds."""
    return max(bounds[0], min(bounds[1], 10 * round(epochs * count / batch_size / 10)))


def _recipes(
    data: dict[str, Any], side: int, kind: str, count: int, model: Path | None, classifier: Path | None
) -> dict[str, dict[str, Any]]:
    """Contents by file name, for so many images."""
    size, judge = SIZES[kind], {"name": "test_resnet" if kind == "cpu" else "resnet18", "image_size": max(32, side)}
    data = data | {"batch_size": size.batch_size}
    steps = _steps(count, EPOCHS["classifier"], size.batch_size, CLASSIFIER_STEPS)
    learning = {"num_steps": steps, "lr": 2e-3, "weight_decay": 0.05, "max_shift": 2, "noise": 0.1}
    flipped = data | {"horizontal_flip": False}  # set it to true where mirror images are of the same class
    forget = {
        "run": {"seed": 0},
        "data": flipped,
        "model": {"pretrain": "pretrain.yaml"} if model is None else {"path": str(model.resolve())},
        "method": {
            "name": "sfron", "num_steps": 200, "forget_lr": 1e-3 if kind == "cpu" else 1e-4,
            "retain_lr": 3e-4 if kind == "cpu" else 1e-4, "forget_ceiling": 1.0, "forget_schedule": "cosine",
            "retain_schedule": "cosine",
            "mask": {"kind": "fisher_ratio", "threshold": 3.0, "estimator": "plain", "num_batches": 20},
        },
        "optimizers": {"mode": "dual", "forget": "adam", "retain": "adam"},
        "sampling": {
            "scheduler": "ddim", "num_inference_steps": 25 if kind == "cpu" else 50, "seeds": SEEDS[kind],
            "batch_size": 100 if kind == "cpu" else 250,
        },
        "evaluation": {
            "protocol": "seeds", "classifier": "classifier.yaml" if classifier is None else str(classifier.resolve()),
            "features": "features.yaml",
        },
    }  # fmt: skip
    recipes: dict[str, dict[str, Any]] = {"forget.yaml": forget}
    if model is None:
        levels = 2 if side <= 16 else 3
        recipes["pretrain.yaml"] = {
            "run": {"seed": 0} | ({"precision": "bf16"} if kind == "cuda" else {}),
            "data": flipped,
            "model": {
                "family": "ddpm", "width": size.width, "multipliers": [1, *[2] * (levels - 1)],
                "layers_per_block": size.layers_per_block, "attention_resolutions": [], "mid_attention": levels > 2,
                "dropout": 0.0, "norm_groups": 8,
            },
            "training": {
                "optimizer": "adamw", "num_steps": _steps(count, EPOCHS["base"], size.batch_size, size.num_steps),
                "lr": 2e-3 if kind == "cpu" else 2e-4, "schedule": "one_cycle", "clip_norm": 1.0, "ema_decay": 0.998,
            },
        }  # fmt: skip
    if classifier is None:
        recipes["classifier.yaml"] = {
            "run": {"seed": 0}, "data": data, "classifier": judge, "training": learning | {"none_share": 0.25},
        }  # fmt: skip
    rotations = {"task": "rotations"} | learning
    recipes["features.yaml"] = {"run": {"seed": 1}, "data": data, "classifier": judge, "training": rotations}
    return recipes
