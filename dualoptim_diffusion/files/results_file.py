"""results.json: what an evaluation found, as it is made, written and read."""

from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, with_config
from typing_extensions import NotRequired, TypedDict

from dualoptim_diffusion.core.rates import Count, Rate, Share

CHECKED = ConfigDict(strict=True, extra="allow")  # strict types; extra keys allowed
CLOSED = ConfigDict(strict=True, extra="forbid")  # a table has a column for each of these

Number = Annotated[float, Field(allow_inf_nan=False)]


@with_config(CHECKED)
class RateOfClasses(Rate):
    """A rate over the images of several labels, and the rate of each by class name."""

    per_class: NotRequired[dict[str, Share]]


@with_config(CLOSED)
class Score(TypedDict):
    """A distance, score or rate without an interval; None where it was not measured."""

    name: str
    value: Number | None
    std: NotRequired[Number]
    subsets: NotRequired[Count]
    subset_size: NotRequired[Count]


@with_config(CLOSED)
class Distance(TypedDict):
    """The Frechet distance, under the name that its features give it."""

    name: str
    value: Number | None
    n_generated: Count
    n_reference: Count


class Distances(TypedDict):
    """Drawn against real images of the retained classes, on the same features."""

    frechet: Distance
    kid: NotRequired[Score | None]
    inception_score: NotRequired[Score | None]
    precision: NotRequired[Score | None]
    recall: NotRequired[Score | None]


@with_config(CHECKED)
class Figures(Distances):
    """What the images of one model came to.

    FA: how often a forgotten label draws any forgotten class; lower is better.
    RA: how often the other labels draw their own class; higher is better.
    leak: how often each other label, the null label included, draws a forgotten class.
    drawn: what the classifier calls the images of each label, as counts.
    degenerate_rate: share of all images that are one flat colour.
    """

    FA: RateOfClasses
    RA: RateOfClasses
    leak: NotRequired[dict[str, Rate] | None]
    drawn: NotRequired[dict[str, dict[str, Count]]]
    degenerate_rate: Share


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
class ProtocolUsed(TypedDict):
    """Everything that a figure depends on besides the model and the forgotten class."""

    name: NotRequired[str]
    statement: NotRequired[str]
    sampling: Sampling
    guidance: Guidance
    classifier: JudgeName


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
    FD: Number


@with_config(CHECKED)
class Results(TypedDict):
    """The whole file."""

    original: Figures
    unlearned: Figures
    forgotten: Annotated[list[str], Field(min_length=1)]
    data: NotRequired[str | None]
    forgotten_before: NotRequired[list[str]]
    protocol: ProtocolUsed
    protocol_hash: str
    classifier: JudgeAccuracy
    model_files: NotRequired[str | None]  # hash of the unlearned model's weight files
    seconds: NotRequired[dict[str, Annotated[Number, Field(ge=0)]]]
    selection: NotRequired[Selection | None]
