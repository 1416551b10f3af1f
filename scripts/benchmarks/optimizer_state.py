"""What do two optimizers cost beside one? Measures bytes of state and seconds a step, full, compact and of 8 bits, on
the weights of the CIFAR-10 U-Net and of a DiT (B/2; XL/2 on a GPU), with random gradients and masks of a tenth and
of half of the weights. Bytes are those of all tensors that the optimizers hold, places of the weights under the mask
included; ratios are to one AdamW of the same run. The forget step with 8 bits puts the weights off a mask of a tenth
back where they were, because its rounding would move them. Writes optimizer_state_DEVICE.json and .md after each row.

    python scripts/benchmarks/optimizer_state.py
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
from benchmarks import setup
from benchmarks.measuring import Benchmark, Found, parse, parser
from machine import timed, where
from tables import table

DENSITIES = (0.1, 0.5)
REPEATS = 15
EIGHT = "two of 8 bits"
TITLES = (
    "one AdamW", "two", "forget compact at 10%, retain full", "both compact at 50%", EIGHT, "two, fused",
    "both compact at 10%", "both compact at 10%, fused", "forget compact at 50%, retain full",
    "both compact at 50%, fused",
)  # fmt: skip


def shapes(name: str) -> list[torch.Size]:
    """Of the parameters of a network."""
    with torch.device("meta"):
        if name.startswith("DiT-"):
            network = setup.dit_network(name.removeprefix("DiT-"))
        else:
            network = setup.unet_network(**(setup.TOY_UNET if name.startswith("toy") else {}))
        return [p.shape for p in network.parameters()]


def state_bytes(optimizers: list[Optimizer], supports: list[Tensor]) -> int:
    """Of every tensor held, each once."""
    held = chain.from_iterable(s.values() for o in optimizers for s in o.state.values())
    tensors = [*(t for t in held if isinstance(t, Tensor)), *supports]
    return sum({t.data_ptr(): t.nbytes for t in tensors if t.numel()}.values())


@dataclass(frozen=True)
class Row:
    """One pair of optimizers on the weights of a network."""

    network: str
    optimizers: str

    @property
    def name(self) -> str:
        return f"{self.network}, {self.optimizers}"

    @property
    def needs(self) -> str | None:
        return "bitsandbytes" if self.optimizers == EIGHT else None


class Weights:
    """The weights of a network with random gradients, and masks on them."""

    def __init__(self, name: str, device: str) -> None:
        torch.manual_seed(0)
        self.params = [nn.Parameter(torch.randn(shape, device=device)) for shape in shapes(name)]
        for p in self.params:
            p.grad = torch.randn_like(p)
        self.masks = {d: [torch.rand_like(p) < d for p in self.params] for d in DENSITIES}

    def supports(self, density: float) -> list[Tensor]:
        from dualoptim_diffusion.optim.mask_indices import indices_of

        return [indices_of(part) for part in self.masks[density]]

    def dense(self, **settings: Any) -> Optimizer:
        return AdamW(self.params, lr=1e-6, weight_decay=0.0, **settings)

    def pair(self, title: str) -> tuple[Optimizer, Optimizer, list[Tensor]]:
        """The forget and the retain optimizer, and the tensors that they hold beside their state."""
        from dualoptim_diffusion import MaskedAdamW
        from dualoptim_diffusion.optim.factory import freeze_off_mask, make_8bit_adamw

        if title == "one AdamW":
            one = self.dense()
            return one, one, []
        if title in ("two", "two, fused"):
            settings = {"fused": True} if "fused" in title else {}
            return self.dense(**settings), self.dense(**settings), []
        if title == EIGHT:
            eight = [make_8bit_adamw(self.params, 1e-6) for _ in range(2)]
            named, places = {str(i): p for i, p in enumerate(self.params)}, self.supports(DENSITIES[0])
            freeze_off_mask(eight[0], named, dict(zip(named, places, strict=True)))
            return eight[0], eight[1], places
        supports = self.supports(next(d for d in DENSITIES if f"{d:.0%}" in title))

        def compact() -> Optimizer:
            return MaskedAdamW(self.params, supports, lr=1e-6, fused="fused" in title)

        return compact(), self.dense() if "retain full" in title else compact(), supports


weights_of = cache(Weights)


def measure(device: str, row: Row) -> Found:
    """Bytes of state and seconds of a step; a dense forget step also masks its gradients."""
    from dualoptim_diffusion.optim.mask_indices import zero_off

    if row.optimizers == TITLES[0]:
        weights_of.cache_clear()  # of the network before
    weights = weights_of(row.network, device)
    forget, retain, held = weights.pair(row.optimizers)
    used = [forget] if forget is retain else [forget, retain]
    taken = [timed(optimizer.step, repeats=REPEATS) for optimizer in used]
    seconds = {"forget": taken[0], "retain": taken[-1]}
    size = state_bytes(used, held)
    if row.optimizers.startswith("both") and "fused" not in row.optimizers:
        del used, forget, retain

        def masking() -> None:
            zero_off([p.grad for p in weights.params], held)

        seconds["masking the gradients, needed by all"] = timed(masking, repeats=REPEATS)
    return {"bytes": size, "seconds": seconds}


def cells(row: Found, one: Found) -> list[str]:
    first = [row["network"], row["optimizers"]]
    if row["seconds"] is None:
        return [*first, row["problem"], "", "", "", "", ""]

    def beside(value: Callable[[Found], float]) -> str:
        return "" if one["seconds"] is None else f"{value(row) / value(one):.2f}"

    size = [f"{row['bytes'] / 1e6:.0f} MB", beside(lambda r: r["bytes"])]
    steps = []
    for phase in ("forget", "retain"):
        steps += [f"{row['seconds'][phase]:.3f}", beside(lambda r, phase=phase: r["seconds"][phase])]
    return [*first, *size, *steps]


def tabulate(content: Found) -> str:
    ones = {row["network"]: row for row in reversed(content["rows"])}
    body = [cells(row, ones[row["network"]]) for row in content["rows"]]
    head = [
        "weights", "optimizers", "state", "of one", "forget step, s", "of one", "retain step, s", "of one",
    ]  # fmt: skip
    lines = [
        "# State and steps of two optimizers beside one", "", f"`{content['command']}`", "",
        f"{content['device']}, torch {content['torch']}; median of {REPEATS} steps; ratios are to one AdamW.", "",
        *table(head, body),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None) -> None:
    arguments = parse(parser(__file__, __doc__), words)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    networks = ("CIFAR-10 U-Net", "DiT-XL/2" if device == "cuda" else "DiT-B/2")
    if arguments.toy:
        networks = ("toy U-Net", "DiT-toy")
    content = {
        "command": "python scripts/benchmarks/optimizer_state.py",
        **where(),
    }
    benchmark = Benchmark(arguments, "optimizer_state", content, tabulate, here=True)
    benchmark.run([Row(name, title) for name in networks for title in TITLES], partial(measure, device))
    benchmark.end()


if __name__ == "__main__":
    main()
