"""What an experiment on photographs works with: one network, its images and two judges, in one process.

The network is compiled once a shape. Every later stage reuses these graphs: training and each forgetting run share the
batch size, all drawing shares another.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
from dualoptim_diffusion.core.config import DenoiserDataConfig, FisherRatioMask, ForgetRecipe
from dualoptim_diffusion.core.errors import NonFiniteError
from dualoptim_diffusion.core.recipes import load_recipe
from dualoptim_diffusion.core.training_config import PretrainRecipe
from dualoptim_diffusion.data import Batches, ImageSet, load_dataset
from dualoptim_diffusion.data.encoding import training_images
from dualoptim_diffusion.data.latents import CachedMoments, every_way
from dualoptim_diffusion.diffusion.sampling import draw, make_scheduler
from dualoptim_diffusion.models import model_sha256
from dualoptim_diffusion.optim.ema import EMA
from dualoptim_diffusion.optim.mask_indices import indices_of, smaller_form
from dualoptim_diffusion.optim.plan import OptimizerPlan
from dualoptim_diffusion.runs.obtain import make_accelerator
from dualoptim_diffusion.unlearning.loop import Phase, unlearn
from dualoptim_diffusion.unlearning.methods import find_method, phases
from dualoptim_diffusion.unlearning.pretraining import new_model
from dualoptim_diffusion.unlearning.saliency import (
    Mask,
    density,
    diagonal_fisher,
    fisher_ratio_mask,
    gradients,
    top_fraction_mask,
)
from machine import synchronise
from studies.photo_judges import Judges
from studies.runner import Cell
from studies.small_autoencoder import Autoencoder, obtain_autoencoder


@dataclass(frozen=True)
class Scale:
    """How large everything is.

    Attributes:
        pretrain, model: recipe of the base model, and overrides of it.
        classes: of the folder, those that are used; all where none is named.
        image_size: to which images are resized.
        autoencoder: what is trained first, for a model of its latents.
        batch_size: of training and forgetting.
        drawn_at_once: rows of a pass of the network that draws; every one has this size, a guided image takes two.
        num_steps: of a sampler.
        guidance_scale: of drawing, in diffusers' convention; 3 is the research code's default.
        forgotten, retained: images drawn of the forgotten label, and of each other one, to score a cell.
        of_base: images drawn of each label to score the base model.
        mask_batches: of each class.
        judge_epochs: passes over the training images.
        ema_decay: of the base model's averaged weights.
        steps: of each forgetting run; None for the recipe's.
        dimensions: first features that distances are taken on; None for all.
        samplers: that are compared, with their steps.
    """

    pretrain: str = "cifar10_pretrain"
    model: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    image_size: int | None = None
    autoencoder: Autoencoder | None = None
    batch_size: int = 128
    drawn_at_once: int = 500
    num_steps: int = 25
    guidance_scale: float = 3.0
    forgotten: int = 500
    retained: int = 166
    of_base: int = 500
    mask_batches: int = 12
    judge_epochs: int = 18
    ema_decay: float = 0.999
    steps: int | None = None
    dimensions: int | None = None
    samplers: tuple[tuple[str, int], ...] = ()


@dataclass
class Clock:
    """Seconds that each part took."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = perf_counter()
        yield
        synchronise()
        self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - start
        print(f"{name}: {self.seconds[name]:.1f} s", flush=True)

    def write_to(self, found: dict[str, Any]) -> None:
        """Adds them to what an earlier call found; its own stay as they were measured."""
        found["seconds"] = self.seconds | found.get("seconds", {})


def named_folders(data: Path, work: Path, classes: Sequence[str]) -> Path:
    """The same images in folders with the first names of `classes.tsv` (folder, tab, names), as links; `data` itself
    where it has no such file.

    Args:
        classes: those that are linked; all where none is named.
    """
    if not (data / "classes.tsv").is_file():
        return data
    photos = work / "photos"
    for line in (data / "classes.tsv").read_text(encoding="utf-8").splitlines():
        folder, names = line.split("\t")
        name = names.split(",")[0]
        for part in ("train", "val"):
            link = photos / part / name
            if not classes or name in classes:
                link.parent.mkdir(parents=True, exist_ok=True)
                link.unlink(missing_ok=True)  # of an earlier call with other data
                link.symlink_to((data / part / folder).resolve(), target_is_directory=True)
    return photos


class Study:
    """The model, its images and the judges.

    Args:
        data: folder with `train/CLASS` and `test/CLASS` or `val/CLASS`.
        seed: of the base model and of the draws of its training.
        work: folder of what is trained once, judges and autoencoder.
    """

    def __init__(self, data: Path, scale: Scale, seed: int, work: Path) -> None:
        self.data, self.scale, self.seed, self.work = data, scale, seed, work
        config = DenoiserDataConfig(
            name="image_folder", path=str(data), channels=3, image_size=scale.image_size, latents=str(work / "latents")
        )
        self.train, self.held_out = load_dataset(config)
        self.id2label = self.train.id2label
        self.accelerator = make_accelerator("auto")
        self.device = self.accelerator.device
        self._open_model()
        self.examples = training_images(self.train, config, self.model, self.accelerator)  # or their latents

    def _open_model(self) -> None:
        words = [*self.scale.model, f"run.seed={self.seed}"]
        self.autoencoder_quality: dict[str, Any] = {}
        if self.scale.autoencoder is not None:
            folder = self.work / "autoencoder"
            quality = obtain_autoencoder(self.scale.autoencoder, self.train, self.held_out, folder, self.device)
            self.autoencoder_quality = {"autoencoder": quality}
            words.append(f"model.vae={folder}")
        self.recipe = recipe = load_recipe(PretrainRecipe, self.scale.pretrain, words)
        self.model = new_model(recipe, self.id2label, tuple(self.train.images.shape[1:]))
        compiled = recipe.run.compile and self.device.type == "cuda"
        self.model.prepare(self.accelerator, recipe.run.precision, recipe.run.channels_last, compiled)
        self.network = self.model.network

    def label_of(self, name: str) -> int:
        return next(i for i, other in self.id2label.items() if other == name)

    def batches(self, images: ImageSet, phase: str, seed: int, batch_size: int | None = None) -> Batches:
        return Batches(
            images, self.model, seed=seed, phase=phase, batch_size=batch_size or self.scale.batch_size,
            horizontal_flip=True, device=self.device,
        )  # fmt: skip

    def prepare(self) -> None:
        """Trains the judges, encodes the images of a model of latents, and compiles the two graphs, of a training step
        and of a step of drawing.

        On a GPU these go on side by side in processes, and training passes are replayed as CUDA graphs. Other shapes of
        the network's inputs run uncompiled from then on.
        """
        if self.device.type == "cuda":
            with in_another_process(_train_judges, self.data, self.scale, self.work) as judged:
                with in_another_process(_compile_drawing, self.data, self.scale, self.work) as compiled:
                    self._capture()
                    compiled()
                self.compile_drawing()  # from the cache on disk
                judged()
            torch.compiler.set_stance("eager_on_recompile")
            torch.backends.cudnn.benchmark = True
        self.judges  # noqa: B018, trained or read once
        if isinstance(self.examples.images, CachedMoments):
            self.examples.images.obtain(*every_way(len(self.train), mirrored=True))

    def _capture(self) -> None:
        """Compiled training passes as CUDA graphs; uncompiled ones where that fails."""
        try:
            self.model.capture_training(self.scale.batch_size)
        except RuntimeError as error:
            print(f"The compiled passes cannot be captured ({error}); going on without compilation.", flush=True)
            self.model.prepare(self.accelerator, self.recipe.run.precision)
            self.model.capture_training(self.scale.batch_size)

    def compile_drawing(self) -> None:
        """Compiles the graph of a step of drawing."""
        self.draw({0: self.scale.drawn_at_once}, num_steps=1)

    @cached_property
    def judges(self) -> Judges:
        """Trained, or read from the folder of work."""
        return Judges(
            self.train, self.held_out, self.work,
            epochs=self.scale.judge_epochs, dimensions=self.scale.dimensions, device=self.device,
        )  # fmt: skip

    # The base model

    def train_base(self, num_steps: int, lr: float, title: str = "base model") -> EMA:
        """Trains from the present weights; returns their moving average."""
        self.network.train()
        batches = self.batches(self.examples, "pretrain", self.seed)

        def loss(update: int) -> Tensor:
            batch = batches(update)
            return self.model.loss(batch.x_0, batch.timesteps, batch.noise, batch.dropped_labels).mean()

        phase = Phase("retain", loss, lr_schedule="one_cycle", clip_norm=1.0)
        optimizers = OptimizerPlan.single("adam", lr, fused=True).build(self.network)
        ema = EMA(self.network, self.scale.ema_decay, warmup=True)
        with tqdm(total=num_steps, desc=title, mininterval=5) as bar:

            def on_step(finished: int, record: dict[str, float]) -> None:
                bar.set_postfix({"loss": f"{record['retain_loss']:.3g}"}, refresh=False)
                bar.update()

            unlearn(
                self.network, optimizers, [phase], num_steps,
                ema=ema, accelerator=self.accelerator, on_step=on_step,
            )  # fmt: skip
        return ema

    @torch.no_grad()
    def held_out_loss(self, weights: Mapping[str, Tensor], num_batches: int = 4) -> float:
        """Mean squared error a pixel of predicted noise on held-out images; the same draws each time."""
        before = self.keep_weights()
        self.restore(weights)
        self.network.eval()
        size = min(self.scale.drawn_at_once, len(self.held_out))
        batches = self.batches(self.held_out, "held-out", 0, size)
        total = 0.0
        for i in range(num_batches):
            batch = batches(i)
            losses = self.model.loss(batch.x_0, batch.timesteps, batch.noise, batch.class_labels)
            total += float(losses.mean()) / batch.x_0[0].numel() / num_batches
        self.restore(before)
        return total

    def keep_weights(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.network.state_dict().items()}

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        self.network.load_state_dict(weights)

    @property
    def sha256(self) -> str:
        return model_sha256(self.model)

    # Forgetting

    @cached_property
    def fishers(self) -> dict[int, dict[str, Tensor]]:
        """Mean squared gradient of each class's batches, by parameter name: one pass serves the mask of every class.

        Of the base model's weights, so first asked for while the network has them.
        """
        return {label: diagonal_fisher(self._gradients(label)) for label in self.id2label}

    def _gradients(self, label: int) -> Iterator[Mapping[str, Tensor]]:
        images = self.examples.of_classes([label])
        batches = self.batches(images, f"saliency-class{label}", self.seed)
        return gradients(self.model, batches, self.scale.mask_batches, "plain", "saliency")

    def mask(self, config: Any, label: int) -> Mask:
        parameters = {name: p.detach() for name, p in self.network.named_parameters()}
        if not isinstance(config, FisherRatioMask):
            return top_fraction_mask(self._gradients(label), parameters, config.top_fraction)
        others = [part for other, part in self.fishers.items() if other != label]
        retain = {name: torch.stack([part[name] for part in others]).mean(0) for name in others[0]}
        return fisher_ratio_mask(self.fishers[label], retain, parameters, config.threshold)

    def forget(self, cell: Cell) -> dict[str, Any]:
        """Changes the weights as the cell says; returns what the loop logged and how long it took."""
        words = [*cell.overrides, f"run.seed={cell.seed}"]
        words += [] if self.scale.steps is None else [f"method.num_steps={self.scale.steps}"]
        recipe = load_recipe(ForgetRecipe, cell.recipe, words)
        label = self.label_of(cell.class_name)
        method = find_method(recipe.method.name)(recipe.method, (label,), len(self.id2label))
        reads_mask = "mask" in method.reads and recipe.method.mask is not None
        start = perf_counter()
        whole = self.mask(recipe.method.mask, label) if reads_mask else None
        share = None if whole is None else density(whole)
        plan = OptimizerPlan.of_recipe(
            recipe.optimizers.model_copy(update={"fused": True}), recipe.method, method.alternates, method.masks_retain
        )
        form = indices_of if plan.needs_indices else smaller_form
        mask = None if whole is None else {name: form(part) for name, part in whole.items()}
        others = [i for i in self.id2label if i != label]
        forget_set, retain_set = self.examples.of_classes([label]), self.examples.of_classes(others)
        sources = (self.batches(forget_set, "forget", cell.seed), self.batches(retain_set, "retain", cell.seed))
        self.network.train()
        method.prepare(self.model, retain_set)
        optimizers = plan.build(self.network, mask)
        last: dict[str, float] = {}
        stopped = None

        def on_step(finished: int, record: dict[str, float]) -> None:
            last.update(record)

        synchronise()
        prepared = perf_counter()
        try:
            unlearn(
                self.network, optimizers, phases(method, self.model, *sources, mask), method.num_steps,
                accelerator=self.accelerator, on_step=on_step, log_cosine=False,
            )  # fmt: skip
        except NonFiniteError as error:
            stopped = str(error)
        synchronise()
        return {
            "num_steps": method.num_steps,
            "images": self.scale.batch_size * sum(method.num_updates.values()),
            "mask_density": share,
            "stopped": stopped,
            "last": last,
            "seconds": {"preparing": round(prepared - start, 2), "forgetting": round(perf_counter() - prepared, 2)},
        }

    # Drawing

    def draw(self, counts: Mapping[int, int], num_steps: int | None = None, sampler: str = "ddim") -> dict[int, Tensor]:
        """Images by label, from seeds 0, 1, ...; batches mix labels, and all have one size."""
        wanted = [(label, seed) for label, count in counts.items() for seed in range(count)]
        guidance_scale = self.scale.guidance_scale
        size = self.scale.drawn_at_once // (1 if guidance_scale == 1 else 2)
        padded = wanted + wanted[-1:] * (-len(wanted) % size)
        scheduler: Any = make_scheduler(sampler, self.model.learned_variance, self.model.betas)  # type: ignore[arg-type]
        self.network.eval()
        parts = []
        for first in range(0, len(padded), size):
            labels, seeds = zip(*padded[first : first + size], strict=True)
            x_0 = draw(
                self.model.predict, scheduler, self.model.x_0_shape, labels, seeds,
                num_steps or self.scale.num_steps, guidance_scale, self.device,
            )  # fmt: skip
            parts.append(self.model.decode(x_0).cpu())
        images = torch.cat(parts)[: len(wanted)].split(list(counts.values()))
        return dict(zip(counts, images, strict=True))


@contextmanager
def in_another_process(work: Callable[..., None], *arguments: Any) -> Iterator[Callable[[], None]]:
    """While the block runs, another process does the work; the function that is given waits for it.

    Raises:
        RuntimeError: if the work fails.
    """
    process = get_context("spawn").Process(target=work, args=arguments)
    process.start()

    def wait() -> None:
        process.join()
        if process.exitcode:
            raise RuntimeError(f"{work.__name__} ended with exit code {process.exitcode}.")

    try:
        yield wait
    finally:
        process.kill()


def _train_judges(data: Path, scale: Scale, work: Path) -> None:
    Study(data, scale, 0, work).judges  # noqa: B018, trained and kept


def _compile_drawing(data: Path, scale: Scale, work: Path) -> None:
    Study(data, scale, 0, work).compile_drawing()
