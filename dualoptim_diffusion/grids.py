"""Grids of images for inspection: one row a class, before and after with equal seeds, the forgotten class in red."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dualoptim_diffusion.checkpoint import atomic_path

CELL = 48  # smallest side of a drawn image in pixels; smaller ones are enlarged by a whole factor
GAP = 2
ROW_GAP = 8
BAND = 24  # between the two halves
MARGIN = 12
RED, INK, PAPER = (200, 30, 30), (30, 30, 30), (255, 255, 255)


def draw_grid(
    path: Path,
    before: Mapping[int, Tensor],
    after: Mapping[int, Tensor] | None,
    id2label: Mapping[int, str],
    forget_classes: Sequence[int],
    columns: int = 8,
) -> None:
    """Writes a PNG.

    Args:
        before: uint8 images [N, C, H, W] by class id; the first `columns` of each are shown.
        after: the same seeds drawn by the unlearned model, shown to the right; None for a plain grid.
        forget_classes: ids whose rows are named and framed in red.
    """
    halves = [("before", before)] + ([("after", after)] if after is not None else [])
    rows = list(before)
    columns = min(columns, *(len(images) for _, part in halves for images in part.values()))
    height, width = next(iter(before.values())).shape[2:]
    factor = max(1, -(-CELL // min(height, width)))
    cell_h, cell_w = height * factor + ROW_GAP, width * factor + GAP
    font = ImageFont.load_default(size=18)
    names = {i: id2label[i] for i in rows}
    label_width = int(max(font.getlength(name) for name in names.values())) + 2 * MARGIN
    top = 2 * MARGIN + 18
    half_width = columns * cell_w
    canvas_width = label_width + len(halves) * half_width + (len(halves) - 1) * BAND + MARGIN
    canvas = Image.new("RGB", (canvas_width, top + len(rows) * cell_h + MARGIN), PAPER)
    pen = ImageDraw.Draw(canvas)
    for h, (title, part) in enumerate(halves):
        left = label_width + h * (half_width + BAND)
        if len(halves) > 1:
            pen.text((left + half_width // 2, top // 2), title, fill=INK, font=font, anchor="mm")
        for r, class_id in enumerate(rows):
            y = top + r * cell_h
            colour = RED if class_id in forget_classes else INK
            if h == 0:
                pen.text(
                    (label_width - MARGIN, y + (cell_h - ROW_GAP) // 2),
                    names[class_id],
                    fill=colour,
                    font=font,
                    anchor="rm",
                )
            for c, image in enumerate(part[class_id][:columns]):
                canvas.paste(_enlarge(image, factor), (left + c * cell_w, y))
            if class_id in forget_classes:
                frame = (left - 3, y - 3, left + half_width - GAP + 2, y + cell_h - ROW_GAP + 2)
                pen.rectangle(frame, outline=RED, width=3)
    with atomic_path(path) as beside:
        canvas.save(beside, format="PNG")


def _enlarge(image: Tensor, factor: int) -> Image.Image:
    """uint8 [C, H, W] -> RGB image, every pixel a square of `factor`."""
    pixels = image.expand(3, -1, -1) if image.shape[0] == 1 else image
    large = pixels.repeat_interleave(factor, 1).repeat_interleave(factor, 2).permute(1, 2, 0)
    return Image.fromarray(large.to(torch.uint8).contiguous().numpy())
