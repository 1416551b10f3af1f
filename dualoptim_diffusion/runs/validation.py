"""Quick evaluations along a run: FA, RA and KID of few images every so many steps, and the best weights so far."""

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

from safetensors.torch import save_file
from torch import Tensor

from dualoptim_diffusion.core.terminal import say
from dualoptim_diffusion.core.timing import timings
from dualoptim_diffusion.drawing.grids import draw_strip
from dualoptim_diffusion.drawing.samples import LazySamples
from dualoptim_diffusion.evaluation.protocol import PROTOCOLS
from dualoptim_diffusion.files.atomic import atomic_path
from dualoptim_diffusion.files.run_folder import RunFolder
from dualoptim_diffusion.files.weight_files import read_weights
from dualoptim_diffusion.models import DenoisingModel
from dualoptim_diffusion.optim.ema import EMA
from dualoptim_diffusion.report.notes import collapses
from dualoptim_diffusion.runs.evaluate import EvaluationSetup, plan_sampling
from dualoptim_diffusion.runs.experiment import Experiment
from dualoptim_diffusion.unlearning.loop import Record

SEEDS_FROM = 2**40  # far from the seeds of an evaluation: no image that selects weights is one that scores them
PICTURED = 6  # images of each forgotten label that are kept of an evaluation
FORGOTTEN = 0.02  # largest FA of few images that counts as forgotten
RULE = (
    f"of the quick evaluations with FA at most {FORGOTTEN:.0%} the one with the lowest KID; where there is none, the "
    "one with the lowest FA; they draw with other seeds than the evaluation at the end, against the same real images"
)


class Validation:
    """Evaluates under the protocol `quick`, with the weights that the run would end with; changes nothing of the run.

    Args:
        ema: the moving average that the run would end with, if any.
    """

    def __init__(
        self, experiment: Experiment, model: DenoisingModel, setup: EvaluationSetup, ema: EMA | None, folder: RunFolder
    ) -> None:
        self.experiment, self.model, self.setup, self.ema, self.folder = experiment, model, setup, ema, folder
        self.settings = PROTOCOLS["quick"].settings(experiment.recipe.sampling)
        planned = plan_sampling(experiment, model, PROTOCOLS["quick"])
        self.seeds = {label: [SEEDS_FROM + seed for seed in seeds] for label, seeds in planned.items()}

    def __call__(self, finished: int) -> Record:
        """FA, RA (fractions) and KID after so many steps, where they are due; keeps the best weights."""
        every, accelerator = self.experiment.recipe.evaluation.every, self.experiment.accelerator
        if every is None or (finished % every and finished != self.experiment.method.num_steps):
            return {}
        with self._final_weights(), timings(separate=True):
            samples = Remembered(
                LazySamples(self.model, self.seeds, self.settings, accelerator), self.experiment.forget_labels
            )
            measured = self.setup.measure(self.experiment, samples).figures
            self._keep_pictures(finished, samples.first)
            found = {"FA": measured["FA"], "RA": measured["RA"], "KID": measured["kid"]}
            figures = {name: part["value"] for name, part in found.items()}
            for sentence in collapses(measured) if accelerator.is_main_process else ():
                say(f"Warning: after step {finished}: {sentence}")
            if accelerator.is_main_process and self.experiment.recipe.evaluation.keep == "best":
                self._keep_if_best(finished, figures)
        accelerator.wait_for_everyone()
        return figures

    def picture_base(self) -> None:
        """Keeps pictures of what the forgotten labels draw before the first step."""
        labels = self.experiment.forget_labels
        if all(self.folder.film(list(labels.values()), name, 0).is_file() for name in labels.values()):
            return
        settings = self.settings.model_copy(update={"batch_size": PICTURED})
        seeds = {label: self.seeds[label][:PICTURED] for label in labels}
        was_training = self.model.network.training
        self._keep_pictures(0, LazySamples(self.model, seeds, settings, self.experiment.accelerator))
        self.model.network.train(was_training)

    def _keep_pictures(self, step: int, images: Mapping[int, Tensor]) -> None:
        """Writes what this process has drawn for the forgotten labels."""
        labels = self.experiment.forget_labels
        for label, drawn in images.items():
            draw_strip(self.folder.film(list(labels.values()), labels[label], step), drawn)

    @contextmanager
    def _final_weights(self) -> Iterator[None]:
        network = self.model.network
        state = {name: value.clone() for name, value in network.state_dict().items()} if self.ema else None
        if self.ema is not None:
            network.load_state_dict(self.ema.state_dict())
        network.eval()
        yield
        if state is not None:
            network.load_state_dict(state)
        network.train()

    def _keep_if_best(self, step: int, figures: Record) -> None:
        before = self.folder.read_selection()
        if before and "KID" in before and rank(before["FA"], before["KID"]) <= rank(figures["FA"], figures["KID"]):
            return
        with atomic_path(self.folder.best) as beside:
            beside.mkdir()
            weights = {name: value.contiguous() for name, value in self.model.network.state_dict().items()}
            save_file(weights, beside / self.folder.best_weights.name)
            text = json.dumps({"rule": RULE, "step": step} | figures, indent=1)
            (beside / self.folder.selection.name).write_text(text + "\n", encoding="utf-8")

    def load_best(self) -> None:
        """Puts the best weights of the run into the model."""
        network = self.model.network
        network.load_state_dict(read_weights(self.folder.best_weights, network.state_dict()))


class Remembered(Mapping[int, Tensor]):
    """Samples of which the first few of some labels are kept when they are looked up.

    Attributes:
        first: these, uint8 [N, C, H, W] by label.
    """

    def __init__(self, samples: Mapping[int, Tensor], labels: Collection[int]) -> None:
        self._samples, self._labels = samples, labels
        self.first: dict[int, Tensor] = {}

    def __getitem__(self, label: int) -> Tensor:
        images = self._samples[label]
        if label in self._labels:
            self.first[label] = images[:PICTURED]
        return images

    def __iter__(self) -> Iterator[int]:
        return iter(self._samples)

    def __len__(self) -> int:
        return len(self._samples)


def rank(fa: float, kid: float) -> tuple[bool, float]:
    """Sorts evaluations by the rule, best first."""
    forgotten = fa <= FORGOTTEN
    return (not forgotten, kid if forgotten else fa)
