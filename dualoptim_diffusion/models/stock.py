"""Pipeline folders of a stock `diffusers.UNet2DModel` with a class table, from any writer."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import torch
from torch import Tensor

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.diffusion.process import (
    BETA_END,
    BETA_START,
    DENOISER,
    FLOW,
    NUM_TRAIN_TIMESTEPS,
    PREDICTIONS,
    Process,
    growing_noise,
    straight_path,
)
from dualoptim_diffusion.files.pipeline_folder import class_of
from dualoptim_diffusion.models.saved_network import read_network
from dualoptim_diffusion.models.unet_layers import EPS
from dualoptim_diffusion.models.unet_module import UNetModule

if TYPE_CHECKING:
    from diffusers import UNet2DModel

OF_BETAS = tuple(kind for kind in PREDICTIONS if kind not in (FLOW, DENOISER))
COMMON = (None, "DDPMScheduler", "DDIMScheduler")  # kinds of schedulers whose settings tell all
AnyUNet = Union[UNetModule, "UNet2DModel"]

PROCESS = {  # what a scheduler must say, or leave to diffusers' equal defaults
    "prediction_type": "epsilon",
    "num_train_timesteps": NUM_TRAIN_TIMESTEPS,
    "beta_schedule": "linear",
    "beta_start": BETA_START,
    "beta_end": BETA_END,
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
}


def table_rows(network: AnyUNet) -> int:
    """Labels that the network knows, the null label included where it has one.

    Raises:
        InputError: if it has no class table.
    """
    if isinstance(network, UNetModule):
        return network.null_class + 1
    rows = network.config.get("num_class_embeds")
    if rows is None or network.config.get("class_embed_type") is not None:
        raise InputError("The network has no class table (num_class_embeds), so it draws no class by its label.")
    return int(rows)


def x_0_shape(network: AnyUNet) -> tuple[int, int, int]:
    """Channels, height and width of the images."""
    if isinstance(network, UNetModule):
        return network.in_channels, network.sample_size, network.sample_size
    size = network.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return network.config.in_channels, height, width


def is_stock(folder: Path) -> bool:
    """Whether a pipeline folder holds a `UNet2DModel` in a pipeline that is not ours."""
    index = _read(folder / "model_index.json")
    unet = index.get("unet")
    return (
        index.get("_class_name") != "ConditionalDDPMPipeline" and isinstance(unet, list) and unet[-1] == "UNet2DModel"
    )


def load_stock(folder: Path, null_class: int | None = None) -> "UNet2DModel":
    """The network of such a folder.

    Args:
        null_class: the row of the class table that means no class. It is moved to the end and the rows after it up by
            one, so class c is the c-th of the other rows; outputs stay exactly the same.

    Raises:
        InputError: if it draws no classes, or has no such row.
    """
    from diffusers import UNet2DModel

    network: UNet2DModel = read_network(UNet2DModel, folder / "unet")
    rows = table_rows(network)
    if network.config.out_channels != network.config.in_channels or network.config.sample_size is None:
        raise InputError(f"{folder / 'unet'} must name its sample_size and have as many channels out as in.")
    if null_class is None:
        return network
    if not 0 <= null_class < rows:
        raise InputError(
            f"model.null_class is {null_class}, expected a row of {folder}'s class table, 0 to {rows - 1}."
        )
    order = [*(row for row in range(rows) if row != null_class), null_class]
    with torch.no_grad():
        network.class_embedding.weight.copy_(network.class_embedding.weight[order])
    return network


def process_of(folder: Path) -> Process | None:
    """The diffusion process that a pipeline folder's scheduler was set for; None = noise under linear betas.

    Raises:
        InputError: if it has no table of betas, or its signal ends at exactly 0.
    """
    name, is_ours = class_of(folder, "scheduler"), _other_setting(folder) is None
    if is_ours and name in COMMON:
        return None
    import diffusers

    kind: Any = getattr(diffusers, str(name), diffusers.DDPMScheduler)
    process = process_of_scheduler(scheduler := kind.from_pretrained(folder / "scheduler"))
    if process.prediction_type in (FLOW, DENOISER):
        raise InputError(
            f"{type(scheduler).__name__} is of another process, for which a pipeline folder has no form here; load the "
            "network and give it to dualoptim_diffusion.wrap with this scheduler."
        )
    return None if is_ours else process


def process_of_scheduler(scheduler: Any) -> Process:
    """The process of a scheduler of diffusers.

    Raises:
        InputError: if it is of another kind, or its signal ends at exactly 0.
    """
    name: str = type(scheduler).__name__
    config: Any = getattr(scheduler, "config", {})
    if name.startswith("FlowMatch"):
        if config.get("use_dynamic_shifting") or config.get("invert_sigmas"):
            raise InputError(f"{name} with use_dynamic_shifting or invert_sigmas is not supported; set both to False.")
        sigmas = scheduler.sigmas[: config.num_train_timesteps].flip(0).double()
        sigmas[-1] = (sigmas[-2] + 1) / 2  # at 1 nothing of x_0 is left to divide by
        return straight_path(sigmas, sigmas * config.num_train_timesteps)
    if name.startswith("EDM"):
        return growing_noise(scheduler.sigmas[: config.num_train_timesteps].flip(0))
    betas = getattr(scheduler, "betas", None)
    if not isinstance(betas, Tensor):
        raise InputError(f"{name} has no table of betas; give one that has, such as DDIMScheduler.")
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in OF_BETAS:
        raise InputError(f"{name} has prediction_type {prediction!r}, expected {', '.join(OF_BETAS)}.")
    if not 0 < float(betas.min()) <= float(betas.max()) < 1:
        raise InputError(f"{name} ends at a signal of exactly 0 (rescale_betas_zero_snr), which noise cannot express.")
    return Process(betas.detach().float().cpu(), prediction)


def own_scheduler(folder: Path) -> dict[str, Any] | None:
    """Settings of a folder's scheduler, where diffusers has it and saved models do not have its like anyway."""
    settings = _read(folder / "scheduler" / "scheduler_config.json")
    if (name := settings.get("_class_name")) in COMMON:
        return None
    import diffusers

    return settings if hasattr(diffusers, str(name)) else None


def check_process(folder: Path) -> None:
    """Checks that a pipeline folder is of our diffusion process.

    Raises:
        InputError: naming the first setting that differs, or as `process_of`.
    """
    if (other := _other_setting(folder)) is not None:
        key, found = other
        raise InputError(
            f"The scheduler of {folder} has {key} {found!r}, expected {PROCESS[key]!r}; only models of noise under "
            f"linear betas from {BETA_START} to {BETA_END} over {NUM_TRAIN_TIMESTEPS} steps are supported."
        )
    process_of(folder)


def _other_setting(folder: Path) -> tuple[str, Any] | None:
    """The first setting of a folder's scheduler that is not that of our process, with its value."""
    settings = _read(folder / "scheduler" / "scheduler_config.json")
    return next(((key, settings[key]) for key, ours in PROCESS.items() if settings.get(key, ours) != ours), None)


def _read(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is of another kind")
    return content


REPLACED = ("time_embedding.", "class_embedding.")


@torch.no_grad()
def fold(network: UNetModule) -> "UNet2DModel":
    """A stock network with the same output for every input; label `num_classes` stays the null label.

    The time MLP fills the low half of the doubled embedding and zeros the rest; row c of the class table
    [num_classes + 1, 8 width] is what the class MLP makes of label c. Training the two differs: the table is no MLP.
    """
    native = network.unet
    rows = torch.arange(network.num_classes + 1, device=native.conv_in.weight.device)
    stock = stock_like(network, len(rows)).to(native.conv_in.weight)  # its device and type
    state = {name: value for name, value in native.state_dict().items() if not name.startswith(REPLACED)}
    for name, value in native.time_embedding.mlp.state_dict().items():
        padded = torch.zeros_like(stock.get_parameter(f"time_embedding.{name}"))
        padded[tuple(slice(n) for n in value.shape)] = value
        state[f"time_embedding.{name}"] = padded
    classes = native.class_embedding(rows)
    state["class_embedding.weight"] = torch.cat([torch.zeros_like(classes), classes], dim=1)
    stock.load_state_dict(state)
    return stock.eval()


def stock_like(network: UNetModule, num_class_embeds: int | None) -> "UNet2DModel":
    """diffusers' network of the same layers, with random weights and a class table of so many rows, or none."""
    from diffusers import UNet2DModel

    own = network.arguments
    channels = [own["width"] * m for m in own["multipliers"]]
    attends = [own["sample_size"] >> level in own["attention_resolutions"] for level in range(len(channels))]
    return UNet2DModel(
        sample_size=own["sample_size"],
        in_channels=own["in_channels"],
        out_channels=own["in_channels"],
        time_embedding_dim=8 * own["width"],
        freq_shift=1,
        flip_sin_to_cos=False,
        down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        block_out_channels=tuple(channels),
        layers_per_block=own["layers_per_block"],
        downsample_padding=0,
        attention_head_dim=None,  # one head
        norm_num_groups=own["norm_groups"],
        norm_eps=EPS,
        dropout=own["dropout"],
        add_attention=own["mid_attention"],
        num_class_embeds=num_class_embeds,
    )
