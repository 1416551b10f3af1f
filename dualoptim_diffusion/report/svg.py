"""Figures as SVG elements that take their colours from the page around them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any

# matplotlib draws in these, the page's colours take their place
INK, LINE, RED, BLUE = "#010203", "#040506", "#070809", "#0a0b0c"
Margins = tuple[float, float, float, float]  # left, bottom, right, top
COLOURS = {INK: "currentColor", LINE: "var(--line)", RED: "var(--red)", BLUE: "var(--blue)"}


@contextmanager
def panels(
    count: int, size: tuple[float, float], sharey: bool = False, margins: Margins | None = None
) -> Iterator[tuple[Any, list[Any]]]:
    """A matplotlib figure of so many panels side by side, each of that size in inches, and its axes.

    Args:
        margins: around them, in inches; None finds out what their labels need, which takes as long as drawing.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    settings: dict[str, Any] = {"svg.hashsalt": "report", "svg.fonttype": "none", "font.size": 10}
    settings |= dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), INK)
    with rc_context(settings):
        width, height = count * size[0], size[1]
        figure = Figure(figsize=(width, height), layout=None if margins else "constrained")
        if margins:
            left, bottom, right, top = margins
            figure.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height)
        axes = list(figure.subplots(1, count, sharey=sharey, squeeze=False)[0])
        for part in axes:
            part.spines[["top", "right"]].set_visible(False)
            part.grid(color=LINE)
            part.set_axisbelow(True)
        yield figure, axes


def to_svg(figure: Any) -> str:
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


def width_of(svg: str) -> float:
    """In pixels, at which the figure's letters are as large as the page's notes."""
    found = re.search(r'viewBox="0 0 ([\d.]+) ', svg)
    return 1.4 * float(found[1]) if found else 640.0
