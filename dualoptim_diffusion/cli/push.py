"""`dualoptim push`."""

from typing import Annotated

import typer

from dualoptim_diffusion.cli.options import MODELS, Json, RunArgument, result, starting, verb


@verb(MODELS, "dualoptim push runs/demo OWNER/NAME --dry-run")
def push(
    run: RunArgument,
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="On the Hugging Face hub; made if needed.")],
    private: Annotated[bool, typer.Option("--private", help="Make it private; refuse one that is public.")] = False,
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="Upload to a branch; made if needed [main].")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files; needs no network.")] = False,
    as_json: Json = False,
) -> None:
    """Upload a run's model to the Hugging Face hub.

    The model card shows its figures and its grid. Needs the token of `hf auth login` or HF_TOKEN. Recipe, provenance
    and samples stay here.
    """
    starting(f"Preparing {run} for {repository}")
    from dualoptim_diffusion.runs.push import push as push_run

    result(push_run(run, repository, private, revision, dry_run), as_json)
