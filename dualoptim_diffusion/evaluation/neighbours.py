"""Balls that reach to the k-th nearest neighbour, for precision and recall (Kynkaanniemi et al., 2019).

Distances are taken a block at a time, so 50,000 points need 32 MB beside their features; torch-fidelity's own functions
give the same shares, but measure the real images anew each time.
"""

import torch
from torch import Tensor

from dualoptim_diffusion.core.terminal import progress

NEIGHBOURHOOD = 3  # k
BLOCK = 2048  # points in a block: its distances to another block take 16 MB
SHOWN_FROM = 100  # blocks of pairs: fewer take no time worth a progress bar


def radii(points: Tensor) -> Tensor:
    """Distance from each of the points [N, D] to its third nearest other: [N]."""
    blocks = points.split(BLOCK)
    nearest = [block.new_full((len(block), NEIGHBOURHOOD + 1), torch.inf) for block in blocks]  # itself among them
    pairs = [(i, j) for i in range(len(blocks)) for j in range(i, len(blocks))]
    for i, j in progress(pairs, desc="neighbours of real images", unit="block", disable=len(pairs) < SHOWN_FROM):
        distances = torch.cdist(blocks[i], blocks[j])
        nearest[i] = _nearest(nearest[i], distances)
        if i != j:
            nearest[j] = _nearest(nearest[j], distances.T)
    return torch.cat([part[:, -1] for part in nearest])


def _nearest(so_far: Tensor, distances: Tensor) -> Tensor:
    return torch.cat([so_far, distances], dim=1).topk(so_far.shape[1], largest=False).values


def share_inside(points: Tensor, centres: Tensor, radii: Tensor) -> float:
    """Share of the points [N, D] that lie in a ball around any of the centres [M, D] with its radius [M]."""
    inside = []
    for block in points.split(BLOCK):
        reached = [
            (torch.cdist(block, part) <= reach).any(dim=1)
            for part, reach in zip(centres.split(BLOCK), radii.split(BLOCK), strict=True)
        ]
        inside.append(torch.stack(reached).any(dim=0))
    return torch.cat(inside).double().mean().item()
