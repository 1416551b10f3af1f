"""What the README shows works as it stands there."""

import re
from pathlib import Path

import torch
from torch import nn

from dualoptim_diffusion.core.recipes import recipe_folder

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_ten_line_loop_runs_on_a_plain_module_and_forgets() -> None:
    (code,) = re.findall(r"```python\n(# the loop.*?)```", README, flags=re.DOTALL)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1))
    forget_x, retain_x = torch.randn(64, 2) + 2, torch.randn(64, 2) - 2

    def loss(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return (module(x) - 1).square().mean()

    warm_up = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(200):
        warm_up.zero_grad()
        (loss(network, forget_x) + loss(network, retain_x)).backward()
        warm_up.step()
    names = {
        "network": network,
        "forget_loss": lambda step: loss(network, forget_x),
        "retain_loss": lambda step: loss(network, retain_x),
    }
    exec(code, names)
    assert loss(network, forget_x) > 0.5
    assert loss(network, retain_x) < 0.1
    assert len([line for line in code.splitlines() if line.strip() and not line.startswith("#")]) <= 10


def test_every_recipe_and_file_the_readme_names_exists() -> None:
    for name in re.findall(r"dualoptim (?:forget|saliency|pretrain|train-classifier) ([a-z0-9_]+)", README):
        assert (recipe_folder() / f"{name}.yaml").is_file(), name
    root = Path(__file__).parent.parent
    for path in re.findall(r"\]\(((?!http)[^)#]+)\)", README):
        assert (root / path).exists(), path
