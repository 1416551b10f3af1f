"""Results -> terminal table, one self-contained HTML page, Markdown, CSV and JSON; the model card of a run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.files.atomic import atomic_path, together
from dualoptim_diffusion.files.json_files import read_json
from dualoptim_diffusion.files.results_file import Results
from dualoptim_diffusion.files.run_folder import RunFolder
from dualoptim_diffusion.report import tables
from dualoptim_diffusion.report.comparison import Run, make_table, open_run, open_runs
from dualoptim_diffusion.report.model_card import write_model_card
from dualoptim_diffusion.report.page import render_page


class Report(NamedTuple):
    """What was written: the table for a terminal, its JSON form, the page."""

    text: str
    json: dict[str, Any]
    page: Path


def table(results: Results) -> str:
    """A run's results for a terminal."""
    return tables.text(make_table([Run(RunFolder(""), "", results, {}, {})]))


def write_report(run: Path) -> Path:
    """Writes report.html, .md, .csv and .json of a run folder and its model card; returns the page's path.

    Raises:
        InputError: if the run has no readable results or its metrics.jsonl or audit.json is damaged.
    """
    return report([run]).page


def report(
    folders: Sequence[Path], out: Path | None = None, control: Path | None = None, mixed: bool = False
) -> Report:
    """Writes one table of several runs in all its forms.

    Args:
        folders: run folders; a single one without a control is shown under each protocol that it was scored by.
        out: where to; by default the run folder of a single run, else `report`.
        control: a run of a model retrained without the same classes, to which every figure's gap is given.
        mixed: whether to list figures of different protocols in one table, with a warning.

    Raises:
        InputError: if figures cannot be compared or read, or `out` holds something else.
    """
    runs = open_runs(folders)
    against = open_run(control) if control else None
    rows = runs if len(runs) > 1 or control else runs[0].under_each_protocol
    made = make_table(rows, against, mixed or len(rows) > len(runs))
    inside = len(runs) == 1 and (out is None or out.resolve() == runs[0].folder.path.resolve())
    folder = runs[0].folder.path if inside else out or Path("report")
    if not inside:
        _check_out(folder)
    content = tables.as_json(made) | {"protocols": {run.protocol_hash: run.results["protocol"] for run in rows}}
    forms = {
        "report.html": render_page(made, runs),
        "report.md": tables.markdown(made),
        "report.csv": tables.csv_text(made),
        "report.json": json.dumps(content, indent=1) + "\n",
    }
    with together():
        for name, form in forms.items():
            with atomic_path(folder / name) as beside:
                beside.write_text(form, encoding="utf-8", newline="")
        if inside and runs[0].folder.model.is_dir():
            write_model_card(runs[0])
    return Report(tables.text(made), content, folder / "report.html")


def _check_out(folder: Path) -> None:
    """Only an empty folder or an earlier report is written to.

    Raises:
        InputError: for anything else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        kind = read_json(folder / "report.json")["kind"]
    except (OSError, ValueError, LookupError, TypeError):
        kind = None
    if kind != tables.KIND or RunFolder(folder).results.exists():
        raise InputError(f"{folder} exists and is not a folder of reports; choose another --out.")
