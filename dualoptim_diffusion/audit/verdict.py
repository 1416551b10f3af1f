"""The verdict: by how much each attack draws the class more often than from a model that never saw it."""

from collections.abc import Mapping, Sequence
from typing import Any

from dualoptim_diffusion.core.rates import Rate, difference_interval, rate, simultaneous_z
from dualoptim_diffusion.files.audit_file import largest

Curve = Mapping[str, Sequence[Any]]
Outcomes = Mapping[str, Mapping[str, Any]]  # trial -> model -> what its run returned


def excesses(attacks: Mapping[tuple[str, str], Mapping[str, Curve]]) -> list[dict[str, Any]]:
    """The unlearned model against the control at equal budget, at every point of every attack.

    Args:
        attacks: by (probe, trial), the curves of `unlearned` and `control`.

    Returns:
        For each point: `probe`, `attack`, `at`, the rates `FA` and `control`, their `difference` and its
        `interval`. Intervals hold together with 95% or more (Newcombe's, Bonferroni over all points), so that the
        largest may be picked; they tell of the images drawn, not of how an attack's own chance would fall.
    """
    points = [
        (probe, trial, i) for (probe, trial), curves in attacks.items() for i in range(len(curves["unlearned"]["at"]))
    ]
    z, found = simultaneous_z(max(1, len(points))), []
    for probe, trial, i in points:
        gone, control = (attacks[probe, trial][role] for role in ("unlearned", "control"))
        counts = (gone["hits"][i], gone["n"][i], control["hits"][i], control["n"][i])
        found.append(
            {
                "probe": probe,
                "attack": trial,
                "at": gone["at"][i],
                "FA": rate(*counts[:2]),
                "control": rate(*counts[2:]),
                "difference": counts[0] / counts[1] - counts[2] / counts[3],
                "interval": list(difference_interval(*counts, z)),
            }
        )
    return found


def headline(found: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The point of the largest excess, and how many there were to pick from."""
    return dict(largest(found)) | {"points": len(found)} if found else None


def steps_to_half(curve: Curve, original: Rate) -> Any:
    """The first point at which the class is drawn half as often as by the original without an attack; None if never.

    Args:
        curve: of an attack that runs over steps.
        original: rate of the original's plain FA.
    """
    half = original["value"] / 2
    rates = (hits / n for hits, n in zip(curve["hits"], curve["n"], strict=True))
    return next((at for at, value in zip(curve["at"], rates, strict=True) if value >= half), None)
