"""Rows of figures and their forms: terminal text, Markdown, CSV, JSON. All print the same figures."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from typing import Any, Literal

from dualoptim_diffusion.files.results_file import Change
from dualoptim_diffusion.report.measures import Measure

KIND = "dualoptim report"  # how report.json says whose it is
ABSENT = "–"


@dataclass(frozen=True)
class Row:
    """Figures of one model. `changes`: from its original's, by key; `gaps`: see `Measure.gap`."""

    model: str
    role: Literal["original", "unlearned", "control"]
    run: str
    forgotten: tuple[str, ...]
    protocol: str
    protocol_hash: str
    measures: Mapping[str, Measure]
    changes: Mapping[str, Change] = field(default_factory=dict)
    gaps: Mapping[str, float | None] = field(default_factory=dict)

    def details(self, name: str) -> list[str]:
        """What stands beside a figure: count and interval, multiple of the original, gap to the control."""
        measure = self.measures[name]
        ratio = ratio_text(self.changes.get(measure.key))
        return [part for part in (measure.detail, ratio, measure.gap_text(self.gaps.get(name))) if part]


def ratio_text(change: Change | None) -> str:
    """A distance as a multiple of the original's, with its interval; nothing where none is known."""
    if change is None or "ratio" not in change or "ratio_ci95" not in change:
        return ""
    low, high = change["ratio_ci95"]
    return f"{change['ratio']:.2f}x original, 95% {low:.2f} to {high:.2f}"


@dataclass(frozen=True)
class Table:
    """Rows with what must be read beside them. `mixed`: of several protocols; `several`: of several runs."""

    rows: Sequence[Row]
    notes: Sequence[str]
    warnings: Sequence[str] = ()
    mixed: bool = False
    several: bool = False

    @property
    def meanings(self) -> dict[str, str]:
        """What each figure is, by its column header."""
        return {name: measure.meaning for row in self.rows for name, measure in row.measures.items()}

    @property
    def blocks(self) -> list[list[str]]:
        """Column headers of the figures that any row has, each distance under its own name, in one or two tables:
        FA, RA, degenerate images and the distance that the protocol puts first; the others."""
        first = {name: measure.main for row in self.rows for name, measure in row.measures.items()}
        parts = ([name for name, main in first.items() if main == wanted] for wanted in (True, False))
        return [part for part in parts if part]

    @property
    def figures(self) -> list[str]:
        return [name for block in self.blocks for name in block]

    @property
    def label_header(self) -> list[str]:
        return ["model", *["forgotten"] * self.several, *["protocol"] * self.mixed]

    @property
    def header(self) -> list[str]:
        return [*self.label_header, *self.figures]

    def labels(self, row: Row) -> list[str]:
        """The cells before the figures."""
        return [row.model, *[", ".join(row.forgotten)] * self.several, *[row.protocol] * self.mixed]

    def cells(self, row: Row) -> list[str]:
        return [*self.labels(row), *(self._cell(row, name) for name in self.figures)]

    def _cell(self, row: Row, name: str) -> str:
        if name not in row.measures:
            return ABSENT
        details = "; ".join(row.details(name))
        return row.measures[name].text + (f" ({details})" if details else "")


def text(table: Table) -> str:
    """For a terminal, in blocks."""
    lines = [table.header, *map(table.cells, table.rows)]
    start = labels = len(table.label_header)
    blocks = []
    for names in table.blocks:
        blocks.append(aligned([line[:labels] + line[start : start + len(names)] for line in lines]))
        start += len(names)
    warnings = "".join(f"Warning: {warning}\n" for warning in table.warnings)
    return warnings + "\n\n".join([*blocks, "\n".join(table.notes)])


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Cells in columns, for a terminal."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def markdown(table: Table) -> str:
    """A table with its warnings and notes as paragraphs."""
    lines = [table.header, ["---"] * len(table.header), *map(table.cells, table.rows)]
    body = "\n".join(f"| {' | '.join(escape(cell) for cell in line)} |" for line in lines)
    warnings = [f"**Warning: {escape(warning)}**" for warning in table.warnings]
    return "\n\n".join([*warnings, body, *map(escape, table.notes)]) + "\n"


def escape(words: str) -> str:
    """Text that Markdown shows as it is: names may hold anything."""
    for mark, instead in (("\\", "\\\\"), ("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("*", "\\*"), ("_", "\\_")):
        words = words.replace(mark, instead)
    return " ".join(words.replace("[", "\\[").replace("`", "\\`").split())


def as_json(table: Table) -> dict[str, Any]:
    """All figures unrounded, with their counts, intervals, ratios and gaps (`gap_to_control` in percentage points)."""
    return {
        "kind": KIND,
        "mixed": table.mixed,
        "warnings": list(table.warnings),
        "notes": list(table.notes),
        "rows": [
            {
                "model": row.model,
                "role": row.role,
                "run": row.run,
                "forgotten": list(row.forgotten),
                "protocol": row.protocol,
                "protocol_hash": row.protocol_hash,
                "figures": {name: _plain(row, name) for name in row.measures},
            }
            for row in table.rows
        ],
    }


def _plain(row: Row, name: str) -> dict[str, Any]:
    measure = row.measures[name]
    rest = {key: value for key, value in measure.raw.items() if key not in ("per_class", "name", "value")}
    plain = {"value": measure.value, "unit": measure.unit, **rest}
    if (change := row.changes.get(measure.key)) is not None:
        plain |= {f"{part}_to_original": value for part, value in change.items()}
    if row.gaps.get(name) is not None:
        plain["gap_to_control" if measure.unit == "rate" else "ratio_to_control"] = row.gaps[name]
    return plain


def csv_text(table: Table) -> str:
    """One line a row and one column a number, unrounded; the interval as `low` and `high`."""
    records = []
    for row in as_json(table)["rows"]:
        figures = row.pop("figures")
        record = row | {"forgotten": "; ".join(row["forgotten"])}
        for name, parts in figures.items():
            record[name] = parts.pop("value")
            numbers: dict[str, Any] = {}
            for key, value in parts.items():
                if key == "ci95":
                    numbers |= {"low": value[0], "high": value[1]}
                elif isinstance(value, list):
                    numbers |= {f"{key} low": value[0], f"{key} high": value[1]}
                elif key != "unit":
                    numbers[key] = value
            record |= {f"{name} {key}": value for key, value in numbers.items() if value is not None}
        records.append(record)
    stream = StringIO()
    writer = csv.DictWriter(stream, list(dict.fromkeys(key for record in records for key in record)), restval="")
    writer.writeheader()
    writer.writerows(records)
    return stream.getvalue()
