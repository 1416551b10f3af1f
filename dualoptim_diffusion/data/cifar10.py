"""CIFAR-10 (Krizhevsky, 2009) as torchvision names and checks it; decoding a batch runs nothing that is in it."""

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.files.cache import cache_entry, cache_folder, get_or_make_locked

SIDE = 32
TRAIN_PER_CLASS = 5000
ALLOWED = {  # all that an array needs to be rebuilt
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}

Pixels = tuple[Tensor, Tensor]  # uint8 [N, 3, 32, 32], labels int64 [N]


class ArrayUnpickler(pickle.Unpickler):
    """Rebuilds arrays and plain values, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it holds {module}.{name}")
        return super().find_class(module, name)


def load(folder: str | None) -> tuple[Pixels, Pixels]:
    """Training and test images; downloaded if they are not in the folder, then cached as plain tensors.

    Args:
        folder: where the archive or its extracted batches lie or are put; None for the cache.

    Raises:
        InputError: if they cannot be downloaded, or a file is not what was published.
    """
    root = Path(folder) if folder is not None else cache_folder() / "data"
    stored = get_or_make_locked(_decoded(), lambda: _decode_all(_obtain(root)))
    return (stored["train_images"], stored["train_labels"]), (stored["test_images"], stored["test_labels"])


def is_kept() -> bool:
    """Whether they have been decoded before."""
    return _decoded().is_file()


def _decoded() -> Path:
    """Where they are kept."""
    from torchvision.datasets import CIFAR10

    sums = [md5 for _, md5 in (*CIFAR10.train_list, *CIFAR10.test_list)]
    return cache_entry("data", "cifar10", *sums).with_suffix(".safetensors")


def _obtain(root: Path) -> Path:
    """The folder of extracted batches."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import download_and_extract_archive

    batches = root / CIFAR10.base_folder
    if not all((batches / name).is_file() for name, _ in (*CIFAR10.train_list, *CIFAR10.test_list)):
        try:
            download_and_extract_archive(CIFAR10.url, str(root), filename=CIFAR10.filename, md5=CIFAR10.tgz_md5)
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"CIFAR-10 is not in {root} and {CIFAR10.url} cannot be had ({error}). Put {CIFAR10.filename} there "
                "(data.path names the folder), or read images of your own with data.name=image_folder."
            ) from None
    return batches


def _decode_all(batches: Path) -> dict[str, Tensor]:
    from torchvision.datasets import CIFAR10

    parts = {}
    for name, files in (("train", CIFAR10.train_list), ("test", CIFAR10.test_list)):
        decoded = [_decode(batches / file, md5) for file, md5 in files]
        parts[f"{name}_images"] = torch.cat([images for images, _ in decoded])
        parts[f"{name}_labels"] = torch.cat([labels for _, labels in decoded])
    return parts


def _decode(path: Path, md5: str) -> Pixels:
    from torchvision.datasets.utils import check_integrity

    if not check_integrity(str(path), md5):
        raise InputError(f"{path} is not the published file (its md5 is not {md5}); delete it to download it again.")
    try:
        content = ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
        images = torch.from_numpy(content["data"]).view(-1, 3, SIDE, SIDE).contiguous()
        return images, torch.tensor(content["labels"], dtype=torch.int64)
    except (pickle.UnpicklingError, LookupError, TypeError, ValueError, AttributeError, EOFError) as error:
        raise InputError(f"{path} is no batch of CIFAR-10 ({error}).") from None
