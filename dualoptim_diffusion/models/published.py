"""Published class-conditional DDPM checkpoints (SA, SalUn, SFRon, DualOptim) as native networks, and back."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from torch.optim import Adam

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.files.weight_files import PublishedWeights, read_published
from dualoptim_diffusion.files.wrappings import fitted, listed
from dualoptim_diffusion.models.dit_module import DiTModule
from dualoptim_diffusion.models.unet_module import UNetModule

WEIGHTS = ("raw", "ema")
UNET_MARKS = ("conv_in.weight", "conv_out.weight", "norm_out.weight", "classes_emb.weight")  # in every such network

# Parts of our names and what the published ones say instead; applied in this order.
RENAMED = (
    (r"^unet\.", ""),
    (r"^time_embedding\.mlp\.linear_1", "temb.dense.0"),
    (r"^time_embedding\.mlp\.linear_2", "temb.dense.1"),
    (r"^class_embedding\.mlp\.linear_1", "cemb.dense.0"),
    (r"^class_embedding\.mlp\.linear_2", "cemb.dense.1"),
    (r"^class_embedding\.table", "classes_emb"),
    (r"^class_embedding\.null", "null_classes_emb"),
    (r"^conv_norm_out", "norm_out"),
    (r"^mid_block\.resnets\.0", "mid.block_1"),
    (r"^mid_block\.attentions\.0", "mid.attn_1"),
    (r"^mid_block\.resnets\.1", "mid.block_2"),
    (r"^(down|up)_blocks\.", r"\1."),
    (r"\.resnets\.", ".block."),
    (r"\.attentions\.", ".attn."),
    (r"\.(down|up)samplers\.0\.conv", r".\1sample.conv"),
    (r"\.time_emb_proj", ".temb_cemb_proj"),
    (r"\.conv_shortcut", ".nin_shortcut"),
    (r"\.group_norm", ".norm"),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.to_out\.0", ".proj_out"),
)

CONVOLVES = re.compile(r"\.attn(\.\d+|_1)\.(q|k|v|proj_out)\.weight$")  # by 1x1, with what are matrices here
PUBLISHED_GROUPS = 32  # of every GroupNorm
PUBLISHED_RATE = 2e-4  # of pretraining


class Imported(NamedTuple):
    """A network with the weights of a checkpoint."""

    network: UNetModule | DiTModule
    step: int | None  # of the training that saved it
    left_over: list[str]  # names in the file that the network has no use for


def published_name(name: str, levels: int) -> str:
    """The published name of a parameter of `UNetModule`; upward levels are counted from the top there."""
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return re.sub(r"^up\.(\d+)", lambda found: f"up.{levels - 1 - int(found[1])}", name)


def import_published(
    path: Path, weights: str = "raw", image_size: int = 32, stored: PublishedWeights | None = None
) -> Imported:
    """Reads a checkpoint into a network whose architecture its tensors tell.

    Args:
        path: a list `[state_dict, optimizer_state, step, ema_shadow]`, or the state dict alone.
        weights: raw, or ema for their moving average.
        image_size: height and width of the images, which no tensor tells.
        stored: what the file holds, where it has been read.

    Raises:
        InputError: if the file holds other things than tensors, lacks some, or has them in shapes that do not fit.
    """
    stored = read_published(path, UNET_MARKS) if stored is None else stored
    tensors = chosen_weights(path, stored, weights)
    network = _network(path, tensors, image_size)
    own = network.state_dict()
    names = {name: published_name(name, len(network.arguments["multipliers"])) for name in own}
    wanted = {names[name]: value for name, value in own.items()}
    given = {name: _flat_as(value, wanted.get(name, value)) for name, value in tensors.items()}
    found = fitting(path, given, wanted)
    network.load_state_dict({name: found[names[name]] for name in own})
    return Imported(network.eval(), stored.step, sorted(tensors.keys() - wanted.keys()))


def export_published(network: UNetModule) -> list[Any]:
    """What the research code's training would have saved of a network: the inverse of `import_published`.

    Returns:
        `[state_dict, optimizer_state, step, ema_shadow]`: the weights with `module.` before their names, a fresh Adam's
        state, step 0, and the weights again, for that code draws with the average. Tensors share the network's memory.

    Raises:
        InputError: if its norms have other numbers of groups, which that code has no setting for.
    """
    if (groups := network.arguments["norm_groups"]) != PUBLISHED_GROUPS:
        raise InputError(
            f"The network normalizes {groups} groups of channels, the research code always {PUBLISHED_GROUPS}, so it "
            "has no published form; use --format diffusers."
        )
    weights: dict[str, Tensor] = {}
    for ours, value in network.state_dict().items():
        name = published_name(ours, len(network.arguments["multipliers"]))
        weights[name] = value[:, :, None, None] if CONVOLVES.search(name) else value
    adam = Adam(network.parameters(), lr=PUBLISHED_RATE)
    return [{f"module.{name}": value for name, value in weights.items()}, adam.state_dict(), 0, weights]


def chosen_weights(path: Path, stored: PublishedWeights, weights: str) -> dict[str, Tensor]:
    """The raw weights or their moving average.

    Raises:
        InputError: if others are asked for, or the file has none such.
    """
    if weights not in WEIGHTS:
        raise InputError(f"weights is {weights!r}, expected {' or '.join(WEIGHTS)}.")
    tensors = stored.raw if weights == "raw" else stored.ema
    if tensors is None:
        raise InputError(f"{path} holds no moving average of the weights; import the raw ones.")
    return tensors


def _network(path: Path, tensors: Mapping[str, Tensor], image_size: int) -> UNetModule:
    """A network with fresh weights, built as the names and shapes of the tensors say."""

    def shape(name: str, dims: int) -> tuple[int, ...]:
        if name not in tensors:
            raise lacks(path, [name])
        return sizes(path, name, tensors[name], dims)

    def count(pattern: str) -> int:
        return 1 + max((int(found[1]) for name in tensors if (found := re.match(pattern, name))), default=-1)

    width, in_channels = shape("conv_in.weight", 4)[:2]
    levels = range(count(r"down\.(\d{1,6})\."))
    channels = [shape(f"down.{level}.block.0.conv1.weight", 4)[0] for level in levels]
    if not channels or channels[0] != width or any(c % width for c in channels):
        raise InputError(
            f"The levels in {path} have {channels} channels, expected multiples of the input convolution's {width}, "
            "the first equal to it."
        )
    blocks = count(r"down\.0\.block\.(\d{1,6})\.")
    for block in range(blocks):
        shape(f"down.0.block.{block}.conv1.weight", 4)  # before so many are built
    if image_size < 1:
        raise InputError(f"image_size is {image_size}, expected the height and width of the images in pixels.")
    try:
        return UNetModule(
            sample_size=image_size,
            in_channels=in_channels,
            num_classes=shape("classes_emb.weight", 2)[0],
            width=width,
            multipliers=[c // width for c in channels],
            layers_per_block=blocks,
            attention_resolutions=[
                image_size >> level for level in levels if count(rf"down\.{level}\.attn\.(\d{{1,6}})\.")
            ],
            mid_attention=bool(count(r"mid\.attn_(\d{1,6})\.")),
        )
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"The network in {path} does not work on images of {image_size} pixels: {error}") from None


def _flat_as(found: Tensor, own: Tensor) -> Tensor:
    """The tensor in our shape: attention's 1x1 convolutions become matrices, a null vector [1, w] becomes [w]."""
    alike = [n for n in found.shape if n != 1] == [n for n in own.shape if n != 1]
    return found.reshape(own.shape) if alike else found


def fitting(
    path: Path,
    tensors: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    kind: str = "a class-conditional DDPM",
) -> dict[str, Tensor]:
    """The wanted tensors of a checkpoint, in the network's number formats.

    Raises:
        InputError: naming those that are missing or of other shapes.
    """
    try:
        return fitted(tensors, wanted, spare=True)
    except ValueError as error:
        raise InputError(
            f"{path} is no whole checkpoint of {kind} ({error}); give the file that its training saved."
        ) from None


def sizes(path: Path, name: str, tensor: Tensor, dims: int) -> tuple[int, ...]:
    """The shape of a tensor that tells the architecture.

    Raises:
        InputError: if it has another number of dimensions, or one of them is empty.
    """
    if tensor.ndim != dims or not tensor.numel():
        raise InputError(
            f"{name} in {path} has the shape {list(tensor.shape)}, expected {dims} sizes above 0: it is of another "
            "network."
        )
    return tuple(tensor.shape)


def lacks(path: Path, names: list[str], kind: str = "a class-conditional DDPM") -> InputError:
    """What to say of a checkpoint without these tensors."""
    return InputError(
        f"{path} is no whole checkpoint of {kind} (it lacks the weights {listed(names)}); give the file that its "
        "training saved."
    )
