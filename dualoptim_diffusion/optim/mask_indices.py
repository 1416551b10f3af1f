"""The weights under a mask: where they are, and how values are taken from there and put back."""

from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor

INDEX_BYTES = 4  # of a weight's place, against one byte of a bool mask for every weight
AT_ONCE = 2**24  # weights whose values are moved at a time, which copies them


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


def _lay_back(entries: Tensor, tensors: Sequence[Tensor]) -> None:
    torch._foreach_copy_([t.view(-1) for t in tensors], list(entries.split([t.numel() for t in tensors])))


class Places:
    """Places in several tensors, to take values from and to put them back.

    Args:
        tensors: what they are in, or what has its shapes.
        places: of each tensor, as `support_of` gives them.
        at_once: lay the tensors end to end: more to copy, but few kernels, which is what counts on a GPU.
    """

    def __init__(self, tensors: Sequence[Tensor], places: Sequence[Tensor], at_once: bool) -> None:
        self._each = list(places)
        self._all: Tensor | None = None
        if at_once and len(tensors) > 1:
            starts = list(accumulate((t.numel() for t in tensors[:-1]), initial=0))
            self._all = torch.cat(torch._foreach_add(self._each, starts))

    def take(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Copies of the entries at the places of each tensor."""
        if self._all is None:
            return [t.reshape(-1).index_select(0, at) for t, at in zip(tensors, self._each, strict=True)]
        return list(end_to_end(tensors).index_select(0, self._all).split([len(at) for at in self._each]))

    def put(self, values: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
        """Writes what `take` took, or as many other values, to the places of each tensor."""
        if self._all is None:
            for tensor, at, new in zip(tensors, self._each, values, strict=True):
                tensor.view(-1).scatter_(0, at.long(), new)
        else:
            _lay_back(end_to_end(tensors).scatter_(0, self._all.long(), torch.cat(list(values))), tensors)


def zero_off(tensors: Sequence[Tensor], supports: Sequence[Tensor], at_once: bool) -> None:
    """Makes every entry off the masks zero, in place: by choice, not by product, since inf * 0 is nan.

    Args:
        supports: for each tensor a bool mask, or what `support_of` makes of it.
        at_once: as in `Places`.
    """
    pairs = list(zip(tensors, supports, strict=True))
    whole = [(tensor, mask) for tensor, mask in pairs if mask.dtype == torch.bool]
    for part in parts([tensor for tensor, _ in whole]):
        some, masks = zip(*whole[part], strict=True)
        if at_once:
            _lay_back(end_to_end(some).masked_fill(~end_to_end(masks), 0), some)
        else:
            for tensor, mask in whole[part]:
                tensor.masked_fill_(~mask, 0)
    by_place = [(tensor, support) for tensor, support in pairs if support.dtype != torch.bool]
    for part in parts([tensor for tensor, _ in by_place]):
        some, places = zip(*by_place[part], strict=True)
        at = Places(some, places, at_once)
        kept = at.take(some)
        torch._foreach_zero_(some)
        at.put(kept, some)
