"""The model card of an unlearned pipeline: what it no longer draws, what that cost, what the figures do not say."""

import json
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


def model_card(run: Run) -> str:
    """YAML front matter and Markdown; the same for the same results and audit, wherever the folder lies."""
    licence = run.provenance.get("base_model_license")
    front: dict[str, Any] = {"library_name": "diffusers", "tags": TAGS}
    if licence:
        front["license"] = str(licence)
    names = quoted(run.forgotten)
    how = f" by the method {run.method}" if run.method else ""
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# Forgotten: {escape(', '.join(run.forgotten))}",
        escape(f"This class-conditional diffusion model was made to forget {names}{how}. {headline(run.results)}"),
        f"## Figures\n\n{markdown(make_table([run])).rstrip()}",
        f"Protocol hash: `{run.protocol_hash}`",
        f"## Use\n\n{_usage(run)}",
        f"## Limits\n\n{LIMITS.rstrip()}",
        f"## Origin\n\n{_origin(run, licence)}",
    ]
    return "\n\n".join(parts) + "\n"


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
