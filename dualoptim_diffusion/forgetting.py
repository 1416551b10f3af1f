"""Forgetting: base model, mask, optimizers, the loop; everything into one run folder."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dualoptim_diffusion.assets import obtain_classifier, obtain_model, save_model
from dualoptim_diffusion.checkpoint import load_checkpoint, write_json
from dualoptim_diffusion.config import PretrainRecipe
from dualoptim_diffusion.data import split
from dualoptim_diffusion.dual_optim import ELEMENTWISE, DualOptim, freeze_off_mask, make_optimizer
from dualoptim_diffusion.ema import EMA
from dualoptim_diffusion.errors import InputError
from dualoptim_diffusion.evaluation import match_classes
from dualoptim_diffusion.experiment import Experiment, check_model, say
from dualoptim_diffusion.methods import phases
from dualoptim_diffusion.models import ConditionalDDPM, weights_sha256
from dualoptim_diffusion.provenance import cache_entry, describe_origin, digest, timed
from dualoptim_diffusion.run_folder import check_out, claim
from dualoptim_diffusion.saliency import Mask, compute_mask, density, load_mask, mask_header, save_mask
from dualoptim_diffusion.scoring import Results, evaluate_run
from dualoptim_diffusion.training import pretrain, run_phases


def forget(
    experiment: Experiment,
    out: Path,
    *,
    mask_path: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    stop_after: int | None = None,
) -> Results:
    """Forgets the classes of the experiment, samples before and after, evaluates and reports; all in `out`.

    Raises:
        InputError: before anything in `out` is changed, if something does not fit.
        Stopped: after `stop_after` steps or a signal, with the state saved for `resume`.
    """
    accelerator, recipe, method = experiment.accelerator, experiment.recipe, experiment.method
    seconds: dict[str, float] = {}
    check_out(out, experiment, resume, overwrite, mask_path)
    with timed(seconds, "base model"):
        model = obtain_model(recipe.model, experiment.recipe_path, accelerator)
    check_model(experiment, model)
    base_sha256 = weights_sha256(model.network.state_dict())
    with timed(seconds, "classifier"):
        classifier = obtain_classifier(recipe.evaluation.classifier, experiment.recipe_path, accelerator)
    match_classes(classifier, model.id2label)
    forget_set, retain_set = split(experiment.train_set, experiment.forget_classes)
    model.prepare(accelerator)
    with timed(seconds, "saliency"):
        mask = _mask(experiment, model, mask_path)
    identity = digest(experiment.recipe_sha256, base_sha256, weights_sha256(mask) if mask else "")
    forget_batches = experiment.batches(model, forget_set, "forget")
    retain_batches = experiment.batches(model, retain_set, "retain")
    if resume:
        load_checkpoint(out / "checkpoints", identity)  # refuses another run's before anything is written

    accelerator.wait_for_everyone()
    origin = describe_origin(accelerator.device) | {
        "recipe_sha256": experiment.recipe_sha256,
        "seed": recipe.run.seed,
        "base_model_sha256": base_sha256,
        "classifier_sha256": classifier.sha256,
    }
    if accelerator.is_main_process:
        claim(out, experiment, resume)
        write_json(out / "provenance.json", origin)
        sizes = (
            f"{len(forget_set)} images of {', '.join(experiment.forget_names)}, retain set: {len(retain_set)} images"
        )
        say(f"forget set: {sizes}" + (f"; mask: {density(mask):.1%} of the weights" if mask else ""))
        if mask is not None:
            header = mask_header(mask_path) if mask_path else mask_provenance(experiment, base_sha256)
            save_mask(out / "mask.safetensors", mask, header)
    accelerator.wait_for_everyone()

    with timed(seconds, "forgetting"):
        if method.from_scratch:
            model = pretrain(_retraining_recipe(experiment), retain_set, accelerator, out, identity, stop_after)
        else:
            if mask is not None:
                mask = {name: part.to(accelerator.device) for name, part in mask.items()}
            ema = None if recipe.method.ema_decay is None else EMA(model.network, recipe.method.ema_decay)
            model.network.train()
            run_phases(
                model.network,
                make_optimizers(experiment, model, mask),
                phases(method, model, forget_batches, retain_batches, mask),
                method.num_steps,
                folder=out,
                identity=identity,
                title=f"forgetting {', '.join(experiment.forget_names)}",
                accelerator=accelerator,
                ema=ema,
                stop_after=stop_after,
            )
            if ema is not None:
                model.network.load_state_dict(ema.state_dict())
    save_model(model, out / "model", accelerator)
    if accelerator.is_main_process:
        write_json(out / "provenance.json", origin | {"model_sha256": weights_sha256(model.network.state_dict())})
    return evaluate_run(experiment, out, seconds)


def _mask(experiment: Experiment, model: ConditionalDDPM, mask_path: Path | None) -> Mask | None:
    """The mask given, or the one the recipe asks for, or none."""
    reads_mask = "mask" in experiment.method.reads
    if mask_path is not None:
        if not reads_mask:
            raise InputError(f"{experiment.recipe.method.name} uses no mask; leave out --mask {mask_path}.")
        return load_mask(mask_path, model.network, experiment.forget_labels)
    return saliency(experiment, model) if reads_mask and experiment.recipe.method.mask is not None else None


def _retraining_recipe(experiment: Experiment) -> PretrainRecipe:
    """The base model's own recipe, with the seed of this run."""
    recipe = experiment.pretrain_recipe
    assert recipe is not None  # open_experiment has checked it
    return recipe.model_copy(update={"run": recipe.run.model_copy(update={"seed": experiment.recipe.run.seed})})


def make_optimizers(experiment: Experiment, model: ConditionalDDPM, mask: Mask | None) -> DualOptim:
    """The recipe's pair of optimizers, or one for both phases; weights off the mask stay where only masked steps go."""
    names, settings, method = experiment.recipe.optimizers, experiment.recipe.method, experiment.method
    parameters = dict(model.network.named_parameters())
    retain = make_optimizer(names.retain, parameters.values(), settings.retain_lr)
    if mask and method.masks_retain and names.retain not in ELEMENTWISE:
        freeze_off_mask(retain, parameters, mask)
    if names.mode == "shared" or not method.alternates(settings):
        return DualOptim(retain, retain)
    forget = make_optimizer(names.forget, parameters.values(), settings.forget_lr)
    if mask and names.forget not in ELEMENTWISE:
        freeze_off_mask(forget, parameters, mask)
    return DualOptim(forget, retain)


def saliency(experiment: Experiment, model: ConditionalDDPM) -> Mask:
    """The mask the recipe asks for, on the CPU or the model's device; kept by its inputs for the next time.

    Raises:
        InputError: if the recipe asks for none.
    """
    config, accelerator = experiment.recipe.method.mask, experiment.accelerator
    if config is None:
        raise InputError("The recipe has no method.mask; set method.mask.kind=fisher_ratio or top_fraction.")
    provenance = mask_provenance(experiment, weights_sha256(model.network.state_dict()))
    path = cache_entry("masks", repr(sorted(provenance.items()))).with_suffix(".safetensors")
    if path.is_file():
        with contextlib.suppress(InputError):  # damaged: made anew below
            return load_mask(path, model.network, experiment.forget_labels)
    sets = split(experiment.train_set, experiment.forget_classes)
    forget_batches, retain_batches = (
        experiment.batches(model, part, f"saliency-{name}", config.batch_size)
        for part, name in zip(sets, ("forget", "retain"), strict=True)
    )
    one_pass = [-(-len(part) // config.batch_size) for part in sets]
    num_batches = (config.num_batches or one_pass[0], config.num_batches or one_pass[1])

    def progress(total: int, title: str) -> Iterator[int]:
        return iter(tqdm(range(total), desc=title, disable=not accelerator.is_main_process))

    mask = compute_mask(config, model, forget_batches, retain_batches, num_batches, progress)
    if accelerator.is_main_process:
        save_mask(path, mask, provenance)
    accelerator.wait_for_everyone()
    return mask


def mask_provenance(experiment: Experiment, base_sha256: str) -> dict[str, Any]:
    """What a mask was made from."""
    config = experiment.recipe.method.mask
    return {
        "model_sha256": base_sha256,
        "data_sha256": experiment.train_set.sha256,
        "forget_classes": sorted(experiment.forget_names),
        "seed": experiment.recipe.run.seed,
        "precision": experiment.accelerator.mixed_precision,
        "horizontal_flip": experiment.recipe.data.horizontal_flip,
        "mask": config.model_dump(mode="json") if config else None,
    }
