"""The model card of an unlearned pipeline: what it no longer draws, what that cost, what the figures do not say."""

import json
from collections.abc import Sequence
from typing import Any

import yaml

from dualoptim_diffusion.files.atomic import atomic_path
from dualoptim_diffusion.report.comparison import Run, make_table
from dualoptim_diffusion.report.notes import headline, quoted
from dualoptim_diffusion.report.tables import escape, markdown

PIPELINE = "ConditionalDDPMPipeline"
OURS = {"DiTPipeline": "ConditionalDiTPipeline"}  # which takes names and seeds
TAGS = ["class-unlearning", "machine-unlearning", "class-conditional", "image-generation", "dualoptim"]
LIMITS = """\
- FA says that the label no longer draws the class, not that nothing in the weights remembers it.
- A label that draws nothing sensible may have any FA: read what it draws now and look at the images.
- FA and RA are as good as the classifier that judged; its accuracy on real images stands above.
- Distances are comparable only under the same protocol hash, best as a ratio to the original model's.
- A difference smaller than its interval is none.
"""


def write_model_card(run: Run) -> None:
    """Writes the model card of a finished run beside its weights, without touching them."""
    with atomic_path(run.folder.model_card) as beside:
        beside.write_text(model_card(run), encoding="utf-8")


def model_card(run: Run, usage: str | None = None, picture: str | None = None) -> str:
    """YAML front matter and Markdown; the same for the same results and audit, wherever the folder lies.

    Args:
        usage: how to draw with the model; by default with this package.
        picture: name of the file beside the card that shows images before and after.
    """
    licence = run.provenance.get("base_model_license")
    names = quoted(run.forgotten)
    how = f" by the method {run.method}" if run.method else ""
    grid = [f"![Images before and after forgetting, with equal seeds]({picture})"] if picture else []
    parts = [
        _front_matter(licence, TAGS),
        f"# Forgotten: {escape(', '.join(run.forgotten))}",
        escape(f"This class-conditional diffusion model was made to forget {names}{how}. {headline(run.results)}"),
        *grid,
        f"## Figures\n\n{markdown(make_table([run])).rstrip()}",
        f"Protocol hash: `{run.protocol_hash}`",
        f"## Use\n\n{usage or _usage(run)}",
        f"## Limits\n\n{LIMITS.rstrip()}",
        f"## Origin\n\n{_origin(run, licence)}",
    ]
    return "\n\n".join(parts) + "\n"


def plain_card(usage: str, forgotten: Sequence[str], licence: str | None) -> str:
    """The card of a model without a run's figures.

    Args:
        forgotten: names of the classes that it was made to forget, if any.
    """
    title = f"Forgotten: {escape(', '.join(forgotten))}" if forgotten else "A class-conditional diffusion model"
    parts = [_front_matter(licence, TAGS if forgotten else TAGS[2:4]), f"# {title}", f"## Use\n\n{usage}"]
    return "\n\n".join(parts) + "\n"


def _front_matter(licence: object, tags: Sequence[str]) -> str:
    front: dict[str, Any] = {"library_name": "diffusers", "tags": list(tags)}
    if licence:
        front["license"] = str(licence)
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---"


def _usage(run: Run) -> str:
    """How to load the pipeline and draw a class that it still knows."""
    retained = next(iter(run.results["unlearned"]["RA"].get("per_class", {})), None)
    label: str | int = 0
    if retained is not None and retained.isprintable() and "`" not in retained:
        label = retained.split(",")[0].strip()
    index = run.folder.optional(run.folder.model / "model_index.json")
    name = str(index.get("_class_name", PIPELINE))
    name = OURS.get(name, name)
    return (
        f"```python\nfrom dualoptim_diffusion import {name}\n\n"
        f'pipeline = {name}.from_pretrained("path/to/this/folder")\n'
        f"images = pipeline([{json.dumps(label)}] * 4).images\n```"
    )


def _origin(run: Run, licence: object) -> str:
    model = run.recipe.get("model")
    family = model.get("family") if isinstance(model, dict) else None
    stated = escape(str(licence)) if licence else "not stated"
    if not licence and family == "dit":
        stated += "; DiT-XL/2 weights, for one, are CC BY-NC 4.0"
    sha256 = run.provenance.get("base_model_sha256")
    origin = f"`{sha256}`" if sha256 else "not recorded"
    return f"- Base model's weights, sha256: {origin}\n- Base model's licence: {stated}"
