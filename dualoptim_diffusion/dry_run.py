"""What a run would do, before it does it: counts, memory, time. Nothing is written or trained."""

from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from dualoptim_diffusion.assets import load_model
from dualoptim_diffusion.dual_optim import make_optimizer
from dualoptim_diffusion.experiment import Experiment
from dualoptim_diffusion.models import ConditionalDDPM
from dualoptim_diffusion.randomness import derive_seed
from dualoptim_diffusion.scoring import plan_sampling
from dualoptim_diffusion.training import new_network

PROBE_SIZE = 32  # images in the timed forward and backward pass


def plan(experiment: Experiment) -> dict[str, Any]:
    """Set sizes, steps, images, bytes of training state and estimated seconds of a run."""
    recipe, settings = experiment.recipe, experiment.recipe.method
    forget_set, retain_set = experiment.sets
    model = _model(experiment)
    parameters = sum(p.numel() for p in model.network.parameters())
    size = parameters * 4  # fp32
    memory = {"weights": size, "gradients": size}
    names = {"retain": recipe.optimizers.retain}
    if experiment.method.alternates(settings) and recipe.optimizers.mode == "dual":
        names["forget"] = recipe.optimizers.forget
    memory |= {f"{phase} optimizer ({name})": round(size * _state_ratio(name)) for phase, name in names.items()}
    if settings.ema_decay is not None and "ema_decay" in experiment.method.reads:
        memory["averaged weights"] = size
    if experiment.method.copies:
        memory["copies to compare with"] = experiment.method.copies * size
    if recipe.run.log_cosine and experiment.method.alternates(settings):
        memory["gradients held for their cosine"] = size
    sampling, drawn = plan_sampling(experiment, model)
    images = sum(len(seeds) for seeds in drawn.seeds.values())
    forward, backward = _seconds_per_image(experiment, model)
    passes = 1 if sampling.guidance_scale == 1 else 2
    updates = _updates(experiment)
    return {
        "forget": experiment.forget_names,
        "forget_set": len(forget_set),
        "retain_set": len(retain_set),
        "parameters": parameters,
        "updates": updates,
        "images_drawn_per_model": images,
        "bytes_without_activations": memory | {"total": sum(memory.values())},
        "estimated_seconds": {
            "forgetting": round(sum(updates.values()) * recipe.data.batch_size * backward, 1),
            "sampling_per_model": round(images * sampling.num_inference_steps * passes * forward, 1),
        },
        "recipe_sha256": experiment.recipe_sha256,
        "recipe": experiment.values,
    }


def _model(experiment: Experiment) -> ConditionalDDPM:
    config = experiment.recipe.model
    if config.path is not None:
        return load_model(Path(config.path), null_class=config.null_class)
    assert experiment.pretrain_recipe is not None  # the only other source of a model
    return ConditionalDDPM(new_network(experiment.pretrain_recipe, experiment.train_set), experiment.train_set.id2label)


def _updates(experiment: Experiment) -> dict[str, int]:
    method, settings = experiment.method, experiment.recipe.method
    if method.from_scratch and experiment.pretrain_recipe is not None:
        return {"pretraining": experiment.pretrain_recipe.training.num_steps}
    if not method.forgets:
        return {"retain": method.num_steps * settings.retain_steps}
    if not method.alternates(settings):
        return {"joint": method.num_steps}
    return {"forget": method.num_steps * settings.forget_steps, "retain": method.num_steps * settings.retain_steps}


def _state_ratio(name: str) -> float:
    """Elements of optimizer state a weight, seen on a small matrix."""
    weight = torch.nn.Parameter(torch.ones(64, 64))
    weight.grad = torch.ones_like(weight)
    optimizer = make_optimizer(name, [weight], 1e-3)
    optimizer.step()
    state = optimizer.state[weight].values()
    return sum(s.numel() for s in state if isinstance(s, torch.Tensor)) // weight.numel()


def _seconds_per_image(experiment: Experiment, model: ConditionalDDPM) -> tuple[float, float]:
    """Measured on this machine: seconds an image of a forward pass, and of forward and backward."""
    model.prepare(experiment.accelerator)
    device = experiment.accelerator.device
    torch.manual_seed(derive_seed(0, "probe"))
    x_0 = torch.randn(PROBE_SIZE, *model.x_0_shape, device=device)
    labels = torch.zeros(PROBE_SIZE, dtype=torch.long, device=device)

    def forward() -> torch.Tensor:
        return model.loss(x_0, labels, torch.randn_like(x_0), labels).mean()

    def timed(work: Any) -> float:
        work()
        start = perf_counter()
        for _ in range(3):
            work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (perf_counter() - start) / 3 / PROBE_SIZE

    with torch.no_grad():
        alone = timed(forward)
    return alone, timed(lambda: forward().backward())
