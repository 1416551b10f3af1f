"""`dualoptim encode`."""

from dualoptim_diffusion.cli.options import FORGETTING, Json, Overrides, RecipeArgument, result, starting, verb


@verb(FORGETTING, "dualoptim encode imagenet_dit_sfron_dual data.path=IMAGENET data.latents=LATENTS")
def encode(recipe: RecipeArgument, overrides: Overrides = None, as_json: Json = False) -> None:
    """Encode all training images of a latent model, once.

    They are encoded mirrored too where the recipe mirrors; an interrupted encoding continues.

    Runs encode what they need by themselves; this is for many runs over one data set, and several processes share it.
    The latents lie in data.latents, or in the cache.
    """
    starting(f"Encoding the images of {recipe}")
    from dualoptim_diffusion.runs.encode import encode_recipe

    if (made := encode_recipe(recipe, overrides or ())) is not None:
        result(made, as_json)
