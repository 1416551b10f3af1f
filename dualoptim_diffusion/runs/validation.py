"""Quick looks along a run: FA, RA and FD of few images every so many steps, and the best weights so far."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import save_file

from dualoptim_diffusion.core.terminal import say
from dualoptim_diffusion.drawing.samples import Draws
from dualoptim_diffusion.evaluation import evaluate
from dualoptim_diffusion.evaluation.features import classifier_features
from dualoptim_diffusion.evaluation.protocol import PROTOCOLS, make_plan
from dualoptim_diffusion.evaluation.reference import cached_reference
from dualoptim_diffusion.files.atomic import atomic_path
from dualoptim_diffusion.files.metrics import read_selection
from dualoptim_diffusion.files.weight_files import read_tensors
from dualoptim_diffusion.models import DenoisingModel
from dualoptim_diffusion.optim.ema import EMA
from dualoptim_diffusion.report.notes import NOTICEABLE
from dualoptim_diffusion.runs.evaluate import Bench
from dualoptim_diffusion.runs.experiment import Experiment
from dualoptim_diffusion.unlearning.loop import Record

FORGOTTEN = 0.02  # FA of a look that counts as forgotten
RULE = (
    f"of the looks with FA at most {FORGOTTEN:.0%} the one with the lowest FD[classifier]; "
    "where there is none, the one with the lowest FA"
)


class Looks:
    """Draws under the protocol `quick`, on the weights that the run would end with, and leaves the run as it was."""

    def __init__(self, experiment: Experiment, model: DenoisingModel, bench: Bench, ema: EMA | None, out: Path) -> None:
        self.experiment, self.model, self.bench, self.ema = experiment, model, bench, ema
        self.best = out / "best"
        self.settings = PROTOCOLS["quick"].settings(experiment.recipe.sampling)
        self.extractor = classifier_features(bench.classifier)
        self.reference = cached_reference(bench.reference, self.extractor)
        self.plan = make_plan(
            PROTOCOLS["quick"],
            self.settings,
            list(experiment.labels),
            model.null_class,
            experiment.forget_classes,
            len(bench.reference),
        )

    def __call__(self, step: int) -> Record:
        """FA, RA (fractions) and FD[classifier] after so many steps; remembers the weights if they are the best."""
        accelerator = self.experiment.accelerator
        with self._final_weights():
            results = evaluate(
                Draws(self.model, self.plan.seeds, self.settings, accelerator),
                self.bench.classifier,
                self.experiment.labels,
                self.experiment.forget_classes,
                self.reference,
                extractor=self.extractor,
                accelerator=accelerator,
            )
            figures = {
                "FA": results["FA"]["value"], "RA": results["RA"]["value"], "FD": results["frechet"]["value"],
            }  # fmt: skip
            if accelerator.is_main_process and (flat := results["degenerate_rate"]) >= NOTICEABLE:
                say(f"Warning: after step {step} {flat:.1%} of the images are one flat colour.")
            if accelerator.is_main_process and self.experiment.recipe.evaluation.keep == "best":
                self._remember(step, figures)
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

    def _remember(self, step: int, figures: Record) -> None:
        if (kept := read_selection(self.best.parent)) is not None and rank(kept) <= rank(figures):
            return
        with atomic_path(self.best) as beside:
            beside.mkdir()
            save_file(
                {name: value.contiguous() for name, value in self.model.network.state_dict().items()},
                beside / "weights.safetensors",
            )
            text = json.dumps({"rule": RULE, "step": step} | figures, indent=1)
            (beside / "selection.json").write_text(text + "\n", encoding="utf-8")

    def load_best(self) -> None:
        """Puts the best weights of the run into the model."""
        self.model.network.load_state_dict(read_tensors(self.best / "weights.safetensors"))


def rank(figures: Record) -> tuple[bool, float]:
    """Sorts looks by the rule, best first."""
    forgotten = figures["FA"] <= FORGOTTEN
    return (not forgotten, figures["FD"] if forgotten else figures["FA"])
