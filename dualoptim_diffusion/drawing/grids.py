"""Grids of images for inspection: one row a class, before and after with equal seeds, the forgotten class in red."""

import re
from collections.abc import Iterable, Mapping, Sequence
from math import ceil, sqrt
from pathlib import Path

from PIL import Image
from torch import Tensor

from dualoptim_diffusion.drawing.panels import (
    ROW_GAP,
    draw_cell,
    draw_frame,
    draw_panel,
    font_size,
    join,
    name_column,
    save_png,
    stack,
    with_header,
    with_title,
)
from dualoptim_diffusion.files.atomic import together
from dualoptim_diffusion.files.run_folder import grid_files

ALL_ROWS, OTHERS = 12, 9  # a model of more classes shows the forgotten ones and so many others
NAME_LENGTH = 24
CONTACT_IMAGES = 100


def choose_rows(class_ids: Iterable[int], forget_classes: Sequence[int], others: int | None = None) -> list[int]:
    """Ids to show, in the given order: the forgotten ones and `others` retained ones, spread evenly.

    By default all of a model of at most 12 classes, else 9 others.
    """
    ids = list(class_ids)
    retained = [i for i in ids if i not in forget_classes]
    if others is None:
        others = len(ids) if len(ids) <= ALL_ROWS else OTHERS
    others = min(others, len(retained))
    step = (len(retained) - 1) / max(others - 1, 1)
    chosen = {retained[round(k * step) if others > 1 else len(retained) // 2] for k in range(others)}
    return [i for i in ids if i in chosen or i in forget_classes]


def short_name(label: str) -> str:
    """A class name up to its first comma, of at most 24 characters."""
    name = label.split(",")[0].strip() or label
    return name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1].rstrip() + "…"


def sheet_name(label: str) -> str:
    """File name of a class's contact sheet."""
    return f"sheet_{re.sub(r'[^A-Za-z0-9-]+', '_', short_name(label)).strip('_') or 'class'}.png"


def draw_grid(
    path: Path,
    before: Mapping[int, Tensor],
    after: Mapping[int, Tensor] | None,
    id2label: Mapping[int, str],
    forget_classes: Sequence[int],
    columns: int = 8,
    rows: Sequence[int] | None = None,
) -> None:
    """Writes a PNG and, where there are two halves, each of them beside it (`grid_before.png`, `grid_after.png`).

    Args:
        before: uint8 images [N, C, H, W] by class id; the first `columns` of each are shown.
        after: the same seeds drawn by the unlearned model, shown to the right; None for a plain grid.
        forget_classes: ids whose rows are named and framed in red.
        rows: ids to show; by default as `choose_rows` does.
    """
    parts = [before] if after is None else [before, after]
    names, panels = _halves(parts, id2label, forget_classes, columns, rows)
    files = grid_files(path)
    if after is None:
        save_png(path, join([names, *panels]))
        return
    size = font_size(draw_cell(before[next(iter(before))][0]).height)
    with together():
        save_png(path, join([names, *_titled(panels, size)]))
        for file, panel in zip(files[1:], panels, strict=True):
            save_png(file, join([names, panel]))


def draw_contact_sheet(
    path: Path, before: Tensor, after: Tensor | None, name: str, forgotten: bool, count: int = CONTACT_IMAGES
) -> None:
    """Writes a PNG of one class alone, as square as possible, before and after side by side.

    Args:
        before, after: uint8 images [N, C, H, W] of equal seeds; the first `count` are shown.
        forgotten: whether to frame them in red.
    """
    parts = [before] if after is None else [before, after]
    count = min(count, *(len(part) for part in parts))
    columns = ceil(sqrt(count))
    panels = [draw_panel(part[:count].split(columns)) for part in parts]
    for panel in panels if forgotten else ():
        draw_frame(panel)
    size = font_size(draw_cell(before[0]).height)
    if after is not None:
        panels = _titled(panels, size)
    text = f"{short_name(name)}, {count} image{'s' if count != 1 else ''}" + (" each" if after is not None else "")
    save_png(path, with_header(join(panels), text, forgotten, size))


def _halves(
    parts: Sequence[Mapping[int, Tensor]],
    id2label: Mapping[int, str],
    forget_classes: Sequence[int],
    columns: int,
    rows: Sequence[int] | None,
) -> tuple[Image.Image, list[Image.Image]]:
    """The column of names and one panel a part, all of one height."""
    if rows is None:  # an id that has no name is the null class
        rows = choose_rows((i for i in parts[0] if i in id2label), forget_classes)
    lines = [[part[i][:columns].clone() for i in rows] for part in parts]  # copies: the many others may go
    columns = min(len(images) for line in lines for images in line)
    red = [i in forget_classes for i in rows]
    panels = [draw_panel([images[:columns] for images in line], red, ROW_GAP) for line in lines]
    return name_column([short_name(id2label[i]) for i in rows], red, panels[0].height), panels


def _titled(panels: Sequence[Image.Image], size: int) -> list[Image.Image]:
    return [with_title(panel, title, size) for panel, title in zip(panels, ("before", "after"), strict=True)]


def draw_strip(path: Path, images: Tensor) -> None:
    """Writes images uint8 [N, C, H, W] as a PNG, one above the other."""
    save_png(path, stack([draw_cell(image) for image in images]))
