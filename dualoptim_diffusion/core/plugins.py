"""Methods, optimizers, probes and data sets of other packages: by entry point, or by the path of what is meant."""

import re
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from dualoptim_diffusion.core.errors import InputError, nearest, reason

PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")  # package.module:Name


def registered(kind: str) -> dict[str, Any]:
    """Entry points of the group `dualoptim_diffusion.KIND` by name, not loaded."""
    return {point.name: point for point in entry_points(group=f"dualoptim_diffusion.{kind}")}


def is_plugin(kind: str, name: str) -> bool:
    """Whether the name is registered or has the form of a path; nothing is loaded."""
    return PATH.fullmatch(name) is not None or name in registered(kind)


def find_plugin(kind: str, name: str) -> Any | None:
    """What an installed package registers under the name, or what a path such as `package.module:Name` leads to.

    Args:
        kind: methods, optimizers, probes or datasets.

    Returns:
        None if the name is neither.

    Raises:
        InputError: if it cannot be loaded.
    """
    points = registered(kind)
    try:
        if name in points:
            return points[name].load()
        if not PATH.fullmatch(name):
            return None
        module, _, attribute = name.partition(":")
        return getattr(import_module(module), attribute)
    except Exception as error:  # a module may raise anything when it is loaded
        raise InputError(
            f"{name!r} of {kind} cannot be loaded ({type(error).__name__}: {reason(error)}); install its package, or "
            "name it as package.module:Name."
        ) from None


def find_among(kind: str, ours: Mapping[str, Any], name: str) -> Any:
    """What is called so here, or else in another package.

    Raises:
        InputError: if there is none, with the nearest names, or it cannot be loaded.
    """
    if name in ours:
        return ours[name]
    if (found := find_plugin(kind, name)) is None:
        raise InputError(f"There is no {kind[:-1]} {name!r}: {nearest(name, [*ours, *registered(kind)])}")
    return found
