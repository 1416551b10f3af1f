"""Sample folders: shards of drawn images with a manifest that says from which weights and how they were drawn."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, cat

from dualoptim_diffusion.core.config import SamplingConfig
from dualoptim_diffusion.core.hashes import file_sha256
from dualoptim_diffusion.core.terminal import progress, say
from dualoptim_diffusion.diffusion.sampling import draw, make_scheduler, padded_chunks
from dualoptim_diffusion.files.atomic import atomic_path
from dualoptim_diffusion.files.shards import ShardFolder, samples_shard
from dualoptim_diffusion.models import DenoisingModel


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


class LazySamples(Mapping[int, Tensor]):
    """uint8 images [N, C, H, W] by label, drawn by this process when they are looked up; nothing is written."""

    def __init__(
        self,
        model: DenoisingModel,
        seeds: Mapping[int, Sequence[int]],
        settings: SamplingConfig,
        accelerator: Accelerator,
    ) -> None:
        self._model, self._seeds, self._settings, self._device = model, seeds, settings, accelerator.device
        self._scheduler = make_scheduler(settings.scheduler, model.learned_variance, model.betas)

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
    seeds: Sequence[int],
    padded: Sequence[int],
    settings: SamplingConfig,
    device: torch.device,
    latents: bool = False,
) -> dict[str, Tensor]:
    """`images` (uint8) and `seeds` of the first `len(seeds)` of the padded seeds, and `latents` if asked for."""
    steps, scale = settings.num_inference_steps, settings.guidance_scale
    predict = partial(model.predict, guidance_channels=settings.guidance_channels)
    x_0 = draw(predict, scheduler, model.x_0_shape, [label] * len(padded), padded, steps, scale, device)
    drawn = {"images": model.decode(x_0), "seeds": torch.tensor(padded)} | ({"latents": x_0} if latents else {})
    return {name: part[: len(seeds)].cpu().contiguous() for name, part in drawn.items()}


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

    Sound shards are reused, so an interrupted call continues; processes share the chunks.

    Args:
        autoencoder_sha256: keep the latents of this autoencoder beside the images, for `data.name: replay`.

    Raises:
        InputError: if the folder holds anything but samples drawn in this very way.
    """
    wanted = describe(model, model_sha256, settings) | {"latents": autoencoder_sha256}
    shards = ShardFolder(folder, "samples of this kind", "choose another folder")
    found = shards.read()
    if found is not None and {key: found.get(key) for key in wanted} != wanted:
        shards.refuse("holds samples drawn from other weights or otherwise; choose another folder")
        found = None
    known: dict[str, str] = (found or {}).get("shards", {})
    about = wanted | {"id2label": {str(i): name for i, name in model.id2label.items()}}
    accelerator.wait_for_everyone()
    if accelerator.is_main_process and found is None:
        shards.write(about)
    accelerator.wait_for_everyone()

    chunks = [(label, *c) for label, part in seeds.items() for c in padded_chunks(part, settings.batch_size)]
    mine = chunks[accelerator.process_index :: accelerator.num_processes]
    model.network.eval()
    scheduler = cache(
        partial(make_scheduler, settings.scheduler, model.learned_variance, model.betas)
    )  # only if any is drawn
    total, latents = sum(len(wanted_seeds) for _, wanted_seeds, _ in mine), autoencoder_sha256 is not None
    with progress(total=total, desc=title, unit="img", disable=not accelerator.is_main_process) as bar:
        for label, wanted_seeds, padded in mine:
            shard = folder / samples_shard(label, wanted_seeds)
            if not _is_sound(shard, len(wanted_seeds), known.get(shard.name)):
                made = _draw_chunk(
                    model, scheduler(), label, wanted_seeds, padded, settings, accelerator.device, latents
                )
                with atomic_path(shard) as beside:
                    save_file(made, beside)
            bar.update(len(wanted_seeds))
    accelerator.wait_for_everyone()
    paths: dict[int, list[Path]] = {label: [] for label in seeds}
    for label, wanted_seeds, _ in chunks:
        paths[label].append(folder / samples_shard(label, wanted_seeds))
    if accelerator.is_main_process:
        shards.write(about, known | {path.name: file_sha256(path) for part in paths.values() for path in part})
    accelerator.wait_for_everyone()
    return Samples(paths)


def _is_sound(shard: Path, count: int, sha256: str | None) -> bool:
    """Whether a shard is there, readable, complete and, where the manifest knows it, unchanged."""
    if not shard.exists():
        return False
    try:
        if len(load_file(shard)["images"]) == count and sha256 in (None, file_sha256(shard)):
            return True
    except (OSError, KeyError, SafetensorError):
        pass
    say(f"{shard} is damaged; its images are drawn anew.")
    return False
