"""What a run records of its steps: the lines of metrics.jsonl."""

from typing import Annotated

from pydantic import Field, ValidationError
from pydantic_core import from_json

from dualoptim_diffusion.files.json_files import Part, complaint

Figure = Annotated[float, Field(gt=-1e39, lt=1e39)]  # all that float32 holds, of which a curve can be drawn
Step = Annotated[int, Field(ge=0, lt=2**63)]


class Line(Part):
    """A record: the step, and figures by name; None where one was not measured."""

    __pydantic_extra__: dict[str, Figure | None]
    step: Step


def parse_metrics(text: str, steps: int | None = None) -> list[dict[str, float]]:
    """The records in the text of metrics.jsonl, or the first so many.

    Raises:
        ValueError: in one line, with the number of the first line that is none.
    """
    records: list[dict[str, float]] = []
    for number, line in enumerate(text.splitlines()[:steps], start=1):
        try:
            records.append(Line.model_validate(from_json(line, allow_inf_nan=False)).model_dump())
        except ValueError as error:
            found = complaint(error) if isinstance(error, ValidationError) else str(error)
            raise ValueError(f"line {number}: {found}") from None
    return records
