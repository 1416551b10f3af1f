"""Membership: does the denoising loss tell training images of the class from images of it that were held out?"""

from typing import Any

import torch
from torch import Tensor

from dualoptim_diffusion.audit.context import AuditContext, AuditedModel, Cost, Probe, Trial
from dualoptim_diffusion.core.rates import Z_95
from dualoptim_diffusion.data import ImageSet
from dualoptim_diffusion.diffusion.randomness import generator


@torch.no_grad()
def membership(context: AuditContext, audited: AuditedModel) -> dict[str, Any]:
    """The area under the ROC curve of the loss, with members as what is found.

    Returns:
        `AUC`: the probability that a training image of the class has the smaller loss than a held-out one; one half is
        no trace of training, far less is the trace of forgetting. `ci95`: DeLong's interval. `members`, `others`: how
        many images.
    """
    members, others = (_losses(context, audited, part) for part in _images(context))
    typical = torch.cat([members, others]).mean(0)  # of each timestep, so that each counts as much
    area, deviation = auc((others / typical).mean(1), (members / typical).mean(1))
    low, high = max(0.0, area - Z_95 * deviation), min(1.0, area + Z_95 * deviation)
    return {"AUC": area, "ci95": [low, high], "members": len(members), "others": len(others)}


def auc(high: Tensor, low: Tensor) -> tuple[float, float]:
    """P(high > low) of values [N] and [M], ties for one half, and its standard error (DeLong et al., 1988)."""
    above = (high[:, None] > low).double() + 0.5 * (high[:, None] == low).double()
    variance = above.mean(1).var() / len(high) + above.mean(0).var() / len(low)
    return above.mean().item(), variance.sqrt().item()


def _images(context: AuditContext) -> tuple[ImageSet, ImageSet]:
    return context.real(context.train, forgotten=True), context.real(context.held_out, forgotten=True)


def _losses(context: AuditContext, audited: AuditedModel, images: ImageSet) -> Tensor:
    """[N, T]: of each image with its own label at each timestep of the budget; a loss that is no number is the
    largest."""
    model = audited.model
    model.network.eval()
    rows = []
    for first, x_0, labels in context.parts(model, images):
        columns = []
        for t in context.budget.loss_timesteps:
            noise = torch.randn(x_0.shape, generator=generator(context.budget.seed, "membership", t, first)).to(x_0)
            columns.append(model.loss(x_0, torch.full_like(labels, t), noise, labels).cpu().double())
        rows.append(torch.stack(columns, 1))
    return torch.cat(rows).nan_to_num(1e30, 1e30, 1e30)


def trials(context: AuditContext) -> list[Trial]:
    counts = [len(part) for part in _images(context)]
    if min(counts) < 2:
        return []
    cost = Cost(sum(counts) * len(context.budget.loss_timesteps))
    return [Trial("loss", membership, ("seed", "real_images", "loss_timesteps"), cost=cost)]


PROBE = Probe(
    question="Can training images of the class be told from held-out ones by the model's loss?",
    source="Duan et al., Are diffusion models vulnerable to membership inference attacks?, ICML 2023",
    trials=trials,
)
