"""Finished runs side by side: reading them, refusing what cannot be compared, the rows of one table."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.files.results_file import Results
from dualoptim_diffusion.files.run_folder import RunFolder
from dualoptim_diffusion.report.audits import Audit, excess
from dualoptim_diffusion.report.measures import Measure, measures
from dualoptim_diffusion.report.notes import distance_name, headline_of, protocol_title, table_notes
from dualoptim_diffusion.report.tables import Row, Table

EXCESS = (
    "Excess: by how much an audit's worst attack draws the class more often than from a model retrained without it "
    "(95% interval, simultaneous over all points); audits that differ in more than the seed have columns of their own."
)
MIXED = "the rows were measured under different protocols; compare figures only where the protocol is the same."


@dataclass(frozen=True)
class Run:
    """A finished run: results.json, provenance.json and recipe.yaml ({} where a file is missing), audit.json if any.

    `others`: its figures under other protocols than its own.
    """

    folder: RunFolder
    name: str
    results: Results
    provenance: dict[str, Any]
    recipe: dict[str, Any]
    audit: Audit | None = None
    others: tuple[Results, ...] = ()

    @property
    def under_each_protocol(self) -> list["Run"]:
        """The run once with each of its figures, its own first; an audit has no part in the others."""
        return [self, *(replace(self, results=results, audit=None, others=()) for results in self.others)]

    @property
    def forgotten(self) -> tuple[str, ...]:
        return tuple(self.results["forgotten"])

    @property
    def protocol_hash(self) -> str:
        return str(self.results["protocol_hash"])

    @property
    def protocol(self) -> str:
        """Its name, where it has one, its version and the beginning of its hash."""
        return protocol_title(self.results)

    @property
    def method(self) -> str | None:
        part = self.recipe.get("method")
        name = part.get("name") if isinstance(part, dict) else None
        return name if isinstance(name, str) else None

    def figures(self, model: Literal["original", "unlearned"]) -> dict[str, Measure]:
        found = measures(self.results[model], headline_of(self.results))
        if model == "unlearned" and self.audit and (worst := excess(self.audit)):
            found[worst.name] = worst
        return found


def open_run(path: Path) -> Run:
    """A run folder's results, with what says where they come from; the table stands without a recipe or provenance.

    Raises:
        InputError: if there are no results or they lack a figure, its audit.json is damaged, or a part of it is another
            run's.
    """
    folder = RunFolder(path)
    folder.check_whole()
    provenance, recipe = folder.optional(folder.provenance), folder.optional(folder.recipe)
    others = tuple(folder.read_evaluations())
    return Run(folder, folder.name, folder.read_results(), provenance, recipe, folder.read_audit(), others)


def open_runs(folders: Sequence[Path]) -> list[Run]:
    """Each folder once; folders of one name are called by their path."""
    runs = [open_run(folder) for folder in {folder.resolve(): folder for folder in folders}.values()]
    names = [run.name for run in runs]
    return [run if names.count(run.name) == 1 else replace(run, name=str(run.folder.path)) for run in runs]


def check_comparable(runs: Sequence[Run], control: Run | None, mixed: bool) -> bool:
    """Whether all figures were taken under one protocol.

    Raises:
        InputError: if they were not and `mixed` does not allow it, or if the control is of other classes or another
            protocol than a run.
    """
    for run in runs:
        if control is None:
            break
        if run.folder.path.resolve() == control.folder.path.resolve():
            raise InputError(f"{run.name} is both a row and the control; name another run as --control.")
        if sorted(run.forgotten) != sorted(control.forgotten):
            raise InputError(
                f"The control {control.name} is without {', '.join(control.forgotten)}, but {run.name} forgot "
                f"{', '.join(run.forgotten)}; a control must have been trained without the same classes."
            )
        if other := _differ(run, control):
            raise InputError(f"The control {control.name} and {run.name} were measured under {other}; evaluate alike.")
    strangers = [(run, other) for run in runs[1:] if (other := _differ(runs[0], run))]
    if strangers and not mixed:
        run, other = strangers[0]
        raise InputError(
            f"{runs[0].name} and {run.name} were measured under {other}; give both runs' recipes the same sampling and "
            "evaluation sections and run `dualoptim evaluate`, or list them all the same with --mixed."
        )
    return not strangers


def _differ(one: Run, other: Run) -> str | None:
    """In what the protocols differ, in words."""
    distances = [distance_name(run.results) for run in (one, other)]
    if one.protocol_hash != other.protocol_hash:
        return f"different protocols ({one.protocol} and {other.protocol})"
    return f"different distances ({' and '.join(distances)})" if distances[0] != distances[1] else None


def make_table(runs: Sequence[Run], control: Run | None = None, mixed: bool = False) -> Table:
    """One row for each distinct original, one for each unlearned model, one for the control.

    Raises:
        InputError: as `check_comparable`.
    """
    uniform = check_comparable(runs, control, mixed)
    several = len({run.folder.path for run in runs}) > 1
    reference = control.figures("unlearned") if control else {}
    groups: dict[str, list[Row]] = {}
    for run in runs:
        # the same base model judged in the same way: its figures are one row, whichever run they are read from
        key = json.dumps(
            [sorted(run.forgotten), run.provenance.get("base_model_sha256"), run.protocol_hash, run.results["original"]]
        )
        if key not in groups:
            groups[key] = [_row(run, "original", reference)]
        groups[key].append(_row(run, "unlearned", reference, run.name if several else ""))
    rows = [row for group in groups.values() for row in group]
    warnings = [] if uniform else [MIXED]
    if control:
        rows.append(_row(control, "control", {}, f"control ({control.name})"))
        if control.method not in (None, "retrain"):
            warnings.append(f"the control {control.name} was made with {control.method}, not by retraining.")
    notes = table_notes([run.results for run in runs], control.name if control else None)
    if any(measure.unit == "excess" for row in rows for measure in row.measures.values()):
        notes.append(EXCESS)
    return Table(rows, notes, warnings, mixed=not uniform, several=several)


def _row(
    run: Run,
    role: Literal["original", "unlearned", "control"],
    control: dict[str, Measure],
    name: str = "",
) -> Row:
    figures = run.figures("original" if role == "original" else "unlearned")
    return Row(
        model=name or role,
        role=role,
        run=run.name,
        forgotten=run.forgotten,
        protocol=run.protocol,
        protocol_hash=run.protocol_hash,
        measures=figures,
        changes=run.results.get("changes", {}) if role == "unlearned" else {},
        gaps={key: measure.gap(control.get(key)) for key, measure in figures.items()} if control else {},
    )
