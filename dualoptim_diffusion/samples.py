"""Sample folders: shards of drawn images with a manifest that says from which weights and how they were drawn."""

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, cat
from tqdm import tqdm

from dualoptim_diffusion.checkpoint import atomic_path, write_json
from dualoptim_diffusion.config import SamplingConfig
from dualoptim_diffusion.errors import InputError
from dualoptim_diffusion.models import DenoisingModel
from dualoptim_diffusion.recipes import parse_seeds
from dualoptim_diffusion.sampling import draw, make_scheduler, padded_chunks

MANIFEST = "manifest.json"


def describe(
    model_sha256: str, class_ids: Sequence[int], settings: SamplingConfig, accelerator: Accelerator
) -> dict[str, Any]:
    """All that the images depend on, besides the machine."""
    return {
        "model_sha256": model_sha256,
        "class_ids": list(class_ids),
        "sampling": settings.model_dump(mode="json"),
        "precision": accelerator.mixed_precision,
    }


def draw_samples(
    folder: Path,
    model: DenoisingModel,
    model_sha256: str,
    class_ids: Sequence[int],
    settings: SamplingConfig,
    accelerator: Accelerator,
    title: str = "sampling",
) -> dict[int, Tensor]:
    """Draws each class with each seed into `folder` and returns uint8 images [N, C, H, W] by class id.

    Shards that are there and sound are kept, so an interrupted call goes on; processes share the chunks.

    Raises:
        InputError: if the folder holds anything but samples drawn in this very way.
    """
    wanted = describe(model_sha256, class_ids, settings, accelerator)
    known: dict[str, str] = {}
    if (folder / MANIFEST).is_file():
        found = _read_manifest(folder)
        if {key: found.get(key) for key in wanted} != wanted:
            raise InputError(f"{folder} holds samples drawn from other weights or otherwise; choose another folder.")
        known = found.get("shards", {})
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and holds no samples of this kind; choose another folder.")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process and not (folder / MANIFEST).is_file():
        write_json(folder / MANIFEST, wanted)
    accelerator.wait_for_everyone()

    seeds = parse_seeds(settings.seeds)
    chunks = [(c, *chunk) for c in class_ids for chunk in padded_chunks(seeds, settings.batch_size)]
    mine = chunks[accelerator.process_index :: accelerator.num_processes]
    model.network.eval()
    scheduler = make_scheduler(settings.scheduler)
    for class_id, kept, padded in tqdm(mine, desc=title, disable=not accelerator.is_main_process):
        shard = folder / _shard_name(class_id, kept)
        if _is_sound(shard, len(kept), known.get(shard.name)):
            continue
        x_0 = draw(
            model.noise_pred,
            scheduler,
            model.x_0_shape,
            [class_id] * len(padded),
            padded,
            settings.num_inference_steps,
            settings.guidance_scale,
            accelerator.device,
        )
        with atomic_path(shard) as beside:
            save_file({"images": model.decode(x_0)[: len(kept)].cpu().contiguous()}, beside)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shards = {name: _file_sha256(folder / name) for name in (_shard_name(c, kept) for c, kept, _ in chunks)}
        write_json(folder / MANIFEST, wanted | {"shards": shards})
    accelerator.wait_for_everyone()
    drawn: dict[int, list[Tensor]] = {}
    for class_id, kept, _ in chunks:
        drawn.setdefault(class_id, []).append(load_file(folder / _shard_name(class_id, kept))["images"])
    return {class_id: cat(parts) for class_id, parts in drawn.items()}


def _is_sound(shard: Path, count: int, sha256: str | None) -> bool:
    """Whether a shard is there, readable, complete and, where the manifest knows it, unchanged."""
    try:
        return len(load_file(shard)["images"]) == count and sha256 in (None, _file_sha256(shard))
    except (OSError, KeyError, SafetensorError):
        return False


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"{folder} holds no samples: its manifest.json cannot be read ({error}).") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("shards", {}), dict):
        raise InputError(f"{folder} holds no samples: its manifest.json is of another kind.")
    return manifest


def _shard_name(class_id: int, seeds: Sequence[int]) -> str:
    return f"class{class_id:04d}-seed{seeds[0]:06d}-{len(seeds)}.safetensors"


def _file_sha256(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()
