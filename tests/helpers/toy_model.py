"""A model small enough for closed forms, and methods on it."""

import torch
from torch import nn

from dualoptim_diffusion.core.config import MethodConfig
from dualoptim_diffusion.data import Batch
from dualoptim_diffusion.diffusion.process import add_noise, denoising_loss, guided_noise_pred, linear_alphas_cumprod
from dualoptim_diffusion.unlearning.methods import find_method


class ToyNetwork(nn.Module):
    """noise_pred = x_t weight[label]; plus a parameter that nothing uses."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.1, 0.9, num_classes + 1).double())
        self.unused = nn.Parameter(torch.ones(2).double())

    def forward(self, x_t: torch.Tensor, timesteps: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return x_t * self.weight[labels].view(-1, 1, 1, 1)


class ToyModel:
    """The model protocol around it, in float64."""

    num_classes, null_class, num_train_timesteps, label_drop, x_0_shape = 4, 4, 1000, 0.1, (1, 2, 2)
    antithetic = True
    autoencoder = None

    def __init__(self) -> None:
        self.id2label = dict(enumerate("abcd"))
        self.forgotten: list[str] = []
        self.network = ToyNetwork(4)

    def add_noise(self, x_0: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return add_noise(x_0, noise, timesteps, linear_alphas_cumprod())

    def noise_pred(self, x_t, timesteps, labels, guidance_scale=1.0):
        return guided_noise_pred(self.network, x_t, timesteps, labels, self.null_class, guidance_scale)

    def loss(self, x_0, timesteps, noise, labels, guidance_scale=1.0):
        x_t = self.add_noise(x_0, noise, timesteps)
        return denoising_loss(self.noise_pred(x_t, timesteps, labels, guidance_scale), noise)

    def encode(self, images: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        return images.double()

    def frozen_copy(self) -> "ToyModel":
        copy = ToyModel()
        copy.network.load_state_dict(self.network.state_dict())
        copy.network.requires_grad_(False)
        return copy


def batch(labels: list[int], seed: int = 0) -> Batch:
    source = torch.Generator().manual_seed(seed)
    n = len(labels)
    x_0, noise = torch.randn(2, n, 1, 2, 2, generator=source, dtype=torch.float64)
    timesteps = torch.randint(0, 1000, (n,), generator=source)
    class_labels = torch.tensor(labels)
    dropped = torch.where(torch.arange(n) % 3 == 0, 4, class_labels)
    return Batch(x_0, timesteps, noise, class_labels, dropped)


def make(name: str, forget_classes: tuple[int, ...] = (1,), **settings: object):
    return find_method(name)(MethodConfig(name=name, **settings), forget_classes, 4)
