"""Does every wrong file end in one sentence? Damages files of a tiny run at random and calls the command line on them.
Each trial copies a finished run of the digits with a model, a judge, samples and a published checkpoint, spoils one
to three files (cut, bits flipped, another's content, an entry of a JSON or YAML file changed, deleted), and runs one
verb in this process. Outcomes are counted by exit code in fuzz.json and .md. At a traceback the trial is printed and
the script ends with 1; `--first N` with the same `--verbs` repeats it.

    python scripts/studies/fuzz.py --seconds 60
"""

import contextlib
import io
import json
import os
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest.mock import patch

import yaml
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder scripts/
import tables
import toy
from command import command_line, dualoptim, parse, parser

WORDS = ("x", "", "..", "\0", "9" * 50, "!!python/name:os.system", "cpu", "three")
READ = (".json", ".jsonl", ".yaml", ".safetensors", ".pth")
VERBS = (
    "forget forget.yaml --class three --out new",
    "forget forget.yaml --class three --out new model.path=model",
    "forget forget.yaml --class three --out new evaluation.classifier=judge",
    "forget forget.yaml --class three --out new --mask run/mask.safetensors",
    "forget forget.yaml --class three --out run --resume",
    "evaluate run", "report run", "report run --control run --out new", "grid run --out new.png", "classes run",
    "sample run --class 1 --seeds 0 --out new --steps 2", "sample run --class 1 --seeds 0-1 --out samples --steps 2",
    "delta run --out new.safetensors", "push run someone/three --dry-run",
    "export model --out new", "import c.pth --out new --image-size 8", "saliency forget.yaml --class three --out new",
    "pretrain pretrain.yaml --out new", "train-classifier classifier.yaml --out new", "encode forget.yaml",
    "audit run --probe weights --probe leakage audit.images=2 audit.ddpm_steps=3 audit.labels=1",
)  # fmt: skip


def save_published(path: Path) -> None:
    """A checkpoint as the published training scripts write it, with random weights."""
    import torch

    from dualoptim_diffusion.models.published import published_name
    from dualoptim_diffusion.models.unet_module import UNetModule

    torch.manual_seed(0)
    network = UNetModule(
        sample_size=8, in_channels=3, num_classes=4, width=64, multipliers=(1, 2), layers_per_block=1,
        attention_resolutions=(4,),
    )  # fmt: skip
    state = {f"module.{published_name(name, 2)}": value for name, value in network.state_dict().items()}
    optimizer = {"state": {0: {"step": 7, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 2e-4, "params": [0]}]}
    torch.save([state, optimizer, 7], path)


def make(folder: Path) -> None:
    """What is damaged later."""
    toy.write_recipes(folder)
    save_published(folder / "c.pth")
    for words in (
        "forget forget.yaml --class three --out run", "pretrain pretrain.yaml --out model",
        "train-classifier classifier.yaml --out judge", "sample run --class 1 --seeds 0-1 --out samples --steps 2",
    ):  # fmt: skip
        if dualoptim(*words.split(), here=True):
            raise RuntimeError(f"dualoptim {words} did not end well")


def changed(source: random.Random, tree: Any) -> Any:
    """The same with one entry of another value or gone."""
    if isinstance(tree, dict) and tree and source.random() < 0.9:
        key = source.choice(list(tree))
        if source.random() < 0.1:
            return {k: v for k, v in tree.items() if k != key}
        return tree | {key: changed(source, tree[key])}
    return source.choice([None, True, -1, 0, 3, 10**30, 1.5, float("nan"), [], [1], {}, {"a": 1}, *WORDS])


def spoil(source: random.Random, path: Path, others: list[Path]) -> str:
    """Damages a file; says how."""
    content = path.read_bytes()
    how = source.choice(["cut", "bits", "other", "entry", "entry", "entry", "deleted", "empty"])
    if how == "deleted":
        path.unlink()
    elif how == "entry" and path.suffix in (".json", ".yaml"):
        loaded = changed(source, yaml.safe_load(content))
        path.write_text(json.dumps(loaded) if path.suffix == ".json" else yaml.safe_dump(loaded))
    elif how == "bits":
        places = {source.randrange(len(content)) for _ in range(8)} if content else set()
        path.write_bytes(bytes(b ^ (1 << source.randrange(8)) if i in places else b for i, b in enumerate(content)))
    else:
        other = b"" if how == "empty" else source.choice(others).read_bytes() if how == "other" else content
        path.write_bytes(other[: source.randrange(len(other) + 1)] if how in ("cut", "entry") else other)
    return f"{path} {how}"


def attempt(number: int, sound: Path, trial: Path, verbs: Sequence[str]) -> int:
    """Exit code of one trial; ends the script where it was no clean failure."""
    source = random.Random(number)
    shutil.copytree(sound, trial)
    os.chdir(trial)
    words, captured = source.choice(verbs), io.StringIO()
    files = [path.relative_to(trial) for path in sorted(trial.rglob("*")) if path.suffix in READ]
    recipes = {f"{name}.yaml" for name in toy.RECIPES}
    named = [path for path in files if path.parts[0] in words or path.name in recipes]
    steps = [spoil(source, path, files) for path in source.sample(named, source.randint(1, 3))]
    about = f"trial {number}: dualoptim {words}\n  after: {'; '.join(steps)}"
    try:
        with contextlib.redirect_stderr(captured):
            code = dualoptim(*words.split(), here=True)
    except Exception:
        sys.exit(f"{about}\n{traceback.format_exc()}")
    sentences = [line for line in captured.getvalue().splitlines() if line.startswith("error: ")]
    if code == 1 and len(sentences) != 1:
        sys.exit(f"{about}\n{captured.getvalue()}")
    os.chdir(sound)
    shutil.rmtree(trial)
    return code


def tabulate(content: dict[str, Any]) -> str:
    body = tables.table(["exit code", "trials"], content["exit_codes"].items())
    return "\n".join(["# Damaged files", "", f"`{content['command']}`", "", *body]) + "\n"


def main(words: Sequence[str] | None = None) -> None:
    options = parser(__file__, __doc__)
    options.add_argument("--seconds", type=float, default=60, help="how long to go on [default: 60]")
    options.add_argument("--first", type=int, default=0, help="number of the first trial [default: 0]")
    known = sorted({verb.split()[0] for verb in VERBS})
    options.add_argument("--verbs", nargs="+", choices=known, default=known, help="call these alone")
    arguments = parse(options, words)
    verbs = [verb for verb in VERBS if verb.split()[0] in arguments.verbs]
    counts: Counter[int] = Counter()
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name, patch.dict(os.environ, {"DUALOPTIM_CACHE": str(Path(name) / "cache")}):
        (sound := Path(name) / "sound").mkdir()
        os.chdir(sound)
        try:
            make(sound)
            end, number = perf_counter() + (1 if arguments.toy else arguments.seconds), arguments.first
            bar = tqdm(desc="trials", unit="trial")
            while perf_counter() < end:
                counts[attempt(number, sound, Path(name) / "trial", verbs)] += 1
                number += 1
                bar.update()
        finally:
            os.chdir(before)
    content = {
        "command": command_line(__file__, words),
        "exit_codes": {str(code): count for code, count in sorted(counts.items())},
    }
    text = tabulate(content)
    tables.write(arguments.out / "fuzz", content, text)
    print(text)


if __name__ == "__main__":
    main()
