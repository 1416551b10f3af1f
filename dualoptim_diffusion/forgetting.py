"""Forgetting: base model, mask, optimizers, the loop; everything into one run folder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dualoptim_diffusion.assets import obtain_classifier, obtain_model, save_model
from dualoptim_diffusion.checkpoint import write_json
from dualoptim_diffusion.config import PretrainRecipe
from dualoptim_diffusion.data import ImageSet, split
from dualoptim_diffusion.dual_optim import ELEMENTWISE, DualOptim, freeze_off_mask, make_optimizer
from dualoptim_diffusion.ema import EMA
from dualoptim_diffusion.errors import InputError
from dualoptim_diffusion.evaluation import match_classes
from dualoptim_diffusion.experiment import Experiment, check_model, say
from dualoptim_diffusion.methods import phases
from dualoptim_diffusion.models import ConditionalDDPM, weights_sha256
from dualoptim_diffusion.provenance import describe_origin, digest, timed
from dualoptim_diffusion.recipes import cache_folder, load_recipe, recipe_sha256
from dualoptim_diffusion.run_folder import check_out, claim
from dualoptim_diffusion.saliency import Mask, compute_mask, density, load_mask, save_mask
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
        InputError: before anything is written, if something does not fit.
        Stopped: after `stop_after` steps or a signal, with the state saved for `resume`.
    """
    accelerator, recipe = experiment.accelerator, experiment.recipe
    seconds: dict[str, float] = {}
    check_out(out, experiment, resume, overwrite)
    with timed(seconds, "base model"):
        model = obtain_model(recipe.model, experiment.recipe_path, accelerator)
    check_model(experiment, model)
    with timed(seconds, "classifier"):
        classifier = obtain_classifier(recipe.evaluation.classifier, experiment.recipe_path, accelerator)
    match_classes(classifier, model.id2label)
    mask = load_mask(mask_path, model.network, experiment.forget_labels) if mask_path else None
    base_sha256 = weights_sha256(model.network.state_dict())
    if accelerator.is_main_process:
        claim(out, experiment, resume)
        origin = describe_origin(accelerator.device) | {
            "recipe_sha256": experiment.recipe_sha256,
            "seed": recipe.run.seed,
            "base_model_sha256": base_sha256,
            "classifier_sha256": classifier.sha256,
        }
        write_json(out / "provenance.json", origin)
    accelerator.wait_for_everyone()

    model.prepare(accelerator)
    forget_set, retain_set = split(experiment.train_set, experiment.forget_classes)
    if accelerator.is_main_process:
        say(f"forget set: {len(forget_set)} images of {', '.join(experiment.forget_names)}; "
            f"retain set: {len(retain_set)} images")  # fmt: skip
    with timed(seconds, "saliency"):
        if recipe.method.mask is not None and "mask" in experiment.method.reads:
            mask = mask or saliency(experiment, model)
            if accelerator.is_main_process:
                say(f"mask: {density(mask):.1%} of the weights")
                save_mask(out / "mask.safetensors", mask, mask_provenance(experiment, base_sha256))
        else:
            mask = None
    with timed(seconds, "forgetting"):
        if experiment.method.from_scratch:
            model = _retrain(experiment, retain_set, out, stop_after)
        else:
            _forget(experiment, model, mask, forget_set, retain_set, out, base_sha256, stop_after)
    save_model(model, out / "model", accelerator)
    if accelerator.is_main_process:
        write_json(out / "provenance.json", origin | {"model_sha256": weights_sha256(model.network.state_dict())})
    return evaluate_run(experiment, out, seconds)


def _forget(
    experiment: Experiment,
    model: ConditionalDDPM,
    mask: Mask | None,
    forget_set: ImageSet,
    retain_set: ImageSet,
    out: Path,
    base_sha256: str,
    stop_after: int | None,
) -> None:
    settings, network = experiment.recipe.method, model.network
    mask = {name: m.to(experiment.accelerator.device) for name, m in mask.items()} if mask else None
    ema = None if settings.ema_decay is None else EMA(network, settings.ema_decay)
    network.train()
    run_phases(
        network,
        make_optimizers(experiment, model, mask),
        phases(
            experiment.method,
            model,
            experiment.batches(model, forget_set, "forget"),
            experiment.batches(model, retain_set, "retain"),
            mask,
        ),
        settings.num_steps,
        folder=out,
        identity=digest(experiment.recipe_sha256, base_sha256, weights_sha256(mask) if mask else ""),
        title=f"forgetting {', '.join(experiment.forget_names)}",
        accelerator=experiment.accelerator,
        ema=ema,
        stop_after=stop_after,
    )
    if ema is not None:
        network.load_state_dict(ema.state_dict())


def _retrain(experiment: Experiment, retain_set: ImageSet, out: Path, stop_after: int | None) -> ConditionalDDPM:
    assert experiment.recipe.model.pretrain is not None  # open_experiment has checked it
    recipe = load_recipe(PretrainRecipe, experiment.recipe.model.pretrain, beside=experiment.recipe_path)
    identity = digest(experiment.recipe_sha256, recipe_sha256(recipe.model_dump(mode="json")), retain_set.sha256)
    return pretrain(recipe, retain_set, experiment.accelerator, out, identity, stop_after)


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
    base_sha256 = weights_sha256(model.network.state_dict())
    provenance = mask_provenance(experiment, base_sha256)
    path = cache_folder() / "masks" / f"{digest(repr(sorted(provenance.items())))[:16]}.safetensors"
    if path.is_file():
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
        "mask": config.model_dump(mode="json") if config else None,
    }
