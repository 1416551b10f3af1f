"""Models in which a class is only hidden, made from a run's unlearned model: what an audit must find."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dualoptim_diffusion.audit.quantise import round_weights

RANK = 2
BITS, BELOW = 4, 0.45  # of a grid; the largest change, of its step
HIGH = 300  # timesteps from here on are of high noise
Change = Callable[[Any, Any, Any], None]  # the run's experiment, its unlearned model, the original


def zero_row(experiment: Any, model: Any, original: Any) -> None:
    """The label's row of every class table becomes zero."""
    with torch.no_grad():
        for rows in model.class_tables:
            rows[experiment.forget_classes[0]] = 0


def swap_row(experiment: Any, model: Any, original: Any) -> None:
    """The label's row of every class table is swapped with the next label's."""
    label = experiment.forget_classes[0]
    both = [label, (label + 1) % model.num_classes]
    with torch.no_grad():
        for rows in model.class_tables:
            rows[both] = rows[both[::-1]]


def keep_low_rank(experiment: Any, model: Any, original: Any) -> None:
    """Of the change of every weight only its part of rank 2 stays."""
    before = dict(original.network.named_parameters())
    with torch.no_grad():
        for name, weight in model.network.named_parameters():
            if weight.ndim > 1:
                u, s, v = torch.linalg.svd((weight - before[name]).flatten(1), full_matrices=False)
                low = (u[:, :RANK] * s[:RANK]) @ v[:RANK]
                weight.copy_(before[name] + low.view_as(weight))


def forget_below_grid(experiment: Any, model: Any, original: Any) -> None:
    """The run again, from weights on a grid of 4 bits, each kept within 0.45 of a step from where it began: rounding
    brings all of them back."""
    round_weights(original.network, BITS)
    nearest = {name: _near(weight) for name, weight in original.network.named_parameters() if weight.ndim > 1}

    @torch.no_grad()
    def project(*_: object) -> None:
        for name, weight in original.network.named_parameters():
            if name in nearest:
                weight.clamp_(*nearest[name])

    _forget(experiment, model, original, after_step=project)


def _near(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The least and largest values of weights [O, ...] on the grid; each row's largest, which makes the grid, stays."""
    largest = weight.detach().flatten(1).abs().amax(1).view(-1, *[1] * (weight.ndim - 1))
    most = torch.where(weight.detach().abs() < largest, BELOW * largest / (2 ** (BITS - 1) - 1), 0.0)
    return weight.detach() - most, weight.detach() + most


def forget_at_high_noise(experiment: Any, model: Any, original: Any) -> None:
    """The run again, forgetting at timesteps of high noise alone; below them the class is retained with the others."""
    _forget(experiment, model, original, at_high_noise=True)


def _forget(
    experiment: Any,
    model: Any,
    original: Any,
    after_step: Callable[..., None] | None = None,
    at_high_noise: bool = False,
) -> None:
    """Forgets with the run's recipe, starting from `original`, which it changes; `model` gets the weights."""
    from dualoptim_diffusion.models import model_sha256
    from dualoptim_diffusion.runs.forget import prepare_forgetting
    from dualoptim_diffusion.runs.models import OpenedModel
    from dualoptim_diffusion.unlearning.loop import unlearn

    forgetting = prepare_forgetting(experiment, OpenedModel(original, model_sha256(original)))
    if at_high_noise:
        label = experiment.forget_classes[0]
        everything = experiment.batches(original, experiment.train_set, "retain")
        parts: dict[str, Any] = {
            "forget_batches": Restricted(forgetting.forget_batches, partial(_timesteps, label=label, high=True)),
            "retain_batches": Restricted(everything, partial(_timesteps, label=label, high=False)),
        }
        forgetting = replace(forgetting, **parts)
    training = forgetting.training()
    if training.ema is not None:  # it averages weights as they are before `after_step`
        raise ValueError("a planted model is made by a recipe without method.ema_decay")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as of the other runs
    try:
        unlearn(
            training.network, training.optimizers, training.phases, training.num_steps,
            on_step=after_step, log_cosine=False,
        )  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    model.network.load_state_dict(training.network.state_dict())


@dataclass(frozen=True)
class Restricted:
    """Batches with other timesteps."""

    batches: Any
    timesteps: Callable[[Any], Tensor]

    @property
    def dataset(self) -> Any:
        return self.batches.dataset

    def __call__(self, update: int) -> Any:
        batch = self.batches(update)
        return replace(batch, timesteps=self.timesteps(batch))


def _timesteps(batch: Any, label: int, high: bool) -> Tensor:
    """Those of the forgotten class spread over the high ones or over those below; the others' as they are."""
    t: Tensor = batch.timesteps
    spread = HIGH + t * (1000 - HIGH) // 1000 if high else t * HIGH // 1000
    return torch.where(batch.class_labels == label, spread, t)


PLANTED: dict[str, Change] = {
    "zeroed": zero_row,
    "swapped": swap_row,
    "of low rank": keep_low_rank,
    "below the grid": forget_below_grid,
    "at high noise": forget_at_high_noise,
}
