"""What `dualoptim push` uploads, to a hub that is none, and what is loaded from there again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

from dualoptim_diffusion import load_pipeline
from dualoptim_diffusion.models import model_sha256
from dualoptim_diffusion.models.loading import load_model
from tests.helpers.commands import Outcome, refused

Run = Callable[..., Outcome]
NAME = "someone/three"


class FakeHub:
    """Takes what HfApi is asked for.

    Attributes:
        calls: names and arguments, in order.
        files: what was committed.
        public: whether the repository is there already and public.
        failing: raised by the commit.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.files: dict[str, bytes] = {}
        self.public, self.failing = False, None

    def __call__(self, token: str) -> "FakeHub":
        self.calls.append(("token", {"token": token}))
        return self

    def create_repo(self, repo_id: str, **options: Any) -> None:
        self.calls.append(("create_repo", options))

    def model_info(self, repo_id: str) -> SimpleNamespace:
        return SimpleNamespace(private=not self.public)

    def create_branch(self, repo_id: str, **options: Any) -> None:
        self.calls.append(("create_branch", options))

    def create_commit(self, repo_id: str, operations: list[Any], **options: Any) -> SimpleNamespace:
        if self.failing is not None:
            raise self.failing
        self.calls.append(("create_commit", {"repo_id": repo_id, **options}))
        for operation in operations:
            with operation.as_file() as file:
                self.files[operation.path_in_repo] = file.read()
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    found = FakeHub()
    monkeypatch.setattr("dualoptim_diffusion.runs.push.HfApi", found)
    monkeypatch.setattr("dualoptim_diffusion.runs.push.get_token", lambda: "hf_token")
    return found


def laid(hub: FakeHub, folder: Path) -> Path:
    """What was uploaded, as files."""
    for name, content in hub.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_the_model_goes_up_in_one_commit_with_its_card_and_its_grid(
    finished: Path, dualoptim: Run, hub: FakeHub
) -> None:
    done = dualoptim("push", finished, NAME, "--json")
    assert done.code == 0, done.err
    assert [name for name, _ in hub.calls] == ["token", "create_repo", "create_commit"]
    assert dict(hub.calls)["create_repo"] == {"private": None, "exist_ok": True}
    printed = json.loads(done.out)
    assert printed["url"] == f"https://hub/{NAME}/commit/1"
    assert printed["files"] == {name: len(content) for name, content in hub.files.items()}
    model = {p.relative_to(finished / "model").as_posix(): p.read_bytes() for p in (finished / "model").rglob("*.*")}
    expected = model | {"grid.png": (finished / "grid.png").read_bytes()}
    assert hub.files.keys() == expected.keys()
    assert {n: c for n, c in hub.files.items() if n != "README.md"} == {
        n: c for n, c in expected.items() if n != "README.md"
    }
    assert not any(word in name for name in hub.files for word in ("recipe", "provenance", "samples", "checkpoints"))


def test_the_card_shows_figures_and_grid_and_loads_from_where_it_lies(
    finished: Path, dualoptim: Run, hub: FakeHub
) -> None:
    assert dualoptim("push", finished, NAME, "--revision", "v2").code == 0
    text = hub.files["README.md"].decode()
    for words in ("# Forgotten: three", "](grid.png)", "## Figures", f'load_pipeline("{NAME}@v2")', "## Limits"):
        assert words in text
    assert str(finished) not in text
    data = ModelCard(text).data
    assert (data.library_name, data.get("license"), data.get("base_model")) == ("diffusers", None, None)


def test_a_base_model_of_the_hub_is_named_in_the_card(
    finished: Path, dualoptim: Run, hub: FakeHub, tmp_path: Path
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    recipe = (run / "recipe.yaml").read_text().replace("path: null\n  pretrain", "path: a/base@v1\n  pretrain")
    (run / "recipe.yaml").write_text(recipe)
    origin = json.loads((run / "provenance.json").read_text())
    del origin["recipe_sha256"]
    (run / "provenance.json").write_text(json.dumps(origin | {"base_model_license": "cc-by-nc-4.0"}))
    assert dualoptim("push", run, NAME).code == 0
    data = ModelCard(hub.files["README.md"].decode()).data
    assert (data.base_model, data.license) == ("a/base", "cc-by-nc-4.0")


def test_a_branch_is_made_and_a_private_repository_stays_private(finished: Path, dualoptim: Run, hub: FakeHub) -> None:
    assert dualoptim("push", finished, NAME, "--private", "--revision", "v2").code == 0
    assert hub.calls[1:3] == [
        ("create_repo", {"private": True, "exist_ok": True}),
        ("create_branch", {"branch": "v2", "exist_ok": True}),
    ]
    assert hub.calls[3][1]["revision"] == "v2"


def test_nothing_private_goes_to_a_public_repository(finished: Path, dualoptim: Run, hub: FakeHub) -> None:
    hub.public = True
    refused(dualoptim("push", finished, NAME, "--private"), "exists and is public")
    assert hub.files == {}


def test_a_dry_run_lists_the_files_and_asks_nobody(
    finished: Path, dualoptim: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HfApi", "get_token"):
        monkeypatch.setattr(f"dualoptim_diffusion.runs.push.{name}", lambda *_, **__: pytest.fail("asked"))
    done = dualoptim("push", finished, NAME, "--dry-run", "--json")
    assert done.code == 0, done.err
    listed = json.loads(done.out)
    weights = finished / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    assert listed["files"]["unet/diffusion_pytorch_model.safetensors"] == weights.stat().st_size
    assert listed["bytes"] == sum(listed["files"].values())
    assert "url" not in listed


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (OSError("Name or service not known"), "was not uploaded (Name or service not known)"),
        (RuntimeError("403 Forbidden:\nno write access"), "was not uploaded (403 Forbidden: no write access)"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(
    error: Exception, part: str, finished: Path, dualoptim: Run, hub: FakeHub
) -> None:
    hub.failing = error
    refused(dualoptim("push", finished, NAME), part)


def test_without_a_token_it_is_said_how_to_get_one(
    finished: Path, dualoptim: Run, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dualoptim_diffusion.runs.push.get_token", lambda: None)
    refused(dualoptim("push", finished, NAME), "run `hf auth login`, or set HF_TOKEN")
    assert hub.calls == []


def test_what_was_pushed_is_loaded_from_the_hub_without_its_code(
    finished: Path, dualoptim: Run, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert dualoptim("push", finished, NAME).code == 0
    folder, asked = laid(hub, tmp_path / "hub"), {}

    def snapshot(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.update(name=name, revision=revision)
        for path in [path for path in folder.rglob("*") if path.is_file()]:
            if not any(path.relative_to(folder).match(pattern) for pattern in allow_patterns):
                path.unlink()
        return str(folder)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: folder / "model_index.json")
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    ours, theirs = load_pipeline(finished), load_pipeline(f"{NAME}@v2")
    assert asked == {"name": NAME, "revision": "v2"}
    assert not list(folder.rglob("*.py"))
    images = [pipeline(["eight"], num_inference_steps=2, output_type="pt").images for pipeline in (ours, theirs)]
    assert torch.equal(*images)
    assert model_sha256(load_model(Path(NAME))) == model_sha256(load_model(finished))
