"""Batches as a function of the update number: indices, flips, timesteps, noise and label drops from one generator."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.data.ahead import Ahead
from dualoptim_diffusion.data.image_set import ImageSet
from dualoptim_diffusion.data.latents import CachedMoments, every_way
from dualoptim_diffusion.diffusion.randomness import Draws, draw_examples, draw_update, seed_dropout


@dataclass(frozen=True)
class Batch:
    """One process's part of a global batch."""

    x_0: Tensor  # [B, C, H, W]
    timesteps: Tensor  # [B]
    noise: Tensor  # [B, C, H, W]
    class_labels: Tensor  # [B] what each image shows
    dropped_labels: Tensor  # [B] the same with the null class where the label is dropped


class Encoder(Protocol):
    """What batches need of a model."""

    null_class: int | None
    num_train_timesteps: int
    label_drop: float
    antithetic: bool
    x_0_shape: tuple[int, ...]

    @property
    def autoencoder(self) -> torch.nn.Module | None: ...

    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor: ...

    def from_moments(self, moments: Tensor, noise: Tensor | None = None) -> Tensor: ...


class Batches:
    """update -> Batch, for one set and one phase; also seeds dropout for that update.

    Args:
        dataset: where the images come from; moved to `device` once.
        model: its `encode`, shape of x_0, null class, number of timesteps and label-drop rate are used.
        seed, phase: the key of all draws.
        batch_size: of the global batch, whatever the number of processes.
        horizontal_flip: mirror half of the images; latents that a model drew stay as they are.
        process: index of this process and how many there are.

    Raises:
        InputError: if the processes cannot share the batch evenly.
    """

    def __init__(
        self,
        dataset: ImageSet,
        model: Encoder,
        *,
        seed: int,
        phase: str,
        batch_size: int,
        horizontal_flip: bool = False,
        device: torch.device | str = "cpu",
        process: tuple[int, int] = (0, 1),
    ) -> None:
        process_index, num_processes = process
        if batch_size % num_processes:
            raise InputError(f"data.batch_size {batch_size} does not divide among {num_processes} processes.")
        self.dataset, self.model, self.seed, self.phase = dataset, model, seed, phase
        self.batch_size, self.horizontal_flip, self.device = batch_size, horizontal_flip, device
        self.process_index = process_index
        share = batch_size // num_processes
        self._mine = slice(process_index * share, (process_index + 1) * share)
        self._images, self._labels = dataset.images.to(device), dataset.class_labels.to(device)
        self._on_gpu = torch.device(device).type == "cuda"
        self._ahead = Ahead(self._on_host, enabled=self._on_gpu)

    def prepare(self, num_updates: int) -> None:
        """Encodes the images of the first updates, for a model of latents; all processes call it alike."""
        images = self._images
        if not isinstance(images, CachedMoments) or not num_updates:
            return
        if num_updates * self.batch_size > 4 * len(images):  # nearly all of them, both ways
            images.obtain(*every_way(len(images), self.horizontal_flip))
            return
        drawn = [self._examples(update) for update in range(num_updates)]
        images.obtain(torch.cat([indices for indices, _ in drawn]), torch.cat([flips for _, flips in drawn]))

    def _examples(self, update: int) -> tuple[Tensor, Tensor]:
        indices, flips = draw_examples(self.seed, self.phase, update, self.batch_size, len(self.dataset))
        return indices, flips & self.horizontal_flip

    def __call__(self, update: int) -> Batch:
        on_host, images = self._ahead(update)
        draws = on_host.each(self._to_device)
        labels = self._labels[draws.indices]
        seed_dropout(self.seed, self.phase, update, self.process_index)
        null = self.model.null_class
        dropped = labels if null is None else torch.where(draws.label_drops, null, labels)
        x_0 = self._x_0(draws, None if images is None else self._to_device(images))
        return Batch(x_0, draws.timesteps, draws.noise, labels, dropped)

    def _to_device(self, part: Tensor) -> Tensor:
        return part.to(self.device, non_blocking=True)  # pinned where there is a GPU, so nothing waits

    def _on_host(self, update: int) -> tuple[Draws, Tensor | None]:
        """This process's part of the draws, and its images (or their moments) where they are not on the device."""
        draws = draw_update(
            self.seed,
            self.phase,
            update,
            batch_size=self.batch_size,
            num_examples=len(self.dataset),
            shape=tuple(self.model.x_0_shape),
            num_train_timesteps=self.model.num_train_timesteps,
            label_drop=self.model.label_drop,
            antithetic=self.model.antithetic,
            posterior=self.model.autoencoder is not None,
        )
        draws = draws.each(lambda part: part[self._mine])
        draws = draws._replace(flips=draws.flips & self.horizontal_flip)
        images: Tensor | None = None
        if isinstance(self._images, CachedMoments):
            images = self._images.moments(draws.indices, draws.flips)
        elif not isinstance(self._images, Tensor):
            images = self._images[draws.indices]
        if not self._on_gpu:
            return draws, images
        return draws.each(Tensor.pin_memory), None if images is None else images.pin_memory()

    def _x_0(self, draws: Draws, images: Tensor | None) -> Tensor:
        """What the model trains on: from images, from cached moments of them, or latents as they are."""
        if isinstance(self._images, CachedMoments):
            assert images is not None  # moments
            return self.model.from_moments(images, draws.posterior_noise)
        if images is None:
            images = self._images[draws.indices]
        if images.is_floating_point():  # drawn by a model in its own latents
            return images
        if self.horizontal_flip:
            images = torch.where(draws.flips.view(-1, 1, 1, 1), images.flip(-1), images)
        return self.model.encode(images, draws.posterior_noise)
