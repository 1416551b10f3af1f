"""`--dry-run`: what a command would do, before it does it: counts, memory, time. Nothing is written or trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from dualoptim_diffusion.core.config import TopFractionMask
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.recipes import recipe_sha256
from dualoptim_diffusion.core.training_config import ClassifierRecipe, DenoiserConfig, DiTConfig, PretrainRecipe
from dualoptim_diffusion.data import data_facts, load_dataset
from dualoptim_diffusion.data.datasets import DataFacts, is_decoded
from dualoptim_diffusion.judge.timm_models import timm_model
from dualoptim_diffusion.models import ConditionalDiT, DenoisingModel, DiTModule
from dualoptim_diffusion.models.loading import load_model
from dualoptim_diffusion.optim.plan import FP32_BYTES, elements_of_state
from dualoptim_diffusion.runs.evaluate import plan_sampling
from dualoptim_diffusion.runs.experiment import Experiment
from dualoptim_diffusion.runs.forecast import (
    Speed,
    bytes_of_activations,
    machine_bytes,
    measured,
    memory,
    num_parameters,
    seconds_of_step,
    speed,
)
from dualoptim_diffusion.runs.models import check_model
from dualoptim_diffusion.runs.obtain import find_classifier, find_pretrained
from dualoptim_diffusion.unlearning.pretraining import new_model

LARGE_NETWORK = 2**27  # width^2 x depth; DiT-XL/2 has 2^25
LARGE_IMAGE = 512  # pixels a side
ASSUMED_DENSITY = 0.1  # share of the weights under a Fisher ratio's mask, unknown before it is made


def plan(experiment: Experiment) -> dict[str, Any]:
    """Set sizes, steps, images, bytes of training state and estimated seconds of a forgetting run."""
    recipe, facts = experiment.recipe, experiment.facts
    model, not_here = _model(experiment)
    if not_here is None:
        check_model(experiment, model)
    drawn = sum(len(seeds) for seeds in plan_sampling(experiment, model, experiment.protocol).values())
    batch_size = _batch_size(experiment)
    micro_batch = min(batch_size, recipe.run.micro_batch_size or batch_size)
    optimizers = experiment.optimizers.elements(_density(experiment))
    if recipe.run.gradient_checkpointing:
        model.checkpoint_gradients()
    return {
        "forget": experiment.forget_names,
        "forget_set": facts.count(experiment.forget_classes),
        "retain_set": facts.count(experiment.retained_classes),
        "updates": _updates(experiment),
        "images_drawn_per_model": drawn,
        **memory(model.network, optimizers | _copies(experiment)),
        **_states(experiment, model),
        "bytes_of_activations": bytes_of_activations(model, micro_batch),
        "estimated_seconds": {} if not_here else _seconds(experiment, model, drawn),
        "not_here": [sentence for sentence in (facts.missing, not_here) if sentence],
        "recipe_sha256": experiment.recipe_sha256,
        "recipe": experiment.values,
    }


def _seconds(experiment: Experiment, model: DenoisingModel, drawn: int) -> dict[str, float]:
    """Estimated seconds of each part of the run."""
    recipe, method, sampling = experiment.recipe, experiment.method, experiment.sampling
    updates, batch_size = _updates(experiment), _batch_size(experiment)
    found = speed(model, experiment.accelerator, recipe.run, batch_size)
    draw = found.forward * sampling.num_inference_steps * (1 if sampling.guidance_scale == 1 else 2)
    seconds = _made_before(experiment, found) | {
        "forgetting": sum(updates.values()) * found.update(batch_size),
        "sampling_per_model": drawn * draw,
    }
    if method.uses_null:  # what the base model predicts of each forget batch
        seconds["forgetting"] += updates.get("forget", method.num_steps) * recipe.data.batch_size * found.forward
    if experiment.reads_mask and (mask := recipe.method.mask) is not None:
        seen = experiment.facts.count(experiment.forget_classes)
        seen += experiment.facts.count(experiment.retained_classes) if mask.kind == "fisher_ratio" else 0
        if mask.num_batches is not None:
            sets = {"published": 2, "plain": 2, "class_pure": len(experiment.labels)}[mask.estimator]
            seen = mask.num_batches * mask.batch_size * (sets if mask.kind == "fisher_ratio" else 1)
        passes = 2 if mask.estimator == "published" else 1  # with and without label
        seconds["saliency"] = seen * passes * found.backward
    if method.replays:
        replayed = recipe.method.replay_per_class * len(experiment.retained_classes)
        timesteps = recipe.method.fisher_timesteps or model.num_train_timesteps
        seconds["replay"] = replayed * (draw + timesteps * found.backward)
    seconds["total"] = sum(seconds.values()) + seconds["sampling_per_model"]  # of the original and the unlearned model
    return {part: round(value, 1) for part, value in seconds.items()}


def _made_before(experiment: Experiment, found: Speed) -> dict[str, float]:
    """Seconds of the base model, the classifier and the network for features, where recipes make them and none is
    kept."""
    seconds, base = {}, experiment.pretrain_recipe
    networks = {"classifier": experiment.classifier_recipe, "features": experiment.features_recipe}
    if base is not None and not (is_decoded(base.data) and find_pretrained(base, load_dataset(base.data)[0])):
        seconds["base_model"] = base.training.num_steps * found.update(base.data.batch_size)
    for name, recipe in networks.items():
        if recipe is not None and not (is_decoded(recipe.data) and find_classifier(recipe).is_dir()):
            planned = plan_classifier(recipe, experiment.accelerator.device)
            seconds[name] = planned["estimated_seconds"]["training"]
    return seconds


def plan_pretraining(recipe: PretrainRecipe, accelerator: Accelerator) -> dict[str, Any]:
    """The same of pretraining."""
    facts = data_facts(recipe.data)
    model, too_large = _fresh_model(recipe, facts)
    if too_large:
        raise InputError(f"{too_large} Make model or data.image_size smaller.")
    update = speed(model, accelerator, recipe.run, recipe.data.batch_size).update(recipe.data.batch_size)
    name = recipe.training.optimizer
    copies: dict[str, float] = {f"optimizer ({name})": elements_of_state(name)}
    copies |= {} if recipe.training.ema_decay is None else {"averaged weights": 1}
    values = recipe.model_dump(mode="json")
    return {
        "train_set": facts.count(list(facts.id2label)),
        "updates": recipe.training.num_steps,
        **memory(model.network, copies),
        "estimated_seconds": {"pretraining": round(recipe.training.num_steps * update, 1)},
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
    images = round(recipe.data.batch_size * (1 + recipe.training.none_share))
    each = measured(update, device, images)
    seconds = steps * (images * each + seconds_of_step(network, device))
    return {
        "train_set": facts.count(list(facts.id2label)),
        "updates": steps,
        **memory(network, {"optimizer (adamw)": elements_of_state("adamw")} if steps else {}),
        "estimated_seconds": {"training": round(seconds, 1)},
        "recipe_sha256": recipe_sha256(values),
        "recipe": values,
    }


def readable(planned: Mapping[str, Any], in_bytes: bool = False) -> dict[str, Any]:
    """The same with bytes as MB or GB."""
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


def _density(experiment: Experiment) -> float:
    """Share of the weights under the run's mask, known or assumed; 0 without one."""
    mask = experiment.recipe.method.mask if experiment.reads_mask else None
    if mask is None:
        return 0.0
    return mask.top_fraction if isinstance(mask, TopFractionMask) else ASSUMED_DENSITY


def _states(experiment: Experiment, model: DenoisingModel) -> dict[str, Any]:
    """Bytes of optimizer state in each form."""
    density, count = _density(experiment), num_parameters(model.network)
    forms: dict[str, dict[str, int]] = {}
    for form in ("full", "compact", "8bit"):
        forms[form] = experiment.optimizers.bytes(count, density, form)
        forms[form]["total"] = sum(forms[form].values())
    if experiment.method.from_scratch or forms["full"] == forms["8bit"]:  # nothing that another form makes smaller
        return {}
    if forms["full"] == forms["compact"]:  # nothing is masked
        del forms["compact"]
    known = isinstance(experiment.recipe.method.mask, TopFractionMask)
    assumed = density or ASSUMED_DENSITY
    share = f"{assumed:.0%} of the weights, {'as the recipe says' if known else 'assumed: the mask is made later'}"
    return {"bytes_of_optimizer_states": {"under the mask": share} | forms}


def _copies(experiment: Experiment) -> dict[str, float]:
    """Further tensors like the weights, per weight."""
    method, recipe = experiment.method, experiment.recipe
    averaged = recipe.method.ema_decay is not None and "ema_decay" in method.reads
    if (training := experiment.training_recipe) is not None:
        averaged = training.training.ema_decay is not None
    copies: dict[str, float] = {
        "averaged weights": int(averaged),
        "copies to compare with": method.copies,
        "mask": experiment.optimizers.mask_elements(_density(experiment)),
        "gradients held for their cosine": int(recipe.run.log_cosine and method.alternates),
    }
    return {name: count for name, count in copies.items() if count}


def _model(experiment: Experiment) -> tuple[DenoisingModel, str | None]:
    """The model, and a sentence where its weights are not here: then it is an outline that holds no memory."""
    config = experiment.recipe.model
    if config.path is not None and config.family == "dit" and not Path(config.path).exists():
        with torch.device("meta"):
            outline = ConditionalDiT(DiTModule(), experiment.facts.id2label)
        return outline, f"{config.path} is not here; DiT-XL/2 is assumed."
    if config.path is not None:
        return load_model(Path(config.path), null_class=config.null_class), None
    assert experiment.pretrain_recipe is not None  # the only other source of a model
    return _fresh_model(experiment.pretrain_recipe, experiment.facts)


def _fresh_model(recipe: PretrainRecipe, facts: DataFacts) -> tuple[DenoisingModel, str | None]:
    """The recipe's model; its outline and a sentence where this machine cannot hold it and one image's activations."""
    if (there := machine_bytes()) is not None and _may_be_large(recipe.model, facts.shape[-1]):
        with torch.device("meta"):
            outline = new_model(recipe, facts.id2label, facts.shape)
        needed = FP32_BYTES * num_parameters(outline.network) + bytes_of_activations(outline, 1)
        if needed > there:
            return outline, f"The network and one image take {needed:.1e} bytes, this machine has {there:.1e}."
    return new_model(recipe, facts.id2label, facts.shape), None


def _may_be_large(config: DenoiserConfig, image_size: int) -> bool:
    """Whether it is worth counting first: by far larger than published networks in pixels or in latents."""
    if isinstance(config, DiTConfig):
        width, depth = config.num_attention_heads * config.attention_head_dim, config.num_layers
    else:
        width, depth = config.width * max(config.multipliers), config.layers_per_block * len(config.multipliers)
    return width**2 * depth > LARGE_NETWORK or (image_size > LARGE_IMAGE and getattr(config, "vae", None) is None)


def _updates(experiment: Experiment) -> dict[str, int]:
    """Optimizer steps by phase."""
    method = experiment.method
    if (training := experiment.training_recipe) is not None:
        return {"pretraining": training.training.num_steps}
    if method.joint:
        return {"joint": method.num_steps}
    return {phase: count for phase, count in method.num_updates.items() if count or phase == "retain"}


def _batch_size(experiment: Experiment) -> int:
    """Images an update passes; a joint update passes a forget and a retain batch."""
    if (training := experiment.training_recipe) is not None:
        return training.data.batch_size
    return experiment.recipe.data.batch_size * (2 if experiment.method.joint else 1)
