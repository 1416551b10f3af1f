"""The models of an experiment: the base model, checked, and beside it the one that a run has made of it."""

from typing import NamedTuple

from dualoptim_diffusion.core.classes import same_classes, some
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.timing import timed
from dualoptim_diffusion.files.run_folder import RunFolder
from dualoptim_diffusion.models import DenoisingModel, model_sha256
from dualoptim_diffusion.models.loading import load_model
from dualoptim_diffusion.runs.experiment import Experiment
from dualoptim_diffusion.runs.obtain import obtain_model

MODEL_PATH = "model.path=FOLDER"  # says where a base model lies now


class OpenedModel(NamedTuple):
    """A model and the hash of its weights."""

    model: DenoisingModel
    sha256: str


def obtain_base(experiment: Experiment) -> DenoisingModel:
    """The model before forgetting: loaded, or pretrained and cached."""
    names, recipe = experiment.facts.id2label, experiment.pretrain_recipe
    return obtain_model(experiment.recipe.model, recipe, experiment.accelerator, names)


def open_base_model(experiment: Experiment) -> OpenedModel:
    """The model before forgetting: loaded, or pretrained and cached; checked against the data and the method.

    Raises:
        InputError: if it cannot be had or does not fit.
    """
    with timed("base model"):
        model = obtain_base(experiment)
    check_model(experiment, model)
    return OpenedModel(model, model_sha256(model))


def open_both_models(
    experiment: Experiment, folder: RunFolder, first: RunFolder | None = None
) -> dict[str, OpenedModel]:
    """The original and the unlearned model of a run, prepared for drawing.

    Args:
        first: the run that the original is the base model of, where it is another.

    Raises:
        InputError: if one cannot be had, or the original is not the one that the run was made with.
    """
    models = {
        "original": obtain_base(experiment),
        "unlearned": load_model(folder.model, experiment.accelerator.device),
    }
    opened = {role: OpenedModel(model, model_sha256(model)) for role, model in models.items()}
    (first or folder).check_origin("base_model_sha256", opened["original"].sha256, "base model", MODEL_PATH)
    for model in models.values():
        experiment.prepare(model)
    return opened


def check_model(experiment: Experiment, model: DenoisingModel) -> None:
    """Checks that the model draws what the data set holds.

    Raises:
        InputError: if its family, classes or shapes differ, or it has no null class where one is needed.
    """
    config = experiment.recipe.model
    if config.family not in (None, model.family):
        raise InputError(
            f"model.family is {config.family}, but {config.path or config.pretrain} is a {model.family} model; set "
            f"model.family={model.family} or leave it out."
        )
    if not same_classes(model.id2label, experiment.facts.id2label):
        one_more = model.null_class is None and model.num_classes == len(experiment.facts.id2label) + 1
        hint = ", or name the one that means no class as model.null_class" if one_more else ""
        raise InputError(
            f"The model draws {some(model.id2label)}, the data set {experiment.recipe.data.name!r} holds others; use "
            f"data with the model's classes{hint}."
        )
    shape = experiment.facts.shape
    if model.image_shape != shape:
        raise InputError(
            f"The model draws images of shape {model.image_shape}, the data set holds {shape}; data.image_size resizes "
            "images, and other channels need another model."
        )
    experiment.method.check(model)
    scale = experiment.sampling.guidance_scale
    if model.null_class is None and scale != 1:
        raise InputError(
            f"guidance_scale is {scale} under the protocol {experiment.protocol.name}, but the model has no null "
            "class; set model.null_class, or sampling.guidance_scale=1 and a protocol that leaves it open."
        )
