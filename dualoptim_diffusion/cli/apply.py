"""`dualoptim apply`."""

from pathlib import Path
from typing import Annotated

import typer

from dualoptim_diffusion.cli.options import MODELS, Json, Overwrite, refuse_existing, result, starting, verb


@verb(MODELS, "dualoptim apply base three.safetensors --out unlearned")
def apply(
    base: Annotated[
        Path, typer.Argument(metavar="BASE", help="A pipeline folder or hub id; of a run folder the model in it.")
    ],
    patches: Annotated[
        list[Path], typer.Argument(metavar="PATCH...", help="A file of `dualoptim delta`; several make a chain.")
    ],
    out: Annotated[Path, typer.Option(help="Where to write the pipeline folder.", show_default=False)],
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make a run's model of its base model and a patch.

    It is the same bit for bit. A patch fits one base alone. Of several, each must be of what the one before it makes: a
    run, then a run from that.
    """
    refuse_existing(out, overwrite, "model_index.json")
    starting(f"Applying {', '.join(map(str, patches))} to {base}")
    from dualoptim_diffusion.runs.delta import apply_deltas

    result(apply_deltas(base, patches, out), as_json)
