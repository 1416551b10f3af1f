"""`dualoptim methods`."""

from dualoptim_diffusion.cli.help import listing
from dualoptim_diffusion.cli.options import LISTS, Json, result, starting, verb


@verb(LISTS, "dualoptim methods")
def methods(as_json: Json = False) -> None:
    """List the methods: how each forgets, and its paper.

    `method.name=NAME` behind a recipe switches its method.
    """
    starting("Reading the methods")
    from dualoptim_diffusion.runs.methods import list_methods, sentence

    found = list_methods()
    rows = [(method["name"], sentence(method)) for method in found]
    result(found if as_json else listing({"Values of method.name": rows}), as_json)
