"""The network in a part of a pipeline folder, read without diffusers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dualoptim_diffusion.files.pipeline_folder import read_settings

Network = TypeVar("Network", bound=nn.Module)


class _NothingInitialised(TorchFunctionMode):
    """Functions of torch.nn.init leave their tensor as it is."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if kwargs else args[0]
        return func(*args, **(kwargs or {}))


def with_weights(kind: type[Network], arguments: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Network:
    """A network of these arguments that holds these very tensors; no random weights are drawn for it.

    Raises:
        ValueError: if it lacks weights or has no use for some.
        RuntimeError: if some are of other shapes.
    """
    with _NothingInitialised(), torch.random.fork_rng(devices=[]):
        network = kind(**arguments)
    names = network.state_dict().keys()
    for found, problem in ((names - weights.keys(), "lacks"), (weights.keys() - names, "has no use for")):
        if found:
            raise ValueError(f"it {problem} the weights {', '.join(sorted(found)[:3])}")
    network.load_state_dict(weights, assign=True)
    return network


class SharesWeights:
    """Of a diffusers class whose arguments are those of one of our networks."""

    @classmethod
    def of(cls, network: Any) -> Any:
        """The same network in this form; both share their weights."""
        if isinstance(network, cls):
            return network
        same: Any = with_weights(cls, network.arguments, network.state_dict())  # type: ignore[type-var]
        return same.train(network.training)


def read_network(kind: type[Network], folder: Path) -> Network:
    """The network that `save_pretrained` wrote to `folder`, in eval mode and float32, on the CPU.

    Args:
        kind: `UNetModule` or `DiTModule`, which takes the arguments in config.json.

    Raises:
        ValueError: if a file is damaged or lacks weights.
        OSError, TypeError, RuntimeError: if a file is missing or of another network.
    """
    settings = read_settings(folder / "config.json")
    if not (file := folder / "diffusion_pytorch_model.safetensors").is_file():
        raise OSError(f"there is no file named {file}")
    try:
        weights = load_file(file)
    except SafetensorError as error:
        raise ValueError(f"its {file.name} is damaged: {error}") from None
    arguments = {name: value for name, value in settings.items() if not name.startswith("_")}
    return with_weights(kind, arguments, {name: value.float() for name, value in weights.items()}).eval()


def check_complete(network: nn.Module) -> None:
    """Checks that a network that diffusers loaded has all its weights; those that a file lacks have no values.

    Raises:
        ValueError: naming some of them.
    """
    if lacking := [name for name, p in network.named_parameters() if p.is_meta]:
        raise ValueError(f"it lacks the weights {', '.join(lacking[:3])}")
