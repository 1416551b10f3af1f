"""Small batches in the files of CIFAR-10."""

import pickle
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR10


def write_cifar(root: Path, monkeypatch: pytest.MonkeyPatch, evil: object = None) -> np.ndarray:
    """Batches in the published format with four images each, and torchvision's sums changed to theirs."""
    batches = root / CIFAR10.base_folder
    batches.mkdir(parents=True)
    lists: dict[str, list[list[str]]] = {"train_list": [], "test_list": []}
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 3072), dtype=np.uint8)
    files = [(kind, name) for kind in lists for name, _ in getattr(CIFAR10, kind)]
    for i, (kind, name) in enumerate(files):
        content = {"data": pixels[i], "labels": [0, 3, 3, 9], "batch_label": "b", "filenames": ["x"] * 4}
        data = pickle.dumps(content if evil is None or i else evil, protocol=2)
        data = data.replace(b"numpy._core", b"numpy.core")  # as arrays were written then
        (batches / name).write_bytes(data)
        lists[kind].append([name, md5(data).hexdigest()])
    for kind, entries in lists.items():
        monkeypatch.setattr(CIFAR10, kind, entries)
    return pixels
