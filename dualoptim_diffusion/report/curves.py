"""Curves along a run as SVG that takes its colours from the page around it."""

from collections.abc import Mapping, Sequence

from dualoptim_diffusion.report.svg import BLUE, RED, panels, to_svg

Records = Sequence[Mapping[str, float]]
Lines = Sequence[tuple[str, str, str]]  # key of a record, name in the legend, colour
LOSSES: Lines = (("forget_loss", "forget", RED), ("retain_loss", "retain", BLUE))
NORMS: Lines = (("forget_grad_norm", "forget", RED), ("retain_grad_norm", "retain", BLUE))
RATES: Lines = (("FA", "FA", RED), ("RA", "RA", BLUE))
DISTANCE: Lines = (("KID", "distance", BLUE),)
MARGINS = (0.66, 0.5, 0.08, 0.12)  # inches: for labels such as 0.0125 and "outer step"


def draw_curves(records: Records) -> list[tuple[str, str]]:
    """(title, SVG) of losses and gradient norms, and of FA, RA and KID where some steps carry them.

    Args:
        records: lines of metrics.jsonl; FA and RA are fractions, on few images.
    """
    kinds = (
        ("Loss", LOSSES, "linear"),
        ("Gradient norm", NORMS, "log"),
        ("FA and RA, %", RATES, "percent"),
        ("KID", DISTANCE, "linear"),
    )
    return [(title, svg) for title, lines, scale in kinds if (svg := _draw(records, lines, scale))]


def _draw(records: Records, lines: Lines, scale: str) -> str | None:
    """One small figure, or None where no record has anything of it."""
    drawn = {
        name: ([(r["step"], factor * r[key]) for r in records if r.get(key) is not None], colour)
        for factor in (100 if scale == "percent" else 1,)
        for key, name, colour in lines
    }
    drawn = {name: (points, colour) for name, (points, colour) in drawn.items() if points}
    if not drawn:
        return None
    with panels(1, (4.6, 2.7), margins=MARGINS) as (figure, (axes,)):
        for name, (points, colour) in drawn.items():
            mark = "o" if len(points) <= 20 else ""
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.4, marker=mark, markersize=4, label=name)
        if scale == "log" and any(value > 0 for points, _ in drawn.values() for _, value in points):
            axes.set_yscale("log")
        if scale == "percent":
            axes.set_ylim(-3, 103)
        axes.set_xlabel("outer step")
        if len(drawn) > 1:
            axes.legend(frameon=False)
        return to_svg(figure)
