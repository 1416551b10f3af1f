"""The network in a part of a pipeline folder, read without diffusers."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from dualoptim_diffusion.files.pipeline_folder import read_settings
from dualoptim_diffusion.files.weight_files import part_weights, stored_tensors
from dualoptim_diffusion.files.wrappings import fitted

Network = TypeVar("Network", bound=nn.Module)

NEW_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
OLD_ATTENTION = re.compile(rf"(attentions\.\d+)\.({'|'.join(NEW_NAMES)})\.")


class _NothingInitialised(TorchFunctionMode):
    """Functions of torch.nn.init leave their tensor as it is."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if kwargs else args[0]
        return func(*args, **(kwargs or {}))


def _blank(make: Callable[..., Network], *settings: Any, **arguments: Any) -> Network:
    """A network whose weights have no values yet; no random numbers are drawn for it."""
    with _NothingInitialised(), torch.random.fork_rng(devices=[]):
        return make(*settings, **arguments)


class SharesWeights:
    """Of a diffusers class whose arguments are those of one of our networks."""

    @classmethod
    def of(cls, network: Any) -> Any:
        """The same network in this form; both share their weights."""
        if isinstance(network, cls):
            return network
        same: Any = _blank(cls, **network.arguments)  # type: ignore[type-var]
        same.load_state_dict(network.state_dict(), assign=True)
        return same.train(network.training)


def read_network(kind: type[Network], folder: Path) -> Network:
    """The network that `save_pretrained` wrote to `folder`, in eval mode and float32, on the CPU.

    Its weights may be safetensors or .bin, whole or in shards, of a variant, in half precision, and wrapped as a
    training script leaves them.

    Args:
        kind: `UNetModule`, `DiTModule` or a class of diffusers, which takes the arguments in config.json.

    Raises:
        ValueError: if a file is damaged or lacks weights.
        OSError, TypeError, RuntimeError: if a file is missing or of another network.
    """
    arguments = {k: v for k, v in read_settings(folder / "config.json").items() if not k.startswith("_")}
    from_config = getattr(kind, "from_config", None)
    network = _blank(kind, **arguments) if from_config is None else _blank(from_config, arguments)
    wanted, file = network.state_dict(), part_weights(folder)
    try:
        found = stored_tensors(file, wanted)
        weights = fitted({_present_name(name): value for name, value in found.items()}, wanted)
    except ValueError as error:
        raise ValueError(f"{folder.name}/{file.name}: {error}") from None
    network.load_state_dict(weights, assign=True)
    return network.eval()


def _present_name(name: str) -> str:
    """The name of a tensor of attention as diffusers has written it since 2023."""
    return OLD_ATTENTION.sub(lambda found: f"{found[1]}.{NEW_NAMES[found[2]]}.", name)
