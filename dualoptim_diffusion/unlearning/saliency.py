"""Saliency masks: which weights the forget phase may change. One bool tensor a parameter, saved with provenance."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dualoptim_diffusion.core.config import FisherRatioMask, TopFractionMask
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.data import Batch
from dualoptim_diffusion.files.atomic import atomic_path
from dualoptim_diffusion.models import DenoisingModel, model_sha256

Mask = dict[str, Tensor]
Progress = Callable[[int, str], Iterator[int]]  # number of batches and a title -> their indices

PUBLISHED_GUIDANCE = 3.0  # s = w + 1 with the published w = 2
PUBLISHED_CLIP = 1.0
FISHER_EPS = 1e-15


def _plain_progress(total: int, title: str) -> Iterator[int]:
    return iter(range(total))


def gradients(
    model: DenoisingModel,
    batches: Callable[[int], Batch],
    num_batches: int,
    estimator: str,
    title: str,
    progress: Progress = _plain_progress,
) -> Iterator[Mapping[str, Tensor]]:
    """Gradient of the batch-mean denoising loss for each batch, by parameter name; dropout and label drop off.

    `published`: the loss of the guided output (s = 3), gradient clipped to norm 1. `plain`: the conditional loss,
    unclipped. Parameters without a gradient are absent.

    Raises:
        InputError: if the published estimator meets a model without a null class.
    """
    if estimator == "published" and model.null_class is None:
        raise InputError(
            "method.mask.estimator is 'published', which guides away from the null class, but the model has none; set "
            "model.null_class, or method.mask.estimator=plain."
        )
    guidance_scale = PUBLISHED_GUIDANCE if estimator == "published" else 1.0
    was_training = model.network.training
    model.network.eval()
    for i in progress(num_batches, title):
        batch = batches(i)
        model.network.zero_grad()
        model.loss(batch.x_0, batch.timesteps, batch.noise, batch.class_labels, guidance_scale).mean().backward()
        if estimator == "published":
            nn.utils.clip_grad_norm_(model.network.parameters(), PUBLISHED_CLIP)
        yield {name: p.grad for name, p in model.network.named_parameters() if p.grad is not None}
    model.network.zero_grad()
    model.network.train(was_training)


def diagonal_fisher(batch_gradients: Iterator[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """F = mean over batches of the squared gradient, elementwise."""
    total: dict[str, Tensor] = {}
    count = 0
    for count, gradient in enumerate(batch_gradients, start=1):  # noqa: B007
        for name, value in gradient.items():
            total[name] = total[name].add_(value.square()) if name in total else value.square()
    return {name: value / count for name, value in total.items()}


def fisher_ratio_mask(
    forget: Mapping[str, Tensor], retain: Mapping[str, Tensor], parameters: Mapping[str, Tensor], threshold: float
) -> Mask:
    """S = 1 where (F_f + eps) / (F_r + eps) >= gamma (SFRon); parameters without any gradient stay out."""
    mask = {}
    for name, parameter in parameters.items():
        if name not in forget and name not in retain:  # their ratio would be 1
            mask[name] = torch.zeros_like(parameter, dtype=torch.bool)
            continue
        zero = torch.zeros_like(parameter)
        f_forget, f_retain = forget.get(name, zero), retain.get(name, zero)
        salient = (f_forget + FISHER_EPS) / (f_retain + FISHER_EPS) >= threshold
        mask[name] = salient & ((f_forget > 0) | (f_retain > 0))
    return mask


def top_fraction_mask(
    batch_gradients: Iterator[Mapping[str, Tensor]], parameters: Mapping[str, Tensor], top_fraction: float
) -> Mask:
    """1 on the `top_fraction` of all weights with the largest |sum over batches of the gradient| (SalUn)."""
    total = {name: torch.zeros_like(value) for name, value in parameters.items()}
    for gradient in batch_gradients:
        for name, value in gradient.items():
            total[name] += value
    sizes = [value.numel() for value in total.values()]
    magnitudes = torch.cat([value.abs().flatten() for value in total.values()])
    chosen = torch.zeros_like(magnitudes, dtype=torch.bool)
    count = round(top_fraction * len(magnitudes))
    chosen[magnitudes.topk(count, sorted=False).indices] = True  # a selection: nothing is sorted
    return {name: part.view_as(total[name]) for name, part in zip(total, chosen.split(sizes), strict=True)}


def compute_mask(
    config: FisherRatioMask | TopFractionMask,
    model: DenoisingModel,
    forget_batches: Callable[[int], Batch],
    retain_batches: Callable[[int], Batch],
    num_batches: tuple[int, int],
    progress: Progress = _plain_progress,
) -> Mask:
    """The mask a recipe asks for, from `num_batches` batches of the forget and of the retain set."""
    parameters = {name: p.detach() for name, p in model.network.named_parameters()}
    forget = gradients(model, forget_batches, num_batches[0], config.estimator, "saliency, forget set", progress)
    if isinstance(config, TopFractionMask):
        return top_fraction_mask(forget, parameters, config.top_fraction)
    f_forget = diagonal_fisher(forget)
    retain = gradients(model, retain_batches, num_batches[1], config.estimator, "saliency, retain set", progress)
    return fisher_ratio_mask(f_forget, diagonal_fisher(retain), parameters, config.threshold)


def density(mask: Mask) -> float:
    """Share of weights under the mask, in [0, 1]."""
    return sum(int(m.sum()) for m in mask.values()) / sum(m.numel() for m in mask.values())


def save_mask(path: Path, mask: Mask, provenance: Mapping[str, object]) -> None:
    """Writes the mask as safetensors in one piece; `provenance` goes into its header as JSON."""
    with atomic_path(path) as beside:
        write_mask(beside, mask, provenance)


def write_mask(path: Path, mask: Mask, provenance: Mapping[str, object]) -> None:
    """The same, straight to `path`."""
    header = {"provenance": json.dumps(dict(provenance), sort_keys=True)}
    save_file({name: m.cpu().contiguous() for name, m in mask.items()}, path, metadata=header)


def mask_header(path: Path) -> dict[str, object]:
    """What a mask file says of its making."""
    with safe_open(path, framework="pt") as stored:
        return dict(json.loads((stored.metadata() or {}).get("provenance", "{}")))


def load_mask(path: Path, model: DenoisingModel, forget_classes: Mapping[int, str]) -> Mask:
    """Reads a mask and checks that it was made for these weights and these classes.

    Raises:
        InputError: if it is no mask, of another model or for other classes.
    """
    if not path.is_file():
        raise InputError(f"There is no mask file {str(path)!r}; `dualoptim saliency` makes one.")
    try:
        provenance = mask_header(path)
        with safe_open(path, framework="pt") as stored:
            mask = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, TypeError) as error:
        raise InputError(f"{path} is no safetensors mask ({error}); make one with `dualoptim saliency`.") from None
    shapes = {name: p.shape for name, p in model.network.named_parameters()}
    if {name: m.shape for name, m in mask.items()} != shapes or any(m.dtype != torch.bool for m in mask.values()):
        raise InputError(f"The mask {path} is of another model: names and shapes of its tensors differ.")
    if provenance.get("model_sha256") != model_sha256(model):
        raise InputError(f"The mask {path} is of another model: it was made for other weights; make another.")
    if provenance.get("forget_classes") != sorted(forget_classes.values()):
        raise InputError(
            f"The mask {path} was made to forget {provenance.get('forget_classes')}, "
            f"not {sorted(forget_classes.values())}; make another."
        )
    return mask
