"""An audit as sentences, a table and figures: one a probe."""

from collections.abc import Iterable, Mapping
from math import nan
from pathlib import Path
from typing import Any

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.hashes import json_sha256
from dualoptim_diffusion.files.audit_file import Content, largest
from dualoptim_diffusion.files.json_files import read_checked
from dualoptim_diffusion.report.measures import Measure
from dualoptim_diffusion.report.notes import quoted
from dualoptim_diffusion.report.svg import BLUE, INK, RED, panels, to_svg, width_of
from dualoptim_diffusion.report.tables import aligned

Audit = Mapping[str, Any]
Outcomes = Mapping[str, Mapping[str, Any]]  # by model
MODELS = {"original": INK, "unlearned": RED, "control": BLUE}  # in the order and the colours they are drawn
A_POINT = {"step": "after {} steps", "timestep": "from t = {}", "guidance scale": "at guidance_scale {}"}
STEMS = 12  # layers that the figure of weights shows


def read_audit(run: Path) -> Audit | None:
    """A run's audit.json; None where it was never audited.

    Raises:
        InputError: if it is damaged.
    """
    path = run / "audit.json"
    if not path.is_file():
        return None
    try:
        return read_checked(path, Content)
    except ValueError as error:
        raise InputError(
            f"{path} is damaged ({error}); delete it, and `dualoptim audit {run}` makes it anew."
        ) from None


def sentence(content: Audit) -> str:
    """The headline: plain FA, then the attack under which the model differs most from one that never saw the class."""
    plain = content["plain"]["unlearned"]
    label = f"{quoted(content['forgotten'])} draw{'s' if len(content['forgotten']) == 1 else ''}"
    asked = f"Simply asked, {label} a forgotten class in {_share(plain)}."
    if (worst := content["headline"]) is None:
        return f"{asked} {content.get('note') or 'No attack was run.'}"
    points = 100 * worst["difference"]
    low, high = (100 * side for side in worst["interval"])
    attack = f"{worst['probe']} ({worst['attack']}, {_where(content, worst)})"
    if worst["difference"] <= 0:
        verdict = "no attack draws the class more often than from a model that never saw it"
    elif low <= 0:
        verdict = "the excess may be chance"
    else:
        verdict = "something of the class is left that such a model does not have"
    return (
        f"{asked} Of {worst['points']} points of attack the largest excess over a model retrained without the class "
        f"is {points:+.1f} percentage points (simultaneous 95% interval {low:+.1f} to {high:+.1f}), under {attack}: "
        f"{_share(worst['FA'])} against {_share(worst['control'])}; {verdict}."
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
    name = f"excess[{content['budget']['name']} {json_sha256(shared)[:6]}]"
    point = {key: worst[key] for key in ("probe", "attack", "at")}
    return Measure("excess", name, "excess", worst["difference"], {"ci95": worst["interval"], **point})


def _share(rate: Mapping[str, Any]) -> str:
    return f"{rate['value']:.1%} of {rate['n']} images"


def _where(content: Audit, point: Mapping[str, Any]) -> str:
    axis = content["probes"][point["probe"]]["trials"][point["attack"]]["axis"]
    return A_POINT.get(axis, "{}").format(point["at"])


def rows(content: Audit) -> list[list[str]]:
    """Of every attack: probe, attack, steps to half, and the point of its largest excess with the rates there."""
    found = []
    for name, probe in content["probes"].items():
        for trial, part in probe["trials"].items():
            if part["axis"] is None:
                continue
            points = [p for p in content["excess"] if (p["probe"], p["attack"]) == (name, trial)]
            steps = part.get("steps_to_half") or {}
            half = " / ".join(_steps(steps[role]) for role in MODELS if role in steps) or "–"
            if points:
                worst = largest(points)
                low, high = worst["interval"]
                rates = [f"{worst[key]['value']:.1%}" for key in ("FA", "control")]
                above = f"{100 * worst['difference']:+.1f} pp ({100 * low:+.1f} to {100 * high:+.1f})"
                found.append([name, trial, half, _where(content, worst), *rates, above])
            else:
                curve = part["outcomes"]["unlearned"]
                hits, n, at = max(zip(curve["hits"], curve["n"], curve["at"], strict=True), key=lambda p: p[0] / p[1])
                where = _where(content, {"probe": name, "attack": trial, "at": at})
                found.append([name, trial, half, where, f"{hits / n:.1%}", "–", "–"])
    return found


def _steps(value: int | None) -> str:
    return "never" if value is None else str(value)


HEADER = ("probe", "attack", "steps to half", "worst point", "FA", "control", "excess")


def text(content: Audit) -> str:
    """For a terminal."""
    return f"{sentence(content)}\n\n{aligned([HEADER, *rows(content)])}"


def section(content: Audit) -> dict[str, Any]:
    """All that the page shows of an audit."""
    budget = content["budget"]
    probes = []
    for name, probe in content["probes"].items():
        figure = draw(name, probe["trials"])
        probes.append(
            {
                "name": name.replace("_", " "),
                "question": probe["question"],
                "source": probe["source"],
                "figure": figure,
                "width": width_of(figure),
                "note": _note(name, probe["trials"]),
            }
        )
    return {
        "sentence": sentence(content),
        "header": HEADER,
        "rows": rows(content),
        "budget": f"{budget['name']}: {budget['images']} images a rate, seed {budget['seed']}",
        "control": content["control"],
        "probes": probes,
    }


def _note(name: str, trials: Mapping[str, Any]) -> str:
    """What the figure cannot say."""
    if name == "features":
        width = trials["linear probe"]["outcomes"]["unlearned"]["width"]
        return (
            f"Area under the ROC curve on held-out images, from {width} features; 0.5 is a guess. What a network with "
            "random weights reaches is in the pictures, not in what was learned."
        )
    if name == "inversion":
        return (
            "Solid and f: the class; dashed and r: retained classes. Held-out images if there are any; standard errors."
        )
    if name == "weights":
        off = trials["distances"]["outcomes"]["unlearned"]["off_mask"]
        if off is None:
            return "There was no mask."
        if off["changed"] == 0:
            return f"All {off['weights']:,} weights off the mask are bit for bit the original's."
        return (
            f"Of {off['weights']:,} weights off the mask {off['changed']:,} changed: the retain phase of this method "
            "trains them too, or its optimizer is shared."
        )
    return ""


def draw(name: str, trials: Mapping[str, Any]) -> str:
    """One probe's figure: a panel a trial."""
    if name == "features":
        return _draw_features(trials["linear probe"]["outcomes"])
    if name == "inversion":
        return _draw_inversion(trials)
    if name == "weights":
        return _draw_weights(trials["distances"]["outcomes"])
    with panels(len(trials), (3.2, 2.7), sharey=True) as (figure, axes):
        for part, (trial, content) in zip(axes, trials.items(), strict=True):
            _draw_attack(part, content["axis"], content["outcomes"])
            part.set_title(trial, fontsize=10)
        axes[0].set_ylabel("class drawn, %")
        axes[0].set_ylim(-4, 104)
        axes[0].legend(frameon=False, fontsize=9)
        return to_svg(figure)


def _draw_attack(axes: Any, axis: str, outcomes: Outcomes) -> None:
    at = outcomes["unlearned"]["at"]
    named = any(isinstance(where, str) for where in at)
    for role, colour in MODELS.items():
        if role not in outcomes:
            continue
        curve = outcomes[role]
        x = list(range(len(curve["at"]))) if named else curve["at"]
        y = [100 * hits / n for hits, n in zip(curve["hits"], curve["n"], strict=True)]
        style = {"linestyle": "", "alpha": 0.8} if named else {"linewidth": 1.4}
        axes.plot(x, y, color=colour, marker="o", markersize=4, label=role, **style)
    if named:
        axes.set_xticks(range(len(at)), at, rotation=90)
    elif axis == "step":
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlim(left=0)
    axes.set_xlabel("" if named else {"step": "steps", "timestep": "noised to t"}.get(axis, axis))


def _draw_features(outcomes: Outcomes) -> str:
    with panels(1, (6.4, 2.2)) as (figure, (axes,)):
        roles = list(outcomes)
        colours = [MODELS.get(role, INK) for role in roles]
        axes.barh(roles[::-1], [outcomes[role]["AUC"] for role in roles[::-1]], color=colours[::-1], height=0.6)
        for i, role in enumerate(roles[::-1]):
            axes.text(0.505, i, f"{outcomes[role]['AUC']:.3f}", va="center", color="white")
        axes.set_xlim(0.5, 1)
        axes.set_xlabel("area under the ROC curve")
        return to_svg(figure)


def _draw_inversion(trials: Mapping[str, Any]) -> str:
    losses, back = (trials[name]["outcomes"] for name in ("losses", "reconstruction"))
    with panels(2, (4.6, 2.9)) as (figure, (left, right)):
        for role, colour in MODELS.items():
            if role not in losses:
                continue
            for kind, style in (("forgotten", "-"), ("retained", "--")):
                group = _held_out(losses[role]["groups"], kind)
                name = role if kind == "forgotten" else None
                left.errorbar(
                    losses[role]["timesteps"], _gaps(group["loss"]), _gaps(group["standard_error"]),
                    color=colour, linestyle=style, linewidth=1.2, label=name,
                )  # fmt: skip
        left.set_yscale("log")
        left.set_xlabel("timestep")
        left.set_title("denoising loss", fontsize=10)
        left.legend(frameon=False, fontsize=9)
        roles = [role for role in MODELS if role in back]
        for offset, kind in ((-0.2, "forgotten"), (0.2, "retained")):
            groups = [_held_out(back[role]["groups"], kind) for role in roles]
            bars = right.bar(
                [i + offset for i in range(len(roles))], _gaps(g["error"] for g in groups), 0.36,
                yerr=_gaps(g["standard_error"] for g in groups), ecolor=INK,
                color=[MODELS[role] for role in roles], alpha=1.0 if kind == "forgotten" else 0.45,
            )  # fmt: skip
            right.bar_label(bars, [kind[0]] * len(roles), label_type="center", color="white", fontsize=8)
        right.set_xticks(range(len(roles)), roles)
        right.set_title("DDIM there and back: squared error", fontsize=10)
        return to_svg(figure)


def _held_out(groups: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    return groups.get(f"{kind}, held out") or groups[f"{kind}, training"]


def _gaps(values: Iterable[float | None]) -> list[float]:
    """What was no number leaves a gap."""
    return [nan if value is None else value for value in values]


def _draw_weights(outcomes: Outcomes) -> str:
    layers = [layer for layer, part in outcomes["unlearned"]["layers"].items() if part["distance"] is not None]
    moved = sorted(layers, key=lambda layer: outcomes["unlearned"]["layers"][layer]["distance"])[-STEMS:]
    with panels(1, (8.6, 3.4)) as (figure, (axes,)):
        for offset, role in ((0.2, "unlearned"), (-0.2, "control")):
            if role in outcomes:
                lengths = [outcomes[role]["layers"][layer]["distance"] or 0.0 for layer in moved]
                places = [i + offset for i in range(len(moved))]
                axes.barh(places, lengths, 0.38, color=MODELS[role], label=role)
        axes.set_yticks(range(len(moved)), moved, fontsize=8)
        axes.set_xlabel(f"|w − w₀| / |w₀| of the {len(moved)} layers that moved most")
        axes.legend(frameon=False, fontsize=9, loc="lower right")
        return to_svg(figure)
