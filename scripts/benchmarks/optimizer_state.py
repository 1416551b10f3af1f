"""What do two optimizers cost beside one? Measures bytes of state and seconds a step, full, compact and of 8 bits, on
the weights of the CIFAR-10 U-Net and of a DiT (B/2; XL/2 on a GPU), with random gradients and masks of a tenth and
of half of the weights. Bytes are those of all tensors that the optimizers hold, places of the weights under the mask
included; ratios are to one AdamW of the same run. The forget step with 8 bits puts the weights off a mask of a tenth
back where they were, because its rounding would move them. Writes optimizer_state_DEVICE.json and .md.

    python scripts/benchmarks/optimizer_state.py
"""

import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
from benchmarks import setup
from benchmarks.measuring import write_results
from command import parse, parser
from machine import timed, where
from tables import table

DENSITIES = (0.1, 0.5)
REPEATS = 15


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


def measure(name: str, device: str) -> list[dict[str, Any]]:
    """One AdamW, two full ones, and compact ones at each density; a dense forget step also masks its gradients."""
    from dualoptim_diffusion import MaskedAdamW
    from dualoptim_diffusion.optim.factory import freeze_off_mask, make_8bit_adamw
    from dualoptim_diffusion.optim.mask_indices import indices_of, zero_off

    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, device=device)) for shape in shapes(name)]
    for p in params:
        p.grad = torch.randn_like(p)
    masks = {d: [torch.rand_like(p) < d for p in params] for d in DENSITIES}

    def row(title: str, forget: Optimizer, retain: Optimizer, held: list[Tensor]) -> dict[str, Any]:
        used = [forget] if forget is retain else [forget, retain]
        taken = [timed(optimizer.step, repeats=REPEATS) for optimizer in used]
        seconds = {"forget": taken[0], "retain": taken[-1]}
        return {"network": name, "optimizers": title, "bytes": state_bytes(used, held), "seconds": seconds}

    one = AdamW(params, lr=1e-6, weight_decay=0.0)
    rows = [row("one AdamW", one, one, [])]
    del one
    rows.append(row("two", *(AdamW(params, lr=1e-6, weight_decay=0.0) for _ in range(2)), []))
    rows.append(row("two, fused", *(AdamW(params, lr=1e-6, weight_decay=0.0, fused=True) for _ in range(2)), []))
    eight = [make_8bit_adamw(params, 1e-6) for _ in range(2)]
    named = {str(i): p for i, p in enumerate(params)}
    places = [indices_of(part) for part in masks[DENSITIES[0]]]
    freeze_off_mask(eight[0], named, dict(zip(named, places, strict=True)))
    rows.append(row("two of 8 bits", *eight, places))
    del eight
    for density, mask in masks.items():
        supports = [indices_of(part) for part in mask]
        compact = MaskedAdamW(params, supports, lr=1e-6)
        dense = AdamW(params, lr=1e-6, weight_decay=0.0)
        rows.append(row(f"forget compact at {density:.0%}, retain full", compact, dense, supports))
        del dense
        fused = [MaskedAdamW(params, supports, lr=1e-6, fused=True) for _ in range(2)]
        rows.append(row(f"both compact at {density:.0%}, fused", *fused, supports))
        del fused
        both = MaskedAdamW(params, supports, lr=1e-6)
        rows.append(row(f"both compact at {density:.0%}", compact, both, supports))

        def masking(supports: list[Tensor] = supports) -> None:
            zero_off([p.grad for p in params], supports)

        rows[-1]["seconds"]["masking the gradients, needed by all"] = timed(masking, repeats=REPEATS)
    return rows


def tabulate(content: dict[str, Any]) -> str:
    body = []
    for row in content["rows"]:
        one = next(r for r in content["rows"] if r["network"] == row["network"])
        size = [f"{row['bytes'] / 1e6:.0f} MB", f"{row['bytes'] / one['bytes']:.2f}"]
        steps = []
        for phase in ("forget", "retain"):
            seconds = row["seconds"][phase]
            steps += [f"{seconds:.3f}", f"{seconds / one['seconds'][phase]:.2f}"]
        body.append([row["network"], row["optimizers"], *size, *steps])
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
        "rows": [row for name in networks for row in measure(name, device)],
    }
    write_results(arguments.out, "optimizer_state", content, tabulate)


if __name__ == "__main__":
    main()
