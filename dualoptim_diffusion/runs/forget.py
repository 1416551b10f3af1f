"""`dualoptim forget`: base model, mask, optimizers, the loop, evaluation; everything into one run folder."""

from dataclasses import dataclass
from pathlib import Path

from accelerate.tracking import filter_trackers, get_available_trackers

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.terminal import say
from dualoptim_diffusion.core.timing import timed, timings
from dualoptim_diffusion.data import Batches
from dualoptim_diffusion.files.atomic import exchange
from dualoptim_diffusion.files.json_files import write_json
from dualoptim_diffusion.files.locks import locked_run
from dualoptim_diffusion.files.results_file import Results
from dualoptim_diffusion.files.run_folder import RunFolder
from dualoptim_diffusion.files.weight_files import weights_sha256
from dualoptim_diffusion.models import DenoisingModel, model_sha256
from dualoptim_diffusion.models.loading import save_model
from dualoptim_diffusion.optim.ema import EMA
from dualoptim_diffusion.optim.mask_indices import indices_of, smaller_form
from dualoptim_diffusion.runs.card import known_licence
from dualoptim_diffusion.runs.evaluate import EvaluationSetup, evaluate_run, open_evaluation
from dualoptim_diffusion.runs.experiment import Experiment
from dualoptim_diffusion.runs.folder import check_out, claim
from dualoptim_diffusion.runs.mask import mask_provenance, obtain_mask
from dualoptim_diffusion.runs.models import OpenedModel, open_base_model
from dualoptim_diffusion.runs.provenance import describe_origin
from dualoptim_diffusion.runs.replay import replay_set
from dualoptim_diffusion.runs.validation import Validation
from dualoptim_diffusion.unlearning.driver import Checkpointer, Recorder, Training, drive
from dualoptim_diffusion.unlearning.guards import DriftGuard
from dualoptim_diffusion.unlearning.methods import phases
from dualoptim_diffusion.unlearning.pretraining import pretrain
from dualoptim_diffusion.unlearning.saliency import Mask, density, mask_header, save_mask


@dataclass(frozen=True)
class Forgetting:
    """A base model, and what the loop needs to make it forget.

    Attributes:
        base_sha256: hash of the base model's weights.
        mask: bool by parameter name, or None.
    """

    experiment: Experiment
    model: DenoisingModel
    base_sha256: str
    forget_batches: Batches
    retain_batches: Batches
    mask: Mask | None

    @property
    def identity(self) -> dict[str, str]:
        """By name, the hash of each thing that the result depends on."""
        experiment = self.experiment
        identity = {"recipe": experiment.recipe_sha256, "base model": self.base_sha256}
        identity["data set"] = experiment.train_set.sha256
        return identity | ({"mask": weights_sha256(self.mask)} if self.mask else {})

    def encode(self) -> None:
        """Encodes the images that the run will draw, for a model of latents."""
        method = self.experiment.method
        if self.model.autoencoder is not None and not method.from_scratch:
            with timed("encoding images"):
                self.forget_batches.prepare(method.num_updates["forget"])
                self.retain_batches.prepare(method.num_updates["retain"])

    def training(self) -> Training:
        """The arguments of the loop; the model is in training mode, and the method has seen the base weights."""
        experiment, model, method = self.experiment, self.model, self.experiment.method
        plan, recipe, mask = experiment.optimizers, experiment.recipe, self.mask
        if mask is not None:
            form = indices_of if plan.needs_indices else smaller_form  # indices are what compact states share
            mask = {name: form(part.to(experiment.accelerator.device)) for name, part in mask.items()}
        ema = None if recipe.method.ema_decay is None else EMA(model.network, recipe.method.ema_decay)
        model.network.train()
        method.prepare(model, self.retain_batches.dataset)
        return Training(
            model.network,
            plan.build(model.network, mask),
            phases(method, model, self.forget_batches, self.retain_batches, mask),
            method.num_steps,
            ema,
            recipe.run.log_cosine,
        )


def prepare_forgetting(experiment: Experiment, base: OpenedModel, mask_path: Path | None = None) -> Forgetting:
    """Prepares the base model, the two sets and the mask.

    Args:
        mask_path: a mask made before; None computes the one that the recipe asks for.

    Raises:
        InputError: if the mask or the data do not fit the model.
    """
    model, base_sha256 = base
    experiment.prepare(model)
    forget_set, retain_set = experiment.training_sets(model)
    if experiment.method.replays:
        with timed("replay"):
            retain_set = replay_set(experiment, model, base_sha256)
    with timed("saliency"):
        mask = obtain_mask(experiment, model, mask_path)
    forget_batches = experiment.batches(model, forget_set, "forget")
    retain_batches = experiment.batches(model, retain_set, "retain")
    return Forgetting(experiment, model, base_sha256, forget_batches, retain_batches, mask)


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
    experiment.check_states(has_mask=mask_path is not None)
    check_tracker(experiment.recipe.run.tracker)
    with locked_run(out, experiment.accelerator), timings():
        folder = check_out(RunFolder(out), experiment, resume, overwrite, mask_path)
        base = open_base_model(experiment)
        with timed("classifier"):
            setup = open_evaluation(experiment)
        forgetting = prepare_forgetting(experiment, base, mask_path)
        every = (experiment.training_recipe or experiment.recipe).run.checkpoint_every
        checkpointer = Checkpointer(folder.checkpoints, forgetting.identity, every)
        if resume:  # damaged files and those of other runs are refused before anything is written
            folder.read_metrics(checkpointer.read())
        origin = _origin(forgetting, setup)
        if experiment.accelerator.is_main_process:
            claim(folder, experiment, origin, resume)
            _save_inputs(forgetting, folder, mask_path)
        experiment.accelerator.wait_for_everyone()
        forgetting.encode()
        with timed("forgetting"):
            model = _train(forgetting, folder, checkpointer, setup, stop_after)
        model.forgotten = sorted({*model.forgotten, *experiment.forget_names})
        save_model(model, folder.model, experiment.accelerator)
        if experiment.accelerator.is_main_process:
            made = {"model_sha256": model_sha256(model), "model_files": folder.model_files_sha256()}
            write_json(folder.provenance, origin | made)
        results = evaluate_run(experiment, folder, setup)
        if folder.path != out and experiment.accelerator.is_main_process:
            exchange(out)
        experiment.accelerator.wait_for_everyone()
        return results


def _origin(forgetting: Forgetting, setup: EvaluationSetup) -> dict[str, object]:
    """What provenance.json says of a run."""
    experiment = forgetting.experiment
    licence = known_licence(experiment.recipe.model.path, forgetting.model)
    return describe_origin(experiment.accelerator.device) | {
        "recipe_sha256": experiment.recipe_sha256,
        "seed": experiment.recipe.run.seed,
        "data_sha256": experiment.data_sha256,
        "base_model_sha256": forgetting.base_sha256,
        "classifier_sha256": setup.classifier.sha256,
        "features_sha256": setup.extractor.sha256,
        **({"base_model_license": licence} if licence else {}),
    }


def _save_inputs(forgetting: Forgetting, folder: RunFolder, mask_path: Path | None) -> None:
    """Writes the mask, and says how large everything is."""
    experiment, mask = forgetting.experiment, forgetting.mask
    gone, retained = (len(part.dataset) for part in (forgetting.forget_batches, forgetting.retain_batches))
    sizes = f"forget set: {gone} images of {', '.join(experiment.forget_names)}, retain set: {retained} images"
    say(sizes + (f"; mask: {density(mask):.1%} of the weights" if mask else ""))
    if mask is not None:
        made = mask_header(mask_path) if mask_path else None
        save_mask(folder.mask, mask, made or mask_provenance(experiment, forgetting.model, forgetting.base_sha256))


def _train(
    forgetting: Forgetting,
    folder: RunFolder,
    checkpointer: Checkpointer,
    setup: EvaluationSetup,
    stop_after: int | None,
) -> DenoisingModel:
    """The unlearned model: by the loop, or by pretraining on the retain set alone."""
    experiment, model = forgetting.experiment, forgetting.model
    recipe, accelerator = experiment.recipe, experiment.accelerator
    if (pretraining := experiment.training_recipe) is not None:
        return pretrain(pretraining, experiment.sets[1], accelerator, folder, checkpointer, stop_after)
    start_tracker(experiment, folder)
    training = forgetting.training()
    validation = Validation(experiment, model, setup, training.ema, folder) if recipe.evaluation.every else None
    if validation is not None:
        validation.picture_base()
    title = f"forgetting {', '.join(experiment.forget_names)}"
    recorder = Recorder(folder, title, accelerator, DriftGuard(recipe.run.stop_when.factors))
    drive(training, checkpointer, recorder, accelerator, stop_after=stop_after, validate=validation)
    for tracker in accelerator.trackers:
        tracker.finish()
    if training.ema is not None:
        model.network.load_state_dict(training.ema.state_dict())
    if validation is not None and recipe.evaluation.keep == "best":
        validation.load_best()
    return model


def check_tracker(name: str | None) -> None:
    """Checks that the recipe's tracker is here, if it names one.

    Raises:
        InputError: if its package is not installed.
    """
    if name is not None and name not in map(str, get_available_trackers()):
        raise InputError(f"run.tracker is {name!r}, but that package is not installed; `pip install {name}`.")


def start_tracker(experiment: Experiment, folder: RunFolder) -> None:
    """Lets the accelerator log every step to the recipe's tracker, if it names one."""
    if (name := experiment.recipe.run.tracker) is None:
        return
    experiment.accelerator.project_configuration.logging_dir = str(folder.path)
    experiment.accelerator.log_with = filter_trackers([name], str(folder.path))
    experiment.accelerator.init_trackers(name)
