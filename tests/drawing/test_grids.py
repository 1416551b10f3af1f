"""Grids show what they say: the right rows, short names, whole pixels, the forgotten class in red."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from dualoptim_diffusion.drawing.grids import (
    choose_rows,
    draw_contact_sheet,
    draw_grid,
    sheet_name,
    short_name,
)
from dualoptim_diffusion.drawing.panels import MARGIN, RED, draw_cell, font_size
from tests.helpers.commands import Outcome

DIGITS = dict(enumerate(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]))


def images(count: int, size: int = 8, channels: int = 1, level: int = 100) -> Tensor:
    return torch.full((count, channels, size, size), level, dtype=torch.uint8)


def of_digits(count: int = 8, size: int = 8, level: int = 100) -> dict[int, Tensor]:
    return {i: images(count, size, level=level) for i in DIGITS}


def half_images(*arguments: Any) -> tuple[Image.Image, Image.Image]:
    """Both halves that `draw_grid` writes beside the grid."""
    with TemporaryDirectory() as folder:
        draw_grid(Path(folder) / "grid.png", *arguments)
        left, right = (Image.open(Path(folder) / f"grid_{half}.png").convert("RGB") for half in ("before", "after"))
        return left, right


def red_rows(picture: Image.Image, x: int) -> list[int]:
    return [y for y in range(picture.height) if picture.convert("RGB").getpixel((x, y)) == RED]


def test_ten_classes_are_all_shown_and_of_a_thousand_the_forgotten_and_nine_others() -> None:
    assert choose_rows(range(10), [3]) == list(range(10))
    assert choose_rows(range(12), [3]) == list(range(12))
    chosen = choose_rows(range(1000), [207])
    assert len(chosen) == 10
    assert chosen == sorted(chosen)
    assert 207 in chosen
    others = [i for i in chosen if i != 207]
    assert (others[0], others[-1]) == (0, 999)
    gaps = [b - a for a, b in pairwise(others)]
    assert max(gaps) - min(gaps) <= 2  # spread evenly


@pytest.mark.parametrize(("others", "shown"), [(0, [3]), (1, [3, 5]), (2, [0, 3, 9]), (99, list(range(10)))])
def test_so_many_others_are_shown_as_asked_for(others: int, shown: list[int]) -> None:
    assert choose_rows(range(10), [3], others) == shown


def test_names_end_at_the_first_comma_and_at_24_characters() -> None:
    assert short_name("tench, Tinca tinca") == "tench"
    long = short_name("a remarkably long name of a class, and more")
    assert len(long) <= 24
    assert long.endswith("…")
    assert sheet_name("sea/otter, Enhydra") == "sheet_sea_otter.png"


def test_both_halves_have_one_size_and_stand_in_the_grid_and_beside_it(tmp_path: Path) -> None:
    before, after = of_digits(level=60), of_digits(level=200)
    draw_grid(tmp_path / "grid.png", before, after, DIGITS, [3])
    grid, left, right = (Image.open(tmp_path / f"grid{half}.png") for half in ("", "_before", "_after"))
    assert left.size == right.size
    assert grid.width < 2 * left.width  # the names stand there once
    middle = left.width - MARGIN - 10, MARGIN + 10  # in the last image of the first row
    assert left.getpixel(middle) == (60, 60, 60)
    assert right.getpixel(middle) == (200, 200, 200)


def test_a_plain_grid_has_no_halves(tmp_path: Path) -> None:
    draw_grid(tmp_path / "grid.png", of_digits(), None, DIGITS, [])
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]


def test_the_forgotten_rows_are_framed_in_red_and_no_others() -> None:
    left, right = half_images(of_digits(), of_digits(), DIGITS, [3])
    for half in (left, right):
        red = red_rows(half, half.width - 2 * MARGIN)
        pitch = (half.height - 2 * MARGIN + 8) / 10
        assert len(red) == 6  # two lines of three pixels
        assert 3 * pitch < min(red) < max(red) < 4 * pitch + MARGIN
    plain, _ = half_images(of_digits(), of_digits(), DIGITS, [])
    assert red_rows(plain, plain.width - 2 * MARGIN) == []


def test_labels_without_a_name_are_left_out_and_few_images_make_few_columns() -> None:
    with_null = of_digits() | {10: images(2), 5: images(3)}
    left, _ = half_images(with_null, of_digits(), DIGITS, [3])
    alone, _ = half_images(of_digits(3), of_digits(3), DIGITS, [3])
    assert left.size == alone.size


@pytest.mark.parametrize(("size", "side"), [(8, 48), (28, 56), (32, 64), (64, 64), (128, 128), (256, 128)])
def test_small_images_grow_by_whole_pixels_and_large_ones_shrink(size: int, side: int) -> None:
    assert draw_cell(images(1, size)[0]).size == (side, side)
    noise = torch.randint(0, 256, (3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    colours = {pixel for _, pixel in draw_cell(noise).getcolors(maxcolors=1 << 17)}
    given = {tuple(pixel) for pixel in noise.flatten(1).T.tolist()}
    assert (colours <= given) == (size <= 128)  # a reduced image is filtered, an enlarged one has no new colour


def test_text_grows_with_the_images() -> None:
    assert font_size(48) == 18
    assert font_size(128) == 28


@pytest.mark.parametrize(("count", "columns", "rows"), [(100, 10, 10), (500, 10, 10), (7, 3, 3), (1, 1, 1)])
def test_a_contact_sheet_is_as_square_as_possible(tmp_path: Path, count: int, columns: int, rows: int) -> None:
    draw_contact_sheet(tmp_path / "sheet.png", images(count), None, "three", False)
    sheet = Image.open(tmp_path / "sheet.png")
    header = 18 + MARGIN
    assert sheet.height == header + 2 * MARGIN + rows * 50 - 2
    assert sheet.width >= 2 * MARGIN + columns * 50 - 2  # a short sheet is as wide as its header


def test_a_contact_sheet_of_both_models_is_framed_if_forgotten(tmp_path: Path) -> None:
    draw_contact_sheet(tmp_path / "one.png", images(100), images(100), "three", True)
    draw_contact_sheet(tmp_path / "two.png", images(100), images(100), "three", False)
    one, two = Image.open(tmp_path / "one.png"), Image.open(tmp_path / "two.png")
    assert one.size == two.size == (2 * (2 * MARGIN + 498), 18 + MARGIN + 18 + MARGIN // 2 + 2 * MARGIN + 498)
    middle = MARGIN + 498 // 2
    assert len(red_rows(one, middle)) >= 6
    assert red_rows(two, middle) == []


def test_names_in_other_scripts_are_drawn(tmp_path: Path) -> None:
    names = {0: "épée", 1: "ëpëë"}
    left, _ = half_images({0: images(1)}, {0: images(1)}, names, [])
    other, _ = half_images({1: images(1)}, {1: images(1)}, names, [])
    assert left.tobytes() != other.tobytes()  # and not as boxes


def test_the_command_draws_what_was_asked_for(
    dualoptim: Callable[..., Outcome], finished: Path, tmp_path: Path
) -> None:
    def height(name: str, *options: object) -> int:
        assert dualoptim("grid", finished, *options, "--out", tmp_path / name).code == 0
        return Image.open(tmp_path / name).height

    whole, two, one = height("a.png"), height("b.png", "--others", 1), height("c.png", "--class", "eight")
    assert whole - two == 8 * (two - one)
    assert height("d.png", "--contact-sheet", "three") < whole
    again = dualoptim("grid", finished, "--out", tmp_path / "a.png")
    assert (again.code, "use --overwrite" in again.err) == (1, True)
    (tmp_path / "e_before.png").write_text("mine")
    assert "use --overwrite" in dualoptim("grid", finished, "--out", tmp_path / "e.png").err
    assert (tmp_path / "e_before.png").read_text() == "mine"
    both = dualoptim("grid", finished, "--class", "eight", "--others", 1, "--out", tmp_path / "f.png")
    assert "give one of them" in both.err
