"""What an experiment needs: accelerator, base model, classifier, replay images; made once and cached."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType

from dualoptim_diffusion.core.allocator import keep_freed_memory
from dualoptim_diffusion.core.config import DataConfig, EvaluationConfig, ModelConfig
from dualoptim_diffusion.core.environment import drop_stray_launcher
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.hashes import content_sha256
from dualoptim_diffusion.core.places import is_place
from dualoptim_diffusion.core.recipes import recipe_sha256
from dualoptim_diffusion.core.training_config import ClassifierRecipe, PretrainRecipe
from dualoptim_diffusion.data import DataFacts, ImageSet, data_facts, load_dataset
from dualoptim_diffusion.evaluation.features import (
    Extractor,
    classifier_features,
    inception_features,
    timm_features,
    with_full_contrast_bgr,
)
from dualoptim_diffusion.evaluation.protocol import Protocol
from dualoptim_diffusion.files.cache import cache_entry, get_or_make_folder, read_kept
from dualoptim_diffusion.files.run_folder import RunFolder
from dualoptim_diffusion.judge.classifier import CLASSIFIER, Classifier, new_classifier
from dualoptim_diffusion.judge.training import train_classifier
from dualoptim_diffusion.models import DenoisingModel
from dualoptim_diffusion.models.loading import load_model, save_model
from dualoptim_diffusion.unlearning.driver import Checkpointer
from dualoptim_diffusion.unlearning.pretraining import pretrain

DEVICES = ("auto", "cpu", "cuda", "mps")


def make_accelerator(device: str) -> Accelerator:
    """The accelerator of this process: auto takes cuda, then mps, then the CPU.

    Raises:
        InputError: for a device that is not there, or a launch configuration that breaks two optimizers.
    """
    if device not in DEVICES:
        raise InputError(f"run.device is {device!r}, expected one of {', '.join(DEVICES)}.")
    if os.environ.get("ACCELERATE_MIXED_PRECISION") == "fp16":
        raise InputError("fp16 unscales the shared gradients once for each optimizer; launch with bf16 instead.")
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(device, True):
        raise InputError(f"run.device is {device!r}, but this machine has none; use run.device=auto or cpu.")
    drop_stray_launcher()
    # accelerate lets processes meet on a CPU only where it is told to use one
    on_cpu = device == "cpu" or (device == "auto" and not any(available.values()))
    if on_cpu:
        keep_freed_memory()
    accelerator = Accelerator(cpu=on_cpu, mixed_precision="no")  # each model knows its own: a base may have another
    if (launched := int(os.environ.get("WORLD_SIZE", "1"))) != accelerator.num_processes:
        raise InputError(
            f"{launched} processes were launched, but this one found {accelerator.num_processes}; launch them with "
            "`accelerate launch -m` or `python -m torch.distributed.run -m`, on as many GPUs or with run.device=cpu."
        )
    if accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.FSDP):
        raise InputError(
            f"{accelerator.distributed_type.value} keeps one optimizer state where DualOptim needs two; "
            "launch with plain multi-GPU (DDP) instead."
        )
    return accelerator


def obtain_model(
    config: ModelConfig,
    recipe: PretrainRecipe | None,
    accelerator: Accelerator,
    id2label: Mapping[int, str] | None = None,
) -> DenoisingModel:
    """The base model: loaded from `path`, or pretrained by the recipe and cached.

    Args:
        recipe: the one that `config.pretrain` names; None where a path is given.
        id2label: names for the classes of a stock folder, as `load_model` takes them.
    """
    if config.path is not None:
        return load_model(Path(config.path), accelerator.device, config.null_class, id2label)
    if config.null_class is not None:
        raise InputError(f"model.null_class is {config.null_class}, which only a folder in model.path has use for.")
    assert recipe is not None  # the only other source of a model
    check_images(recipe.data, "model.path")
    train_set, _ = load_dataset(recipe.data)
    return load_model(obtain_pretrained(recipe, train_set, accelerator), accelerator.device)


def check_images(data: DataConfig, key: str) -> None:
    """Checks that the folder of images that something is made of is here.

    Args:
        key: where its outcome could be named in place of its recipe.

    Raises:
        InputError: if it is not.
    """
    if data.name in ("image_folder", "replay") and data.path is not None and not Path(data.path).exists():
        raise InputError(
            f"There are no images in {data.path}; give what was made of them as {key}=FOLDER, or restore them."
        )


def obtain_pretrained(
    recipe: PretrainRecipe, dataset: ImageSet, accelerator: Accelerator, stop_after: int | None = None
) -> Path:
    """Folder of the pipeline that the recipe makes of `dataset`; an interrupted pretraining continues."""
    entry, inputs = _pretraining(recipe, dataset)

    def make(path: Path) -> None:
        folder = RunFolder(path.parent)
        checkpointer = Checkpointer(folder.checkpoints, inputs, recipe.run.checkpoint_every)
        model = pretrain(recipe, dataset, accelerator, folder, checkpointer, stop_after)
        save_model(model, path, accelerator)
        if accelerator.is_main_process:
            shutil.rmtree(folder.checkpoints)

    return get_or_make_folder(entry.model, entry.model_index.name, make, accelerator)


def contents_of(section: Mapping[str, Any]) -> dict[str, str]:
    """By key, the hash of what lies at each path in a section of a recipe."""
    return {
        key: content_sha256(Path(value))
        for key, value in section.items()
        if is_place(value) and Path(value).exists()  # who needs it says that it is not there
    }


def find_pretrained(recipe: PretrainRecipe, dataset: ImageSet) -> Path | None:
    """That folder, if the model has been made and is sound."""
    folder, _ = _pretraining(recipe, dataset)
    return folder.model if read_kept(folder.model, lambda path: folder.model_index.stat()) else None


def _pretraining(recipe: PretrainRecipe, dataset: ImageSet) -> tuple[RunFolder, dict[str, str]]:
    """Where a pretrained model is cached, and by name the hash of each thing that it depends on."""
    values = recipe.model_dump(mode="json")
    inputs = {"recipe": recipe_sha256(values), "data set": dataset.sha256, **contents_of(values["model"])}
    return RunFolder(cache_entry("models", *inputs.values())), inputs


def obtain_classifier(source: ClassifierRecipe | str, key: str, accelerator: Accelerator) -> Classifier:
    """A network of `train-classifier`: trained by the recipe and cached, or in a folder.

    Args:
        key: which names it, such as evaluation.classifier.

    Raises:
        InputError: if it cannot be had.
    """
    if isinstance(source, str):
        folder = Path(source)
        if not folder.exists():
            raise InputError(f"There is no folder {source} of `dualoptim train-classifier`; name it as {key}=FOLDER.")
    else:
        check_images(source.data, key)
        folder = obtain_trained_classifier(source, accelerator)
    classifier = Classifier.load(folder)
    classifier.network.to(accelerator.device)
    return classifier


def obtain_extractor(
    config: EvaluationConfig,
    protocol: Protocol,
    classifier: Classifier,
    recipe: ClassifierRecipe | None,
    accelerator: Accelerator,
) -> Extractor:
    """Where the features for distances come from.

    Args:
        recipe: the one that `config.features` names, if it names one.

    Raises:
        InputError: if weights are missing, or the protocol measures on others.
    """
    if protocol.inception_only and config.features != "inception":
        raise InputError(
            f"The protocol {protocol.name} measures FID, but evaluation.features is {config.features!r}; set "
            "evaluation.features=inception or choose another protocol."
        )
    if config.features == "inception":
        extractor = inception_features(config.features_weights, accelerator.device)
    elif config.features == "classifier":
        extractor = classifier_features(classifier)
    elif config.features_are_trained:
        network = obtain_classifier(recipe or config.features, "evaluation.features", accelerator)
        info = network.info
        extractor = classifier_features(network, info.name if info.task == "classes" else info.task)
    else:
        extractor = timm_features(config.features, config.features_weights, accelerator.device)
    return with_full_contrast_bgr(extractor) if protocol.edit == "stretched, BGR" else extractor


def obtain_trained_classifier(recipe: ClassifierRecipe, accelerator: Accelerator) -> Path:
    """Folder of the classifier that the recipe makes.

    One that is judged as it is needs no images; where they are not on this machine, it stays unmeasured.
    """

    def make(path: Path) -> None:
        if accelerator.is_main_process:
            _make_classifier(recipe, accelerator.device).save(path)

    return get_or_make_folder(find_classifier(recipe), CLASSIFIER, make, accelerator)


def _make_classifier(recipe: ClassifierRecipe, device: torch.device) -> Classifier:
    facts = data_facts(recipe.data)
    if _unmeasured(recipe, facts):
        return new_classifier(recipe.classifier, facts.id2label, facts.shape[0], num_steps=0)
    return train_classifier(recipe, *load_dataset(recipe.data), device)


def find_classifier(recipe: ClassifierRecipe) -> Path:
    """That folder, whether or not the classifier has been made."""
    values = recipe.model_dump(mode="json")
    made_from = (recipe_sha256(values), *contents_of(values["classifier"]).values())
    if _unmeasured(recipe, data_facts(recipe.data)):
        return cache_entry("classifiers", *made_from, "unmeasured")
    train_set, held_out = load_dataset(recipe.data)
    return cache_entry("classifiers", *made_from, train_set.sha256, held_out.sha256)


def _unmeasured(recipe: ClassifierRecipe, facts: DataFacts) -> bool:
    """Whether it is judged as it is and the images to measure it on are not here."""
    return facts.missing is not None and recipe.training.num_steps == 0
