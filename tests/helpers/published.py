"""Checkpoints of the research code's form, with random weights, and one that would run code."""

import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

State = dict[str, Tensor]
WIDTH = 64  # two channels in each of 32 groups


class Shape(NamedTuple):
    """What the published networks differ in."""

    multipliers: tuple[int, ...] = (1, 2)
    blocks: int = 1
    attention: tuple[int, ...] = (1,)  # levels
    mid_attention: bool = True
    channels: int = 3
    classes: int = 4


SHAPES = (Shape(), Shape((1, 1, 2), 2, (0, 2), False, channels=1, classes=2))


def published_state(shape: Shape = SHAPES[0], seed: int = 0) -> State:
    """Random tensors under the published names, every one distinct."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {}

    def add(name: str, *size: int) -> None:
        scale = 1.0 if len(size) == 1 else math.prod(size[1:]) ** -0.5
        state[name] = torch.randn(size, generator=generator) * scale

    def layer(name: str, *size: int) -> None:
        add(f"{name}.weight", *size)
        add(f"{name}.bias", size[0])

    def block(name: str, before: int, after: int) -> None:
        layer(f"{name}.norm1", before)
        layer(f"{name}.conv1", after, before, 3, 3)
        layer(f"{name}.temb_cemb_proj", after, 8 * WIDTH)
        layer(f"{name}.norm2", after)
        layer(f"{name}.conv2", after, after, 3, 3)
        if before != after:
            layer(f"{name}.nin_shortcut", after, before, 1, 1)

    def attention(name: str, width: int) -> None:
        layer(f"{name}.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            layer(f"{name}.{part}", width, width, 1, 1)

    for half in ("temb", "cemb"):
        layer(f"{half}.dense.0", 4 * WIDTH, WIDTH)
        layer(f"{half}.dense.1", 4 * WIDTH, 4 * WIDTH)
    add("classes_emb.weight", shape.classes, WIDTH)
    add("null_classes_emb", WIDTH)
    layer("conv_in", WIDTH, shape.channels, 3, 3)
    widths = [WIDTH * m for m in shape.multipliers]
    last, width, skips = len(widths) - 1, WIDTH, [WIDTH]
    for level, after in enumerate(widths):
        for i in range(shape.blocks):
            block(f"down.{level}.block.{i}", width, after)
            if level in shape.attention:
                attention(f"down.{level}.attn.{i}", after)
            width = after
            skips.append(width)
        if level != last:
            layer(f"down.{level}.downsample.conv", width, width, 3, 3)
            skips.append(width)
    block("mid.block_1", width, width)
    if shape.mid_attention:
        attention("mid.attn_1", width)
    block("mid.block_2", width, width)
    for level, after in reversed(list(enumerate(widths))):
        for i in range(shape.blocks + 1):
            block(f"up.{level}.block.{i}", width + skips.pop(), after)
            if level in shape.attention:
                attention(f"up.{level}.attn.{i}", after)
            width = after
        if level:
            layer(f"up.{level}.upsample.conv", width, width, 3, 3)
    layer("norm_out", width)
    layer("conv_out", shape.channels, width, 3, 3)
    return state


def save(path: Path, raw: State, ema: State | None = None, prefix: str = "module.", step: object = 7) -> Path:
    """Writes the list that the published training scripts write."""
    optimizer = {"state": {0: {"step": 7, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 2e-4, "params": [0]}]}
    content = [{f"{prefix}{name}": value for name, value in raw.items()}, optimizer, step]
    torch.save(content if ema is None else [*content, ema], path)
    return path


class Trap:
    """Makes a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)
