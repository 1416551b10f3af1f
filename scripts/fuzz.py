"""Does every wrong file end in one sentence? Damages files of a tiny run at random and calls the command line on them.

    python scripts/fuzz.py --seconds 60

Each trial copies a finished run of the digits with a model, a judge, samples and a published checkpoint, spoils one to
three files (cut, bits flipped, another's content, an entry of a JSON or YAML file changed, deleted), and runs one verb
in this process. Outcomes are counted by exit code; at a traceback the trial is printed, to be had again by
`--first N` with the same `--verbs`, and the script ends with 1.
"""

import argparse
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
from pathlib import Path
from time import perf_counter
from typing import Any

import yaml
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.conftest import RECIPES, call
from tests.test_published import published_state, save

WORDS = ("x", "", "..", "\0", "9" * 50, "!!python/name:os.system", "cpu", "three")
READ = (".json", ".jsonl", ".yaml", ".safetensors", ".pth")
VERBS = (
    "forget tiny.yaml --class three --out new",
    "forget tiny.yaml --class three --out new model.path=model",
    "forget tiny.yaml --class three --out new evaluation.classifier=judge",
    "forget tiny.yaml --class three --out new --mask run/mask.safetensors",
    "forget tiny.yaml --class three --out run --resume",
    "evaluate run", "report run", "report run --control run --out new", "grid run --out new.png", "classes run",
    "sample run --class 1 --seeds 0 --out new --steps 2", "sample run --class 1 --seeds 0-1 --out samples --steps 2",
    "export model --out new", "import c.pth --out new --image-size 8", "saliency tiny.yaml --class three --out new",
    "pretrain tiny_pretrain.yaml --out new", "train-classifier tiny_classifier.yaml --out new", "encode tiny.yaml",
    "audit run --probe weights --probe leakage audit.images=2 audit.ddpm_steps=3 audit.labels=1",
)  # fmt: skip


def make(folder: Path) -> None:
    """What is damaged later."""
    for name, content in RECIPES.items():
        (folder / name).write_text(yaml.safe_dump(content))
    save(folder / "c.pth", published_state())
    for words in (
        "forget tiny.yaml --class three --out run", "pretrain tiny_pretrain.yaml --out model",
        "train-classifier tiny_classifier.yaml --out judge", "sample run --class 1 --seeds 0-1 --out samples --steps 2",
    ):  # fmt: skip
        if call(*words.split()):
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="how long to go on")
    parser.add_argument("--first", type=int, default=0, help="number of the first trial")
    known = sorted({verb.split()[0] for verb in VERBS})
    parser.add_argument("--verbs", nargs="+", choices=known, default=known, help="call these alone")
    arguments = parser.parse_args()
    verbs = [verb for verb in VERBS if verb.split()[0] in arguments.verbs]
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        os.environ["DUALOPTIM_CACHE"] = str(Path(name) / "cache")
        (sound := Path(name) / "sound").mkdir()
        os.chdir(sound)
        make(sound)
        end, number = perf_counter() + arguments.seconds, arguments.first
        bar = tqdm(desc="trials", unit="trial")
        while perf_counter() < end:
            source = random.Random(number)
            trial = shutil.copytree(sound, Path(name) / "trial", dirs_exist_ok=True)
            os.chdir(trial)
            words, captured = source.choice(verbs), io.StringIO()
            files = [path.relative_to(trial) for path in sorted(trial.rglob("*")) if path.suffix in READ]
            named = [path for path in files if path.parts[0] in words or path.name.startswith("tiny")]
            steps = [spoil(source, path, files) for path in source.sample(named, source.randint(1, 3))]
            try:
                with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(captured):
                    code = call(*words.split())
            except Exception:
                tqdm.write(f"trial {number}: dualoptim {words}\n  after: {'; '.join(steps)}\n{traceback.format_exc()}")
                sys.exit(1)
            sentences = [line for line in captured.getvalue().splitlines() if line.startswith("error: ")]
            if code == 1 and len(sentences) != 1:
                sys.exit(f"trial {number}: dualoptim {words}\n  after: {'; '.join(steps)}\n{captured.getvalue()}")
            counts[f"exit {code}"] += 1
            os.chdir(sound)
            shutil.rmtree(trial)
            number += 1
            bar.update()
    print(", ".join(f"{outcome}: {count}" for outcome, count in sorted(counts.items())))


if __name__ == "__main__":
    main()
