"""An audit as sentences, a table and a section of the page."""

from collections.abc import Mapping
from typing import Any

from dualoptim_diffusion.core.hashes import json_sha256
from dualoptim_diffusion.files.audit_file import surest
from dualoptim_diffusion.report.audit_figures import MODELS, render
from dualoptim_diffusion.report.measures import Measure
from dualoptim_diffusion.report.notes import quoted
from dualoptim_diffusion.report.svg import width_of
from dualoptim_diffusion.report.tables import aligned

Audit = Mapping[str, Any]
VERDICTS = {
    "left": "Something of the class is left that models which never saw it do not have.",
    "gone": "The class is gone as far as these probes see: no attack draws it 10 percentage points more often than "
    "from models that never saw it.",
    "cannot tell": "These numbers of images, seeds and controls cannot tell whether something of the class is left.",
}
A_POINT = {
    "step": "after {} steps", "timestep": "from t = {}", "guidance scale": "at guidance_scale {}",
    "noise scale": "at {} times the noise", "classifier scale": "at scale {}", "bits": "in {} bits",
}  # fmt: skip


def sentence(content: Audit) -> str:
    """The verdict, plain FA, and the attack whose excess over models that never saw the class is surest."""
    plain = content["plain"]["unlearned"]
    label = f"{quoted(content['forgotten'])} draw{'s' if len(content['forgotten']) == 1 else ''}"
    asked = f"Simply asked, {label} a forgotten class in {_share(plain)}."
    if (worst := content["headline"]) is None:
        return f"{asked} {content.get('note') or 'No attack was run.'}"
    points = 100 * worst["difference"]
    low, high = (100 * side for side in worst["interval"])
    attack = f"{worst['probe']} ({worst['attack']}, {_where(content, worst)})"
    count = len(content["controls"])
    others = f"{count} models retrained without the class" if count > 1 else "one model retrained without the class"
    note = f" {content['note']}" if content.get("note") else ""
    return (
        f"{VERDICTS[worst['decision']]} {asked} Of {worst['points']} points of attack the surest excess over {others} "
        f"is {points:+.1f} percentage points (simultaneous 95% interval {low:+.1f} to {high:+.1f}), under {attack}: "
        f"{_share(worst['FA'])} against {_share(worst['control'])}.{note}"
    )


def excess(content: Audit) -> Measure | None:
    """The headline as a figure of the unlearned model; None where there was no control.

    Its name ends in a hash of what two audits must share to be compared: budget, sampling, judge and attacks.
    """
    if (worst := content["headline"]) is None:
        return None
    budget = {key: value for key, value in content["budget"].items() if key not in ("name", "seed")}
    attacks = sorted((name, *sorted(probe["trials"])) for name, probe in content["probes"].items())
    shared = [budget, content.get("sampling"), content["classifier"]["sha256"], attacks]
    if (count := len(content["forgotten"])) > 1:
        shared.append(count)
    name = f"excess[{content['budget']['name']} {json_sha256(shared)[:6]}]"
    point = {key: worst[key] for key in ("probe", "attack", "at")}
    return Measure("excess", name, "excess", worst["difference"], {"ci95": worst["interval"], **point})


def _share(rate: Mapping[str, Any]) -> str:
    return f"{rate['value']:.1%} of {rate['n']} images"


def _where(content: Audit, point: Mapping[str, Any]) -> str:
    axis = content["probes"][point["probe"]]["trials"][point["attack"]]["axis"]
    return A_POINT.get(axis, "{}").format(point["at"])


def rows(content: Audit) -> list[list[str]]:
    """Of every attack: probe, attack, cost, steps to half, and the point of its surest excess with the rates there."""
    found = []
    for name, probe in content["probes"].items():
        for trial, part in probe["trials"].items():
            if part["axis"] is None:
                continue
            points = [p for p in content["excess"] if (p["probe"], p["attack"]) == (name, trial)]
            steps = part.get("steps_to_half") or {}
            of_attack = [name, trial, _cost(part)]
            half = " / ".join(_steps(steps[role]) for role in MODELS if role in steps) or "–"
            if points:
                worst = surest(points)
                rates = [f"{worst[key]['value']:.1%}" for key in ("FA", "control")]
                found.append([*of_attack, half, _where(content, worst), *rates, in_points(worst)])
            else:
                curve = part["outcomes"]["unlearned"]
                hits, n, at = max(zip(curve["hits"], curve["n"], curve["at"], strict=True), key=lambda p: p[0] / p[1])
                where = _where(content, {"probe": name, "attack": trial, "at": at})
                found.append([*of_attack, half, where, f"{hits / n:.1%}", "–", "–"])
    return found


def in_points(point: Mapping[str, Any]) -> str:
    """An excess with its interval, in percentage points."""
    low, high = (100 * side for side in point["interval"])
    return f"{100 * point['difference']:+.1f} pp ({low:+.1f} to {high:+.1f})"


def _cost(part: Mapping[str, Any]) -> str:
    """What the attack takes of one model under one seed."""
    curve = part["outcomes"]["unlearned"]
    images = f"{sum(curve['n']) // len(curve['each'][0])} images"
    return f"{curve['at'][-1]} steps, {images}" if part["axis"] == "step" else images


def _steps(value: int | None) -> str:
    return "never" if value is None else str(value)


HEADER = ("probe", "attack", "cost", "steps to half", "worst point", "FA", "control", "excess")


def text(content: Audit) -> str:
    """For a terminal."""
    return f"{sentence(content)}\n\n{aligned([HEADER, *rows(content)])}"


def section(content: Audit) -> dict[str, Any]:
    """All that the page shows of an audit."""
    budget = content["budget"]
    probes = []
    for name, probe in content["probes"].items():
        figure, note = render(name, probe["trials"])
        probes.append(
            {
                "name": name.replace("_", " "),
                "question": probe["question"],
                "source": probe["source"],
                "figure": figure,
                "width": width_of(figure),
                "note": note,
            }
        )
    return {
        "sentence": sentence(content),
        "header": HEADER,
        "rows": rows(content),
        "budget": f"{budget['name']}: {budget['images']} images a rate, seed {budget['seed']}",
        "controls": content["controls"],
        "probes": probes,
    }
