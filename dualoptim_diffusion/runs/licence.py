"""The licence of a model, where its folder states one or its weights can only be published ones."""

import re
from pathlib import Path

from dualoptim_diffusion.core.plain_yaml import parse_yaml
from dualoptim_diffusion.files.pipeline_folder import model_folder
from dualoptim_diffusion.models import DenoisingModel, DiTModule

DIT_XL = {"num_layers": 28, "num_attention_heads": 16, "attention_head_dim": 72, "num_classes": 1000}
DIT_LICENCE = "cc-by-nc-4.0"  # of DiT's code and of the weights of DiT-XL/2
FRONT_MATTER = re.compile(r"---\n(.*?)\n---\n", re.DOTALL)


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
