"""The verdict: does any attack draw the class more often than from models that never saw it, beyond what chance does?

One retrained model relearns a class faster than another, and an attack's own seed moves its result: images drawn from
one model under one seed are not independent. Both spreads are estimated from the audit itself, as the correlation of
such images, and every count is taken for as many independent images as it is worth.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from dualoptim_diffusion.core.rates import Rate, difference_interval, rate, simultaneous_z
from dualoptim_diffusion.files.audit_file import surest

Curve = Mapping[str, Any]  # of an attack: `at`, `hits`, `n`; `each`: hits by model, seed and point
Decision = Literal["left", "gone", "cannot tell"]
MARGIN = 0.1  # an excess that counts as none
ONE_SIDED_Z = 1.6448536269514722  # 95% quantile of the normal distribution


def pool(curves: Sequence[Sequence[Curve]]) -> dict[str, Any]:
    """One curve of an attack on several models under several seeds: sums, and the hits of each.

    Args:
        curves: by model and seed, all over the same points.
    """
    flat = [curve for of_model in curves for curve in of_model]
    return {
        "at": list(flat[0]["at"]),
        "hits": [sum(part) for part in zip(*(curve["hits"] for curve in flat), strict=True)],
        "n": [sum(part) for part in zip(*(curve["n"] for curve in flat), strict=True)],
        "each": [[list(curve["hits"]) for curve in of_model] for of_model in curves],
    }


def correlation(clusters: Iterable[tuple[Sequence[int], float]]) -> float:
    """Intraclass correlation of images of one cluster, in [0, 1], by moments (the analysis of variance).

    Args:
        clusters: for each rate that clusters estimate, the hits of each of them and the images n that each has.
    """
    between = within = 0.0
    for hits, n in clusters:
        rates = [count / n for count in hits]
        middle = sum(rates) / len(rates)
        inside = sum(r * (1 - r) for r in rates) / len(rates) * n / max(1, n - 1)
        between += sum((r - middle) ** 2 for r in rates) / (len(rates) - 1) - inside / n
        within += inside
    return min(1.0, max(0.0, between / (between + within))) if between + within > 0 else 0.0


def spread(curves: Iterable[Curve]) -> float:
    """The correlation of images drawn from one model, from all curves of one probe on models of one kind each.

    It is that between the models of a kind or that between the seeds of an attack, whichever is larger.
    """
    models, seeds = [], []
    for curve in curves:
        each = curve["each"]
        for i, total in enumerate(curve["n"]):
            of_model = [sum(hits[i] for hits in part) for part in each]
            if len(each) > 1:
                models.append((of_model, total / len(each)))
            seeds += [([hits[i] for hits in part], total / len(each) / len(part)) for part in each if len(part) > 1]
    return max(correlation(models), correlation(seeds))


def worth(n: float, models: int, of_one: float) -> float:
    """How many independent images n are worth that are drawn from so many models, with the correlation `of_one`."""
    return n / (1 + (n / models - 1) * of_one)


def attacks(probes: Mapping[str, Any]) -> dict[tuple[str, str], dict[str, Curve]]:
    """The curves of all attacks of these probes of audit.json, by (probe, trial) and role; other trials have none."""
    return {
        (name, trial): part["outcomes"]
        for name, probe in probes.items()
        for trial, part in probe["trials"].items()
        if part["axis"] is not None
    }


def excesses(of_attacks: Mapping[tuple[str, str], Mapping[str, Curve]]) -> list[dict[str, Any]]:
    """The unlearned model against the controls at equal budget, at every point of every attack.

    Args:
        of_attacks: by (probe, trial), the pooled curves of `unlearned` and `control`.

    Returns:
        For each point: `probe`, `attack`, `at`, the rates `FA` and `control`, their `difference` and its `interval`.
        Intervals hold together with 95% or more (Newcombe's, Bonferroni over all points), so that any may be picked.
        `upper` bounds the difference with 95% by itself. Both count images for what they are worth.
    """
    spreads = {
        probe: spread(curve for (of, _), curves in of_attacks.items() if of == probe for curve in curves.values())
        for probe in {probe for probe, _ in of_attacks}
    }
    points = [
        (probe, trial, i)
        for (probe, trial), curves in of_attacks.items()
        for i in range(len(curves["unlearned"]["at"]))
    ]
    z, found = simultaneous_z(max(1, len(points))), []
    for probe, trial, i in points:
        gone, control = (of_attacks[probe, trial][role] for role in ("unlearned", "control"))
        rates = [rate(part["hits"][i], part["n"][i]) for part in (gone, control)]
        n, m = (worth(part["n"][i], len(part["each"]), spreads[probe]) for part in (gone, control))
        counts = rates[0]["value"] * n, n, rates[1]["value"] * m, m
        found.append(
            {
                "probe": probe,
                "attack": trial,
                "at": gone["at"][i],
                "FA": rates[0],
                "control": rates[1],
                "difference": rates[0]["value"] - rates[1]["value"],
                "interval": list(difference_interval(*counts, z)),
                "upper": difference_interval(*counts, ONE_SIDED_Z)[1],
            }
        )
    return found


def decide(found: Sequence[Mapping[str, Any]]) -> Decision:
    """`left`: some excess is surely above 0. `gone`: every one is surely at most the margin. Otherwise no answer.

    That every excess is small is tested one by one: each test alone errs in 5%, so all of them together do at most.
    """
    if any(point["interval"][0] > 0 for point in found):
        return "left"
    return "gone" if all(point["upper"] <= MARGIN for point in found) else "cannot tell"


def headline(found: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The point whose excess is surest, how many there were to pick from, and the decision."""
    return dict(surest(found)) | {"points": len(found), "decision": decide(found)} if found else None


def steps_to_half(curve: Curve, original: Rate) -> Any:
    """The first point at which the class is drawn half as often as by the original without an attack; None if never.

    Args:
        curve: of an attack that runs over steps.
        original: rate of the original's plain FA.
    """
    half = original["value"] / 2
    rates = (hits / n for hits, n in zip(curve["hits"], curve["n"], strict=True))
    return next((at for at, value in zip(curve["at"], rates, strict=True) if value >= half), None)
