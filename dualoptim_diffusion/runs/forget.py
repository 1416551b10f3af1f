"""Forgetting: base model, mask, optimizers, the loop; everything into one run folder."""

from pathlib import Path

from accelerate.tracking import filter_trackers, get_available_trackers
from torch.optim import Optimizer

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.terminal import say
from dualoptim_diffusion.core.timing import timed
from dualoptim_diffusion.evaluation import match_classes
from dualoptim_diffusion.files.checkpoint import load_checkpoint
from dualoptim_diffusion.files.json_files import write_json
from dualoptim_diffusion.files.locks import held
from dualoptim_diffusion.files.metrics import read_metrics
from dualoptim_diffusion.files.weight_files import weights_sha256
from dualoptim_diffusion.models import DenoisingModel, model_sha256
from dualoptim_diffusion.models.loading import save_model
from dualoptim_diffusion.optim.dual_optim import DualOptim
from dualoptim_diffusion.optim.ema import EMA
from dualoptim_diffusion.optim.factory import (
    ELEMENTWISE,
    freeze_off_mask,
    make_8bit_adamw,
    make_optimizer,
    set_momentum,
)
from dualoptim_diffusion.optim.linked_adam import linked_pair
from dualoptim_diffusion.optim.mask_indices import smaller_form, support_of
from dualoptim_diffusion.optim.masked_adamw import MaskedAdamW
from dualoptim_diffusion.runs.evaluate import Results, evaluate_run, open_bench
from dualoptim_diffusion.runs.experiment import Experiment, check_model
from dualoptim_diffusion.runs.folder import check_out, claim
from dualoptim_diffusion.runs.mask import mask_provenance, obtain_mask
from dualoptim_diffusion.runs.obtain import obtain_model
from dualoptim_diffusion.runs.provenance import describe_origin
from dualoptim_diffusion.runs.replay import replay_set
from dualoptim_diffusion.runs.validation import Looks
from dualoptim_diffusion.unlearning.driver import run_phases
from dualoptim_diffusion.unlearning.guards import DriftGuard
from dualoptim_diffusion.unlearning.methods import phases
from dualoptim_diffusion.unlearning.pretraining import pretrain
from dualoptim_diffusion.unlearning.saliency import Mask, density, mask_header, save_mask


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
    experiment.check_states(masked=mask_path is not None)
    check_tracker(experiment.recipe.run.tracker)
    with held(out, experiment.accelerator):
        check_out(out, experiment, resume, overwrite, mask_path)
        return _forget(experiment, out, mask_path, resume, stop_after)


def _forget(experiment: Experiment, out: Path, mask_path: Path | None, resume: bool, stop_after: int | None) -> Results:
    accelerator, recipe, method = experiment.accelerator, experiment.recipe, experiment.method
    seconds: dict[str, float] = {}
    with timed(seconds, "base model"):
        model = obtain_model(recipe.model, experiment.recipe_path, accelerator, experiment.facts.id2label)
    check_model(experiment, model)
    base_sha256 = model_sha256(model)
    with timed(seconds, "classifier"):
        bench = open_bench(experiment)
    match_classes(bench.classifier, experiment.labels)
    experiment.prepare(model)
    forget_set, retain_set = experiment.training_sets(model)
    if method.replays:
        with timed(seconds, "replay"):
            retain_set = replay_set(experiment, model, base_sha256)
    with timed(seconds, "saliency"):
        mask = obtain_mask(experiment, model, mask_path)
    identity = {"recipe": experiment.recipe_sha256, "base model": base_sha256}
    identity |= {"mask": weights_sha256(mask)} if mask else {}
    forget_batches = experiment.batches(model, forget_set, "forget")
    retain_batches = experiment.batches(model, retain_set, "retain")
    if resume and (restored := load_checkpoint(out / "checkpoints", identity)):  # refuses another run's
        read_metrics(out, restored.step)  # and damaged ones, before anything is written
        del restored  # the training reads it when it needs it

    accelerator.wait_for_everyone()
    origin = describe_origin(accelerator.device) | {
        "recipe_sha256": experiment.recipe_sha256,
        "seed": recipe.run.seed,
        "base_model_sha256": base_sha256,
        "classifier_sha256": bench.classifier.sha256,
    }
    if accelerator.is_main_process:
        claim(out, experiment, origin, resume)
        sizes = (
            f"{len(forget_set)} images of {', '.join(experiment.forget_names)}, retain set: {len(retain_set)} images"
        )
        say(f"forget set: {sizes}" + (f"; mask: {density(mask):.1%} of the weights" if mask else ""))
        if mask is not None:
            header = mask_header(mask_path) if mask_path else mask_provenance(experiment, model, base_sha256)
            save_mask(out / "mask.safetensors", mask, header)
    accelerator.wait_for_everyone()

    if model.has_autoencoder and not method.from_scratch:
        with timed(seconds, "encoding images"):
            forget_batches.prepare(method.num_updates["forget"])
            retain_batches.prepare(method.num_updates["retain"])
    with timed(seconds, "forgetting"):
        if method.from_scratch:
            assert experiment.retraining_recipe is not None  # open_experiment has checked it
            model = pretrain(experiment.retraining_recipe, experiment.sets[1], accelerator, out, identity, stop_after)
        else:
            if mask is not None:
                form = support_of if experiment.needs_mask else smaller_form  # places are what compact states share
                mask = {name: form(part.to(accelerator.device)) for name, part in mask.items()}
            ema = None if recipe.method.ema_decay is None else EMA(model.network, recipe.method.ema_decay)
            looks = Looks(experiment, model, bench, ema, out) if recipe.evaluation.every else None
            model.network.train()
            start_tracker(experiment, out)
            method.prepare(model, retain_set)
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
                look=looks,
                look_every=recipe.evaluation.every,
                log_cosine=recipe.run.log_cosine,
                save_every=recipe.run.checkpoint_every,
                guard=DriftGuard(recipe.run.stop_when.factors),
            )
            for tracker in accelerator.trackers:
                tracker.finish()
            if ema is not None:
                model.network.load_state_dict(ema.state_dict())
            if looks is not None and recipe.evaluation.keep == "best":
                looks.load_best()
    model.forgotten = sorted({*model.forgotten, *experiment.forget_names})
    save_model(model, out / "model", accelerator)
    if accelerator.is_main_process:
        write_json(out / "provenance.json", origin | {"model_sha256": model_sha256(model)})
    return evaluate_run(experiment, out, seconds, bench)


def check_tracker(name: str | None) -> None:
    """Checks that the recipe's tracker is here, if it names one.

    Raises:
        InputError: if its package is not installed.
    """
    if name is not None and name not in map(str, get_available_trackers()):
        raise InputError(f"run.tracker is {name!r}, but that package is not installed; `pip install {name}`.")


def start_tracker(experiment: Experiment, out: Path) -> None:
    """Lets the accelerator log every step to the recipe's tracker, if it names one."""
    if (name := experiment.recipe.run.tracker) is None:
        return
    experiment.accelerator.project_configuration.logging_dir = str(out)
    experiment.accelerator.log_with = filter_trackers([name], str(out))
    experiment.accelerator.init_trackers(name)


def make_optimizers(experiment: Experiment, model: DenoisingModel, mask: Mask | None) -> DualOptim:
    """The recipe's pair of optimizers, or one for both phases; weights off the mask stay where only masked steps go.

    One shared optimizer moves them in the forget step too, by its momentum, as in the published baselines.
    """
    names, settings, method = experiment.recipe.optimizers, experiment.recipe.method, experiment.method
    parameters = dict(model.network.named_parameters())
    alternates, masked = method.alternates(settings), mask or {}
    supports = [masked[name] for name in parameters] if experiment.needs_mask else []

    states = {phase: experiment.values["optimizers"].get(f"{phase}_state") for phase in ("forget", "retain")}

    def of_phase(phase: str, name: str, lr: float) -> Optimizer:
        if states[phase] == "compact":
            return MaskedAdamW(parameters.values(), supports, lr, fused=names.fused)
        if states[phase] == "8bit":
            return make_8bit_adamw(parameters.values(), lr)
        return make_optimizer(name, parameters.values(), lr, names.fused)

    def moves_off_mask(phase: str, name: str) -> bool:
        return name not in ELEMENTWISE or states[phase] == "8bit"

    forget: Optimizer
    retain: Optimizer
    if alternates and names.mode != "dual" and names.mode != "shared":
        forget, retain = linked_pair(names.mode, parameters.values(), settings.forget_lr, settings.retain_lr)
        mixes = {"forget": True, "retain": True}  # the partner's moments reach weights that are off the mask
    else:
        retain = of_phase("retain", names.retain, settings.retain_lr)
        shares = names.mode == "shared" or not alternates
        forget = retain if shares else of_phase("forget", names.forget, settings.forget_lr)
        mixes = {
            "forget": not shares and moves_off_mask("forget", names.forget),
            "retain": moves_off_mask("retain", names.retain),
        }
    for optimizer, momentum in ((forget, names.forget_momentum), (retain, names.retain_momentum)):
        if momentum is not None:
            set_momentum(optimizer, momentum)
    if mixes["forget"]:
        freeze_off_mask(forget, parameters, masked)
    if mixes["retain"] and method.masks_retain:
        freeze_off_mask(retain, parameters, masked)
    return DualOptim(forget, retain)
