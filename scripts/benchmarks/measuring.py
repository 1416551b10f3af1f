"""What scripts that measure share: where they ran, and how results are written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def where() -> dict[str, str]:
    """The device and the version of torch."""
    on_gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    return {"device": device, "torch": torch.__version__}


def write_results(out: Path, name: str, content: dict[str, Any], tabulate: Callable[[dict[str, Any]], str]) -> None:
    """Writes `NAME_gpu.json` or `NAME_cpu.json`, and its table as Markdown beside it; prints the table."""
    stem = out / f"{name}_{'gpu' if torch.cuda.is_available() else 'cpu'}"
    stem.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    text = tabulate(content)
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
