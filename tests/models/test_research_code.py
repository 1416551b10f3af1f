"""Imported checkpoints compute what the research code computed: recorded outputs of small ones, where these lie beside
the checkout (or in the folder that DUALOPTIM_RECORDED names).
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dualoptim_diffusion.models import ConditionalDDPM, ConditionalDiT
from dualoptim_diffusion.models.published import import_published
from dualoptim_diffusion.models.published_dit import import_published_dit

BESIDE = Path(__file__).parents[3] / "shared" / "fixtures"
RECORDED = Path(os.environ.get("DUALOPTIM_RECORDED", BESIDE))
AGREES = {"rtol": 1e-5, "atol": 1e-5}

pytestmark = pytest.mark.skipif(
    not (RECORDED / "published_ddpm_small.npz").is_file(), reason=f"no outputs of the research code in {RECORDED}"
)


def recorded(name: str) -> dict[str, Tensor]:
    with np.load(RECORDED / f"{name}.npz") as found:
        return {key: torch.from_numpy(value) for key, value in found.items()}


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs.to(ours.dtype), **AGREES)


@pytest.mark.parametrize("weights", ["raw", "ema"])
def test_an_imported_unet_computes_what_the_research_code_did(weights: str) -> None:
    theirs = recorded("published_ddpm_small")
    network = import_published(RECORDED / "published_ddpm_small.pth", weights, image_size=8).network
    model = ConditionalDDPM(network, dict(enumerate("abcd")))
    x_t, t, labels = theirs["x_t"], theirs["timesteps"], theirs["class_labels"]
    with torch.no_grad():
        conditional = model.noise_pred(x_t, t, labels)
        if weights == "ema":
            close(conditional, theirs["noise_pred_cond_ema"])
            return
        close(conditional, theirs["noise_pred_cond"])
        close(model.noise_pred(x_t, t, torch.full_like(labels, 4)), theirs["noise_pred_null"])
        close(model.noise_pred(x_t, t, labels, guidance_scale=3.0), theirs["noise_pred_guided_w2"])
        losses = model.loss(theirs["x_0"], t, theirs["noise"], labels)
    torch.testing.assert_close(losses, theirs["loss_per_sample"], rtol=1e-5, atol=1e-3)
    weighted = 1 / (losses**0.5 + 1e-8)
    forget = (weighted / weighted.mean() * losses).mean()
    torch.testing.assert_close(forget, theirs["sfron_forget_loss_lambda_half"].view(()), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("name", ["published_dit_small.pt", "published_dit_small_unlearned.pt"])
def test_an_imported_dit_computes_what_the_research_code_did(name: str) -> None:
    theirs = recorded("published_dit_small")
    model = ConditionalDiT(import_published_dit(RECORDED / name, num_heads=4).network, dict(enumerate("abcdefghij")))
    t = theirs["timesteps"]
    with torch.no_grad():
        close(model.predict(theirs["x_t"], t, theirs["class_labels"]), theirs["output"])
    losses = model.loss(theirs["x_0"], t, theirs["noise"], theirs["loss_class_labels"])
    close(losses.detach(), theirs["loss"])
    losses.mean().backward()
    squares = [p.grad.square().sum() for p in model.network.parameters() if p.grad is not None]
    close(torch.stack(squares).sum().sqrt(), theirs["grad_norm_of_mean_loss"].view(()))
