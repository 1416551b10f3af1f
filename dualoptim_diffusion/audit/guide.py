"""A classifier of noisy images that leads a frozen diffusion network to a class by its gradient."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, log_softmax

from dualoptim_diffusion.audit.context import AuditContext
from dualoptim_diffusion.core.errors import NonFiniteError
from dualoptim_diffusion.core.schedules import one_cycle
from dualoptim_diffusion.diffusion.randomness import derive_seed, generator
from dualoptim_diffusion.files.cache import cache_entry, get_or_make_tensors
from dualoptim_diffusion.judge.timm_models import timm_model
from dualoptim_diffusion.models import model_sha256
from dualoptim_diffusion.models.costs import bytes_saved, measured

SETTINGS = ("seed", "guide_steps", "batch_size")  # of the budget
GUIDE_LR = 2e-3  # at the top of one cycle
COPIES = 4  # of the weights in training: they, their gradients, and Adam's two moments
Slope = Callable[[Tensor, Tensor], Tensor]  # x_t and class labels -> gradient of log p(class | x_t) in x_t


class Guide(nn.Module):
    """x_t [B, C, h, w] -> logits [B, K] of a network that takes other sides.

    Resizing is a product with fixed matrices: its gradient is the same bit for bit on a GPU, unlike interpolation's.
    """

    def __init__(self, network: nn.Module, shape: tuple[int, ...], side: int) -> None:
        super().__init__()
        self.network = network
        for name, size in (("down", shape[-2]), ("across", shape[-1])):
            weights = interpolate(torch.eye(size)[None, None], (side, size), mode="bilinear")[0, 0]
            self.register_buffer(name, weights, persistent=False)  # [side, size]

    def forward(self, x_t: Tensor) -> Tensor:
        """Logits."""
        resized = self.get_buffer("down") @ x_t @ self.get_buffer("across").T
        logits: Tensor = self.network(resized)
        return logits


def guide(context: AuditContext) -> Guide:
    """A classifier of noisy images with the judge's network, trained here; kept, and equal for all models.

    Raises:
        NonFiniteError: if its loss stops being a finite number.
    """
    made = fresh_guide(context)
    made.load_state_dict(get_or_make_tensors(place_of_guide(context), lambda: _trained(context, made)))
    return made.to(context.device).eval().requires_grad_(False)


def place_of_guide(context: AuditContext) -> Path:
    """Its file in the cache."""
    info, model = context.classifier.info, context.original
    made_from = (
        info.name, info.image_size, context.forget_set.sha256, context.retain_set.sha256, context.forget_classes,
        context.horizontal_flip, model.x_0_shape, None if model.betas is None else model.betas.tolist(), GUIDE_LR,
        *(getattr(context.budget, name) for name in SETTINGS),
    )  # fmt: skip
    return cache_entry("guides", repr(made_from), model_sha256(model)).with_suffix(".safetensors")


def fresh_guide(context: AuditContext) -> Guide:
    """It tells the forgotten classes apart, and from all others."""
    torch.manual_seed(derive_seed(context.budget.seed, "guide"))
    info, shape = context.classifier.info, context.original.x_0_shape
    network = timm_model(info.name, num_classes=len(context.forget_classes) + 1, in_chans=shape[0])
    return Guide(network, shape, info.image_size)


def answers_of(context: AuditContext) -> Tensor:
    """Of each label the classifier's answer: forgotten classes in their order, then all others as one."""
    found = torch.full((max(context.labels) + 1,), len(context.forget_classes), device=context.device)
    for i, label in enumerate(context.forget_classes):
        found[label] = i
    return found


def _trained(context: AuditContext, network: Guide) -> dict[str, Tensor]:
    """The weights after training on x_t at the model's timesteps, half of each batch of forgotten classes."""
    model, steps = context.original, context.budget.guide_steps
    sides = [
        context.batches(model, images, f"guide, {side}", steps)
        for side, images in (("forget", context.forget_set), ("retain", context.retain_set))
    ]
    network.to(context.device).train()
    optimizer, answers = torch.optim.AdamW(network.parameters(), GUIDE_LR), answers_of(context)
    for step in range(steps):
        batches = [side(step) for side in sides]
        x_t = torch.cat([model.add_noise(batch.x_0, batch.noise, batch.timesteps) for batch in batches])
        truth = answers[torch.cat([batch.class_labels for batch in batches])]
        torch.manual_seed(derive_seed(context.budget.seed, "guide", step))  # of dropout
        for group in optimizer.param_groups:
            group["lr"] = GUIDE_LR * one_cycle(step, steps)
        optimizer.zero_grad()
        loss = cross_entropy(network(x_t), truth)
        if not loss.isfinite():
            raise NonFiniteError(f"At step {step + 1} the loss of the classifier that guides is {loss.item()}.")
        loss.backward()
        optimizer.step()
    return {name: value.detach() for name, value in network.state_dict().items()}


def slope_of(network: nn.Module, answers: Tensor) -> Slope:
    """Gradient of the log probability that a classifier gives to `answers[label]` of each image's label."""

    @torch.enable_grad()
    def slope(x_t: Tensor, class_labels: Tensor) -> Tensor:
        x = x_t.detach().requires_grad_(True)
        told = log_softmax(network(x), 1).gather(1, answers[class_labels][:, None])
        return torch.autograd.grad(told.sum(), x)[0]

    return slope


def seconds_of_training(context: AuditContext) -> float:
    """Of the classifier, from one batch; 0 where it is kept."""
    if place_of_guide(context).exists():
        return 0.0
    network, size = fresh_guide(context).to(context.device).train(), 2 * context.budget.batch_size

    def step(count: int) -> None:
        network(example(context, count)).logsumexp(1).sum().backward()

    return context.budget.guide_steps * size * measured(step, context.device, size)


def bytes_needed(context: AuditContext) -> int:
    """Of the classifier: its weights with what training holds beside them, and activations of the largest batch."""
    network = fresh_guide(context).to(context.device).train()
    largest = max(2 * context.budget.batch_size, context.drawn_at_once)
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    # batch norms need two images, so one more is counted than given
    return COPIES * weights + bytes_saved(network, lambda count: network(example(context, count + 1)), largest - 1)


def example(context: AuditContext, count: int) -> Tensor:
    """Noise in place of so many x_t."""
    source = generator(context.budget.seed, "example", count)
    return torch.randn(count, *context.original.x_0_shape, generator=source).to(context.device)
