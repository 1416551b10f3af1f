"""Quick evaluations along a run: FA, RA and FD of few images every so many steps, and the best weights so far."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from safetensors.torch import save_file

from dualoptim_diffusion.core.terminal import say
from dualoptim_diffusion.core.timing import timings
from dualoptim_diffusion.drawing.samples import LazySamples
from dualoptim_diffusion.evaluation import evaluate
from dualoptim_diffusion.evaluation.features import classifier_features
from dualoptim_diffusion.evaluation.protocol import PROTOCOLS, make_plan
from dualoptim_diffusion.evaluation.reference import cached_reference
from dualoptim_diffusion.files.atomic import atomic_path
from dualoptim_diffusion.files.run_folder import RunFolder
from dualoptim_diffusion.files.weight_files import read_tensors
from dualoptim_diffusion.models import DenoisingModel
from dualoptim_diffusion.optim.ema import EMA
from dualoptim_diffusion.report.notes import NOTICEABLE
from dualoptim_diffusion.runs.evaluate import EvaluationSetup
from dualoptim_diffusion.runs.experiment import Experiment
from dualoptim_diffusion.unlearning.loop import Record

FORGOTTEN = 0.02  # largest FA of few images that counts as forgotten
RULE = (
    f"of the quick evaluations with FA at most {FORGOTTEN:.0%} the one with the lowest FD[classifier]; "
    "where there is none, the one with the lowest FA"
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
        self.extractor = classifier_features(setup.classifier)
        self.reference = cached_reference(setup.reference, self.extractor)
        self.plan = make_plan(
            PROTOCOLS["quick"],
            self.settings,
            list(experiment.labels),
            model.null_class,
            experiment.forget_classes,
            len(setup.reference),
        )

    def __call__(self, finished: int) -> Record:
        """FA, RA (fractions) and FD[classifier] after so many steps, where they are due; keeps the best weights."""
        every, accelerator = self.experiment.recipe.evaluation.every, self.experiment.accelerator
        if every is None or (finished % every and finished != self.experiment.method.num_steps):
            return {}
        with self._final_weights(), timings(separate=True):
            results = evaluate(
                LazySamples(self.model, self.plan.seeds, self.settings, accelerator),
                self.setup.classifier,
                self.experiment.labels,
                self.experiment.forget_classes,
                self.reference,
                extractor=self.extractor,
                accelerator=accelerator,
            )
            distance = results["frechet"]["value"]
            assert distance is not None  # it always has a value when it is made
            figures = {"FA": results["FA"]["value"], "RA": results["RA"]["value"], "FD": distance}
            if accelerator.is_main_process and (flat := results["degenerate_rate"]) >= NOTICEABLE:
                say(f"Warning: after step {finished} {flat:.1%} of the images are one flat colour.")
            if accelerator.is_main_process and self.experiment.recipe.evaluation.keep == "best":
                self._keep_if_best(finished, figures)
        accelerator.wait_for_everyone()
        return figures

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
        if before is not None and rank(before["FA"], before["FD"]) <= rank(figures["FA"], figures["FD"]):
            return
        with atomic_path(self.folder.best) as beside:
            beside.mkdir()
            weights = {name: value.contiguous() for name, value in self.model.network.state_dict().items()}
            save_file(weights, beside / self.folder.best_weights.name)
            text = json.dumps({"rule": RULE, "step": step} | figures, indent=1)
            (beside / self.folder.selection.name).write_text(text + "\n", encoding="utf-8")

    def load_best(self) -> None:
        """Puts the best weights of the run into the model."""
        self.model.network.load_state_dict(read_tensors(self.folder.best_weights))


def rank(fa: float, fd: float) -> tuple[bool, float]:
    """Sorts evaluations by the rule, best first."""
    forgotten = fa <= FORGOTTEN
    return (not forgotten, fd if forgotten else fa)
