"""The weights under a mask as flat indices: gathering their values and writing them back."""

from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor

INDEX_BYTES = 4  # of a weight's index, against one byte a weight of a bool mask
CHUNK = 2**24  # entries that are concatenated at a time, which copies them


def indices_of(mask: Tensor) -> Tensor:
    """Flat indices of the entries under a bool mask, int32 [N]."""
    return mask.flatten().nonzero()[:, 0].int()


def smaller_form(mask: Tensor) -> Tensor:
    """The bool mask itself, or its indices where those take fewer bytes."""
    return indices_of(mask) if INDEX_BYTES * int(mask.sum()) < mask.numel() else mask


def overlay(values: Tensor, mask: Tensor, ground: Tensor) -> Tensor:
    """`ground` with the entries under the mask taken from `values`; `ground` may be changed in place.

    Args:
        mask: bool, or the indices that `indices_of` gives.
    """
    if mask.dtype == torch.bool:
        return torch.where(mask, values, ground)
    ground.view(-1).scatter_(0, mask.long(), values.reshape(-1).index_select(0, mask))
    return ground


def chunks(tensors: Sequence[Tensor]) -> Iterator[slice]:
    """Slices of neighbouring tensors with about `CHUNK` entries together."""
    first = count = 0
    for i, tensor in enumerate(tensors):
        if i > first and count + tensor.numel() > CHUNK:
            yield slice(first, i)
            first, count = i, 0
        count += tensor.numel()
    if tensors:
        yield slice(first, len(tensors))


def concatenated(tensors: Sequence[Tensor]) -> Tensor:
    """All entries, [N]: a copy, but of a single tensor a view."""
    return tensors[0].reshape(-1) if len(tensors) == 1 else torch.cat([tensor.reshape(-1) for tensor in tensors])


def few_kernels(tensors: Sequence[Tensor], foreach: bool | None = None) -> bool:
    """Whether to concatenate tensors first: more is copied in fewer kernels. By default on a GPU, as torch does."""
    return bool(tensors) and tensors[0].is_cuda if foreach is None else foreach


def _split_back(entries: Tensor, tensors: Sequence[Tensor]) -> None:
    torch._foreach_copy_([t.view(-1) for t in tensors], list(entries.split([t.numel() for t in tensors])))


class MaskIndices:
    """Indices into several tensors, to gather values from there and to write them back.

    Args:
        tensors: the tensors, or others of the same shapes.
        indices: for each tensor, as `indices_of` gives them.
        foreach: as in `few_kernels`.
    """

    def __init__(self, tensors: Sequence[Tensor], indices: Sequence[Tensor], foreach: bool | None = None) -> None:
        self._each = list(indices)
        self._all: Tensor | None = None
        if len(tensors) > 1 and few_kernels(tensors, foreach):
            starts = list(accumulate((t.numel() for t in tensors[:-1]), initial=0))
            self._all = torch.cat(torch._foreach_add(self._each, starts))

    def gather(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Copies of the entries at the indices of each tensor."""
        if self._all is None:
            return [t.reshape(-1).index_select(0, at) for t, at in zip(tensors, self._each, strict=True)]
        return list(concatenated(tensors).index_select(0, self._all).split([len(at) for at in self._each]))

    def scatter(self, values: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
        """Writes what `gather` gave, or as many other values, to the indices of each tensor."""
        if self._all is None:
            for tensor, at, new in zip(tensors, self._each, values, strict=True):
                tensor.view(-1).scatter_(0, at.long(), new)
        else:
            _split_back(concatenated(tensors).scatter_(0, self._all.long(), torch.cat(list(values))), tensors)


def zero_off(tensors: Sequence[Tensor], masks: Sequence[Tensor], foreach: bool | None = None) -> None:
    """Sets every entry off the masks to zero in place: by selection, not by multiplication, since inf * 0 is nan.

    Args:
        masks: for each tensor a bool mask, or the indices that `indices_of` gives.
        foreach: as in `few_kernels`.
    """
    pairs = list(zip(tensors, masks, strict=True))
    whole = [(tensor, mask) for tensor, mask in pairs if mask.dtype == torch.bool]
    for part in chunks([tensor for tensor, _ in whole]):
        some, bools = zip(*whole[part], strict=True)
        if few_kernels(some, foreach):
            _split_back(concatenated(some).masked_fill(~concatenated(bools), 0), some)
        else:
            for tensor, mask in whole[part]:
                tensor.masked_fill_(~mask, 0)
    by_index = [(tensor, mask) for tensor, mask in pairs if mask.dtype != torch.bool]
    for part in chunks([tensor for tensor, _ in by_index]):
        some, indices = zip(*by_index[part], strict=True)
        at = MaskIndices(some, indices, foreach)
        values = at.gather(some)
        torch._foreach_zero_(some)
        at.scatter(values, some)
