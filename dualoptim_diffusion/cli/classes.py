"""`dualoptim classes`."""

from typing import Annotated

import typer

from dualoptim_diffusion.cli.complete import class_sources
from dualoptim_diffusion.cli.options import (
    LISTS,
    Json,
    result,
    verb,
)


@verb(LISTS, "dualoptim classes digits_sfron_dual")
def classes(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="A recipe, a run folder or a pipeline folder.", autocompletion=class_sources
        ),
    ],
    as_json: Json = False,
) -> None:
    """List the classes of a recipe's data or of a model."""
    from dualoptim_diffusion.runs.classes import list_classes

    id2label = list_classes(source)
    result(id2label if as_json else "\n".join(f"{i}  {name}" for i, name in id2label.items()), as_json)
