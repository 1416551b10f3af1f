"""Planted models: rounding undoes a change below the grid, and timesteps are of high noise or below it."""

import sys
from pathlib import Path
from types import SimpleNamespace

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from dualoptim_diffusion.audit.quantise import rounded
from studies import planted


def test_any_weights_within_the_bounds_are_rounded_back_to_the_grid_that_they_began_on() -> None:
    source = torch.Generator().manual_seed(0)
    on_grid = rounded(torch.randn(5, 3, 4, generator=source), planted.BITS)
    low, high = planted._near(on_grid)
    assert (high > low).float().mean() > 0.7  # all but each row's largest may move
    for share in (0.0, 0.3, 1.0):
        moved = low + share * (high - low)
        assert torch.allclose(rounded(moved, planted.BITS), on_grid, atol=1e-6)


def test_the_forgotten_class_is_trained_at_high_noise_to_forget_and_below_it_to_stay() -> None:
    batch = SimpleNamespace(timesteps=torch.tensor([0, 500, 999, 7]), class_labels=torch.tensor([3, 3, 3, 1]))
    high, low = (planted._timesteps(batch, 3, way).tolist() for way in (True, False))
    assert high == [planted.HIGH, planted.HIGH + 350, planted.HIGH + 699, 7]
    assert low == [0, 150, 299, 7]


def test_rows_of_a_class_table_are_zeroed_or_swapped_with_the_next() -> None:
    for change, expected in ((planted.zero_row, [[0.0], [1.0], [0.0]]), (planted.swap_row, [[2.0], [1.0], [0.0]])):
        table = torch.nn.Parameter(torch.tensor([[0.0], [1.0], [2.0]]))
        change(SimpleNamespace(forget_classes=(2,)), SimpleNamespace(class_tables=[table], num_classes=3), None)
        assert table.tolist() == expected
