"""The thread that makes the next batch while the device works on the present one."""

import threading
from concurrent.futures import Future

import pytest
import torch

from dualoptim_diffusion.data import Batches, ImageSet
from dualoptim_diffusion.data.ahead import Ahead
from tests.helpers.toy_model import ToyModel


def test_the_next_update_is_made_while_the_caller_works_on_the_present_one() -> None:
    made, second = [], threading.Event()

    def make(update: int) -> int:
        made.append((update, threading.current_thread().name))
        if update == 1:
            second.set()
        return update * 10

    ahead = Ahead(make, enabled=True)
    assert ahead(0) == 0
    assert second.wait(10), "update 1 was not made before anyone asked for it"
    assert [ahead(update) for update in (1, 2)] == [10, 20]
    names = dict(made)
    assert names[0] == threading.current_thread().name
    assert names[1] != names[0]
    assert [update for update, _ in made[:3]] == [0, 1, 2]  # each once


def test_an_update_out_of_turn_is_made_at_once_and_without_a_thread_nothing_is_made_ahead() -> None:
    made = []
    for enabled in (True, False):
        ahead = Ahead(lambda update: made.append(update) or update, enabled)
        assert [ahead(update) for update in (7, 3, 3)] == [7, 3, 3]
    assert made[-3:] == [7, 3, 3]


def test_an_error_of_an_update_that_nobody_asks_for_is_none() -> None:
    def make(update: int) -> int:
        if update == 1:
            raise KeyError("never encoded")
        return update

    ahead = Ahead(make, enabled=True)
    assert ahead(0) == 0
    assert isinstance(ahead._next[1], Future)
    with pytest.raises(KeyError, match="never encoded"):
        ahead(1)


def test_batches_made_ahead_are_bit_identical() -> None:
    images = torch.randint(256, (20, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    dataset = ImageSet(images, torch.arange(20) % 2, {0: "a", 1: "b"})
    one, other = (Batches(dataset, ToyModel(), seed=3, phase="x", batch_size=6, horizontal_flip=True) for _ in range(2))
    other._ahead = Ahead(other._on_host, enabled=True)
    for update in range(5):
        for left, right in zip(vars(one(update)).values(), vars(other(update)).values(), strict=True):
            assert torch.equal(left, right)
