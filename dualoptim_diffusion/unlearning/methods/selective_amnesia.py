"""Selective Amnesia (Heng and Soh, NeurIPS 2023): c_f draws noise; replay and a penalty hold all else in place."""

from dataclasses import replace

import torch
from torch import Tensor

from dualoptim_diffusion.core.terminal import progress
from dualoptim_diffusion.data import Batch, ImageSet
from dualoptim_diffusion.diffusion.randomness import generator
from dualoptim_diffusion.files.cache import cache_entry, get_or_make_tensors
from dualoptim_diffusion.models import DenoisingModel, model_sha256
from dualoptim_diffusion.unlearning.methods.method import RETAIN_KEYS, Method

MICRO_BATCH = 250  # timesteps of one image in a forward and backward pass


class SelectiveAmnesia(Method):
    """Trains the forgotten label to draw noise; replayed images and a Fisher penalty protect the other classes.

    L = l(x_u, c_f) + gamma l(x_replay, c_r) + lambda sum F (theta - theta*)^2, x_u uniform noise; in joint steps.

    gamma is `retain_weight`, lambda `penalty_weight`; replay images are the base model's own drawings of the retained
    classes. The penalty's gradient is added in closed form, so the logged loss is without it.
    """

    reads = (RETAIN_KEYS - {"retain_steps"}) | {
        "retain_weight", "replay_per_class", "fisher_timesteps", "penalty_weight",
    }  # fmt: skip
    updates = ("joint",)
    replays = True

    @property
    def copies(self) -> int:
        return 2  # F and theta*

    def prepare(self, model: DenoisingModel, retain_set: ImageSet) -> None:
        self.start = {name: p.detach().clone() for name, p in model.network.named_parameters()}  # theta*
        key = (model_sha256(model), retain_set.sha256, str(self.settings.fisher_timesteps))
        path = cache_entry("fishers", *key).with_suffix(".safetensors")
        fisher = get_or_make_tensors(path, lambda: replay_fisher(model, retain_set, self.settings.fisher_timesteps))
        self.fisher = {name: fisher[name].to(value.device) for name, value in self.start.items()}

    def forget_loss(self, model: DenoisingModel, batch: Batch) -> Tensor:
        x_u = 2 * torch.rand_like(batch.x_0) - 1  # from the generator that the batch has seeded
        return model.loss(x_u, batch.timesteps, batch.noise, batch.class_labels).mean()

    def joint_loss(self, model: DenoisingModel, forget_batch: Batch, retain_batch: Batch) -> Tensor:
        together = replace(
            retain_batch, timesteps=forget_batch.timesteps, dropped_labels=retain_batch.class_labels
        )  # the same t for both, and no label is dropped
        return super().joint_loss(model, forget_batch, together)

    @torch.no_grad()
    def add_gradient(self, model: DenoisingModel) -> None:
        """2 lambda F (theta - theta*), the gradient of the penalty."""
        for name, p in model.network.named_parameters():
            pull = 2 * self.settings.penalty_weight * self.fisher[name] * (p - self.start[name])
            p.grad = pull if p.grad is None else p.grad + pull


def replay_fisher(model: DenoisingModel, images: ImageSet, num_timesteps: int | None = None) -> dict[str, Tensor]:
    """F = mean over images of G_i^2 with G_i = sum over t of the gradient of l_{i,t}: squared after the sum over t.

    Args:
        images: replay images; each costs one forward and backward pass over its timesteps.
        num_timesteps: random ones for each image, their sum scaled up to all; None takes every timestep.

    Returns:
        F by parameter name, shaped like the parameters.
    """
    parameters = dict(model.network.named_parameters())
    device, total = next(iter(parameters.values())).device, model.num_train_timesteps
    count = min(num_timesteps or total, total)
    fisher = {name: torch.zeros_like(p) for name, p in parameters.items()}
    was_training = model.network.training
    model.network.eval()
    for i in progress(range(len(images)), desc="Fisher information of replay images", unit="img"):
        source = generator("replay-fisher", i)
        timesteps = torch.randperm(total, generator=source)[:count]
        x_0 = model.encode(images.images[i : i + 1].to(device))
        label = images.class_labels[i : i + 1].to(device)
        model.network.zero_grad()
        for part in timesteps.split(MICRO_BATCH):
            noise = torch.randn(len(part), *x_0.shape[1:], generator=source).to(x_0)
            losses = model.loss(x_0.expand_as(noise), part.to(device), noise, label.expand(len(part)))
            losses.sum().backward()
        for name, p in parameters.items():
            if p.grad is not None:
                fisher[name] += (p.grad * (total / count)).square() / len(images)
    model.network.zero_grad()
    model.network.train(was_training)
    return fisher
