"""Trains an autoencoder and a DiT in its latents on a folder of photographs, and forgets a class with two AdamWs and
with one. The folder holds `train/WNID/*.JPEG`, `val/WNID/*.JPEG` and `classes.tsv` (wnid, tab, names). Everything
goes through the recipes and commands of the package; only the autoencoder is trained by this script. Each part is
kept in --work, so the command can be stopped and run again. Writes latent_dit_SCALE.json, .md and .png.

    python scripts/studies/latent_dit.py --data tiny-imagenet-20                  # minutes to an hour on a GPU
    python scripts/studies/latent_dit.py --data tiny-imagenet-20 --scale small    # five classes, 32 px; on a CPU
"""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers import AutoencoderKL
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
import tables
import toy
from command import dualoptim, parse, parser
from tables import read_json

FORGOTTEN = "golden retriever"
METHODS = {
    "sfron_dual": {"optimizers": {"mode": "dual", "forget": "adamw", "retain": "adamw"}},
    "sfron_shared": {"optimizers": {"mode": "shared", "retain": "adamw"}},
}
SCALES: dict[str, dict[str, Any]] = {
    "small": {
        "classes": (FORGOTTEN, "goldfish", "monarch", "school bus", "lemon"),
        "image_size": 32,
        "vae": {"block_out_channels": (32, 64, 64), "layers_per_block": 1, "steps": 2500, "batch_size": 32},
        "dit": {"num_layers": 6, "num_attention_heads": 4, "attention_head_dim": 48},
        "pretrain": {"num_steps": 6000, "lr": 1e-3, "ema_decay": 0.998, "batch_size": 64},
        "judge": {"name": "resnet18", "image_size": 64, "steps": 700, "batch_size": 32},
        "forget": {"num_steps": 400, "rate": 4e-4, "batch_size": 32, "num_batches": 20, "seeds": "0-199"},
        "precision": "fp32",
    },
    "full": {
        "classes": None,  # all
        "image_size": 64,
        "vae": {"block_out_channels": (64, 128, 128), "layers_per_block": 2, "steps": 10_000, "batch_size": 64},
        "dit": {"num_layers": 12, "num_attention_heads": 6, "attention_head_dim": 64},
        "pretrain": {"num_steps": 40_000, "lr": 5e-4, "ema_decay": 0.9995, "batch_size": 256},
        "judge": {"name": "resnet34", "image_size": 128, "steps": 4000, "batch_size": 128},
        "forget": {"num_steps": 500, "rate": 2e-4, "batch_size": 64, "num_batches": 100, "seeds": "0-499"},
        "precision": "bf16",
    },
    "toy": {
        "classes": (FORGOTTEN, "lemon"),
        "image_size": 32,
        "vae": {"block_out_channels": (32, 32, 32), "layers_per_block": 1, "steps": 2, "batch_size": 4},
        "dit": {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8},
        "pretrain": {"num_steps": 2, "lr": 1e-3, "ema_decay": 0.9, "batch_size": 4},
        "judge": {"name": "test_resnet", "image_size": 32, "steps": 2, "batch_size": 4},
        "forget": {"num_steps": 2, "rate": 1e-4, "batch_size": 4, "num_batches": 1, "seeds": "0-3"},
        "precision": "fp32",
        "sampling": {"num_inference_steps": 2},
        "evaluation": {"min_accuracy": 0},
    },
}
SETTINGS: dict[str, Any] = {"sampling": {"num_inference_steps": 50}, "evaluation": {}}  # of all scales but toy
KL_WEIGHT = 1e-6


def named_folders(data: Path, work: Path, chosen: tuple[str, ...] | None) -> Path:
    """Links to the class folders under their first names, of the chosen classes alone."""
    photos = work / "photos"
    for line in (data / "classes.tsv").read_text(encoding="utf-8").splitlines():
        wnid, names = line.split("\t")
        name = names.split(",")[0]
        for part in ("train", "val"):
            link = photos / part / name
            if (chosen is None or name in chosen) and not link.exists():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to((data / part / wnid).resolve(), target_is_directory=True)
    return photos


def train_autoencoder(photos: Path, settings: dict[str, Any], size: int, folder: Path, device: str) -> None:
    """An AutoencoderKL of four latent channels, four pixels a latent side; its latents are scaled to deviation 1."""
    from dualoptim_diffusion.core.config import DataConfig
    from dualoptim_diffusion.data import load_dataset
    from dualoptim_diffusion.diffusion.randomness import epoch_indices

    dataset, held_out = load_dataset(DataConfig(name="image_folder", path=str(photos), image_size=size))
    levels = len(settings["block_out_channels"])
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=settings["block_out_channels"], layers_per_block=settings["layers_per_block"],
        latent_channels=4, sample_size=size, mid_block_add_attention=False,
    ).to(device)  # fmt: skip
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, settings["steps"])

    def pixels(images: Tensor) -> Tensor:
        return images.to(device).float() / 127.5 - 1

    bar = tqdm(range(settings["steps"]), desc="training the autoencoder")
    for step in bar:
        x = pixels(dataset.images[epoch_indices(0, "autoencoder", step, settings["batch_size"], len(dataset))])
        posterior = vae.encode(x).latent_dist
        error = (vae.decode(posterior.sample()).sample - x).abs().mean()
        optimizer.zero_grad()
        (error + KL_WEIGHT * posterior.kl().mean()).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        bar.set_postfix({"error": f"{error.item():.3f}"}, refresh=False)
    with torch.no_grad():
        parts = [pixels(part) for part in held_out.batches(100)]
        means = torch.cat([vae.encode(x).latent_dist.mean for x in parts])
        square = torch.cat([(vae.decode(vae.encode(x).latent_dist.mean).sample - x).square().flatten(1) for x in parts])
    vae.register_to_config(scaling_factor=1 / means.std().item())
    vae.cpu().save_pretrained(folder)
    decibel = -10 * (square.mean() / 4).log10().item()  # of images in [0, 1]
    (folder / "quality.json").write_text(json.dumps({"psnr_held_out_db": decibel, "n": len(held_out)}) + "\n")


def write_recipes(work: Path, photos: Path, s: dict[str, Any]) -> None:
    """Pretraining, judge and one recipe a method."""
    data = {"name": "image_folder", "path": str(photos), "image_size": s["image_size"]}
    flipped = data | {"horizontal_flip": True}
    training = {k: v for k, v in s["pretrain"].items() if k != "batch_size"}
    forget, judge = s["forget"], s["judge"]
    recipes: dict[str, Any] = {
        "pretrain": {
            "run": {"seed": 0, "precision": s["precision"]},
            "data": flipped | {"batch_size": s["pretrain"]["batch_size"]},
            "model": {"family": "dit", "vae": str((work / "vae").resolve()), "patch_size": 2} | s["dit"],
            "training": {"optimizer": "adamw", "schedule": "one_cycle", "clip_norm": 1.0} | training,
        },
        "judge": {
            "data": data | {"batch_size": judge["batch_size"]},
            "classifier": {"name": judge["name"], "image_size": judge["image_size"]},
            "training": {
                "num_steps": judge["steps"], "lr": 1e-3, "max_shift": judge["image_size"] // 16, "noise": 0.1,
                "horizontal_flip": True, "none_share": 0.25,
            },
        },
    }  # fmt: skip
    for name, differs in METHODS.items():
        recipes[name] = {
            "run": {"seed": 0, "precision": s["precision"]},
            "data": flipped | {"batch_size": forget["batch_size"]},
            "model": {"family": "dit", "pretrain": "pretrain.yaml"},
            "method": {
                "name": "sfron", "num_steps": forget["num_steps"], "retain_lr": forget["rate"],
                "forget_lr": forget["rate"], "forget_weight": 1.0, "forget_ceiling": 2.0, "forget_schedule": "cosine",
                "retain_schedule": "cosine",
                "mask": {
                    "kind": "fisher_ratio", "threshold": 3.0, "estimator": "plain", "batch_size": forget["batch_size"],
                    "num_batches": forget["num_batches"],
                },
            },
            "sampling": {"guidance_scale": 1.5, "seeds": forget["seeds"], "batch_size": 100} | s["sampling"],
            "evaluation": {"protocol": "seeds", "classifier": "judge.yaml", "features": "classifier"} | s["evaluation"],
        } | differs  # fmt: skip
    for name, content in recipes.items():
        (work / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def forget(work: Path, name: str, here: bool) -> dict[str, Any]:
    """Runs a recipe by the command line, or what is left of it; its results."""
    out = work / "runs" / name
    if not (out / "results.json").is_file():
        words = ("forget", str(work / f"{name}.yaml"), "--class", FORGOTTEN, "--out", str(out), "--resume")
        if code := dualoptim(*words, here=here):
            sys.exit(f"dualoptim {' '.join(words)} ended with {code}.")
    return {part: read_json(out / f"{part}.json") for part in ("results", "provenance")}


def tabulate(found: dict[str, Any], command: str, quality: dict[str, Any]) -> str:
    """The original and every method: FA, RA, distance, and what the label draws."""
    first = next(iter(found.values()))
    judge, machine = first["results"]["classifier"]["accuracy"], first["provenance"]["machine"]
    models = {"original": first["results"]["original"]}
    models |= {name: part["results"]["unlearned"] for name, part in found.items()}
    body = []
    for name, figures in models.items():
        ra, kid, counts = figures["RA"], figures["kid"], figures["drawn"][FORGOTTEN]
        most = sorted(counts.items(), key=lambda item: -item[1])[:3]
        drawn = ", ".join(f"{k} {v / sum(counts.values()):.0%}" for k, v in most)
        kept = f"{ra['value']:.1%} (n = {ra['n']})"
        body.append([name, tables.rate(figures["FA"]), kept, f"{kid['name']} {kid['value']:.3g}", drawn])
    seconds = [
        f"{name}: {', '.join(f'{part} {s:.0f}' for part, s in of['results']['seconds'].items() if s >= 1)}"
        for name, of in found.items()
    ]
    lines = [
        "# A latent DiT forgets “golden retriever”", "", f"`{command}`", "",
        *tables.table(["", "FA (95%)", "RA", "distance", "the label draws"], body), "",
        f"Judge on held-out real images: {', '.join(f'{k} {v:.0%}' for k, v in judge.items())}. Autoencoder: "
        f"{quality['psnr_held_out_db']:.1f} dB on {quality['n']} held-out images. Machine: {machine['device']}, "
        f"{machine['threads']} threads. Seconds: {'; '.join(seconds)}.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None) -> None:
    options = parser(__file__, __doc__, scales=("full", "small"))
    options.add_argument("--data", type=Path, help="folder of photographs; needed but for the toy scale")
    options.add_argument("--work", type=Path, default=Path("runs/latent_dit"), help="[default: %(default)s]")
    arguments = parse(options, words)
    if arguments.toy:
        arguments.data, arguments.work = arguments.out / "data", arguments.out / "work"
        toy.write_photographs(arguments.data, SCALES["toy"]["classes"])
    if arguments.data is None:
        options.error("--data names the folder of photographs")
    settings, work = SETTINGS | SCALES[arguments.scale], (arguments.work / arguments.scale).resolve()
    if not (arguments.data / "classes.tsv").is_file():
        sys.exit(f"There is no {arguments.data / 'classes.tsv'}; --data must hold train/, val/ and classes.tsv.")
    photos = named_folders(arguments.data, work, settings["classes"])
    if not (work / "vae" / "quality.json").is_file():
        device = "cuda" if torch.cuda.is_available() else "cpu"
        train_autoencoder(photos, settings["vae"], settings["image_size"], work / "vae", device)
    write_recipes(work, photos, settings)
    found = {name: forget(work, name, arguments.toy) for name in METHODS}
    quality = read_json(work / "vae" / "quality.json")
    scale = "" if arguments.scale == "full" else f" --scale {arguments.scale}"
    command = f"python scripts/studies/latent_dit.py --data tiny-imagenet-20{scale}"
    stem = arguments.out / f"latent_dit_{arguments.scale}"
    text = tabulate(found, command, quality)
    tables.write(stem, {"command": command, "settings": settings, "autoencoder": quality, "runs": found}, text)
    shutil.copy(work / "runs" / "sfron_dual" / "grid.png", stem.with_suffix(".png"))
    print(text)


if __name__ == "__main__":
    main()
