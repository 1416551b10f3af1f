"""The log of a run's steps: metrics.jsonl."""

import json
from pathlib import Path

from dualoptim_diffusion.errors import InputError


def read_metrics(run: Path, steps: int | None = None) -> list[dict[str, float]]:
    """The records of a run's steps, or of so many of the first; none where it has no metrics.jsonl.

    Raises:
        InputError: if that file is damaged.
    """
    path = run / "metrics.jsonl"
    try:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        records = [dict(json.loads(line)) for line in text.splitlines()[:steps]]
        if not all(isinstance(value, float | int | None) for record in records for value in record.values()):
            raise ValueError("it holds something other than numbers")
        return records
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); delete it to go on without its curves.") from None
