"""`dualoptim audit`."""

from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

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
    Writes audit.json and the report. Run an interrupted command again to continue. A run on another run's model is
    attacked for the classes of both. RUN may be a folder of `forget --then`: the model after each request is attacked.
    """
    if control and retrain:
        raise InputError(f"--control names the control {control[0]} and --retrain would make one; give one of them.")
    own = [override for override in overrides or () if override.startswith("audit.")]
    others = [override for override in overrides or () if override not in own]
    values = {"audit": BUDGETS[budget.value].model_dump()}
    spent = parse_recipe(AuditConfig, values, own, "The audit's budget").audit
    starting(f"Auditing {run}")
    from dualoptim_diffusion.runs.audited import Request
    from dualoptim_diffusion.runs.controls import Controls

    controls_asked = Controls(tuple(control or ()), controls, retrain)
    _attack(run, others, Request(spent, budget.value, tuple(probe or ()), controls_asked), dry_run, as_json)


def _attack(run: Path, overrides: list[str], request: Any, dry_run: bool, as_json: bool) -> None:
    """Audits a run, or the runs of a sequence, or tells what would be done."""
    from dualoptim_diffusion.report import audits, sequence
    from dualoptim_diffusion.runs.audit import audit, plan_audit
    from dualoptim_diffusion.runs.finished import open_chain
    from dualoptim_diffusion.runs.sequence import audit_in_turn, runs_of

    def of(one: Path, work: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        experiment, first = open_chain(one, overrides, allowed=("audit", "sampling"))
        return work(experiment, one, request, first)

    runs = runs_of(run)
    if dry_run:
        plans = {one.name: of(one, plan_audit) for one in runs}
        planned(plans if len(runs) > 1 else plans[runs[0].name], as_json)
    elif runs == [run]:
        content = of(run, audit)
        result(content if as_json else audits.text(content), as_json)
    else:
        done = audit_in_turn(run, lambda one: of(one, audit))
        result(done if as_json else f"{sequence.text(done)}\n\n{run / 'sequence.md'}", as_json)
