"""Curves along a run as SVG that takes its colours from the page around it."""

import re
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

Records = Sequence[Mapping[str, float]]
Lines = Sequence[tuple[str, str, str]]  # key of a record, name in the legend, colour
# matplotlib draws in these, the page's colours take their place
INK, LINE, RED, BLUE = "#010203", "#040506", "#070809", "#0a0b0c"
COLOURS = {INK: "currentColor", LINE: "var(--line)", RED: "var(--red)", BLUE: "var(--blue)"}
LOSSES: Lines = (("forget_loss", "forget", RED), ("retain_loss", "retain", BLUE))
NORMS: Lines = (("forget_grad_norm", "forget", RED), ("retain_grad_norm", "retain", BLUE))
RATES: Lines = (("FA", "FA", RED), ("RA", "RA", BLUE))
DISTANCE: Lines = (("FD", "distance", BLUE),)


def draw_curves(records: Records) -> list[tuple[str, str]]:
    """(title, SVG) of losses and gradient norms, and of FA, RA and FD[classifier] where some steps carry them.

    Args:
        records: lines of metrics.jsonl; FA and RA are fractions, on few images.
    """
    kinds = (
        ("Loss", LOSSES, "linear"),
        ("Gradient norm", NORMS, "log"),
        ("FA and RA, %", RATES, "percent"),
        ("FD[classifier]", DISTANCE, "linear"),
    )
    return [(title, svg) for title, lines, scale in kinds if (svg := _draw(records, lines, scale))]


def _draw(records: Records, lines: Lines, scale: str) -> str | None:
    """One small figure, or None where no record has anything of it."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    drawn = {
        name: ([(r["step"], factor * r[key]) for r in records if r.get(key) is not None], colour)
        for factor in (100 if scale == "percent" else 1,)
        for key, name, colour in lines
    }
    drawn = {name: (points, colour) for name, (points, colour) in drawn.items() if points}
    if not drawn:
        return None
    settings: dict[str, Any] = {"svg.hashsalt": "report", "svg.fonttype": "none", "font.size": 10}
    settings |= dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), INK)
    with rc_context(settings):
        figure = Figure(figsize=(4.6, 2.7), layout="constrained")
        axes = figure.subplots()
        for name, (points, colour) in drawn.items():
            mark = "o" if len(points) <= 20 else ""
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.4, marker=mark, markersize=4, label=name)
        if scale == "log" and any(value > 0 for points, _ in drawn.values() for _, value in points):
            axes.set_yscale("log")
        if scale == "percent":
            axes.set_ylim(-3, 103)
        axes.set_xlabel("outer step")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=LINE)
        axes.set_axisbelow(True)
        if len(drawn) > 1:
            axes.legend(frameon=False)
        return _svg(figure)


def _svg(figure: Any) -> str:
    """The figure as an element without metadata, sizes, fixed fonts or fixed colours."""
    stream = StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    svg = stream.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg))
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 system-ui, sans-serif", svg)
    for drawn, shown in COLOURS.items():
        svg = svg.replace(drawn, shown)
    return svg
