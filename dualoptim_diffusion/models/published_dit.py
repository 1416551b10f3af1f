"""Original DiT checkpoints (facebookresearch/DiT; what SFRon and DualOptim save of it) as native networks, and back.

SiT (Ma et al., ECCV 2024) and REPA (Yu et al., ICLR 2025) are the same transformer, trained to predict a velocity.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.files.weight_files import PublishedWeights, read_published
from dualoptim_diffusion.models.dit_module import DiTModule
from dualoptim_diffusion.models.published import Imported, chosen_weights, fitting, lacks, sizes

LAST = "final_layer.linear"
POSITIONS = "pos_embed"  # a fixed table, which our network computes
POSITION_TOLERANCE = 1e-4  # published tables were rounded by another numpy, and some then to half precision
KIND = "an original DiT"
DIT_MARKS = (  # in every such network
    "x_embedder.proj.weight", "y_embedder.embedding_table.weight", "final_layer.linear.weight",
)  # fmt: skip
Form = Literal["dit", "sit", "repa"]
VELOCITIES: dict[str, Literal["to_data", "to_noise"]] = {"sit": "to_data", "repa": "to_noise"}
PROJECTORS = "projectors."  # which REPA aligns with another network's features, and drawing does not need
HEAD_DIMS = {1152: 72}  # where not 64: DiT-XL

# Parts of our names and what the published ones say instead.
RENAMED = (
    (r"^pos_embed\.proj", "x_embedder.proj"),
    (r"^embedder\.timestep_embedder\.linear_1", "t_embedder.mlp.0"),
    (r"^embedder\.timestep_embedder\.linear_2", "t_embedder.mlp.2"),
    (r"^embedder\.class_embedder", "y_embedder"),
    (r"^transformer_blocks\.", "blocks."),
    (r"\.norm1\.linear", ".adaLN_modulation.1"),
    (r"\.attn1\.to_out\.0", ".attn.proj"),
    (r"\.ff\.net\.0\.proj", ".mlp.fc1"),
    (r"\.ff\.net\.2", ".mlp.fc2"),
    (r"^proj_out_1", "final_layer.adaLN_modulation.1"),
    (r"^proj_out_2", "final_layer.linear"),
)
ATTENTION = re.compile(r"(.*)\.attn1\.to_([qkv])\.(weight|bias)")  # a third of the published `attn.qkv`


def published_dit_name(name: str) -> str:
    """The published name of a parameter of `DiT`; queries, keys and values are one parameter there."""
    if found := ATTENTION.fullmatch(name):
        name = f"{found[1]}.attn.qkv.{found[3]}"
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def is_published_dit(tensors: Mapping[str, Tensor]) -> bool:
    """Whether names and tensors are an original DiT's."""
    return "x_embedder.proj.weight" in tensors


def import_published_dit(
    path: Path,
    weights: str = "raw",
    num_heads: int | None = None,
    stored: PublishedWeights | None = None,
    form: Form | None = None,
) -> Imported:
    """Reads an original checkpoint into a network whose architecture its tensors tell.

    Args:
        path: a state dict, bare or under `model`, with or without `module.` prefixes, perhaps with `ema` beside it.
        weights: raw, or ema for their moving average; of a bare state dict there is only raw.
        num_heads: of the attention, which no tensor tells; by default as in DiT-S, B, L and XL (64 or 72 wide).
        stored: what the file holds, where it has been read.
        form: dit, sit or repa, which no tensor tells; None = repa where there are its projectors, else dit.

    Raises:
        InputError: if the file holds other things than weights, lacks some, or has them in shapes that do not fit.
    """
    stored = read_published(path, DIT_MARKS) if stored is None else stored
    tensors = chosen_weights(path, stored, weights)
    if form is None:
        form = "repa" if any(name.startswith(PROJECTORS) for name in tensors) else "dit"
    if any(".attn.q_norm." in name for name in tensors):
        raise InputError(f"{path} normalises queries and keys (attn.q_norm), which only DiTs without are supported of.")
    network = _network(path, tensors, num_heads, VELOCITIES.get(form))
    if network.velocity is not None:
        tensors = _without_variance(tensors, network)
    own = network.state_dict()
    names = {name: published_dit_name(name) for name in own}
    wanted = {
        names[name]: torch.cat([value] * 3) if ATTENTION.fullmatch(name) else value for name, value in own.items()
    }
    found = fitting(path, tensors, wanted, KIND)
    for name in own:
        part = ATTENTION.fullmatch(name)
        own[name] = found[names[name]].chunk(3)["qkv".index(part[2])] if part else found[names[name]]
    network.load_state_dict(own)
    _check_positions(path, tensors.get(POSITIONS), network.pos_embed.pos_embed)
    left_over = sorted(tensors.keys() - wanted.keys() - {POSITIONS})
    return Imported(network.eval(), stored.step, left_over)


def export_published_dit(network: DiTModule) -> dict[str, Tensor]:
    """A bare state dict of the original form, positions included: the inverse of `import_published_dit`."""
    parts: dict[str, list[Tensor]] = {POSITIONS: [network.pos_embed.pos_embed]}
    for name, value in network.state_dict().items():  # queries, keys and values come in this order
        parts.setdefault(published_dit_name(name), []).append(value)
    return {name: torch.cat(values) for name, values in parts.items()}


def _check_positions(path: Path, table: Tensor | None, positions: Tensor) -> None:
    if table is None:
        return
    rounded = torch.finfo(table.dtype).eps / 2 if table.is_floating_point() else 0.0
    if (
        table.shape != positions.shape
        or not (table.float() - positions).abs().max() <= POSITION_TOLERANCE + rounded  # NaN is not
    ):
        raise InputError(
            f"{path} holds positions that are not the published sine and cosine table; only DiTs with these are "
            "supported."
        )


def _without_variance(tensors: Mapping[str, Tensor], network: DiTModule) -> dict[str, Tensor]:
    """The tensors without the second half of the channels out, which SiT has and does not use."""
    found, channels, patch = dict(tensors), network.in_channels, network.patch_size**2
    for name in (LAST + ".weight", LAST + ".bias"):
        if name in found and len(found[name]) == 2 * patch * channels:
            found[name] = found[name].unflatten(0, (patch, 2 * channels))[:, :channels].flatten(0, 1)
    return found


def _network(path: Path, tensors: Mapping[str, Tensor], num_heads: int | None, velocity: Any = None) -> DiTModule:
    """A network with fresh weights, built as the names and shapes of the tensors say."""
    if missing := [name for name in DIT_MARKS if name not in tensors]:
        raise lacks(path, missing, KIND)
    patches, table, last = (
        sizes(path, name, tensors[name], dims) for name, dims in zip(DIT_MARKS, (4, 2, 2), strict=True)
    )
    width, in_channels, patch_size = patches[:3]
    layers = {int(found[1]) for name in tensors if (found := re.match(r"blocks\.(\d{1,6})\.", name))}
    heads = num_heads or width // HEAD_DIMS.get(width, 64)
    if heads < 1 or width % heads:
        raise InputError(f"The width {width} of {path} does not divide among {heads} heads; name their number.")
    tokens = sizes(path, POSITIONS, tensors[POSITIONS], 3)[1] if POSITIONS in tensors else 256
    try:
        return DiTModule(
            sample_size=round(tokens**0.5) * patch_size,
            in_channels=in_channels,
            out_channels=last[0] // patch_size**2 if velocity is None else in_channels,
            num_classes=table[0] - 1,
            num_layers=len(layers),
            num_attention_heads=heads,
            attention_head_dim=width // heads,
            patch_size=patch_size,
            velocity=velocity,
        )
    except ValueError as error:
        raise InputError(f"{path} holds no DiT that works: {error}.") from None
