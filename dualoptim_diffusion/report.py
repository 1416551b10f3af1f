"""Results -> terminal table and one self-contained HTML page."""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from dualoptim_diffusion.checkpoint import atomic_path
from dualoptim_diffusion.errors import InputError

MODELS = ("original", "unlearned")
HEADER = ("model", "FA", "RA", "degenerate", "FD[classifier]")
FORGET_COLOUR, RETAIN_COLOUR = "#c8402f", "#3a7ca5"


def rows(results: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The table's cells: every rate with its count or interval, the distance also as a multiple of the original's."""
    cells: list[tuple[str, ...]] = []
    base = results["original"]["frechet"]["value"]
    for model in MODELS:
        r = results[model]
        fa, ra, fd = r["FA"], r["RA"], r["frechet"]
        low, high = fa["ci95"]
        cells.append(
            (
                model,
                f"{fa['value']:.1%} ({fa['hits']}/{fa['n']}, 95% {low:.1%} to {high:.1%})",
                f"{ra['value']:.1%} (n={ra['n']})",
                f"{r['degenerate_rate']:.1%}",
                f"{fd['value']:.3f}" + (f" ({fd['value'] / base:.2f}x)" if model != "original" and base > 0 else ""),
            )
        )
    return cells


def table(results: Mapping[str, Any]) -> str:
    """The results for a terminal."""
    lines = [HEADER, *rows(results)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER))]
    text = "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)
    return f"{text}\n\n{footnote(results)}"


def footnote(results: Mapping[str, Any]) -> str:
    """What the figures mean and how they were taken, in a few plain sentences."""
    protocol, fd = results["protocol"], results["unlearned"]["frechet"]
    sampling, judge = protocol["sampling"], results["classifier"]
    accuracy = ", ".join(
        f"{judge['accuracy'][name]:.1%} of {judge['n_held_out'][name]} ({name})"
        for name in results["forgotten"]
        if name in judge["accuracy"]
    )
    return (
        f"Forgotten: {', '.join(results['forgotten'])}. FA: how often the forgotten label still draws it (lower is "
        f"better); RA: how often the other labels draw their class (higher is better).\n"
        f"{protocol['samples_per_class']} images a class, {sampling['scheduler']}, "
        f"{sampling['num_inference_steps']} steps, guidance_scale {sampling['guidance_scale']:g} "
        f"(w = {protocol['guidance']['w']:g}); {fd['name']} of "
        f"{fd['n_generated']} generated against {fd['n_reference']} real retained images.\n"
        f"Classifier {protocol['classifier']['name']}, right on held-out real images: {accuracy or 'not measured'}. "
        f"Protocol {results['protocol_hash'][:12]}."
    )


def read_results(run: Path) -> dict[str, Any]:
    """results.json of a run folder.

    Raises:
        InputError: if it is not there or not readable.
    """
    try:
        results = json.loads((run / "results.json").read_text(encoding="utf-8"))
        table(results)  # whatever is missing shows here
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{run} has no readable results ({error!r}); run `dualoptim evaluate {run}` first.") from None
    return dict(results)


def write_report(run: Path) -> Path:
    """Writes `report.html` of a run folder from the files in it and returns its path."""
    from jinja2 import Environment, PackageLoader

    results = read_results(run)
    metrics = run / "metrics.jsonl"
    try:
        records = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.is_file() else []
    except json.JSONDecodeError as error:
        raise InputError(f"{metrics} is damaged ({error}); delete it to write the report without curves.") from None
    environment = Environment(loader=PackageLoader("dualoptim_diffusion"), autoescape=True)
    page = environment.get_template("report.html").render(
        forgotten=", ".join(results["forgotten"]),
        header=HEADER,
        rows=rows(results),
        footnote=footnote(results).split("\n"),
        grid=b64encode((run / "grid.png").read_bytes()).decode() if (run / "grid.png").is_file() else None,
        curves=_curves(records) if records else None,
        per_class=_per_class(results),
        seconds=results.get("seconds", {}),
        recipe=(run / "recipe.yaml").read_text(encoding="utf-8") if (run / "recipe.yaml").is_file() else "",
        provenance=(run / "provenance.json").read_text(encoding="utf-8") if (run / "provenance.json").is_file() else "",
    )
    path = run / "report.html"
    with atomic_path(path) as beside:
        beside.write_text(page, encoding="utf-8")
    return path


def _per_class(results: Mapping[str, Any]) -> list[tuple[str, bool, str, str]]:
    """(class, forgotten?, original, unlearned): how often each label draws its class."""
    names: dict[str, bool] = dict.fromkeys(results["original"]["FA"]["per_class"], True)
    names |= dict.fromkeys(results["original"]["RA"]["per_class"], False)
    return [
        (name, gone, *(f"{results[m]['FA' if gone else 'RA']['per_class'][name]:.1%}" for m in MODELS))  # type: ignore[misc]
        for name, gone in names.items()
    ]


def _curves(records: Sequence[Mapping[str, float]]) -> str:
    """Losses and gradient norms over the outer steps, as SVG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axes, kind, title in zip(figure.subplots(1, 2), ("loss", "grad_norm"), ("loss", "gradient norm"), strict=True):
        for phase, colour in (("forget", FORGET_COLOUR), ("retain", RETAIN_COLOUR)):
            points = [(r["step"], r[f"{phase}_{kind}"]) for r in records if f"{phase}_{kind}" in r]
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.2, label=phase)
        axes.set(xlabel="outer step", title=title)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    text = StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
