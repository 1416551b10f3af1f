"""The weights under a mask: where they are, and how values are taken from there and put back."""

from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor

INDEX_BYTES = 4  # of a weight's place, against one byte of a bool mask for every weight
AT_ONCE = 2**26  # weights that are laid end to end, which copies them


def support_of(mask: Tensor) -> Tensor:
    """The places of the weights under a bool mask: flat indices, int32 [N]."""
    return mask.flatten().nonzero()[:, 0].int()


def smaller_form(mask: Tensor) -> Tensor:
    """The mask itself, or its places where those take fewer bytes."""
    return support_of(mask) if INDEX_BYTES * int(mask.sum()) < mask.numel() else mask


def overlay(values: Tensor, support: Tensor, ground: Tensor) -> Tensor:
    """`ground` with the entries under the mask taken from `values`; `ground` may be changed in place.

    Args:
        support: a bool mask, or what `support_of` makes of it.
    """
    if support.dtype == torch.bool:
        return torch.where(support, values, ground)
    ground.view(-1).scatter_(0, support.long(), values.reshape(-1).index_select(0, support))
    return ground


def parts(tensors: Sequence[Tensor]) -> Iterator[slice]:
    """Neighbours of together about `AT_ONCE` entries."""
    first = held = 0
    for i, tensor in enumerate(tensors):
        if i > first and held + tensor.numel() > AT_ONCE:
            yield slice(first, i)
            first, held = i, 0
        held += tensor.numel()
    if tensors:
        yield slice(first, len(tensors))


def end_to_end(tensors: Sequence[Tensor]) -> Tensor:
    """All entries, [N]: a copy, but of a single tensor a view."""
    return tensors[0].reshape(-1) if len(tensors) == 1 else torch.cat([tensor.reshape(-1) for tensor in tensors])


def gather(tensors: Sequence[Tensor], places: Sequence[Tensor], at_once: bool) -> list[Tensor]:
    """Copies of the entries at the places of each tensor.

    Args:
        at_once: of all tensors laid end to end: more to copy, but few kernels, which is what counts on a GPU.
    """
    if not at_once:
        return [t.reshape(-1).index_select(0, at) for t, at in zip(tensors, places, strict=True)]
    found = end_to_end(tensors).index_select(0, _places_end_to_end(tensors, places))
    return list(found.split([len(at) for at in places]))


def scatter(values: Sequence[Tensor], places: Sequence[Tensor], tensors: Sequence[Tensor], at_once: bool) -> None:
    """Puts back what `gather` took: writes values [N] to the places of each tensor."""
    if not at_once:
        for tensor, at, new in zip(tensors, places, values, strict=True):
            tensor.view(-1).scatter_(0, at.long(), new)
        return
    at = _places_end_to_end(tensors, places).long()
    changed = end_to_end(tensors).scatter_(0, at, torch.cat(list(values)))
    torch._foreach_copy_([t.view(-1) for t in tensors], list(changed.split([t.numel() for t in tensors])))


def _places_end_to_end(tensors: Sequence[Tensor], places: Sequence[Tensor]) -> Tensor:
    starts = list(accumulate((t.numel() for t in tensors[:-1]), initial=0))
    return torch.cat(torch._foreach_add(list(places), starts))


def zero_off(tensors: Sequence[Tensor], supports: Sequence[Tensor], at_once: bool) -> None:
    """Makes every entry off the masks zero, in place: by choice, not by product, since inf * 0 is nan.

    Args:
        supports: for each tensor a bool mask, or what `support_of` makes of it.
    """
    pairs = list(zip(tensors, supports, strict=True))
    for tensor, mask in pairs:
        if mask.dtype == torch.bool:
            tensor.masked_fill_(~mask, 0)
    pairs = [(tensor, support) for tensor, support in pairs if support.dtype != torch.bool]
    for part in parts([tensor for tensor, _ in pairs]):
        some, places = zip(*pairs[part], strict=True)
        kept = gather(some, places, at_once)
        torch._foreach_zero_(some)
        scatter(kept, places, some, at_once)
