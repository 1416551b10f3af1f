"""Single figures of a model: value, count and interval, gap to a control."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dualoptim_diffusion.files.results_file import Figures

Unit = Literal["rate", "distance", "score", "excess"]
EXTRAS: tuple[tuple[str, Unit], ...] = (
    ("kid", "distance"),
    ("frechet", "distance"),
    ("kid_training", "distance"),
    ("frechet_infinity", "distance"),
    ("inception_score", "score"),
    ("precision", "rate"),
    ("recall", "rate"),
)
_REAL = "features of the images that the other labels draw and of real images of their classes"
MEANINGS = {  # of each figure, by its key
    "FA": "How often a forgotten label still draws a forgotten class, by a classifier that must name a class. Lower is "
    "better.",
    "FA_none": 'FA of a classifier that may answer "none of these".',
    "RA": "How often the other labels draw their class, by a classifier that must name a class. Higher is better.",
    "RA_none": 'RA of a classifier that may answer "none of these".',
    "RA_nearest": "RA of the classes whose real images the classifier takes for the forgotten class most.",
    "degenerate": "Share of the forgotten labels' images that are one flat colour.",
    "kid": f"Kernel distance of {_REAL}, held out where there are enough. Unbiased: may be below 0. Lower is better.",
    "kid_training": f"Kernel distance of {_REAL} that the base model was trained on. It rewards memory.",
    "frechet": f"Frechet distance of {_REAL}. Too large by a bias that shrinks with more images.",
    "frechet_infinity": f"Frechet distance of {_REAL}, extrapolated to infinitely many images.",
    "inception_score": "How sure the network of the features is, and how many classes it names. Higher is better.",
    "precision": "Share of drawn images whose features lie among those of real images. Higher is better.",
    "recall": "Share of real images whose features lie among those of drawn images. Higher is better.",
    "excess": "By how much the worst attack of the audit draws the class more often than from a retrained model.",
}
OF_FORGOTTEN = ("FA", "FA_none", "degenerate")  # rates whose hits are few enough to be named


@dataclass(frozen=True)
class Measure:
    """One figure: `name` heads its column; a rate is a fraction in [0, 1]; `key`, `raw`: its entry in results.json.

    `main`: among the first that a reader sees. An excess is a difference of rates in [-1, 1], from audit.json.
    """

    key: str
    name: str
    unit: Unit
    value: float
    raw: Mapping[str, Any] = field(default_factory=dict)
    main: bool = False

    @property
    def meaning(self) -> str:
        return MEANINGS.get(self.key, "")

    @property
    def text(self) -> str:
        if self.unit == "excess":
            return f"{100 * self.value:+.1f} pp"
        spread = f" ± {number(self.raw['std'])}" if "std" in self.raw else ""
        return f"{self.value:.1%}" if self.unit == "rate" else number(self.value) + spread

    @property
    def detail(self) -> str:
        """Count and interval, where there are any."""
        if "ci95" not in self.raw:
            return ""
        low, high = self.raw["ci95"]
        if self.unit == "excess":
            return f"{100 * low:+.1f} to {100 * high:+.1f}, {self.raw['probe']}"
        if self.unit == "distance":
            return f"95% {number(low)} to {number(high)}"
        hits = f"{self.raw['hits']}/{self.raw['n']}" if self.key in OF_FORGOTTEN else f"n={self.raw['n']}"
        return f"{hits}, 95% {low:.1%} to {high:.1%}"

    def gap(self, control: "Measure | None") -> float | None:
        """To the control's: percentage points for rates, the ratio for anything else; None where there is none.

        An excess is a gap to a control already.
        """
        if control is None or self.unit == "excess":
            return None
        if self.unit == "rate":
            return 100 * (self.value - control.value)
        least = control.raw["ci95"][0] if "ci95" in control.raw else control.value
        return self.value / control.value if least > 0 else None

    def gap_text(self, gap: float | None) -> str:
        if gap is None:
            return ""
        return f"{gap:+.1f} pp to control" if self.unit == "rate" else f"{gap:.2f}x control"


def number(value: float) -> str:
    """Three decimals, or three digits of a small number."""
    return f"{value:.3f}" if abs(value) >= 0.1 or value == 0 else f"{value:.3g}"


def measures(figures: Figures, headline: str) -> dict[str, Measure]:
    """The figures of one model by column header; what was not measured is left out.

    Args:
        headline: key of the distance that stands first.

    Raises:
        LookupError: if FA, RA, the degenerate rate or the distance is missing.
    """
    found = [Measure(name, name, "rate", figures[name]["value"], figures[name], main=True) for name in ("FA", "RA")]
    flat = figures["degenerate"]["forgotten"]
    found.append(Measure("degenerate", "degenerate", "rate", flat["value"], flat, main=True))
    order = sorted(EXTRAS, key=lambda extra: extra[0] != headline)
    rates: dict[str, str] = {"FA_none": "FA (none)", "RA_none": "RA (none)", "RA_nearest": "RA (nearest)"}
    for key, unit in (*order[:1], *((key, "rate") for key in rates), *order[1:]):
        part: Mapping[str, Any] = figures.get(key) or {}  # type: ignore[assignment]
        if part.get("value") is not None:
            name = rates.get(key) or part["name"]
            found.append(Measure(key, name, unit, part["value"], part, main=key == headline))
    return {measure.name: measure for measure in found}
