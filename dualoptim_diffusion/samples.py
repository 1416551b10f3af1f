"""Sample folders: shards of drawn images with a manifest that says from which weights and how they were drawn."""

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from accelerate import Accelerator
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


def describe(model_sha256: str, class_ids: Sequence[int], settings: SamplingConfig) -> dict[str, Any]:
    """All that the images depend on, besides the machine."""
    return {"model_sha256": model_sha256, "class_ids": list(class_ids), "sampling": settings.model_dump(mode="json")}


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

    Shards that are there already are kept, so an interrupted call goes on; processes share the chunks.

    Raises:
        InputError: if the folder holds samples drawn otherwise.
    """
    wanted = describe(model_sha256, class_ids, settings)
    manifest = folder / MANIFEST
    if manifest.is_file():
        found = _read_manifest(folder)
        if {key: found.get(key) for key in wanted} != wanted:
            raise InputError(f"{folder} holds samples drawn from other weights or otherwise; choose another folder.")
    elif accelerator.is_main_process:
        write_json(manifest, wanted)
    accelerator.wait_for_everyone()

    seeds = parse_seeds(settings.seeds)
    chunks = [(c, *chunk) for c in class_ids for chunk in padded_chunks(seeds, settings.batch_size)]
    mine = chunks[accelerator.process_index :: accelerator.num_processes]
    model.network.eval()
    scheduler = make_scheduler(settings.scheduler)
    for class_id, kept, padded in tqdm(mine, desc=title, disable=not accelerator.is_main_process):
        shard = folder / _shard_name(class_id, kept)
        if shard.is_file():
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
        write_json(manifest, wanted | {"shards": shards})
    accelerator.wait_for_everyone()
    return read_samples(folder, model_sha256)


def read_samples(folder: Path, model_sha256: str) -> dict[int, Tensor]:
    """uint8 images [N, C, H, W] by class id, in the order of the seeds.

    Raises:
        InputError: if the folder is not finished, was drawn from other weights, or a shard does not match its hash.
    """
    manifest = _read_manifest(folder)
    if manifest.get("model_sha256") != model_sha256:
        raise InputError(f"The samples in {folder} were drawn from other weights; draw them anew.")
    if "shards" not in manifest:
        raise InputError(f"The samples in {folder} are not finished; run the same command again.")
    settings = SamplingConfig(**manifest["sampling"])
    images: dict[int, Tensor] = {}
    for class_id in manifest["class_ids"]:
        parts = []
        for kept, _ in padded_chunks(parse_seeds(settings.seeds), settings.batch_size):
            name = _shard_name(class_id, kept)
            if not (folder / name).is_file() or _file_sha256(folder / name) != manifest["shards"].get(name):
                raise InputError(f"The shard {folder / name} is missing or damaged; delete the folder and draw anew.")
            parts.append(load_file(folder / name)["images"])
        images[class_id] = cat(parts)
    return images


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"{folder} holds no samples: its manifest.json cannot be read ({error}).") from None
    return dict(manifest)


def _shard_name(class_id: int, seeds: Sequence[int]) -> str:
    return f"class{class_id:04d}-seed{seeds[0]:06d}-{len(seeds)}.safetensors"


def _file_sha256(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()
