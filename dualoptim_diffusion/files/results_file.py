"""What a report reads of results.json, checked once: shapes, kinds of values, ranges."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dualoptim_diffusion.files.json_files import Part

Number = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Interval = Annotated[list[Share], Field(min_length=2, max_length=2)]


class Rate(Part):
    """How often something happened, and of how many images."""

    value: Share
    hits: Count
    n: Count
    ci95: Interval


class RateOfClasses(Rate):
    """The same with the rate of each class."""

    per_class: dict[str, Share] = Field(default_factory=dict)


class Extra(BaseModel):
    """A distance, score or rate without an interval; no value where it was not measured."""

    model_config = ConfigDict(strict=True, extra="forbid")  # a table has a column for each of these

    name: str
    value: Number | None
    std: Number = 0.0
    subset_size: Count = 0
    subsets: Count = 0


class Distance(Extra):
    """The Frechet distance."""

    n_generated: Count
    n_reference: Count


class Figures(Part):
    """Of one model."""

    FA: RateOfClasses
    RA: RateOfClasses
    degenerate_rate: Share
    frechet: Distance
    kid: Extra | None = None
    inception_score: Extra | None = None
    precision: Extra | None = None
    recall: Extra | None = None
    leak: dict[str, Rate] | None = None
    drawn: dict[str, dict[str, Count]] = Field(default_factory=dict)


class Sampling(Part):
    scheduler: str
    num_inference_steps: Count
    guidance_scale: Number


class Guidance(Part):
    w: Number


class Named(Part):
    name: str


class Protocol(Part):
    name: str = ""
    sampling: Sampling
    guidance: Guidance
    classifier: Named


class Judge(Part):
    """Of how many real images of each class the classifier was right."""

    verified: bool = True
    accuracy: dict[str, Share]
    n_held_out: dict[str, Count]

    @model_validator(mode="after")
    def _counted(self) -> "Judge":
        if uncounted := self.accuracy.keys() - self.n_held_out.keys():
            raise ValueError(f"a count of {min(uncounted)!r} in n_held_out")
        return self


class Selection(Part):
    rule: str
    step: Count


class Content(Part):
    """The whole file."""

    original: Figures
    unlearned: Figures
    forgotten: Annotated[list[str], Field(min_length=1)]
    forgotten_before: list[str] = Field(default_factory=list)
    data: str | None = None
    protocol: Protocol
    protocol_hash: str
    classifier: Judge
    selection: Selection | None = None
    seconds: dict[str, Annotated[Number, Field(ge=0)]] = Field(default_factory=dict)
