"""`dualoptim audit`."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from dualoptim_diffusion.cli.complete import run_folders
from dualoptim_diffusion.cli.options import LOOKING, DryRun, Json, RunArgument, planned, result, starting, verb
from dualoptim_diffusion.core.budget import BUDGETS, PROBE_NAMES, AuditConfig
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.recipes import parse_recipe

BudgetOption = Enum("BudgetOption", {name: name for name in BUDGETS}, type=str)  # type: ignore[misc]
QUICK = BudgetOption("quick")


@verb(
    LOOKING,
    "dualoptim audit runs/demo --retrain",
    "dualoptim audit runs/demo --budget standard --probe relearn --probe leakage",
)
def audit(
    run: RunArgument,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="SECTION.KEY=VALUE", help="Of audit and sampling, such as audit.images=200."),
    ] = None,
    probe: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PROBE",
            help=f"{', '.join(PROBE_NAMES)}; repeat for several [the budget's].",
            autocompletion=lambda: list(PROBE_NAMES),
        ),
    ] = None,
    budget: Annotated[BudgetOption, typer.Option(help="What each model is given.")] = QUICK,
    control: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RUN",
            help="A model retrained without the class; repeat for several [those --retrain made before].",
            autocompletion=run_folders,
        ),
    ] = None,
    controls: Annotated[
        int, typer.Option(min=1, metavar="N", help="How many retrained models --retrain trains and uses.")
    ] = 2,
    retrain: Annotated[
        bool,
        typer.Option("--retrain", help="Train the controls here; they are cached, and interrupted training continues."),
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Attack a run's result: is the class really gone?

    It may be only hidden. Each probe runs on the original, the unlearned model and controls that never saw the class.
    Writes audit.json and the report. Run an interrupted command again to continue.
    """
    if control and retrain:
        raise InputError(f"--control names the control {control[0]} and --retrain would make one; give one of them.")
    own = [override for override in overrides or () if override.startswith("audit.")]
    others = [override for override in overrides or () if override not in own]
    values = {"audit": BUDGETS[budget.value].model_dump()}
    spent = parse_recipe(AuditConfig, values, own, "The audit's budget").audit
    starting(f"Auditing {run}")
    from dualoptim_diffusion.report.audits import text
    from dualoptim_diffusion.runs import audit as runs_audit
    from dualoptim_diffusion.runs.finished import open_run

    experiment = open_run(run, others, allowed=("audit", "sampling"))
    chosen = runs_audit.Controls(tuple(control or ()), controls, retrain)
    if dry_run:
        planned(runs_audit.plan_audit(experiment, run, spent, probe or (), chosen), as_json)
        return
    content = runs_audit.audit(experiment, run, spent, budget.value, probe or (), chosen)
    result(content if as_json else text(content), as_json)
