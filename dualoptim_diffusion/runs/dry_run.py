"""What a run would do, before it does it: counts, memory, time. Nothing is written or trained."""

from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from dualoptim_diffusion.core.config import ADAMS, DenoiserRunConfig, TopFractionMask
from dualoptim_diffusion.core.recipes import recipe_sha256
from dualoptim_diffusion.core.training_config import ClassifierRecipe, PretrainRecipe
from dualoptim_diffusion.data import data_facts
from dualoptim_diffusion.diffusion.randomness import derive_seed
from dualoptim_diffusion.judge.timm_models import timm_model
from dualoptim_diffusion.models import ConditionalDiT, DenoisingModel, DiT
from dualoptim_diffusion.models.loading import load_model
from dualoptim_diffusion.optim.factory import make_optimizer
from dualoptim_diffusion.optim.linked_adam import linked_pair
from dualoptim_diffusion.optim.mask_indices import INDEX_BYTES
from dualoptim_diffusion.runs.evaluate import plan_sampling
from dualoptim_diffusion.runs.experiment import Experiment
from dualoptim_diffusion.unlearning.pretraining import new_model

LARGEST_PROBE = 32  # images in a timed pass; small networks are timed on as many
ASSUMED_DENSITY = 0.1  # share of the weights under a Fisher ratio's mask, which nobody knows before
EIGHT_BIT = (2 + 2 * 4 / 256) / 4  # two moments of a byte each, with an fp32 scale for blocks of 256, beside fp32
PROBE_SECONDS = 0.2  # a pass that takes longer is not timed on more images


def plan(experiment: Experiment) -> dict[str, Any]:
    """Set sizes, steps, images, bytes of training state and estimated seconds of a forgetting run."""
    recipe, method = experiment.recipe, experiment.method
    forget_set, retain_set = map(experiment.facts.count, (experiment.forget_classes, experiment.retained_classes))
    model, not_here = _model(experiment)
    sampling, drawn = plan_sampling(experiment, model)
    images = sum(len(seeds) for seeds in drawn.seeds.values())
    at_once = min(_batch_size(experiment), recipe.run.micro_batch_size or _batch_size(experiment))
    activations = _activations(model, at_once, recipe.run.gradient_checkpointing)
    forward, backward = (0.0, 0.0) if not_here else _seconds_per_image(model, experiment.accelerator, recipe.run)
    draw = forward * sampling.num_inference_steps * (1 if sampling.guidance_scale == 1 else 2)
    updates = _updates(experiment)
    seconds = {
        "forgetting": sum(updates.values()) * _batch_size(experiment) * backward,
        "sampling_per_model": images * draw,
    }
    if "mask" in method.reads and (mask := recipe.method.mask) is not None:
        seen = forget_set + (retain_set if mask.kind == "fisher_ratio" else 0)
        if mask.num_batches is not None:
            sets = {"published": 2, "plain": 2, "class_pure": len(experiment.labels)}[mask.estimator]
            seen = mask.num_batches * mask.batch_size * (sets if mask.kind == "fisher_ratio" else 1)
        seconds["saliency"] = seen * backward * (2 if mask.estimator == "published" else 1)  # with and without label
    if method.replays:
        replayed = recipe.method.replay_per_class * len(experiment.retained_classes)
        seconds["replay"] = replayed * (draw + backward * (recipe.method.fisher_timesteps or model.num_train_timesteps))
    return {
        "forget": experiment.forget_names,
        "forget_set": forget_set,
        "retain_set": retain_set,
        "updates": updates,
        "images_drawn_per_model": images,
        **_memory(model.network, _optimizer_memory(experiment) | _copies(experiment)),
        **_states(experiment, model.network),
        "bytes_of_activations": activations,
        "estimated_seconds": {} if not_here else {part: round(value, 1) for part, value in seconds.items()},
        "not_here": [sentence for sentence in (experiment.facts.missing, not_here) if sentence],
        "recipe_sha256": experiment.recipe_sha256,
        "recipe": experiment.values,
    }


def plan_pretraining(recipe: PretrainRecipe, accelerator: Accelerator) -> dict[str, Any]:
    """The same of pretraining."""
    facts = data_facts(recipe.data)
    model = new_model(recipe, facts.id2label, facts.shape)
    _, backward = _seconds_per_image(model, accelerator, recipe.run)
    copies = {f"optimizer ({recipe.training.optimizer})": _state_ratio(recipe.training.optimizer)}
    copies |= {} if recipe.training.ema_decay is None else {"averaged weights": 1}
    values = recipe.model_dump(mode="json")
    return {
        "train_set": facts.count(list(facts.id2label)),
        "updates": recipe.training.num_steps,
        **_memory(model.network, copies),
        "estimated_seconds": {"pretraining": round(recipe.training.num_steps * recipe.data.batch_size * backward, 1)},
        "recipe_sha256": recipe_sha256(values),
        "recipe": values,
    }


def plan_classifier(recipe: ClassifierRecipe, device: torch.device) -> dict[str, Any]:
    """The same of training a classifier."""
    facts, side = data_facts(recipe.data), recipe.classifier.image_size
    channels = facts.shape[0]
    network = timm_model(recipe.classifier.name, num_classes=len(facts.id2label), in_chans=channels).to(device)

    def update(count: int) -> None:
        network(torch.randn(count, channels, side, side, device=device)).sum().backward()

    values, steps = recipe.model_dump(mode="json"), recipe.training.num_steps
    images = recipe.data.batch_size * (1 + recipe.training.none_share)
    return {
        "train_set": facts.count(list(facts.id2label)),
        "updates": steps,
        **_memory(network, {"optimizer (adamw)": _state_ratio("adamw")} if steps else {}),
        "estimated_seconds": {"training": round(steps * images * _timed(update, device), 1)},
        "recipe_sha256": recipe_sha256(values),
        "recipe": values,
    }


def readable(planned: Mapping[str, Any], in_bytes: bool = False) -> dict[str, Any]:
    """The same for people: numbers of bytes as MB or GB."""
    text: dict[str, Any] = {}
    for key, value in planned.items():
        counts = in_bytes or key.startswith("bytes_")
        name = key.replace("bytes_", "memory_", 1) if key.startswith("bytes_") else key
        if isinstance(value, Mapping):
            text[name] = readable(value, counts)
        elif counts and isinstance(value, int):
            text[name] = f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.2f} MB"
        else:
            text[name] = value
    return text


def _memory(network: nn.Module, copies: Mapping[str, float]) -> dict[str, Any]:
    """Parameters, and bytes of everything that grows with them; `copies` counts further such tensors."""
    parameters = sum(p.numel() for p in network.parameters())
    parts = {"weights": 1.0, "gradients": 1.0, **copies}
    bytes_each = {name: round(count * parameters * 4) for name, count in parts.items()}  # fp32
    return {"parameters": parameters, "bytes_without_activations": bytes_each | {"total": sum(bytes_each.values())}}


def _optimizer_memory(experiment: Experiment, form: str | None = None) -> dict[str, float]:
    """Tensors like the weights that the optimizers hold.

    Args:
        form: full, compact or 8bit for every state that can be so; by default as the recipe says.
    """
    names, method = experiment.recipe.optimizers, experiment.method
    if method.from_scratch and experiment.pretrain_recipe is not None:
        name = experiment.pretrain_recipe.training.optimizer
        return {f"optimizer ({name})": _state_ratio(name)}
    if method.alternates(experiment.recipe.method) and names.mode not in ("dual", "shared"):
        weight = nn.Parameter(torch.ones(64, 64))
        pair = linked_pair(names.mode, [weight], 1e-3, 1e-3)  # type: ignore[arg-type]
        return {f"both optimizers ({names.mode})": sum(_stepped_state(optimizer, weight) for optimizer in pair)}
    phases = {"optimizer": "retain"}
    if method.alternates(experiment.recipe.method) and names.mode == "dual":
        phases = {"forget optimizer": "forget", "retain optimizer": "retain"}
    memory: dict[str, float] = {}
    density = _density(experiment)[0]
    for title, phase in phases.items():
        name = getattr(names, phase)
        state = form or experiment.values["optimizers"].get(f"{phase}_state", "full")
        masked = _mask_share(experiment) > 0 and (method.masks_retain or title == "forget optimizer")
        if name not in ADAMS or (state == "compact" and not masked):
            state = "full"
        ratio = {"compact": 2 * density, "8bit": EIGHT_BIT}.get(state)
        memory[f"{title} ({name}{'' if ratio is None else f', {state}'})"] = ratio or _state_ratio(name)
    return memory


def _mask_share(experiment: Experiment, form: str | None = None) -> float:
    """The mask as the run holds it, as part of a tensor like the weights: places, or bools where those are smaller."""
    masked = "mask" in experiment.method.reads and experiment.recipe.method.mask is not None
    as_places = experiment.needs_mask if form is None else form == "compact"
    density = _density(experiment)[0] if masked else 0.0
    return density if as_places else min(density, 1 / INDEX_BYTES)


def _density(experiment: Experiment) -> tuple[float, bool]:
    """Share of the weights under the mask, and whether it is known before the mask is made."""
    mask = experiment.recipe.method.mask
    return (mask.top_fraction, True) if isinstance(mask, TopFractionMask) else (ASSUMED_DENSITY, False)


def _states(experiment: Experiment, network: nn.Module) -> dict[str, Any]:
    """Bytes of optimizer state in each form."""
    density, known = _density(experiment)
    parameters = sum(p.numel() for p in network.parameters())
    forms = {}
    for form in ("full", "compact", "8bit"):
        parts = _optimizer_memory(experiment, form) | {"mask": _mask_share(experiment, form)}
        forms[form] = {name: round(4 * count * parameters) for name, count in parts.items()}
        forms[form]["total"] = sum(forms[form].values())
    if forms["full"] == forms["8bit"]:  # no Adam of its own: nothing that another form would make smaller
        return {}
    if forms["full"] == forms["compact"]:  # nothing is masked
        del forms["compact"]
    share = f"{density:.0%} of the weights, {'as the recipe says' if known else 'assumed: the mask is made later'}"
    return {"bytes_of_optimizer_states": {"under the mask": share} | forms}


def _copies(experiment: Experiment) -> dict[str, float]:
    method, recipe = experiment.method, experiment.recipe
    averaged = recipe.method.ema_decay is not None and "ema_decay" in method.reads
    if method.from_scratch and experiment.pretrain_recipe is not None:
        averaged = experiment.pretrain_recipe.training.ema_decay is not None
    copies = {
        "averaged weights": int(averaged),
        "copies to compare with": method.copies,
        "mask": _mask_share(experiment),
        "gradients held for their cosine": int(recipe.run.log_cosine and method.alternates(recipe.method)),
    }
    return {name: count for name, count in copies.items() if count}


def _model(experiment: Experiment) -> tuple[DenoisingModel, str | None]:
    """The model, and a sentence where its weights are not here: then it is an outline that holds no memory."""
    config = experiment.recipe.model
    if config.path is not None and config.family == "dit" and not Path(config.path).exists():
        with torch.device("meta"):
            return ConditionalDiT(DiT(), experiment.facts.id2label), f"{config.path} is not here; DiT-XL/2 is assumed."
    if config.path is not None:
        return load_model(Path(config.path), null_class=config.null_class), None
    assert experiment.pretrain_recipe is not None  # the only other source of a model
    return new_model(experiment.pretrain_recipe, experiment.facts.id2label, experiment.facts.shape), None


def _activations(model: DenoisingModel, batch_size: int, checkpointing: bool = False) -> int:
    """Bytes that a forward pass of so many images keeps for the backward pass, found without allocating any."""
    outline = model.frozen_copy()
    outline.network.to("meta").requires_grad_(True).train()
    if checkpointing:
        outline.checkpoint_gradients()
    weights = {p.untyped_storage()._cdata for p in outline.network.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    x_0 = torch.empty(batch_size, *model.x_0_shape, device="meta")
    labels = torch.empty(batch_size, dtype=torch.long, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = outline.loss(x_0, labels, torch.empty_like(x_0), labels)
    del loss
    return sum(kept.values())


def _updates(experiment: Experiment) -> dict[str, int]:
    method = experiment.method
    if method.from_scratch and experiment.pretrain_recipe is not None:
        return {"pretraining": experiment.pretrain_recipe.training.num_steps}
    if method.forgets and not method.alternates(experiment.recipe.method):
        return {"joint": method.num_steps}
    return {phase: count for phase, count in method.num_updates.items() if count or phase == "retain"}


def _batch_size(experiment: Experiment) -> int:
    """Images an update passes; a joint update passes a forget and a retain batch."""
    method, recipe = experiment.method, experiment.recipe
    if method.from_scratch and experiment.pretrain_recipe is not None:
        return experiment.pretrain_recipe.data.batch_size
    joint = method.forgets and not method.alternates(recipe.method)
    return recipe.data.batch_size * (2 if joint else 1)


def _state_ratio(name: str) -> int:
    """Elements of optimizer state a weight, seen on a small matrix."""
    weight = nn.Parameter(torch.ones(64, 64))
    return _stepped_state(make_optimizer(name, [weight], 1e-3), weight)


def _stepped_state(optimizer: torch.optim.Optimizer, weight: nn.Parameter) -> int:
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    state = optimizer.state[weight].values()
    return sum(s.numel() for s in state if isinstance(s, torch.Tensor)) // weight.numel()


def _seconds_per_image(model: DenoisingModel, accelerator: Accelerator, run: DenoiserRunConfig) -> tuple[float, float]:
    """Measured on this machine: seconds an image of a forward pass, and of forward and backward; not compiled."""
    model.prepare(accelerator, run.precision, run.channels_last)
    device = accelerator.device
    torch.manual_seed(derive_seed(0, "probe"))

    def forward(count: int) -> torch.Tensor:
        x_0 = torch.randn(count, *model.x_0_shape, device=device)
        labels = torch.zeros(count, dtype=torch.long, device=device)
        return model.loss(x_0, labels, torch.randn_like(x_0), labels).mean()

    with torch.no_grad():
        alone = _timed(forward, device)
    return alone, _timed(lambda count: forward(count).backward(), device)


def _timed(work: Callable[[int], Any], device: torch.device) -> float:
    """Seconds an image of work on so many images."""
    count = 2
    while True:
        for _ in range(2):  # the first one warms up
            start = perf_counter()
            work(count)
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds = perf_counter() - start
        if seconds > PROBE_SECONDS or count >= LARGEST_PROBE:
            return seconds / count
        count *= 4
