"""`dualoptim sample`: images of any model folder, also as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dualoptim_diffusion.core.classes import file_names, resolve_class
from dualoptim_diffusion.core.config import DenoiserRunConfig, ForgetRecipe, SamplingConfig
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.recipes import load_recipe, parse_seeds
from dualoptim_diffusion.drawing.panels import save_png
from dualoptim_diffusion.drawing.samples import draw_samples
from dualoptim_diffusion.files.atomic import clear_leftovers
from dualoptim_diffusion.files.locks import locked_run
from dualoptim_diffusion.files.pipeline_folder import model_folder
from dualoptim_diffusion.files.run_folder import RunFolder
from dualoptim_diffusion.models import autoencoder_sha256, model_sha256
from dualoptim_diffusion.models.images import to_pil
from dualoptim_diffusion.models.loading import load_model
from dualoptim_diffusion.runs.obtain import make_accelerator


def sample_model(
    source: Path, class_names: Sequence[str], named: Mapping[str, Any], out: Path, png: bool, latents: bool = False
) -> dict[str, Any] | None:
    """Draws classes of the model in a run or pipeline folder into `out`.

    Args:
        class_names: names or ids; all classes if empty.
        named: sampling settings that overrule those of the run's recipe.
        png: also write `out/png/CLASS/SEED.png`.
        latents: also keep the latents, where the model has an autoencoder, for `data.name: replay`.

    Returns:
        What was drawn, on the main process.

    Raises:
        InputError: for an unknown class, a wrong setting, no model, or samples of another kind in `out`.
    """
    run_folder = RunFolder(source)
    run_folder.check_whole()
    stored = load_recipe(ForgetRecipe, str(run_folder.recipe)) if run_folder.recipe.is_file() else None
    defaults = stored.sampling.model_dump() if stored else {}
    try:
        settings = SamplingConfig(**{**defaults, **named})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(f"{first['loc'][-1]} is {first['input']!r}: {first['msg']}.") from None
    run = stored.run if stored else DenoiserRunConfig()
    seeds = parse_seeds(settings.seeds)
    accelerator = make_accelerator(run.device)
    model = load_model(model_folder(source), accelerator.device)
    names = model.id2label
    class_ids = [resolve_class(name, names) for name in class_names] or list(names)
    sha256 = model_sha256(model)
    autoencoder = autoencoder_sha256(model) if latents else None
    model.prepare(accelerator, run.precision, run.channels_last, run.compile)
    with locked_run(out, accelerator):
        samples = draw_samples(
            out, model, sha256, dict.fromkeys(class_ids, seeds), settings, accelerator, autoencoder_sha256=autoencoder
        )
        if accelerator.is_main_process:
            clear_leftovers(out)  # now that it is known to be a folder of samples
    if not accelerator.is_main_process:
        return None
    if png:
        folders = file_names(names)
        for class_id in class_ids:
            folder = out / "png" / folders[class_id]
            folder.mkdir(parents=True, exist_ok=True)
            for seed, image in zip(seeds, to_pil(samples[class_id]), strict=True):
                save_png(folder / f"{seed:06d}.png", image)
    return {
        "folder": str(out),
        "model_sha256": sha256,
        "images": {names[i]: len(seeds) for i in class_ids},
        "sampling": settings.model_dump(mode="json"),
    }
