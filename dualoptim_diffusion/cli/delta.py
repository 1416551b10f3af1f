"""`dualoptim delta`."""

from pathlib import Path
from typing import Annotated

import typer

from dualoptim_diffusion.cli.options import (
    MODELS,
    Json,
    Overwrite,
    Places,
    RunArgument,
    refuse_existing,
    result,
    starting,
    verb,
)


@verb(MODELS, "dualoptim delta runs/demo --out three.safetensors")
def delta(
    run: RunArgument,
    out: Annotated[Path, typer.Option(help="Where to write the patch, a .safetensors file.", show_default=False)],
    overrides: Places = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write what a run changed of its base model, as a patch.

    It holds the new values of the changed weights alone.
    """
    refuse_existing(out, overwrite)
    starting(f"Comparing {run} with its base model")
    from dualoptim_diffusion.runs.delta import write_delta

    result(write_delta(run, out, overrides or ()), as_json)
