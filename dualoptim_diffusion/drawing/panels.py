"""The parts of a picture of many images: cells, rows, names, titles, frames."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dualoptim_diffusion.files.atomic import atomic_path

CELL, LARGEST = 48, 128  # sides of a drawn image in pixels: smaller ones are enlarged by a whole factor, larger reduced
GAP, ROW_GAP = 2, 8
MARGIN = 12  # around a panel; two of them stand between the halves
FRAME = 3
RED, INK, PAPER = (200, 30, 30), (30, 30, 30), (255, 255, 255)
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw_panel(lines: Sequence[Tensor], red_rows: Sequence[bool] = (), row_gap: int = GAP) -> Image.Image:
    """Rows of uint8 images [N, C, H, W] inside a margin; red rows are framed."""
    cells = [[draw_cell(image) for image in line] for line in lines]
    width, height = cells[0][0].size
    row = max(map(len, cells)) * (width + GAP) - GAP
    panel = Image.new("RGB", (row + 2 * MARGIN, len(cells) * (height + row_gap) - row_gap + 2 * MARGIN), PAPER)
    for r, line in enumerate(cells):
        y = MARGIN + r * (height + row_gap)
        for c, cell in enumerate(line):
            panel.paste(cell, (MARGIN + c * (width + GAP), y))
        if r < len(red_rows) and red_rows[r]:
            draw_frame(panel, y, height)
    return panel


def draw_frame(panel: Image.Image, top: int = MARGIN, height: int | None = None) -> None:
    """A red frame around the row that begins at `top`, or around all rows."""
    height = panel.height - 2 * MARGIN if height is None else height
    box = (MARGIN - FRAME, top - FRAME, panel.width - MARGIN + FRAME - 1, top + height + FRAME - 1)
    ImageDraw.Draw(panel).rectangle(box, outline=RED, width=FRAME)


def name_column(names: Sequence[str], red: Sequence[bool], height: int) -> Image.Image:
    """The rows' names, right-aligned beside a panel of that height; red ones in red."""
    pitch = (height - 2 * MARGIN + ROW_GAP) / len(names)
    font = pick_font(font_size(round(pitch) - ROW_GAP), *names)
    column = Image.new("RGB", (ceil(max(font.getlength(name) for name in names)) + MARGIN, height), PAPER)
    pen = ImageDraw.Draw(column)
    for r, (name, gone) in enumerate(zip(names, red, strict=True)):
        y = MARGIN + r * pitch + (pitch - ROW_GAP) / 2
        pen.text((column.width, y), name, fill=RED if gone else INK, font=font, anchor="rm")
    return column


def with_title(panel: Image.Image, title: str, size: int) -> Image.Image:
    """A panel with a title of that font size in the middle above."""
    canvas = Image.new("RGB", (panel.width, panel.height + size + MARGIN // 2), PAPER)
    canvas.paste(panel, (0, canvas.height - panel.height))
    pen = ImageDraw.Draw(canvas)
    pen.text((panel.width // 2, MARGIN + size // 2), title, fill=INK, font=pick_font(size, title), anchor="mm")
    return canvas


def with_header(picture: Image.Image, text: str, red: bool, size: int) -> Image.Image:
    """A picture under a line of text of that font size at its left."""
    font = pick_font(size, text)
    width = max(picture.width, ceil(font.getlength(text)) + 2 * MARGIN)
    canvas = Image.new("RGB", (width, picture.height + size + MARGIN), PAPER)
    canvas.paste(picture, (0, size + MARGIN))
    pen = ImageDraw.Draw(canvas)
    pen.text((MARGIN, MARGIN + size // 2), text, fill=RED if red else INK, font=font, anchor="lm")
    return canvas


def join(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures from left to right, standing on one line."""
    height = max(picture.height for picture in pictures)
    canvas = Image.new("RGB", (sum(picture.width for picture in pictures), height), PAPER)
    x = 0
    for picture in pictures:
        canvas.paste(picture, (x, height - picture.height))
        x += picture.width
    return canvas


def stack(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one width from top to bottom, with a thin gap."""
    heights = [picture.height + ROW_GAP for picture in pictures]
    canvas = Image.new("RGB", (pictures[0].width, sum(heights) - ROW_GAP), PAPER)
    for i, picture in enumerate(pictures):
        canvas.paste(picture, (0, sum(heights[:i])))
    return canvas


def save_png(path: Path, picture: Image.Image) -> None:
    """Writes a PNG in one piece."""
    with atomic_path(path) as beside:
        picture.save(beside, format="PNG")


def draw_cell(image: Tensor) -> Image.Image:
    """uint8 [C, H, W] -> RGB: small images in squares of whole pixels, large ones reduced to 128 with a good filter."""
    pixels = image.expand(3, -1, -1) if image.shape[0] == 1 else image
    picture = Image.fromarray(pixels.permute(1, 2, 0).to(torch.uint8).contiguous().cpu().numpy())
    width, height = picture.size
    if max(width, height) > LARGEST:
        scale = LARGEST / max(width, height)
        return picture.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.LANCZOS)
    factor = -(-CELL // min(width, height))
    return picture.resize((width * factor, height * factor), Image.Resampling.NEAREST)


def font_size(cell: int) -> int:
    """Pixels of the text beside images of that height: 18 at 48, 28 at 128."""
    return 12 + cell // 8


def pick_font(size: int, *texts: str) -> Font:
    """Pillow's default font, or DejaVu Sans where a text needs letters that it lacks."""
    if all(text.replace("…", "").isascii() for text in texts):
        return ImageFont.load_default(size=size)
    from matplotlib import font_manager

    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)
