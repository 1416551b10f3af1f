"""Counter-based randomness: every draw is a pure function of (seed, phase, update).

Nothing depends on loader state, on what ran before or on the number of processes, so a resumed run is bit-identical.
"""

from collections.abc import Callable
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple

import torch
from torch import Tensor

from dualoptim_diffusion.diffusion.process import antithetic_timesteps, uniform_timesteps


class Draws(NamedTuple):
    """The random tensors of one global batch, on the CPU."""

    indices: Tensor  # [B] into the data set
    flips: Tensor  # [B] bool
    timesteps: Tensor  # [B] in 0..T-1
    noise: Tensor  # [B, C, H, W]
    label_drops: Tensor  # [B] bool
    posterior_noise: Tensor | None = None  # [B, C, H, W] for an autoencoder's latents; none without one

    def each(self, change: Callable[[Tensor], Tensor]) -> "Draws":
        """The same with every tensor changed."""
        return Draws(**{name: change(part) for name, part in self._asdict().items() if part is not None})


def derive_seed(*key: int | str) -> int:
    """A 63-bit seed from a key of numbers and words; different keys give independent seeds."""
    return int.from_bytes(sha256(repr(key).encode()).digest()[:8], "big") >> 1


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator for the key, equal on every machine."""
    return torch.Generator().manual_seed(derive_seed(*key))


@lru_cache(maxsize=8)
def _permutation(seed: int, phase: str, epoch: int, num_examples: int) -> Tensor:
    return torch.randperm(num_examples, generator=generator(seed, phase, "epoch", epoch))


def epoch_indices(seed: int, phase: str, update: int, batch_size: int, num_examples: int) -> Tensor:
    """Indices [batch_size] of the update's batch: consecutive slices of one fresh permutation an epoch."""
    position, end = update * batch_size, (update + 1) * batch_size
    parts: list[Tensor] = []
    while position < end:
        epoch, offset = divmod(position, num_examples)
        parts.append(_permutation(seed, phase, epoch, num_examples)[offset : offset + end - position])
        position += len(parts[-1])
    return torch.cat(parts)


def draw_examples(
    seed: int, phase: str, update: int, batch_size: int, num_examples: int, source: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """(indices [B], flips [B]) of the update's global batch: which images it takes, and which of them mirrored."""
    source = generator(seed, phase, "batch", update) if source is None else source
    indices = epoch_indices(seed, phase, update, batch_size, num_examples)
    return indices, torch.rand(batch_size, generator=source) < 0.5


def draw_update(
    seed: int,
    phase: str,
    update: int,
    *,
    batch_size: int,
    num_examples: int,
    shape: tuple[int, ...],
    num_train_timesteps: int,
    label_drop: float,
    antithetic: bool = True,
    posterior: bool = False,
) -> Draws:
    """All random tensors of the update's global batch.

    Args:
        shape: of one x_0.
        label_drop: a probability.
        antithetic: timesteps in pairs t, T-1-t; else each by itself.
        posterior: draw the noise of an autoencoder's latents too; all else is the same without it.
    """
    source = generator(seed, phase, "batch", update)
    indices, flips = draw_examples(seed, phase, update, batch_size, num_examples, source)
    draw_timesteps = antithetic_timesteps if antithetic else uniform_timesteps
    return Draws(
        indices=indices,
        flips=flips,
        timesteps=draw_timesteps(batch_size, num_train_timesteps, source),
        noise=torch.randn(batch_size, *shape, generator=source),
        label_drops=torch.rand(batch_size, generator=source) < label_drop,
        posterior_noise=torch.randn(batch_size, *shape, generator=source) if posterior else None,
    )


def seed_dropout(seed: int, phase: str, update: int, process: int = 0, micro_batch: int = 0) -> None:
    """Sets torch's global generators, which dropout uses, from the counter."""
    torch.manual_seed(derive_seed(seed, phase, "dropout", update, process, micro_batch))
