"""Recipes of a tiny base model and judge, with which `--scale toy` runs a script in seconds on a CPU."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

RECIPES: dict[str, dict[str, Any]] = {
    "pretrain": {
        "run": {"device": "cpu"},
        "data": {"name": "digits", "batch_size": 16},
        "model": {
            "width": 16, "multipliers": [1, 2], "layers_per_block": 1, "attention_resolutions": [],
            "mid_attention": False, "dropout": 0.1, "norm_groups": 4,
        },
        "training": {"optimizer": "adamw", "num_steps": 12, "lr": 1e-3, "schedule": "one_cycle", "ema_decay": 0.9},
    },
    "classifier": {
        "run": {"device": "cpu"},
        "data": {"name": "digits", "batch_size": 32},
        "classifier": {"name": "test_resnet", "image_size": 32},
        "training": {"num_steps": 8, "lr": 1e-3, "max_shift": 1},
    },
    "forget": {
        "run": {"device": "cpu"},
        "data": {"name": "digits", "batch_size": 16},
        "model": {"pretrain": "pretrain.yaml"},
        "method": {
            "name": "sfron", "num_steps": 4, "forget_lr": 3e-4, "retain_lr": 1e-4,
            "mask": {"kind": "fisher_ratio", "threshold": 1.5, "estimator": "plain", "num_batches": 2},
        },
        "sampling": {"num_inference_steps": 2, "seeds": "0-3", "batch_size": 4},
        "evaluation": {
            "protocol": "seeds", "classifier": "classifier.yaml", "min_accuracy": 0, "features": "classifier",
        },
    },
}  # fmt: skip
STEPS = "method.num_steps=4"
MASK = ("method.mask.num_batches=1", "method.mask.batch_size=16")  # for recipes that have a mask
AUDIT = (  # the least that an audit with all its attacks may spend
    "audit.images=2", "audit.relearn_steps=[0,1]", "audit.embedding_steps=[0,1]", "audit.timesteps=[400]",
    "audit.real_images=2", "audit.labels=1", "audit.batch_size=4", "audit.guide_steps=2",
)  # fmt: skip


def write_recipes(folder: Path) -> Path:
    """Writes `forget.yaml` and the two recipes that it names; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in RECIPES.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return folder / "forget.yaml"


def write_photographs(folder: Path, names: Sequence[str]) -> None:
    """Random images of 32 pixels, four of each class in `train` and in `val`, and `classes.tsv` with the classes."""
    source = np.random.default_rng(0)
    for i in range(len(names)):
        for part in ("train", "val"):
            (place := folder / part / f"n{i}").mkdir(parents=True, exist_ok=True)
            for number in range(4):
                pixels = source.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.JPEG")
    text = "".join(f"n{i}\t{name}\n" for i, name in enumerate(names))
    (folder / "classes.tsv").write_text(text, encoding="utf-8")


def overrides(folder: Path) -> list[str]:
    """What makes any recipe of the digits tiny; writes the recipes of its base model and judge into the folder."""
    write_recipes(folder)
    return [
        f"model.pretrain={folder / 'pretrain.yaml'}", f"evaluation.classifier={folder / 'classifier.yaml'}",
        "evaluation.min_accuracy=0", "evaluation.protocol=seeds", "evaluation.features=classifier", "run.device=cpu",
        "data.batch_size=16", STEPS,
        "sampling.scheduler=ddim", "sampling.num_inference_steps=2", "sampling.seeds=0-3", "sampling.batch_size=50",
    ]  # fmt: skip
