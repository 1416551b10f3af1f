"""The controls of an audit: models trained without the class, given as runs or trained here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dualoptim_diffusion.core.classes import same_classes
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.recipes import read_yaml
from dualoptim_diffusion.files.run_folder import RunFolder
from dualoptim_diffusion.models import DenoisingModel
from dualoptim_diffusion.models.loading import load_model
from dualoptim_diffusion.runs.experiment import Experiment
from dualoptim_diffusion.runs.obtain import find_pretrained, obtain_pretrained

NO_RECIPE = "--retrain needs a pretraining recipe, but the run's model was given as a folder."


@dataclass(frozen=True)
class Controls:
    """Models that have never seen the class.

    Attributes:
        given: runs of the method retrain, or their pipeline folders; none takes those that were trained here.
        count: at most so many that were trained here, with the seeds of the run and those after it.
        retrain: train those of them that are not there.
    """

    given: Sequence[Path] = ()
    count: int = 2
    retrain: bool = False


def open_controls(experiment: Experiment, original: DenoisingModel, controls: Controls) -> dict[str, DenoisingModel]:
    """Models that never saw the forgotten classes, by where each comes from.

    Raises:
        InputError: if one has seen them or is of another kind, or cannot be trained.
    """
    if controls.given:
        return {str(path): _given_control(experiment, original, path) for path in controls.given}
    device, recipe = experiment.accelerator.device, experiment.retraining_recipe
    if recipe is None:
        if controls.retrain:
            raise InputError(NO_RECIPE)
        return {}
    found, retain_set, first = {}, experiment.sets[1], recipe.run.seed
    for seed in range(first, first + controls.count):
        other = recipe.model_copy(update={"run": recipe.run.model_copy(update={"seed": seed})})
        if (folder := find_pretrained(other, retain_set)) is None and controls.retrain:
            folder = obtain_pretrained(other, retain_set, experiment.accelerator)
        if folder is not None:
            found[f"retrained here, seed {seed}"] = load_model(folder, device)
    return found


def _given_control(experiment: Experiment, original: DenoisingModel, path: Path) -> DenoisingModel:
    """The model of a run of the method retrain, or of a pipeline folder."""
    _check_retrained(RunFolder(path))
    model = load_model(path, experiment.accelerator.device, original.null_class, original.id2label)
    if not same_classes(model.id2label, original.id2label) or model.x_0_shape != original.x_0_shape:
        raise InputError(f"The control {path} draws other classes or sizes; retrain the run's own model.")
    if missing := [name for name in experiment.forget_names if name not in model.forgotten]:
        raise InputError(f"The control {path} was not retrained without {missing[0]!r}; name one that was.")
    return model


def _check_retrained(control: RunFolder) -> None:
    control.check_whole()
    if control.recipe.is_file():
        method = read_yaml(control.recipe).get("method")
        name = method.get("name") if isinstance(method, dict) else method
        if name != "retrain":
            raise InputError(
                f"The control {control.path} was made by the method {name!r}, expected retrain: a control has never "
                "seen the class."
            )
