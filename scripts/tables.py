"""How every script writes its results: Markdown tables, means with deviations, intervals, JSON and Markdown files."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


def row(cells: Iterable[object]) -> str:
    """One line of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def table(head: Sequence[str], rows: Iterable[Iterable[object]], rule: str = " --- ") -> list[str]:
    """The lines of a table: its head, the rule under it, its rows."""
    return [row(head), f"|{'|'.join([rule] * len(head))}|", *map(row, rows)]


def spread(values: Sequence[float], form: str = ".1f", sign: str = " ± ") -> str:
    """Mean ± standard deviation; the mean alone of one value. With a % format the deviation is in percentage points."""
    middle = f"{mean(values):{form}}"
    if len(values) < 2:
        return middle
    return middle + sign + (f"{100 * stdev(values):{form[:-1]}f}" if form[-1] == "%" else f"{stdev(values):{form}}")


def mean_with_interval(values: Sequence[float], form: str = ".1f") -> str:
    """Mean (95% interval by Student's t over the values); the mean alone of one value."""
    from scipy.stats import t

    if len(values) < 2:
        return f"{values[0]:{form}}"
    half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return f"{mean(values):{form}} ({mean(values) - half:{form}} to {mean(values) + half:{form}})"


def span(values: Sequence[float], form: str) -> str:
    """Mean (least to largest)."""
    return f"{mean(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def rate(figure: dict[str, Any]) -> str:
    """A share of images with its 95% interval and the number of images."""
    low, high = figure["ci95"]
    return f"{figure['value']:.1%} ({low:.1%} to {high:.1%}, n = {figure['n']})"


def write_json(path: Path, content: object) -> None:
    """Writes a JSON file in one piece: another process sees the old file or the new one."""
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write(stem: Path, content: object, text: str) -> None:
    """Writes STEM.json with the figures and STEM.md with their table."""
    write_json(stem.with_name(f"{stem.name}.json"), content)
    stem.with_name(f"{stem.name}.md").write_text(text, encoding="utf-8")
