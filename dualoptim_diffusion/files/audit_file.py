"""audit.json: shapes, kinds of values, and that points name attacks that were made."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from dualoptim_diffusion.core.rates import Count, Rate, Share
from dualoptim_diffusion.files.json_files import Part
from dualoptim_diffusion.files.results_file import Number

Where = int | Number | str  # a number of steps, a scale, a label
Images = Annotated[int, Field(ge=1, lt=2**63)]
OfModel = Annotated[list[list[Count]], Field(min_length=1)]
Length = Annotated[Number, Field(ge=0)]


class Curve(Part):
    """Of an attack on one model: where, and how many images of how many show the class there."""

    at: Annotated[list[Where], Field(min_length=1)]
    hits: list[Count]
    n: list[Images]
    each: Annotated[list[OfModel], Field(min_length=1)]  # hits by model, seed and point

    @model_validator(mode="after")
    def _same_length(self) -> "Curve":
        if not len(self.at) == len(self.hits) == len(self.n):
            raise ValueError("as many hits and images as points")
        if any(hits > n for hits, n in zip(self.hits, self.n, strict=True)):
            raise ValueError("at most as many hits as images")
        return self


class LossesOfGroup(Part):
    loss: list[Length | None]
    standard_error: list[Length | None]


class Losses(Part):
    timesteps: Annotated[list[Count], Field(min_length=1)]
    groups: dict[str, LossesOfGroup]

    @model_validator(mode="after")
    def _same_length(self) -> "Losses":
        count = len(self.timesteps)
        if any(len(g.loss) != count or len(g.standard_error) != count for g in self.groups.values()):
            raise ValueError("one loss and one standard error a timestep")
        return self


class ErrorOfGroup(Part):
    error: Length | None
    standard_error: Length | None


class Reconstruction(Part):
    groups: dict[str, ErrorOfGroup]


class LinearProbe(Part):
    AUC: Share
    width: Count


class Likeness(Part):
    forgotten: Share | None
    retained: Share | None


class Membership(Part):
    AUC: Share
    ci95: Annotated[list[Share], Field(min_length=2, max_length=2)]
    members: Images
    others: Images


class ToldApart(Part):
    timesteps: Annotated[list[Count], Field(min_length=1)]
    found: list[Rate]
    false_alarms: list[Rate]

    @model_validator(mode="after")
    def _same_length(self) -> "ToldApart":
        if not len(self.timesteps) == len(self.found) == len(self.false_alarms):
            raise ValueError("as many rates as timesteps")
        return self


class Layer(Part):
    distance: Length | None


class OffMask(Part):
    weights: Count
    changed: Count


class Distances(Part):
    layers: dict[str, Layer]
    off_mask: OffMask | None


FIGURES: dict[tuple[str, str], type[Part]] = {  # of trials that are no attacks
    ("inversion", "losses"): Losses,
    ("inversion", "reconstruction"): Reconstruction,
    ("classifier_guided", "classifier"): ToldApart,
    ("features", "linear probe"): LinearProbe,
    ("features", "likeness"): Likeness,
    ("membership", "loss"): Membership,
    ("weights", "distances"): Distances,
}
GROUPS = ("forgotten, training", "retained, training")


class Trial(Part):
    axis: str | None
    outcomes: dict[str, Any]
    steps_to_half: dict[str, Count | None] = Field(default_factory=dict)


class Probe(Part):
    question: str
    source: str
    trials: Annotated[dict[str, Trial], Field(min_length=1)]


class Point(Part):
    probe: str
    attack: str
    at: Where
    FA: Rate
    control: Rate
    difference: Number
    interval: Annotated[list[Number], Field(min_length=2, max_length=2)]
    upper: Number


class Headline(Point):
    points: Count
    decision: Literal["left", "gone", "cannot tell"]


class Budget(Part):
    name: str
    images: Count
    seed: Count


class Judge(Part):
    sha256: str


class Audit(Part):
    """The whole file."""

    forgotten: Annotated[list[str], Field(min_length=1)]
    budget: Budget
    controls: list[str]
    classifier: Judge
    plain: dict[str, Rate]
    probes: dict[str, Probe]
    excess: list[Point]
    headline: Headline | None
    note: str | None = None
    model_files: str | None = None  # hash of the unlearned model's weight files

    @model_validator(mode="after")
    def _fits_together(self) -> "Audit":
        if "unlearned" not in self.plain:
            raise ValueError("the plain rate of the unlearned model")
        for name, probe in self.probes.items():
            if lacking := {trial for of, trial in FIGURES if of == name} - probe.trials.keys():
                raise ValueError(f"the figures {min(lacking)!r} of {name}")
            for trial, part in probe.trials.items():
                self._check_outcomes(name, trial, part)
        for point in [*self.excess, *([self.headline] if self.headline else [])]:
            if point.probe not in self.probes or point.attack not in self.probes[point.probe].trials:
                raise ValueError(f"an attack in place of {point.probe}, {point.attack}")
        return self

    @staticmethod
    def _check_outcomes(probe: str, trial: str, part: Trial) -> None:
        kind = FIGURES.get((probe, trial), Curve)
        if "unlearned" not in part.outcomes or (kind is Curve) != (part.axis is not None):
            raise ValueError(f"outcomes of the unlearned model under {probe}, {trial}")
        found = [kind.model_validate(outcome) for outcome in part.outcomes.values()]
        curves = [outcome.at for outcome in found if isinstance(outcome, Curve)]
        if any(at != curves[0] for at in curves):
            raise ValueError(f"the same points of {probe}, {trial} for every model")
        for outcome in found:
            if isinstance(outcome, Losses | Reconstruction) and not outcome.groups.keys() >= {*GROUPS}:
                raise ValueError(f"the groups {', '.join(GROUPS)} of {probe}")


def surest(points: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Of some points the one whose excess is surest: the largest lower end of an interval."""
    return max(points, key=lambda point: (point["interval"][0], point["difference"]))
