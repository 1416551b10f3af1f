"""`dualoptim grid`: a run's images before and after."""

from collections.abc import Sequence
from pathlib import Path

from dualoptim_diffusion.core.classes import resolve_class
from dualoptim_diffusion.drawing.grids import choose_rows, draw_contact_sheet, draw_grid, sheet_name
from dualoptim_diffusion.files.run_folder import RunFolder
from dualoptim_diffusion.runs.evaluate import sample_both
from dualoptim_diffusion.runs.experiment import Experiment


def draw_run_grid(
    experiment: Experiment,
    run: Path,
    class_names: Sequence[str],
    others: int | None,
    columns: int,
    out: Path | None,
) -> Path:
    """Writes the before/after grid and returns its path.

    Args:
        class_names: rows to show; the forgotten classes and `others` retained ones if empty.
        others: as in `choose_rows`.
        out: a PNG file; the run's own grid if None.

    Raises:
        InputError: for an unknown class.
    """
    labels, forgotten = experiment.labels, experiment.forget_classes
    rows = [resolve_class(name, labels) for name in class_names] or choose_rows(labels, forgotten, others)
    folder = RunFolder(run)
    out = out or folder.grid
    before, after = sample_both(experiment, folder)
    if experiment.accelerator.is_main_process:
        draw_grid(out, before, after, labels, forgotten, columns, rows)
    return out


def draw_run_sheet(experiment: Experiment, run: Path, class_name: str, out: Path | None) -> Path:
    """Writes one class's contact sheet and returns its path; arguments as in `draw_run_grid`."""
    label = resolve_class(class_name, experiment.labels)
    name = experiment.labels[label]
    out = out or run / sheet_name(name)
    before, after = sample_both(experiment, RunFolder(run))
    if experiment.accelerator.is_main_process:
        draw_contact_sheet(out, before[label], after[label], name, label in experiment.forget_classes)
    return out
