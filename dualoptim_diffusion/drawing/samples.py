"""Sample folders: shards of drawn images with a manifest that says from which weights and how they were drawn."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, cat
from tqdm import tqdm

from dualoptim_diffusion.core.config import SamplingConfig
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.diffusion.sampling import draw, make_scheduler, padded_chunks
from dualoptim_diffusion.files.atomic import atomic_path, visible
from dualoptim_diffusion.files.json_files import read_json, write_json
from dualoptim_diffusion.files.weight_files import file_sha256
from dualoptim_diffusion.models import DenoisingModel

MANIFEST = "manifest.json"


class Samples(Mapping[int, Tensor]):
    """uint8 images [N, C, H, W] by the label they were drawn with, read from their shards when asked for."""

    def __init__(self, shards: Mapping[int, Sequence[Path]]) -> None:
        self._shards = shards

    def __getitem__(self, label: int) -> Tensor:
        return cat([load_file(path)["images"] for path in self._shards[label]])

    def __iter__(self) -> Iterator[int]:
        return iter(self._shards)

    def __len__(self) -> int:
        return len(self._shards)

    def of(self, labels: Sequence[int]) -> "Samples":
        """The samples of these labels, in this order."""
        return Samples({label: self._shards[label] for label in labels})


class Draws(Mapping[int, Tensor]):
    """uint8 images [N, C, H, W] by label, drawn by this process when asked for; nothing is written."""

    def __init__(
        self,
        model: DenoisingModel,
        seeds: Mapping[int, Sequence[int]],
        settings: SamplingConfig,
        accelerator: Accelerator,
    ) -> None:
        self._model, self._seeds, self._settings, self._device = model, seeds, settings, accelerator.device
        self._scheduler = make_scheduler(settings.scheduler, model.learned_variance)

    def __getitem__(self, label: int) -> Tensor:
        self._model.network.eval()
        chunks = padded_chunks(self._seeds[label], self._settings.batch_size)
        drawn = [_draw_chunk(self._model, self._scheduler, label, *c, self._settings, self._device) for c in chunks]
        return cat([part["images"] for part in drawn])

    def __iter__(self) -> Iterator[int]:
        return iter(self._seeds)

    def __len__(self) -> int:
        return len(self._seeds)


def _draw_chunk(
    model: DenoisingModel,
    scheduler: Any,
    label: int,
    kept: Sequence[int],
    padded: Sequence[int],
    settings: SamplingConfig,
    device: torch.device,
    latents: bool = False,
) -> dict[str, Tensor]:
    """`images` (uint8) of the seeds to keep, those `seeds`, and `latents` if asked for."""
    steps, scale = settings.num_inference_steps, settings.guidance_scale
    predict = partial(model.predict, guidance_channels=settings.guidance_channels)
    x_0 = draw(predict, scheduler, model.x_0_shape, [label] * len(padded), padded, steps, scale, device)
    drawn = {"images": model.decode(x_0), "seeds": torch.tensor(padded)} | ({"latents": x_0} if latents else {})
    return {name: part[: len(kept)].cpu().contiguous() for name, part in drawn.items()}


def describe(model: DenoisingModel, model_sha256: str, settings: SamplingConfig) -> dict[str, Any]:
    """All that an image depends on, besides its label, its seed and the machine; the model is prepared."""
    return {
        "model_sha256": model_sha256,
        "sampling": settings.model_dump(mode="json", exclude={"seeds"}),
        "passes": model.passes,
    }


def draw_samples(
    folder: Path,
    model: DenoisingModel,
    model_sha256: str,
    seeds: Mapping[int, Sequence[int]],
    settings: SamplingConfig,
    accelerator: Accelerator,
    title: str = "sampling",
    autoencoder_sha256: str | None = None,
) -> Samples:
    """Draws each label with its seeds into `folder`; whatever else the folder holds stays there.

    Shards that are there and sound are kept, so an interrupted call goes on; processes share the chunks.

    Args:
        autoencoder_sha256: keep the latents of this autoencoder beside the images, for `data.name: replay`.

    Raises:
        InputError: if the folder holds anything but samples drawn in this very way.
    """
    wanted = describe(model, model_sha256, settings) | {"latents": autoencoder_sha256}
    known: dict[str, str] = {}
    if (folder / MANIFEST).is_file():
        found = _read_manifest(folder)
        if {key: found.get(key) for key in wanted} != wanted:
            raise InputError(f"{folder} holds samples drawn from other weights or otherwise; choose another folder.")
        known = found.get("shards", {})
    elif folder.exists() and (not folder.is_dir() or visible(folder)):
        raise InputError(f"{folder} exists and holds no samples of this kind; choose another folder.")
    about = wanted | {"id2label": {str(i): name for i, name in model.id2label.items()}}
    accelerator.wait_for_everyone()
    if accelerator.is_main_process and not (folder / MANIFEST).is_file():
        write_json(folder / MANIFEST, about)
    accelerator.wait_for_everyone()

    chunks = [(label, *c) for label, part in seeds.items() for c in padded_chunks(part, settings.batch_size)]
    mine = chunks[accelerator.process_index :: accelerator.num_processes]
    model.network.eval()
    scheduler = make_scheduler(settings.scheduler, model.learned_variance)
    total = sum(len(kept) for _, kept, _ in mine)
    with tqdm(total=total, desc=title, unit="img", disable=not accelerator.is_main_process) as bar:
        for label, kept, padded in mine:
            shard = folder / _shard_name(label, kept)
            if not _is_sound(shard, len(kept), known.get(shard.name)):
                made = _draw_chunk(
                    model, scheduler, label, kept, padded, settings, accelerator.device, autoencoder_sha256 is not None
                )
                with atomic_path(shard) as beside:
                    save_file(made, beside)
            bar.update(len(kept))
    accelerator.wait_for_everyone()
    drawn: dict[int, list[Path]] = {label: [] for label in seeds}
    for label, kept, _ in chunks:
        drawn[label].append(folder / _shard_name(label, kept))
    if accelerator.is_main_process:
        here = {path.name: file_sha256(path) for paths in drawn.values() for path in paths}
        write_json(folder / MANIFEST, about | {"shards": known | here})
    accelerator.wait_for_everyone()
    return Samples(drawn)


def _is_sound(shard: Path, count: int, sha256: str | None) -> bool:
    """Whether a shard is there, readable, complete and, where the manifest knows it, unchanged."""
    try:
        return len(load_file(shard)["images"]) == count and sha256 in (None, file_sha256(shard))
    except (OSError, KeyError, SafetensorError):
        return False


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = read_json(folder / MANIFEST)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} holds no samples: its manifest.json cannot be read ({error}).") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("shards", {}), dict):
        raise InputError(f"{folder} holds no samples: its manifest.json is of another kind.")
    return manifest


def _shard_name(label: int, seeds: Sequence[int]) -> str:
    """Names label and seeds; seeds that are no plain range go by a hash of them all."""
    whole = list(seeds) == list(range(seeds[0], seeds[-1] + 1))
    end = f"{seeds[-1]:06d}" if whole else sha256(repr(list(seeds)).encode()).hexdigest()[:8]
    return f"class{label:04d}-seed{seeds[0]:06d}-{end}.safetensors"
