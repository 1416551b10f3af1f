"""A sequence of requests as a table, sentences and a figure."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dualoptim_diffusion.report.audits import in_points
from dualoptim_diffusion.report.notes import quoted
from dualoptim_diffusion.report.svg import INK, panels
from dualoptim_diffusion.report.tables import aligned, escape

Content = Mapping[str, Any]  # of sequence.json
NOTE = (
    "Under each class, how often its label draws it, with the 95% interval; FA: how often the labels of all classes "
    "that were forgotten so far draw any of these classes, which grows with their number by itself; RA: how often the "
    "labels that are left draw their own. The classifier must name a class. Audit, where it was made: of all classes "
    "forgotten so far together, with its surest excess over models that never saw them."
)


def header(content: Content) -> list[str]:
    audited = ["audit"] if _is_audited(content) else []
    return ["request", *content["before"], "FA", "RA", "KID x 1000", *audited]


def _is_audited(content: Content) -> bool:
    return any("audit" in part for part in content["requests"])


def rows(content: Content) -> list[list[str]]:
    """The base model, then a row a request; of classes that are not forgotten yet nothing is said."""
    before = content["before"]
    audited = [""] if _is_audited(content) else []
    found = [["none", *map(_rate, before.values()), "", "", "", *audited]]
    for number, part in enumerate(content["requests"], start=1):
        cells = [_rate(part["own"][name]) if name in part["own"] else "" for name in before]
        kid = (part.get("kid") or {}).get("value")
        distance = "" if kid is None else f"{1000 * kid:.2f}"
        found.append(
            [
                f"{number}: {', '.join(part['forgotten'])}",
                *cells,
                *(f"{part[key]['value']:.1%}" for key in ("FA", "RA")),
                distance,
                *([decided(part)] if audited else []),
            ]
        )
    return found


def _rate(part: Mapping[str, Any]) -> str:
    low, high = part["ci95"]
    return f"{part['value']:.1%} ({low:.1%} to {high:.1%})"


def decided(part: Mapping[str, Any]) -> str:
    """What the audit of all classes so far decided, with its surest excess."""
    if "audit" not in part:
        return "not audited"
    if (worst := part["audit"]["headline"]) is None:
        return "no control"
    return f"{worst['decision']}: {in_points(worst)}, {worst['probe']}"


def sentences(content: Content) -> list[str]:
    """Which request revived which earlier classes, or that none did."""
    found = [
        f"Request {number} ({', '.join(part['forgotten'])}) revived {quoted(part['revived'])}."
        for number, part in enumerate(content["requests"], start=1)
        if part["revived"]
    ]
    return found or ["No request surely revived an earlier class."]


def text(content: Content) -> str:
    """For a terminal."""
    return "\n\n".join([aligned([header(content), *rows(content)]), *sentences(content)])


def markdown(content: Content) -> str:
    """The same as a file."""
    lines = [header(content), ["---"] * len(header(content)), *rows(content)]
    table = "\n".join(f"| {' | '.join(escape(cell) for cell in line)} |" for line in lines)
    return "\n\n".join([f"# One request after another: {content['recipe']}", table, *sentences(content), NOTE]) + "\n"


def draw(content: Content, path: Path) -> None:
    """How often each label draws its own class, from its request on, and RA, over the requests."""
    requests = content["requests"]
    with panels(1, (7.0, 3.6)) as (figure, (axes,)):
        for name in content["before"]:
            points = [(i, 100 * p["own"][name]["value"]) for i, p in enumerate(requests, start=1) if name in p["own"]]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=name)
        at = list(range(1, len(requests) + 1))
        ra = [100 * p["RA"]["value"] for p in requests]
        axes.plot(at, ra, color=INK, linestyle="--", marker="s", markersize=3, label="RA")
        axes.set_xticks(at, [", ".join(part["forgotten"]) for part in requests], rotation=30)
        axes.set_ylim(-3, 103)
        axes.set_ylabel("%")
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
        figure.savefig(path, dpi=120)
