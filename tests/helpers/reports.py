"""Finished runs made of figures."""

import json
from pathlib import Path
from typing import Any

import yaml

from dualoptim_diffusion.core.rates import wilson_interval


def rate(hits: int, n: int, **more: Any) -> dict[str, Any]:
    return {"value": hits / n, "n": n, "hits": hits, "ci95": list(wilson_interval(hits, n)), **more}


def unbiased(name: str, value: float) -> dict[str, Any]:
    interval = [value - 0.005, value + 0.005]
    return {"name": name, "value": value, "ci95": interval, "n_generated": 1000, "n_reference": 900}


def figures(fa: int, ra: int, distance: float, label: str = "three", name: str = "FD[rotations]") -> dict[str, Any]:
    return {
        "FA": rate(fa, 500, per_class={label: fa / 500}),
        "RA": rate(ra, 1000, per_class={"one": ra / 1000, "two": ra / 1000}),
        "degenerate": {"forgotten": rate(0, 500, per_class={label: 0.0}), "others": rate(0, 1000)},
        "kid": unbiased(f"KID{name.removeprefix('FD').replace('FID', '[Inception]')}", distance / 100),
        "frechet": {"name": name, "value": distance, "n_generated": 1000, "n_reference": 900},
    }


def results(label: str = "three", **unlearned: Any) -> dict[str, Any]:
    return {
        "original": figures(480, 950, 4.0, label),
        "unlearned": figures(**({"fa": 5, "ra": 940, "distance": 5.0, "label": label} | unlearned)),
        "forgotten": [label],
        "changes": {
            "RA": {"difference": -0.01, "difference_ci95": [-0.03, 0.01]},
            "kid": {"difference": 0.01, "difference_ci95": [0.004, 0.016], "ratio": 1.25, "ratio_ci95": [1.1, 1.4]},
        },
        "protocol": {
            "version": 3,
            "distance": {"headline": "kid", "reference": "held-out"},
            "sampling": {"scheduler": "ddim", "num_inference_steps": 25, "guidance_scale": 1.5, "seeds": "0-499"},
            "guidance": {"guidance_scale": 1.5, "w": 0.5},
            "classifier": {"name": "judge", "sha256": "c" * 64},
        },
        "protocol_hash": "a" * 64,
        "classifier": {"accuracy": {label: 0.975}, "n_held_out": {label: 40}},
        "seconds": {"forgetting": 30.0},
    }


def extended(label: str = "three") -> dict[str, Any]:
    """With every figure that results may have."""
    content = results(label)
    content["protocol"] |= {"name": "standard", "statement": "All of it.", "counts": {"forgotten": 500}}
    content["classifier"]["verified"] = False
    content["selection"] = {"rule": "the lowest FA", "step": 40}
    for part in (content["original"], content["unlearned"]):
        part["drawn"] = {label: {"one": 300, label: 5, "none of these": 195}, "null label": {"one": 500}}
        part["drawn_forced"] = {label: {"one": 495, label: 5}, "null label": {"one": 500}}
        part["FA_none"] = rate(3, 500, per_class={label: 0.006})
        part["RA_none"] = rate(930, 1000)
        part["RA_nearest"] = rate(460, 500, per_class={"two": 0.92})
        part["variety"] = {label: 0.2, "null label": 0.3}
        part["leak"] = {"one": rate(0, 1000), "two": rate(3, 1000), "null label": rate(0, 500)}
        part["kid_training"] = unbiased("KID[rotations] to training images", 0.03)
        part["frechet_infinity"] = unbiased("FD-infinity[rotations]", 2.0)
        part["inception_score"] = {"name": "IS[rotations]", "value": 8.5, "std": 0.1}
        part["precision"] = {"name": "precision[rotations]", "value": 0.75}
        part["recall"] = {"name": "recall[rotations]", "value": None}
    return content


def make_run(folder: Path, content: dict[str, Any], base: str = "b" * 64, method: str = "sfron") -> Path:
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(content))
    (folder / "provenance.json").write_text(json.dumps({"base_model_sha256": base}))
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"method": {"name": method}, "model": {"family": "ddpm"}}))
    records = [{"step": i, "forget_loss": -i, "retain_loss": i, "forget_grad_norm": 1, "FA": 0.5} for i in range(3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder
