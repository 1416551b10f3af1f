"""A small experiment on photographs in a folder: what it is made from lies at paths of its own."""

from pathlib import Path

import numpy as np
import yaml
from PIL import Image

NAMES = ("cat", "dog", "bird")
CPU = {"device": "cpu"}


def write_photos(root: Path, seed: int = 0) -> Path:
    """`root/train/CLASS` and `root/test/CLASS` of 8 x 8 pixels."""
    rng = np.random.default_rng(seed)
    for label, name in enumerate(NAMES):
        for split, count in (("train", 6), ("test", 3)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 60, (8, 8, 3)) + 60 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return root


def write_recipes(folder: Path, data: Path) -> Path:
    """p.yaml, c.yaml and f.yaml, which names the others; returns the last."""
    about = {"name": "image_folder", "path": str(data), "batch_size": 8}
    unet = {"width": 8, "multipliers": [1], "layers_per_block": 1, "attention_resolutions": [], "norm_groups": 4}
    recipes: dict[str, dict[str, object]] = {
        "p": {"model": unet | {"mid_attention": False}, "training": {"num_steps": 2, "lr": 1e-3}},
        "c": {"classifier": {"name": "test_resnet", "image_size": 32}, "training": {"num_steps": 2}},
        "f": {
            "model": {"pretrain": "p.yaml"},
            "method": {"name": "sfron", "num_steps": 3, "mask": {"kind": "fisher_ratio", "batch_size": 8}},
            "sampling": {"num_inference_steps": 2, "seeds": "0-3"},
            "evaluation": {"protocol": "seeds", "classifier": "c.yaml", "features": "classifier", "min_accuracy": 0.0},
        },
    }
    folder.mkdir(exist_ok=True)
    for name, content in recipes.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"run": CPU, "data": about} | content))
    return folder / "f.yaml"
