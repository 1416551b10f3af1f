"""Models from run folders, pipeline folders and the hub."""

from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import Accelerator

from dualoptim_diffusion.core.errors import InputError, reason
from dualoptim_diffusion.files.atomic import atomic_path
from dualoptim_diffusion.files.pipeline_folder import (
    is_dit,
    is_hub_id,
    model_folder,
    pipeline_folder,
    read_settings,
)
from dualoptim_diffusion.models import ConditionalDDPM, ConditionalDiT, DenoisingModel
from dualoptim_diffusion.models.stock import is_stock, load_stock, own_scheduler, process_of, table_rows

INDEX = "model_index.json"
OUR_PIPELINES = ("ConditionalDDPMPipeline", "ConditionalDiTPipeline")
OUR_FILES = ("*/*.json", "*/*.safetensors")  # no code


def load_model(
    source: str | Path,
    device: torch.device | str = "cpu",
    null_class: int | None = None,
    id2label: Mapping[int, str] | None = None,
) -> DenoisingModel:
    """The model in a run folder or a pipeline folder, ours or a stock one: `UNet2DModel` with a class table, or DiT.

    Args:
        null_class: row of a stock network's class table that means no class; none where every row is a class.
        id2label: names for the classes of a stock folder, which has none, if there are as many; else their ids.

    Raises:
        InputError: if there is none that draws classes, or none with this null class.
    """
    source = Path(source)
    folder = downloaded(str(source)) if is_hub_id(source) else model_folder(source)
    with pipeline_folder(folder):
        stock = is_stock(folder)
        model = _stock_model(folder, device, null_class, id2label) if stock else _own_model(folder, device)
        model.own_scheduler = own_scheduler(folder)
    if not stock and null_class not in (None, model.null_class):
        raise InputError(
            f"model.null_class is {null_class}, but {folder} says itself that its null class is {model.null_class}; "
            "leave it out."
        )
    return model


def _own_model(folder: Path, device: torch.device | str) -> ConditionalDDPM | ConditionalDiT:
    return ConditionalDiT.load(folder, device) if is_dit(folder) else ConditionalDDPM.load(folder, device)


def _stock_model(
    folder: Path, device: torch.device | str, null_class: int | None, id2label: Mapping[int, str] | None
) -> ConditionalDDPM:
    network = load_stock(folder, null_class).to(device)
    num_classes = table_rows(network) - (null_class is not None)
    names = id2label if id2label and len(id2label) == num_classes else {i: str(i) for i in range(num_classes)}
    return ConditionalDDPM(network, dict(names), process=process_of(folder))


def downloaded(hub_id: str) -> Path:
    """The folder of a pipeline from the hub, downloaded once.

    Args:
        hub_id: `OWNER/NAME`, or `OWNER/NAME@REVISION` with a branch, tag or commit.

    Raises:
        InputError: if it is not here and cannot be had.
    """
    from diffusers import DiffusionPipeline
    from huggingface_hub import hf_hub_download, snapshot_download

    try:
        name, _, after = hub_id.partition("@")
        revision = after or None
        index = read_settings(Path(hf_hub_download(name, INDEX, revision=revision)))
        if index.get("_class_name") in OUR_PIPELINES:  # diffusers takes the library of their parts for code on the hub
            return Path(snapshot_download(name, revision=revision, allow_patterns=[INDEX, *OUR_FILES]))
        return Path(DiffusionPipeline.download(name, revision=revision))
    except (OSError, ValueError) as error:  # no network, or no such model
        raise InputError(
            f"{hub_id} is no folder here and cannot be downloaded ({reason(error, 150)}); put its pipeline folder "
            "here and name that."
        ) from None


def save_model(model: DenoisingModel, folder: Path, accelerator: Accelerator) -> None:
    """Writes the pipeline folder in one piece, by one process."""
    if accelerator.is_main_process:
        with atomic_path(folder) as beside:
            model.save(beside)
    accelerator.wait_for_everyone()
