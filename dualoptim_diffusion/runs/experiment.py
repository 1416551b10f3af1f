"""An experiment: a recipe with every name in it resolved and checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from dualoptim_diffusion.core.classes import resolve_classes, same_classes
from dualoptim_diffusion.core.config import ForgetRecipe
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.recipes import find_recipe, load_recipe, parse_seeds, recipe_sha256, resolve_keys
from dualoptim_diffusion.core.terminal import say
from dualoptim_diffusion.core.training_config import ClassifierRecipe, PretrainRecipe
from dualoptim_diffusion.data import Batches, DataFacts, ImageSet, data_facts, load_dataset, split
from dualoptim_diffusion.data.encoding import training_images
from dualoptim_diffusion.evaluation.protocol import find_protocol
from dualoptim_diffusion.models import DenoisingModel
from dualoptim_diffusion.models.folders import forgotten_names, is_hub_id
from dualoptim_diffusion.optim.factory import check_8bit, check_optimizer_name, make_optimizer, set_momentum
from dualoptim_diffusion.runs.obtain import make_accelerator
from dualoptim_diffusion.unlearning.methods import Method, find_method


@dataclass(frozen=True)
class Experiment:
    """A recipe with every name in it resolved and checked, before anything is computed."""

    recipe: ForgetRecipe
    recipe_path: Path
    values: dict[str, Any]  # the resolved recipe as plain data
    pretrain_recipe: PretrainRecipe | None  # none where the model is given as a folder
    classifier_recipe: ClassifierRecipe | None  # likewise
    accelerator: Accelerator
    facts: DataFacts  # of the training images, which are opened when they are needed
    forget_classes: tuple[int, ...]
    left_out: tuple[int, ...]  # what the base model was made to forget before: neither trained on nor drawn
    method: Method

    @property
    def recipe_sha256(self) -> str:
        return recipe_sha256(self.values)

    @property
    def needs_mask(self) -> bool:
        """Whether an optimizer keeps its state for the weights under the mask alone."""
        return "compact" in self.values["optimizers"].values()

    def check_states(self, masked: bool = False) -> None:
        """Checks that there will be a mask where a state is compact, and a backend where one has 8 bits.

        Args:
            masked: a mask is given as a file.

        Raises:
            InputError: if there will be none.
        """
        if "8bit" in self.values["optimizers"].values():
            check_8bit(self.accelerator.device)
        if self.needs_mask and not masked and self.recipe.method.mask is None:
            raise InputError(
                "optimizers.forget_state or retain_state is compact, but there is no mask; set method.mask."
            )

    @property
    def forget_names(self) -> list[str]:
        return list(self.forget_labels.values())

    @property
    def labels(self) -> dict[int, str]:
        """Names of the labels that are drawn and judged."""
        return {i: name for i, name in self.facts.id2label.items() if i not in self.left_out}

    @cached_property
    def data(self) -> tuple[ImageSet, ImageSet]:
        """Training and held-out images."""
        return load_dataset(self.recipe.data)

    @property
    def train_set(self) -> ImageSet:
        return self.data[0]

    @cached_property
    def sets(self) -> tuple[ImageSet, ImageSet]:
        """forget_set and retain_set."""
        return split(self.train_set, self.forget_classes, self.left_out)

    @property
    def retraining_recipe(self) -> PretrainRecipe | None:
        """The base model's own recipe with the seed of this run, for training anew without the class; None without."""
        if (recipe := self.pretrain_recipe) is None:
            return None
        return recipe.model_copy(update={"run": recipe.run.model_copy(update={"seed": self.recipe.run.seed})})

    def prepare(self, model: DenoisingModel) -> None:
        """Readies the model for training steps as the recipe's section `run` says."""
        run = self.recipe.run
        if run.gradient_checkpointing:
            model.checkpoint_gradients()
        if run.micro_batch_size is not None:
            model.limit_batches(run.micro_batch_size)
        model.prepare(self.accelerator, run.precision, run.channels_last, run.compile)

    def training_sets(self, model: DenoisingModel) -> tuple[ImageSet, ImageSet]:
        """The same two as the model trains on them: for one of latents, encoded."""
        images = training_images(self.train_set, self.recipe.data, model, self.accelerator)
        return split(images, self.forget_classes, self.left_out)

    @property
    def forget_labels(self) -> dict[int, str]:
        return {i: self.facts.id2label[i] for i in self.forget_classes}

    @property
    def retained_classes(self) -> list[int]:
        """Ids of the labels that are drawn and kept."""
        return [i for i in self.labels if i not in self.forget_classes]

    def batches(self, model: DenoisingModel, dataset: ImageSet, phase: str, batch_size: int | None = None) -> Batches:
        """Batches of one phase for this process."""
        return Batches(
            dataset,
            model,
            seed=self.recipe.run.seed,
            phase=phase,
            batch_size=batch_size or self.recipe.data.batch_size,
            horizontal_flip=self.recipe.data.horizontal_flip,
            device=self.accelerator.device,
            process_index=self.accelerator.process_index,
            num_processes=self.accelerator.num_processes,
        )


def open_experiment(recipe_name: str, class_names: Sequence[str] = (), overrides: Sequence[str] = ()) -> Experiment:
    """Reads a recipe and checks all that can be checked without a model.

    Raises:
        InputError: one sentence about the first thing that is wrong.
    """
    path = find_recipe(recipe_name)
    recipe = load_recipe(ForgetRecipe, recipe_name, overrides)
    method_class = find_method(recipe.method.name)
    values, dropped = resolve_keys(recipe, method_class.reads, alternates=method_class.alternates(recipe.method))
    if recipe.optimizers.mode == "shared":  # one optimizer has one rate and one schedule
        common = {"forget_lr": recipe.method.retain_lr, "forget_schedule": recipe.method.retain_schedule}
        recipe = recipe.model_copy(update={"method": recipe.method.model_copy(update=common)})
    for phase in ("forget", "retain"):
        check_optimizer_name(getattr(recipe.optimizers, phase))
        used = values["optimizers"].get(phase, recipe.optimizers.retain)
        if (momentum := getattr(recipe.optimizers, f"{phase}_momentum")) is not None:
            set_momentum(make_optimizer(used, [torch.nn.Parameter(torch.zeros(1))], lr=1.0), momentum)
    parse_seeds(recipe.sampling.seeds)
    find_protocol(recipe.evaluation.protocol)
    facts = data_facts(recipe.data)
    forget_classes = resolve_classes([*recipe.data.forget_classes, *class_names], facts.id2label, facts.aliases)
    left_out = _forgotten_before(recipe.model.path, forget_classes, facts.id2label)
    pretrain_recipe = classifier_recipe = None  # checked now, and kept beside recipe.yaml
    if recipe.model.path is not None:
        path_or_id = recipe.model.path if is_hub_id(recipe.model.path) else str(Path(recipe.model.path).resolve())
        values["model"] |= {"path": path_or_id, "pretrain": None}
    elif recipe.model.pretrain is not None:
        pretrain_recipe = load_recipe(PretrainRecipe, recipe.model.pretrain, beside=path)
        values["model"]["pretrain"] = "pretrain.yaml"
    if Path(recipe.evaluation.classifier).is_dir():
        values["evaluation"]["classifier"] = str(Path(recipe.evaluation.classifier).resolve())
    else:
        classifier_recipe = load_recipe(ClassifierRecipe, recipe.evaluation.classifier, beside=path)
        values["evaluation"]["classifier"] = "classifier.yaml"
    values["data"]["forget_classes"] = [facts.id2label[i] for i in forget_classes]
    accelerator = make_accelerator(recipe.run.device)
    method = method_class(
        recipe.method, forget_classes, len(facts.id2label), lambda x: accelerator.reduce(x.mean(), "mean")
    )
    if method_class.from_scratch and pretrain_recipe is None:
        raise InputError("Retraining needs a pretraining recipe; give model.pretrain and no model.path.")
    if method_class.from_scratch and recipe.evaluation.every is not None:
        raise InputError("evaluation.every looks along a forgetting run, but retrain trains anew; leave it out.")
    if dropped and accelerator.is_main_process:
        say(f"{recipe.method.name} does not read {', '.join(dropped)}.")
    return Experiment(
        recipe,
        path,
        values,
        pretrain_recipe,
        classifier_recipe,
        accelerator,
        facts,
        forget_classes,
        left_out,
        method,
    )


def _forgotten_before(
    model_path: str | None, forget_classes: Sequence[int], id2label: Mapping[int, str]
) -> tuple[int, ...]:
    """Ids of the classes that the base model was made to forget in earlier runs.

    Raises:
        InputError: if one of them is to be forgotten again, or nothing would be left to retain.
    """
    names = [] if model_path is None else forgotten_names(Path(model_path))
    left_out = tuple(i for i, name in id2label.items() if name in names)
    if again := [id2label[i] for i in forget_classes if i in left_out]:
        raise InputError(f"The model {model_path} was made to forget {again[0]!r} already; name another class.")
    if len(left_out) + len(forget_classes) == len(id2label):
        raise InputError(f"Nothing would be left to retain: {model_path} has forgotten all other classes already.")
    return left_out


def check_model(experiment: Experiment, model: DenoisingModel) -> None:
    """Checks that the model draws what the data set holds.

    Raises:
        InputError: if classes or shapes differ, or the model has no null class where one is needed.
    """
    if not same_classes(model.id2label, experiment.facts.id2label):
        one_more = model.null_class is None and model.num_classes == len(experiment.facts.id2label) + 1
        hint = ", or name the one that means no class as model.null_class" if one_more else ""
        raise InputError(
            f"The model draws {len(model.id2label)} classes ({', '.join(list(model.id2label.values())[:3])}, ...), the "
            f"data set {experiment.recipe.data.name!r} holds others; use data with the model's classes{hint}."
        )
    shape = experiment.facts.shape
    if model.image_shape != shape:
        raise InputError(
            f"The model draws images of shape {model.image_shape}, the data set holds {shape}; data.image_size resizes "
            "images, and other channels need another model."
        )
    experiment.method.check(model)
    protocol = find_protocol(experiment.recipe.evaluation.protocol)
    scale = protocol.settings(experiment.recipe.sampling).guidance_scale
    if model.null_class is None and scale != 1:
        raise InputError(
            f"guidance_scale is {scale} under the protocol {protocol.name}, but the model has no null class; set "
            "model.null_class, or sampling.guidance_scale=1 and a protocol that leaves it open."
        )
