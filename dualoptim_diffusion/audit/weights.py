"""Weights: how far each layer moved from the original, and whether the weights off the mask stayed."""

from typing import Any

import torch
from torch import Tensor

from dualoptim_diffusion.audit.context import AuditContext, AuditedModel, Probe, Trial
from dualoptim_diffusion.files.weight_files import weights_sha256


@torch.no_grad()
def distances(context: AuditContext, audited: AuditedModel) -> dict[str, Any]:
    """Of the original: relative L2 distance of every layer and of all, weights that changed, off the mask too.

    Returns:
        `layers`: by name, `distance` |w - w_0| / |w_0|, and how many of its `weights` `changed`; `all`: the same of the
        whole network; `off_mask`: how many weights lie off the forget mask, and how many of them changed (None without
        a mask).
    """
    before = {name: p.detach().cpu() for name, p in context.original.network.named_parameters()}
    after = {name: p.detach().cpu() for name, p in audited.model.network.named_parameters()}
    layers: dict[str, list[str]] = {}
    for name in before:
        layers.setdefault(name.rsplit(".", 1)[0] if "." in name else name, []).append(name)
    off_mask = None
    if context.mask is not None:
        off = {name: ~part.cpu() for name, part in context.mask.items()}
        changed = sum(int(((before[name] != after[name]) & part).sum()) for name, part in off.items())
        off_mask = {"weights": sum(int(part.sum()) for part in off.values()), "changed": changed}
    return {
        "layers": {layer: _moved(before, after, names) for layer, names in layers.items()},
        "all": _moved(before, after, list(before)),
        "off_mask": off_mask,
    }


def _moved(before: dict[str, Tensor], after: dict[str, Tensor], names: list[str]) -> dict[str, Any]:
    moved = sum((after[n].double() - before[n].double()).square().sum() for n in names)
    length = sum(before[n].double().square().sum() for n in names)
    ratio = torch.as_tensor(moved).sqrt() / torch.as_tensor(length).sqrt()
    return {
        "distance": float(ratio) if float(length) > 0 else None,
        "weights": sum(before[n].numel() for n in names),
        "changed": sum(int((before[n] != after[n]).sum()) for n in names),
    }


def trials(context: AuditContext) -> list[Trial]:
    made_from = weights_sha256(context.mask) if context.mask else ""
    return [Trial("distances", distances, made_from=made_from)]


PROBE = Probe(
    question="Which weights moved, and did those off the mask stay?",
    source="Fan et al., SalUn, ICLR 2024 (the mask); the distances are plain arithmetic",
    trials=trials,
)
