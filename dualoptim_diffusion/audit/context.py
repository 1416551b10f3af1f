"""What all probes of an audit share: classifier, data, settings; and the models they probe."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from dualoptim_diffusion.core.budget import Budget
from dualoptim_diffusion.core.classes import NULL_LABEL
from dualoptim_diffusion.core.config import SamplingConfig
from dualoptim_diffusion.data import Batches, ImageSet
from dualoptim_diffusion.diffusion.randomness import generator
from dualoptim_diffusion.diffusion.sampling import GuidedPredictor, draw, padded_chunks
from dualoptim_diffusion.drawing.samples import LazySamples, describe
from dualoptim_diffusion.judge.classifier import Classifier
from dualoptim_diffusion.models import DenoisingModel, model_sha256
from dualoptim_diffusion.unlearning.saliency import Mask


class Cost(NamedTuple):
    """Passes of one image through the diffusion network, and all else that takes long or much memory.

    Attributes:
        forward: without gradients.
        backward: forward and back.
        other: measures seconds of something else.
        once: the same of what is made once for all models under a seed.
        bytes: memory of something else.
    """

    forward: int = 0
    backward: int = 0
    other: Callable[["AuditContext"], float] | None = None
    once: Callable[["AuditContext"], float] | None = None
    bytes: Callable[["AuditContext"], int] | None = None


FREE = Cost()


@dataclass(frozen=True)
class AuditContext:
    """The same for every model of an audit.

    Attributes:
        forget_classes: ids of the forgotten labels.
        judged_as: the classifier's ids of the forgotten classes.
        labels: ids of all labels that are drawn.
        forget_set, retain_set: as a model trains on them, which for one of latents are latents.
        train, held_out: real images of all classes, as pixels.
        settings: how images are drawn.
        original: the model before forgetting.
        mask: what the forget phase was allowed to change, if there is one.
        controls: models retrained without the class.
        auxiliary: images of anything else, with labels that say nothing of what they show, if they were given.
        drawn: hits among images that were drawn before, by weights, label and settings; none is drawn twice.
    """

    classifier: Classifier
    forget_classes: tuple[int, ...]
    judged_as: tuple[int, ...]
    labels: dict[int, str]
    forget_set: ImageSet
    retain_set: ImageSet
    train: ImageSet
    held_out: ImageSet
    settings: SamplingConfig
    budget: Budget
    original: DenoisingModel
    mask: Mask | None
    accelerator: Accelerator
    horizontal_flip: bool
    controls: tuple["AuditedModel", ...] = ()
    auxiliary: ImageSet | None = None
    drawn: dict[tuple[str, ...], int] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def drawn_at_once(self) -> int:
        """Images of a batch that is drawn for a rate."""
        return min(self.budget.images, self.settings.batch_size)

    @property
    def other_labels(self) -> list[int]:
        """Retained labels that are tried: all, or as many as the budget allows, evenly."""
        labels = [label for label in self.labels if label not in self.forget_classes]
        count = min(len(labels), self.budget.labels)
        return [labels[i * len(labels) // count] for i in range(count)]

    def hits(self, images: Tensor) -> int:
        """How many uint8 images [N, C, H, W] the classifier calls a forgotten class."""
        _, logits = self.classifier(images)
        return int(torch.isin(logits.argmax(1), torch.tensor(self.judged_as)).sum())

    @property
    def asked(self) -> dict[str, bool]:
        """Ways to ask for the class, by name: whether the forgotten label is given; else it is the null label."""
        return {"forgotten label": True} | ({} if self.original.null_class is None else {NULL_LABEL: False})

    def count(self, model: DenoisingModel, labels: Sequence[int], **settings: Any) -> tuple[int, int]:
        """(hits, n) of images drawn with these labels, by the run's settings but for those given."""
        n = self.budget.images
        changed = self.settings.model_copy(update={"batch_size": self.drawn_at_once} | settings)
        samples = LazySamples(model, dict.fromkeys(labels, range(n)), changed, self.accelerator)
        how = repr(describe(model, model_sha256(model), changed))
        for label in labels:
            if (how, str(label), str(n)) not in self.drawn:
                self.drawn[how, str(label), str(n)] = self.hits(samples[label])
        return sum(self.drawn[how, str(label), str(n)] for label in labels), n * len(labels)

    def passes(self, times: int, steps: int | None = None, scale: float | None = None) -> int:
        """That it takes to draw the images of one label so many times, in steps and under guidance."""
        padded = math.ceil(self.budget.images / self.drawn_at_once) * self.drawn_at_once
        return times * padded * self.passes_an_image(steps, scale)

    def passes_an_image(self, steps: int | None = None, scale: float | None = None) -> int:
        """The same of one image."""
        steps = self.settings.num_inference_steps if steps is None else steps
        return steps * (1 if (self.settings.guidance_scale if scale is None else scale) == 1 else 2)

    def predictor(self, model: DenoisingModel) -> GuidedPredictor:
        """The model as images are drawn with it."""
        return partial(model.predict, guidance_channels=self.settings.guidance_channels)

    @torch.no_grad()
    def count_drawn(self, model: DenoisingModel, predict: GuidedPredictor, scheduler: Any) -> tuple[int, int]:
        """The same of images drawn with the forgotten labels by a predictor or a scheduler of a probe's own."""
        model.network.eval()
        settings, n, hits = self.settings, self.budget.images, 0
        for label in self.forget_classes:
            for seeds, padded in padded_chunks(range(n), self.drawn_at_once):
                drawn = draw(
                    predict, scheduler, model.x_0_shape, [label] * len(padded), padded, settings.num_inference_steps,
                    settings.guidance_scale, self.device,
                )  # fmt: skip
                hits += self.hits(model.decode(drawn)[: len(seeds)])
        return hits, n * len(self.forget_classes)

    def some_of_the_class(self, k: int) -> ImageSet:
        """k images of each forgotten class, or all where there are fewer, as a model trains on them."""
        chosen = []
        for label in self.forget_classes:
            own = (self.forget_set.class_labels == label).nonzero()[:, 0]
            order = torch.randperm(len(own), generator=generator(self.budget.seed, "audit", label))
            chosen.append(own[order[:k]])
        return self.forget_set.at(torch.cat(chosen))

    def real(self, images: ImageSet, forgotten: bool) -> ImageSet:
        """Real images of forgotten or of retained classes, at most as many as the budget allows, mixed evenly."""
        gone = torch.isin(images.class_labels, torch.tensor(self.forget_classes))
        drawn = torch.isin(images.class_labels, torch.tensor(list(self.labels)))
        found = ((gone if forgotten else ~gone) & drawn).nonzero()[:, 0]
        order = torch.randperm(len(found), generator=generator(self.budget.seed, "audit", "real"))
        return images.at(found[order[: self.budget.real_images]])

    def unseen(self, forgotten: bool) -> ImageSet:
        """The same of held-out images, or of training images where none are held out."""
        held_out = self.real(self.held_out, forgotten)
        return held_out if len(held_out) else self.real(self.train, forgotten)

    def parts(self, model: DenoisingModel, images: ImageSet) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Real images a batch at a time: number of the first, x_0 [B, C, H, W], labels [B]."""
        for first in range(0, len(images), self.settings.batch_size):
            part = images.at(torch.arange(first, min(first + self.settings.batch_size, len(images))))
            yield first, model.encode(part.images[:].to(self.device)), part.class_labels.to(self.device)

    def batches(self, model: DenoisingModel, images: ImageSet, phase: str, num_updates: int) -> Batches:
        """Batches of an attack, ready for so many updates."""
        batches = Batches(
            images,
            model,
            seed=self.budget.seed,
            phase=phase,
            batch_size=self.budget.batch_size,
            horizontal_flip=self.horizontal_flip,
            device=self.device,
        )
        batches.prepare(num_updates)
        return batches


@dataclass(frozen=True)
class AuditedModel:
    """A model under audit.

    Attributes:
        role: original, unlearned, control (retrained without the class, one of several) or random (fresh weights).
        sha256: of its weights.
    """

    role: str
    model: DenoisingModel
    sha256: str


@dataclass(frozen=True)
class Trial:
    """One piece of a probe's work on one model.

    Attributes:
        name: unique within the probe.
        run: leaves the model as it was. An attack returns {"at": [...], "hits": [...], "n": [...]}, hits and images at
            each point of its axis; anything else returns figures of its own, as plain data.
        settings: of the budget, those that it reads, by name.
        axis: what an attack runs over; None where nothing is attacked.
        made_from: what else the outcome depends on, besides model and context.
        cost: to tell its time beforehand.
    """

    name: str
    run: Callable[[AuditContext, AuditedModel], dict[str, Any]]
    settings: tuple[str, ...] = ()
    axis: str | None = None
    made_from: str = ""
    cost: Cost = FREE

    def seeds(self, budget: Budget, role: str) -> range:
        """Those that it is made with: several where an attack draws lots, and its verdict rests on the model."""
        several = self.axis is not None and "seed" in self.settings and role in ("unlearned", "control")
        return range(budget.seed, budget.seed + (budget.seeds if several else 1))


@dataclass(frozen=True)
class Probe:
    """One way to ask whether a class is gone.

    Attributes:
        question: in one sentence.
        source: the literature.
        trials: the pieces of its work in a context.
        with_random: whether a network with random weights is asked too.
    """

    question: str
    source: str
    trials: Callable[[AuditContext], list[Trial]]
    with_random: bool = False
