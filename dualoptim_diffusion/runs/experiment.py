"""An experiment: a recipe with every name in it resolved and checked, before anything is computed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from dualoptim_diffusion.core.classes import resolve_classes
from dualoptim_diffusion.core.config import ForgetRecipe, SamplingConfig
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.recipes import find_recipe, load_recipe, parse_seeds, recipe_sha256, resolve_keys
from dualoptim_diffusion.core.terminal import say
from dualoptim_diffusion.core.training_config import ClassifierRecipe, PretrainRecipe
from dualoptim_diffusion.data import Batches, DataFacts, ImageSet, data_facts, load_dataset, split
from dualoptim_diffusion.data.encoding import training_images
from dualoptim_diffusion.evaluation.protocol import Protocol, find_protocol
from dualoptim_diffusion.files.pipeline_folder import forgotten_names
from dualoptim_diffusion.models import DenoisingModel
from dualoptim_diffusion.optim.factory import check_optimizer_name, make_optimizer, set_momentum
from dualoptim_diffusion.optim.plan import OptimizerPlan
from dualoptim_diffusion.runs.obtain import make_accelerator
from dualoptim_diffusion.runs.sources import resolve_sources
from dualoptim_diffusion.unlearning.methods import Method, find_method


@dataclass(frozen=True)
class Experiment:
    """A resolved and checked recipe.

    Attributes:
        values: the resolved recipe as plain data, without keys that the method ignores.
        pretrain_recipe, classifier_recipe, features_recipe: None where the model or the network is given otherwise.
        facts: what is known of the training images without opening them.
        forget_classes: ids to forget.
        left_out: ids that the base model was made to forget before; neither trained on nor drawn.
        open_data: reads training and held-out images.
        keeps: whether the mask is kept for the next run.
    """

    recipe: ForgetRecipe
    recipe_path: Path
    values: dict[str, Any]
    pretrain_recipe: PretrainRecipe | None
    classifier_recipe: ClassifierRecipe | None
    features_recipe: ClassifierRecipe | None
    accelerator: Accelerator
    facts: DataFacts
    forget_classes: tuple[int, ...]
    left_out: tuple[int, ...]
    method: Method
    open_data: Callable[[], tuple[ImageSet, ImageSet]]
    keeps: bool = True

    @property
    def recipe_sha256(self) -> str:
        return recipe_sha256(self.values)

    @cached_property
    def optimizers(self) -> OptimizerPlan:
        """The optimizers that the resolved recipe asks for; a method that trains from scratch has pretraining's."""
        if (training := self.training_recipe) is not None:
            return OptimizerPlan.single(training.training.optimizer, training.training.lr)
        recipe, method = self.recipe, self.method
        return OptimizerPlan.of_recipe(recipe.optimizers, recipe.method, method.alternates, method.masks_retain)

    def check_states(self, has_mask: bool = False) -> None:
        """Checks that there will be a mask where a state is compact, and a backend where one has 8 bits.

        Args:
            has_mask: a mask is given as a file.

        Raises:
            InputError: if there will be none.
        """
        self.optimizers.check(self.accelerator.device)
        if self.optimizers.needs_indices and not has_mask and self.recipe.method.mask is None:
            raise InputError(
                "optimizers.forget_state or retain_state is compact, but there is no mask; set method.mask."
            )

    @property
    def reads_mask(self) -> bool:
        """Whether the method uses a mask."""
        return "mask" in self.method.reads

    @property
    def forget_labels(self) -> dict[int, str]:
        """Names of the forgotten classes by id."""
        return {i: self.facts.id2label[i] for i in self.forget_classes}

    @property
    def forget_names(self) -> list[str]:
        return list(self.forget_labels.values())

    @property
    def labels(self) -> dict[int, str]:
        """Names of the labels that are drawn and judged."""
        return {i: name for i, name in self.facts.id2label.items() if i not in self.left_out}

    @property
    def retained_classes(self) -> list[int]:
        """Ids of the retained labels that are drawn."""
        return [i for i in self.labels if i not in self.forget_classes]

    @property
    def protocol(self) -> Protocol:
        return find_protocol(self.recipe.evaluation.protocol)

    @property
    def sampling(self) -> SamplingConfig:
        """The recipe's sampling section under its protocol."""
        return self.protocol.settings(self.recipe.sampling)

    @property
    def training_recipe(self) -> PretrainRecipe | None:
        """The recipe of a method that trains from scratch: pretraining under the seed of this run; None of others."""
        return self.retraining_recipe if self.method.from_scratch else None

    @property
    def retraining_recipe(self) -> PretrainRecipe | None:
        """The base model's recipe with the seed of this run, for training without the class; None for a folder."""
        if (recipe := self.pretrain_recipe) is None:
            return None
        return recipe.model_copy(update={"run": recipe.run.model_copy(update={"seed": self.recipe.run.seed})})

    @property
    def data_sha256(self) -> list[str]:
        """Hashes of the training and of the held-out images."""
        return [part.sha256 for part in self.data]

    @cached_property
    def data(self) -> tuple[ImageSet, ImageSet]:
        """Training and held-out images."""
        return self.open_data()

    @property
    def train_set(self) -> ImageSet:
        return self.data[0]

    @cached_property
    def sets(self) -> tuple[ImageSet, ImageSet]:
        """forget_set and retain_set, as pixels."""
        return split(self.train_set, self.forget_classes, self.left_out)

    @cached_property
    def held_out(self) -> ImageSet:
        """Held-out images of the retained classes."""
        return self.data[1].of_classes(self.retained_classes)

    def training_sets(self, model: DenoisingModel) -> tuple[ImageSet, ImageSet]:
        """The same two as the model trains on them: for one of latents, encoded."""
        images = training_images(self.train_set, self.recipe.data, model, self.accelerator)
        return split(images, self.forget_classes, self.left_out)

    def prepare(self, model: DenoisingModel) -> None:
        """Prepares the model for training steps as the recipe's section `run` says."""
        run = self.recipe.run
        if run.gradient_checkpointing:
            model.checkpoint_gradients()
        if run.micro_batch_size is not None:
            model.limit_batches(run.micro_batch_size)
        model.prepare(self.accelerator, run.precision, run.channels_last, run.compile)

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
            process=(self.accelerator.process_index, self.accelerator.num_processes),
        )


def open_experiment(
    recipe_name: str,
    class_names: Sequence[str] = (),
    overrides: Sequence[str] = (),
    stored: ForgetRecipe | None = None,
) -> Experiment:
    """Reads a recipe and checks all that can be checked without a model.

    Args:
        stored: of a finished run its recipe without the overrides.

    Raises:
        InputError: one sentence about the first thing that is wrong.
    """
    path = find_recipe(recipe_name)
    recipe = load_recipe(ForgetRecipe, recipe_name, overrides)
    recipe, values, dropped = resolve_recipe(recipe)
    facts = data_facts(recipe.data)
    forget_classes = resolve_classes([*recipe.data.forget_classes, *class_names], facts.id2label, facts.aliases)
    forgotten = [] if recipe.model.path is None else forgotten_names(Path(recipe.model.path))
    left_out = forgotten_before(forgotten, forget_classes, facts.id2label)
    sources = resolve_sources(recipe, path, values, stored)
    values["data"]["forget_classes"] = [facts.id2label[i] for i in forget_classes]
    accelerator = make_accelerator(recipe.run.device)
    method = make_method(recipe, forget_classes, facts, accelerator)
    _check_from_scratch(method, recipe, sources[0])
    if dropped and accelerator.is_main_process:
        say(f"{recipe.method.name} does not read {', '.join(dropped)}.")
    found = (recipe, path, values, *sources, accelerator, facts, forget_classes, left_out)
    return Experiment(*found, method, partial(load_dataset, recipe.data))


def resolve_recipe(recipe: ForgetRecipe) -> tuple[ForgetRecipe, dict[str, Any], list[str]]:
    """The recipe as it acts, the same as plain data, and the keys that its user set and its method ignores.

    Raises:
        InputError: if keys contradict each other, or a name in them is unknown.
    """
    method_class = find_method(recipe.method.name)
    method_class.check_update(recipe.method)
    reads = method_class.check_options(recipe.method)
    values, dropped = resolve_keys(recipe, reads, method_class.alternates_under(recipe.method))
    recipe = ForgetRecipe.model_validate(values)  # what acts is what is written down: dropped keys are as if unset
    _check_names(recipe)
    if recipe.optimizers.mode == "shared":  # one optimizer has one rate and one schedule
        common = {"forget_lr": recipe.method.retain_lr, "forget_schedule": recipe.method.retain_schedule}
        recipe = recipe.model_copy(update={"method": recipe.method.model_copy(update=common)})
    return recipe, values, dropped


def make_method(
    recipe: ForgetRecipe, forget_classes: Sequence[int], facts: DataFacts, accelerator: Accelerator
) -> Method:
    """The recipe's method for these classes."""
    return find_method(recipe.method.name)(
        recipe.method, tuple(forget_classes), len(facts.id2label), lambda x: accelerator.reduce(x.mean(), "mean")
    )


def _check_names(recipe: ForgetRecipe) -> None:
    """Checks optimizers, momentum, seeds and protocol."""
    for phase in ("forget", "retain"):
        used = getattr(recipe.optimizers, phase)
        check_optimizer_name(used)
        if (momentum := getattr(recipe.optimizers, f"{phase}_momentum")) is not None:
            set_momentum(make_optimizer(used, [torch.nn.Parameter(torch.zeros(1))], lr=1.0), momentum)
    parse_seeds(recipe.sampling.seeds)
    find_protocol(recipe.evaluation.protocol)


def _check_from_scratch(method: Method, recipe: ForgetRecipe, pretrain: PretrainRecipe | None) -> None:
    if method.from_scratch and pretrain is None:
        raise InputError("Retraining needs a pretraining recipe; give model.pretrain and no model.path.")
    if method.from_scratch and recipe.evaluation.every is not None:
        raise InputError(
            "evaluation.every evaluates along a forgetting run, but retrain pretrains a new model; leave it out."
        )


def forgotten_before(
    names: Sequence[str], forget_classes: Sequence[int], id2label: Mapping[int, str]
) -> tuple[int, ...]:
    """Ids of the classes that the base model was made to forget in earlier runs.

    Raises:
        InputError: if one of them is to be forgotten again, or nothing would be left to retain.
    """
    left_out = tuple(i for i, name in id2label.items() if name in names)
    if again := [id2label[i] for i in forget_classes if i in left_out]:
        raise InputError(f"The base model was made to forget {again[0]!r} already; name another class.")
    if len(left_out) + len(forget_classes) == len(id2label):
        raise InputError("Nothing would be left to retain: the base model was made to forget all other classes.")
    return left_out
