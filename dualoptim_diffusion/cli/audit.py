"""The command that attacks a run's result."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dualoptim_diffusion.cli.options import Json, RunArgument, app, open_run, result
from dualoptim_diffusion.core.errors import InputError

ProbeOption = StrEnum(
    "ProbeOption", ["leakage", "relearn", "embedding_attack", "noisy_start", "inversion", "features", "weights"]
)
BudgetOption = StrEnum("BudgetOption", ["quick", "standard", "full", "study"])


@app.command()
def audit(
    run: RunArgument,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Of audit and sampling, such as audit.images=200."),
    ] = None,
    probe: Annotated[list[ProbeOption] | None, typer.Option(help="Repeat for several [the budget's].")] = None,
    budget: Annotated[BudgetOption, typer.Option(help="What each model is given.")] = BudgetOption.quick,
    control: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="A model retrained without the class [one made by --retrain before]."),
    ] = None,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Train the control here; kept, and interrupted it goes on.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Attack a run's result: is the class really gone, or only hidden?

    Each probe runs on the original, the unlearned model and a control that never saw the class. Writes audit.json and
    the report anew. Interrupted, the same command goes on.
    """
    if control is not None and retrain:
        raise InputError(f"--control names the control {control} and --retrain would make one; give one of them.")
    from dualoptim_diffusion.core.budget import BUDGETS, AuditConfig
    from dualoptim_diffusion.core.recipes import parse_recipe
    from dualoptim_diffusion.report.audits import text
    from dualoptim_diffusion.runs import audit as auditing

    own = [override for override in overrides or () if override.startswith("audit.")]
    others = [override for override in overrides or () if override not in own]
    for override in others:
        if override.partition(".")[0] != "sampling":
            raise InputError(f"{override!r} would change how the run was made; override audit and sampling alone.")
    values = {"audit": BUDGETS[budget].model_dump()}
    spent = parse_recipe(AuditConfig, values, own, "The audit's budget").audit
    experiment = open_run(run, others)
    probes = [option.value for option in probe or ()]
    content = auditing.audit(experiment, run, spent, budget.value, probes, control, retrain)  # type: ignore[arg-type]
    result(content if as_json else text(content), as_json)
