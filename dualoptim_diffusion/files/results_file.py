"""results.json: what an evaluation found, as it is made, written and read."""

from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, with_config
from typing_extensions import NotRequired, TypedDict

from dualoptim_diffusion.core.rates import Count, Rate, Share

CHECKED = ConfigDict(strict=True, extra="allow")  # strict types; extra keys allowed
CLOSED = ConfigDict(strict=True, extra="forbid")  # a table has a column for each of these

# 1: distances to training images on the judge's own features, FA of a judge that may answer "none of these"
# 2: KID also over pairs of one seed, as if each class had no fixed share of the real images; RA's interval by images
PROTOCOL_VERSION = 3

Number = Annotated[float, Field(allow_inf_nan=False)]
Interval = Annotated[list[Number], Field(min_length=2, max_length=2)]


@with_config(CHECKED)
class RateOfClasses(Rate):
    """A rate over the images of several labels, and the rate of each by class name."""

    per_class: NotRequired[dict[str, Share]]


@with_config(CLOSED)
class Score(TypedDict):
    """A score or rate without an interval; None where it was not measured."""

    name: str
    value: Number | None
    std: NotRequired[Number]


@with_config(CLOSED)
class Distance(TypedDict):
    """A distance under the name that its features give it; an unbiased one has a 95% interval, and may be below 0."""

    name: str
    value: Number
    ci95: NotRequired[Interval]
    n_generated: Count
    n_reference: Count


class Distances(TypedDict):
    """Drawn against real images of the retained classes, on the same features."""

    kid: Distance
    frechet: Distance
    frechet_infinity: NotRequired[Distance]
    kid_training: NotRequired[Distance]
    inception_score: NotRequired[Score | None]
    precision: NotRequired[Score | None]
    recall: NotRequired[Score | None]


@with_config(CHECKED)
class Degenerate(TypedDict):
    """Share of images of one flat colour, by label."""

    forgotten: RateOfClasses
    others: RateOfClasses


@with_config(CHECKED)
class Figures(Distances):
    """What the images of one model came to.

    FA: how often a forgotten label draws any forgotten class, by a classifier that must name a class; lower is better.
    RA: how often the other labels draw their own class; higher is better.
    FA_none, RA_none: the same where the classifier may answer "none of these"; only of one that can.
    RA_nearest: RA of the classes whose real images the classifier takes for a forgotten class most.
    leak: how often each other label, the null label included, draws a forgotten class.
    drawn, drawn_forced: what the classifier calls the images of each label, as counts; the latter without that answer.
    variety: mean variance of a pixel over the images of each label.
    """

    FA: RateOfClasses
    RA: RateOfClasses
    FA_none: NotRequired[RateOfClasses]
    RA_none: NotRequired[RateOfClasses]
    RA_nearest: NotRequired[RateOfClasses]
    leak: NotRequired[dict[str, Rate] | None]
    drawn: NotRequired[dict[str, dict[str, Count]]]
    drawn_forced: NotRequired[dict[str, dict[str, Count]]]
    degenerate: Degenerate
    variety: NotRequired[dict[str, Annotated[Number, Field(ge=0)]]]


@with_config(CLOSED)
class Change(TypedDict):
    """The unlearned model's figure less the original's, and as a multiple of it where one is known, each with its 95%
    interval."""

    difference: Number
    difference_ci95: Interval
    ratio: NotRequired[Number]
    ratio_ci95: NotRequired[Interval]


@with_config(CHECKED)
class Sampling(TypedDict):
    """The recipe's section under the protocol."""

    scheduler: str
    num_inference_steps: Count
    guidance_scale: Number


@with_config(CHECKED)
class Guidance(TypedDict):
    """w = guidance_scale - 1, as papers give it."""

    w: Number


@with_config(CHECKED)
class JudgeName(TypedDict):
    """timm's name of the classifier."""

    name: str


@with_config(CHECKED)
class DistanceUsed(TypedDict):
    """Which distance stands first, by its key among the figures, and which real images it is to."""

    headline: Literal["kid", "frechet"]
    reference: str


def _current(version: int) -> int:
    if version != PROTOCOL_VERSION:
        raise ValueError(f"figures of version {PROTOCOL_VERSION} of the protocols, not {version}")
    return version


@with_config(CHECKED)
class ProtocolUsed(TypedDict):
    """Everything that a figure depends on besides the model and the forgotten class."""

    name: NotRequired[str]
    version: Annotated[int, AfterValidator(_current)]
    statement: NotRequired[str]
    sampling: Sampling
    guidance: Guidance
    classifier: JudgeName
    distance: NotRequired[DistanceUsed]


@with_config(CHECKED)
class _JudgeAccuracy(TypedDict):
    verified: NotRequired[bool]
    accuracy: dict[str, Share]
    n_held_out: dict[str, Count]


def _counted(judge: _JudgeAccuracy) -> _JudgeAccuracy:
    if uncounted := judge["accuracy"].keys() - judge["n_held_out"].keys():
        raise ValueError(f"a count of {min(uncounted)!r} in n_held_out")
    return judge


# Accuracy on held-out real images, by class name. `verified`: every forgotten class is among them.
JudgeAccuracy = Annotated[_JudgeAccuracy, AfterValidator(_counted)]


@with_config(CHECKED)
class Selection(TypedDict):
    """By which rule the weights of a step were selected."""

    rule: str
    step: Count


@with_config(CHECKED)
class SelectionFile(Selection):
    """best/selection.json: the same with the figures of the selected weights."""

    FA: Number
    KID: NotRequired[Number]  # not in runs of the first version


@with_config(CHECKED)
class Results(TypedDict):
    """The whole file."""

    original: Figures
    unlearned: Figures
    changes: NotRequired[dict[str, Change]]
    forgotten: Annotated[list[str], Field(min_length=1)]
    data: NotRequired[str | None]
    forgotten_before: NotRequired[list[str]]
    protocol: ProtocolUsed
    protocol_hash: str
    classifier: JudgeAccuracy
    model_files: NotRequired[str | None]  # hash of the unlearned model's weight files
    seconds: NotRequired[dict[str, Annotated[Number, Field(ge=0)]]]
    selection: NotRequired[Selection | None]
