"""timm's networks by name, with fresh weights, published ones, or those in a file; a head is never lost silently."""

from pathlib import Path
from typing import Any

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.files.weight_files import read_weights
from dualoptim_diffusion.files.wrappings import fitted

NOT_USED = ("mask_token",)  # of DINOv2's own files, for its training alone


def timm_model(name: str, pretrained: bool = False, **options: Any) -> Any:
    """A network by timm's name, such as `resnet18` or `resnet34.tv_in1k` (torchvision's weights).

    Raises:
        InputError: if there is none of that name, or its published weights cannot be had.
    """
    import timm

    if not timm.is_model(name):
        raise InputError(f"timm has no model {name!r}; `timm.list_models()` names them all.")
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except Exception as error:  # no network, no such weights: the hub raises many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"The network {name} cannot be made ({reason}); give its weights as a file.") from None


def load_weights(network: Any, path: Path, head_may_differ: bool) -> bool:
    """Loads every tensor of a file, whatever a training script put around them; returns whether the head came too.

    Args:
        head_may_differ: a head of another size stays fresh, because training follows.

    Raises:
        InputError: if tensors are missing, left over or of other shapes.
    """
    wanted = network.state_dict()
    given = {name: value for name, value in read_weights(path, wanted).items() if name not in NOT_USED}
    named = network.pretrained_cfg["classifier"]  # several names where a network has several heads
    heads = tuple(f"{name}." for name in ((named,) if isinstance(named, str) else named))
    head, fresh = ({n: v for n, v in w.items() if n.startswith(heads)} for w in (given, wanted))
    whole = {name: value.shape for name, value in head.items()} == {name: value.shape for name, value in fresh.items()}
    if not whole:
        given = {name: value for name, value in given.items() if name not in head} | fresh
    try:
        weights = fitted(given, wanted)
    except ValueError as error:
        raise InputError(
            f"{path} does not fit the network: {error}; give the weights of this network, or name the one that they "
            "are of."
        ) from None
    if not whole and not head_may_differ:
        raise InputError(
            f"The head in {path} is not for these classes, and a fresh one would judge by chance; train it on the data "
            "(training.num_steps) or give a checkpoint of a classifier for these classes."
        )
    network.load_state_dict(weights)
    return whole
