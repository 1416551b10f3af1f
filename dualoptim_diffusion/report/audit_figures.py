"""A figure for each probe of an audit, and a note on what it cannot say; a new kind of probe adds a renderer."""

from collections.abc import Callable, Iterable, Mapping
from math import nan
from typing import Any

from dualoptim_diffusion.report.svg import BLUE, INK, RED, panels, to_svg

Trials = Mapping[str, Any]  # a probe's trials, as audit.json has them
Outcomes = Mapping[str, Mapping[str, Any]]  # by model
Rendered = tuple[str, str]  # SVG, note
MODELS = {"original": INK, "unlearned": RED, "control": BLUE}  # in the order and the colours they are drawn
STEMS = 12  # layers that the figure of weights shows


def render(probe: str, trials: Trials) -> Rendered:
    """The probe's figure and its note."""
    return RENDERERS.get(probe, _draw_attacks)(trials)


def _draw_attacks(trials: Trials) -> Rendered:
    with panels(len(trials), (3.2, 2.7), sharey=True) as (figure, axes):
        for part, (trial, content) in zip(axes, trials.items(), strict=True):
            _draw_attack(part, content["axis"], content["outcomes"])
            part.set_title(trial, fontsize=10)
        axes[0].set_ylabel("class drawn, %")
        axes[0].set_ylim(-4, 104)
        axes[0].legend(frameon=False, fontsize=9)
        return to_svg(figure), ""


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


def _draw_guided(trials: Trials) -> Rendered:
    figure, _ = _draw_attacks({name: part for name, part in trials.items() if part["axis"] is not None})
    told = trials["classifier"]["outcomes"]["unlearned"]
    parts = [
        f"{found['value']:.0%} and {false['value']:.0%} at t = {t}"
        for t, found, false in zip(told["timesteps"], told["found"], told["false_alarms"], strict=True)
    ]
    return figure, (
        "The classifier that guides was trained here. Of noisy images of the class it finds, and of other classes it "
        f"takes for the class: {', '.join(parts)}. Where it cannot tell them apart, finding no excess says nothing."
    )


def _draw_features(trials: Trials) -> Rendered:
    outcomes = trials["linear probe"]["outcomes"]
    with panels(1, (6.4, 2.2)) as (figure, (axes,)):
        roles = list(outcomes)
        colours = [MODELS.get(role, INK) for role in roles]
        axes.barh(roles[::-1], [outcomes[role]["AUC"] for role in roles[::-1]], color=colours[::-1], height=0.6)
        for i, role in enumerate(roles[::-1]):
            axes.text(0.505, i, f"{outcomes[role]['AUC']:.3f}", va="center", color="white")
        axes.set_xlim(0.5, 1)
        axes.set_xlabel("area under the ROC curve")
        width = outcomes["unlearned"]["width"]
        return to_svg(figure), (
            f"Area under the ROC curve on held-out images, from {width} features; 0.5 is a guess. What a network with "
            "random weights reaches is in the images, not in what was learned." + _likeness(trials)
        )


def _likeness(trials: Trials) -> str:
    """Linear CKA with retrained models, in a sentence; nothing where it was not measured."""
    parts = [
        f"{role} {figures['forgotten']:.2f} ({figures['retained']:.2f})"
        for role, figures in trials.get("likeness", {"outcomes": {}})["outcomes"].items()
        if figures["forgotten"] is not None
    ]
    if not parts:
        return ""
    return f" Likeness to retrained models (linear CKA) on images of the class (of retained ones): {', '.join(parts)}."


def _draw_membership(trials: Trials) -> Rendered:
    outcomes = trials["loss"]["outcomes"]
    roles = [role for role in MODELS if role in outcomes][::-1]
    with panels(1, (6.4, 1.9)) as (figure, (axes,)):
        for height, role in enumerate(roles):
            area, (low, high) = outcomes[role]["AUC"], outcomes[role]["ci95"]
            axes.errorbar(area, height, xerr=[[area - low], [high - area]], color=MODELS[role], marker="o")
        axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=":")
        axes.set_yticks(range(len(roles)), roles)
        axes.set_xlim(0, 1)
        axes.set_ylim(-0.6, len(roles) - 0.4)
        axes.set_xlabel("area under the ROC curve")
        gone = outcomes["unlearned"]
        return to_svg(figure), (
            f"How often a training image of the class has a smaller loss than a held-out one ({gone['members']} and "
            f"{gone['others']} images; 95% intervals). One half is no trace of training." + _over_forgotten(gone)
        )


def _over_forgotten(figures: Mapping[str, Any]) -> str:
    """That the loss gives away what was forgotten; nothing where it does not."""
    if figures["ci95"][1] >= 0.5:
        return ""
    return (
        " The unlearned model's interval lies below: its loss is larger on what it was made to forget than on images "
        "that it never saw. This is over-forgetting, and tells what was forgotten."
    )


def _draw_inversion(trials: Trials) -> Rendered:
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
        return to_svg(figure), (
            "Solid and f: the class; dashed and r: retained classes. Held-out images if there are any; standard errors."
        )


def _held_out(groups: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    return groups.get(f"{kind}, held out") or groups[f"{kind}, training"]


def _gaps(values: Iterable[float | None]) -> list[float]:
    """What was no number leaves a gap."""
    return [nan if value is None else value for value in values]


def _draw_weights(trials: Trials) -> Rendered:
    outcomes = trials["distances"]["outcomes"]
    layers = [layer for layer, part in outcomes["unlearned"]["layers"].items() if part["distance"] is not None]
    moved = sorted(layers, key=lambda layer: outcomes["unlearned"]["layers"][layer]["distance"])[-STEMS:]
    with panels(1, (8.6, 3.4)) as (figure, (axes,)):
        for offset, role in ((0.2, "unlearned"), (-0.2, "control")):
            if role in outcomes:
                lengths = [outcomes[role]["layers"][layer]["distance"] or 0.0 for layer in moved]
                positions = [i + offset for i in range(len(moved))]
                axes.barh(positions, lengths, 0.38, color=MODELS[role], label=role)
        axes.set_yticks(range(len(moved)), moved, fontsize=8)
        axes.set_xlabel(f"|w − w₀| / |w₀| of the {len(moved)} layers that moved most")
        axes.legend(frameon=False, fontsize=9, loc="lower right")
        return to_svg(figure), _off_mask(outcomes["unlearned"]["off_mask"])


def _off_mask(found: Mapping[str, int] | None) -> str:
    if found is None:
        return "There was no mask."
    if found["changed"] == 0:
        return f"All {found['weights']:,} weights off the mask are bit for bit the original's."
    return (
        f"Of {found['weights']:,} weights off the mask {found['changed']:,} changed: the retain phase of this method "
        "trains them too, or its optimizer is shared."
    )


RENDERERS: dict[str, Callable[[Trials], Rendered]] = {  # of probes that are more than attacks
    "classifier_guided": _draw_guided,
    "features": _draw_features,
    "inversion": _draw_inversion,
    "membership": _draw_membership,
    "weights": _draw_weights,
}
