"""`dualoptim recipes`."""

from dualoptim_diffusion.cli.help import listing
from dualoptim_diffusion.cli.options import LISTS, Json, result, verb


@verb(LISTS, "dualoptim recipes")
def recipes(as_json: Json = False) -> None:
    """List the packaged recipes: what each is, and its cost.

    Times are those measured on the hardware that is named. `forget --dry-run` estimates them for this machine.
    """
    from dualoptim_diffusion.runs.recipes import by_model, list_recipes

    found = list_recipes()
    result(found if as_json else listing(by_model(found)), as_json)
