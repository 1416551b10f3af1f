"""Image data sets of the package `datasets`, saved on disk or on the hub, as files with a table of their classes."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import ImageOps

from dualoptim_diffusion.core.errors import InputError, reason
from dualoptim_diffusion.core.terminal import progress
from dualoptim_diffusion.files.class_table import LABEL_COLUMNS, TEST

MARKS = ("dataset_dict.json", "state.json")  # of a folder that `save_to_disk` wrote
TABLE = "labels.csv"
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote the folder."""
    return any((folder / name).is_file() for name in MARKS)


def unpack(source: str, out: Path, saved: bool) -> Path:
    """Writes the images as `out/train/*.png`, and those of a labelled test set as `out/test/*.png`.

    Args:
        source: a folder that `save_to_disk` wrote, or an id of the hub.
        saved: it is a folder.

    Returns:
        The table of files and classes, `out/labels.csv`.

    Raises:
        InputError: if the package is not installed, or the set cannot be had or holds no images with classes.
    """
    try:
        import datasets
    except ImportError:
        raise InputError(
            f"Reading {source} needs the package datasets; install dualoptim-diffusion[datasets], or give a folder of "
            "classes."
        ) from None
    datasets.disable_progress_bars()
    try:
        found = datasets.load_from_disk(source) if saved else datasets.load_dataset(source)
    except Exception as error:  # of the network, of the hub, of damaged files
        raise InputError(f"The data set {source} cannot be had ({reason(error)}); check its name.") from None
    parts: Mapping[str, Any] = found if isinstance(found, Mapping) else {"train": found}
    if "train" not in parts:
        raise InputError(f"The data set {source} has the parts {', '.join(parts)}, expected one called train.")
    image, label = _columns(source, parts["train"].features, datasets)
    named = getattr(parts["train"].features[label], "names", None)
    values = list(range(len(named))) if named else sorted(parts["train"].unique(label))
    answered = [parts[name] for name in TEST if name in parts and {*parts[name].unique(label)} <= {*values}]
    rows = []
    for name, part in zip(("train", "test"), [parts["train"], *answered[:1]], strict=False):
        (out / name).mkdir(parents=True)
        for i, example in enumerate(progress(part, desc=f"unpacking the {name} set", unit="img")):
            picture = ImageOps.exif_transpose(example[image])
            picture = picture if picture.mode in PNG_MODES else picture.convert("RGB")
            picture.save(out / (file := f"{name}/{i:07d}.png"))
            rows.append((file, named[example[label]] if named else example[label], name))
    with (table := out / TABLE).open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("file", "label", "split"), *rows])
    return table


def _columns(source: str, features: Mapping[str, Any], datasets: Any) -> tuple[str, str]:
    """Names of the columns of images and of classes."""
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    classes = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    classes += [name for name in features if name.lower() in LABEL_COLUMNS]
    if not images or not classes:
        raise InputError(
            f"The data set {source} has the columns {', '.join(features)}, expected one of images and one of classes "
            f"(a ClassLabel, or named {', '.join(LABEL_COLUMNS)})."
        )
    return images[0], classes[0]
