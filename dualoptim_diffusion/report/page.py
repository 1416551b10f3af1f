"""The report as one HTML page that needs nothing but itself."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualoptim_diffusion.core.classes import NULL_LABEL
from dualoptim_diffusion.files.atomic import seen
from dualoptim_diffusion.files.run_folder import grid_files
from dualoptim_diffusion.report import audits
from dualoptim_diffusion.report.comparison import Run
from dualoptim_diffusion.report.curves import draw_curves
from dualoptim_diffusion.report.notes import costs, found, headline, listed, tiles
from dualoptim_diffusion.report.tables import Table

if TYPE_CHECKING:
    from jinja2 import Template

MODELS = ("original", "unlearned")
MOST_BARS = 8
MOST_FRAMES = 12  # of a film
SIDE_BY_SIDE = (2, 3)  # so many runs have their pictures beside one another
FEW_CLASSES = 20  # a longer list of classes is folded


def render_page(table: Table, runs: Sequence[Run]) -> str:
    """The page: headline, table, then each run with its pictures, curves and what they came from.

    Raises:
        InputError: if a run's metrics.jsonl is damaged.
    """
    single = runs[0] if len(runs) == 1 else None
    title = f"Forgetting {listed(single.forgotten)}" if single else f"{len(runs)} runs compared"
    return _template().render(
        title=title,
        single=single,
        found=" ".join(found(single.results)) if single else None,
        costs=" ".join(costs(single.results)) if single else None,
        side_by_side=len(runs) in SIDE_BY_SIDE,
        tiles=tiles(table) if single else [],
        table=table,
        runs=[_sections(run) for run in runs],
    )


@cache
def _template() -> "Template":
    """One for the process: compiling it takes longer than filling it."""
    from jinja2 import Environment, PackageLoader

    loader = PackageLoader("dualoptim_diffusion.report")
    return Environment(loader=loader, autoescape=True, trim_blocks=True).get_template("report.html")


def _sections(run: Run) -> dict[str, Any]:
    """All that the page shows of one run, from the files in its folder."""
    results = run.results
    protocol = results["protocol"]
    return {
        "name": run.name,
        "forgotten": listed(run.forgotten),
        "headline": headline(results),
        "images": _images(run.folder.grid),
        "films": _films(run),
        "command": str(run.provenance.get("command", "")),
        "audit": audits.section(run.audit) if run.audit else None,
        "curves": draw_curves(records := run.folder.read_metrics()),
        "validated": any("FA" in record for record in records),
        "bars": _bars(results),
        "per_class": _per_class(results),
        "few_classes": FEW_CLASSES,
        "leaks": _leaks(results),
        "seconds": _durations(results.get("seconds", {})),
        "statement": protocol.get("statement"),
        "protocol": _flat({key: value for key, value in protocol.items() if key != "statement"}),
        "protocol_hash": run.protocol_hash,
        "provenance": _flat(run.provenance),
        "recipe": _text(run.folder.recipe),
    }


def _films(run: Run) -> list[tuple[str, list[tuple[int, str]]]]:
    """Of each forgotten class, (step, base64 PNG) along the run; of many steps some, the first and last among them."""
    films = []
    for name, steps in run.folder.read_films(run.forgotten).items():
        kept = list(steps.items())
        if len(kept) > MOST_FRAMES:
            kept = [kept[round(k * (len(kept) - 1) / (MOST_FRAMES - 1))] for k in range(MOST_FRAMES)]
        films.append((name, [(step, b64encode(path.read_bytes()).decode()) for step, path in kept]))
    return films


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _images(path: Path) -> dict[str, str]:
    """base64 PNGs: both halves of the grid, or else the grid with both side by side, or nothing."""
    grid, before, after = map(seen, grid_files(path))
    if before.is_file() and after.is_file():
        return {name: b64encode(path.read_bytes()).decode() for name, path in (("before", before), ("after", after))}
    return {"grid": b64encode(grid.read_bytes()).decode()} if grid.is_file() else {}


def _bars(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of each forgotten label: n, and (name, share in [0, 1], forgotten?) of what it draws now, most frequent first.

    A classifier that may answer "none of these" gives a second chart: what it calls them when it may not.
    """
    charts = []
    for label, key in ((label, key) for label in results["forgotten"] for key in ("drawn", "drawn_forced")):
        counts = results["unlearned"].get(key, {}).get(label, {})
        total = sum(counts.values())
        if not total:
            continue
        ordered = sorted(counts.items(), key=lambda item: -item[1])
        bars = [(name, count / total, name in results["forgotten"]) for name, count in ordered[:MOST_BARS]]
        if rest := ordered[MOST_BARS:]:
            bars.append((f"{len(rest)} other{'s' * (len(rest) > 1)}", sum(count for _, count in rest) / total, False))
        charts.append({"label": label, "n": total, "bars": bars, "forced": key == "drawn_forced"})
    return charts


def _per_class(results: Mapping[str, Any]) -> list[tuple[str, bool, float, float]]:
    """(class, forgotten?, original, unlearned): how often each label draws its class, in [0, 1]."""
    found = []
    for figure in ("FA", "RA"):
        before, after = (results[model][figure].get("per_class", {}) for model in MODELS)
        found += [(name, figure == "FA", before[name], after[name]) for name in before if name in after]
    return found


def _leaks(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """Labels that draw a forgotten class, most often first, and how many others never do."""
    before, after = (results[model].get("leak") or {} for model in MODELS)
    if not after:
        return None
    shown = [name for name, part in after.items() if part["hits"] or before.get(name, {}).get("hits")]
    shown = sorted({*shown, *({NULL_LABEL} & after.keys())}, key=lambda name: (-after[name]["value"], name))
    rows = [(name, *(_leak(part.get(name)) for part in (before, after))) for name in shown]
    return {"rows": rows, "others": len(after) - len(shown)}


def _leak(part: Mapping[str, Any] | None) -> tuple[str, str]:
    """Rate; hits, n and interval."""
    if part is None:
        return "–", ""
    low, high = part["ci95"]
    return f"{part['value']:.1%}", f"{part['hits']}/{part['n']}, 95% {low:.1%} to {high:.1%}"


def _durations(seconds: Mapping[str, float]) -> list[tuple[str, str]]:
    parts = [*seconds.items(), *([("together", sum(seconds.values()))] if len(seconds) > 1 else [])]
    return [(name, f"{value:.1f} s" if value < 120 else f"{value / 60:.1f} min") for name, value in parts]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """(path, value) of the leaves of nested mappings, in order."""
    leaves: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves += _flat(value, f"{prefix}{key} › ")
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            leaves.append((f"{prefix}{key}", "–" if value is None else shown))
    return leaves
