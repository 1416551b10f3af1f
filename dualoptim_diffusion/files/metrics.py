"""What a run notes of its steps: metrics.jsonl, and in best/selection.json which look was the best."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError
from pydantic_core import from_json

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.files.json_files import Part, complaint, read_checked

Figure = Annotated[float, Field(gt=-1e39, lt=1e39)]  # all that float32 holds, of which a curve can be drawn
Step = Annotated[int, Field(ge=0, lt=2**63)]


class Line(Part):
    """A record: the step, and figures by name; None where one was not measured."""

    __pydantic_extra__: dict[str, Figure | None]
    step: Step


class Choice(Part):
    """By which rule the weights of a step are the best, and what a look at them gave."""

    rule: str
    step: Step
    FA: Figure
    FD: Figure


def read_metrics(run: Path, steps: int | None = None) -> list[dict[str, float]]:
    """The records of a run's steps, or of so many of the first; none where it has no metrics.jsonl.

    Raises:
        InputError: if that file is damaged.
    """
    path = run / "metrics.jsonl"
    records: list[dict[str, float]] = []
    try:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        for line in text.splitlines()[:steps]:
            records.append(Line.model_validate(from_json(line, allow_inf_nan=False)).model_dump())
        return records
    except ValueError as error:
        reason = complaint(error) if isinstance(error, ValidationError) else str(error)
    raise InputError(f"{path} is damaged (line {len(records) + 1}: {reason}); delete it to go on without its curves.")


def read_selection(run: Path) -> dict[str, Any] | None:
    """The choice of a run that keeps its best weights; None where it has made none.

    Raises:
        InputError: if it is damaged.
    """
    path = run / "best" / "selection.json"
    if not path.is_file():
        return None
    try:
        return read_checked(path, Choice)
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}); restore it, or forget anew with --overwrite.") from None
