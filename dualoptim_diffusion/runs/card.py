"""The model card of what leaves this machine, and the licence that it states."""

import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from dualoptim_diffusion.core.plain_yaml import parse_yaml
from dualoptim_diffusion.files.pipeline_folder import model_folder
from dualoptim_diffusion.files.run_folder import RunFolder
from dualoptim_diffusion.models import DenoisingModel, DiTModule
from dualoptim_diffusion.report.comparison import open_run
from dualoptim_diffusion.report.model_card import model_card, plain_card

DIT_XL = {"num_layers": 28, "num_attention_heads": 16, "attention_head_dim": 72, "num_classes": 1000}
DIT_LICENCE = "cc-by-nc-4.0"  # of DiT's code and of the weights of DiT-XL/2
FRONT_MATTER = re.compile(r"---\n(.*?)\n---\n", re.DOTALL)


class Card(NamedTuple):
    """The text of a README.md, and the picture that it shows from beside it, where there is one."""

    text: str
    grid: Path | None


def make_card(source: Path, model: DenoisingModel, usage: str) -> Card:
    """The card of a finished run, with figures and grid; of any other model a short one.

    Args:
        source: the run or pipeline folder that the model was read from.
        usage: how to draw with it, in Markdown.
    """
    folder, licence = RunFolder(source), known_licence(source, model)
    if not folder.results.is_file():
        return Card(plain_card(usage, model.forgotten, licence), None)
    run = open_run(source)
    if licence:
        run = replace(run, provenance={"base_model_license": licence} | run.provenance)
    grid = folder.grid if folder.grid.is_file() else None
    return Card(model_card(run, usage, grid.name if grid else None), grid)


def known_licence(source: str | Path | None, model: DenoisingModel) -> str | None:
    """What the model card in the folder of a model says; else DiT's, for a network of DiT-XL's form on ImageNet."""
    if source is not None and (stated := _stated(model_folder(Path(source)) / "README.md")):
        return stated
    network = model.network
    is_xl = isinstance(network, DiTModule) and DIT_XL.items() <= network.arguments.items()
    return DIT_LICENCE if is_xl else None


def _stated(card: Path) -> str | None:
    """The licence in the front matter of a model card; None where there is no such card."""
    try:
        front = FRONT_MATTER.match(card.read_text(encoding="utf-8"))
        content = parse_yaml(front[1]) if front else None
    except (OSError, ValueError):
        return None
    licence = content.get("license") if isinstance(content, dict) else None
    return licence if isinstance(licence, str) else None
