"""Files of others are data: what would run when it is loaded is refused or made anew, and no name leaves its folder."""

import io
import json
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torchvision.datasets import CIFAR10

from dualoptim_diffusion import load_pipeline
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.hashes import file_sha256
from dualoptim_diffusion.data import cifar10
from dualoptim_diffusion.data.replay import open_replay
from tests.helpers.cifar import write_cifar
from tests.helpers.commands import Outcome, refused
from tests.helpers.dit import original_weights
from tests.helpers.published import Trap, published_state

Run = Callable[..., Outcome]
UNET = "unet/diffusion_pytorch_model.safetensors"


def trap(path: Path, form: str, made: Path) -> Path:
    """A file that would make a folder when unpickled: by torch's format, by pickle's, or as weights with it inside."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if form == "pickle":
        path.write_bytes(pickle.dumps(Trap(made)))
    else:
        torch.save(Trap(made) if form == "torch" else {"weight": torch.zeros(2), "more": Trap(made)}, path)
    return path


def test_the_trap_itself_works(tmp_path: Path) -> None:
    trap(tmp_path / "a.pth", "pickle", tmp_path / "one")
    pickle.loads((tmp_path / "a.pth").read_bytes())
    trap(tmp_path / "b.pth", "mixed", tmp_path / "two")
    torch.load(tmp_path / "b.pth", weights_only=False)
    assert (tmp_path / "one").is_dir()
    assert (tmp_path / "two").is_dir()


@pytest.mark.parametrize(
    ("suffix", "form"),
    [
        pytest.param(suffix, form, marks=[] if suffix == ".pth" or i % 3 == k else [pytest.mark.slow])
        for i, suffix in enumerate([".pth", ".pt", ".bin", ".safetensors", ".ckpt", ""])
        for k, form in enumerate(["pickle", "torch", "mixed"])
    ],
)
@pytest.mark.parametrize("asked", ["mask", "judge", "inception", "features", "import"])
def test_an_object_in_a_file_of_weights_is_refused_and_not_made(
    dualoptim: Run, tiny: str, recipes: Path, finished: Path, tmp_path: Path, asked: str, suffix: str, form: str
) -> None:
    path, out = trap(tmp_path / f"weights{suffix}", form, tmp_path / "made"), tmp_path / "out"
    forget = ("forget", tiny, "--class", "three", "--out", out)
    command: tuple[object, ...] = {
        "mask": (*forget, "--mask", path),
        "judge": ("train-classifier", recipes / "tiny_classifier.yaml", f"classifier.checkpoint={path}", "--out", out),
        "inception": (*forget, "--inception-weights", path),
        "features": (*forget, "evaluation.features=test_resnet", f"evaluation.features_weights={path}"),
        "import": ("import", path, "--out", out),
    }[asked]
    refused(dualoptim(*command), str(path))
    assert sorted(tmp_path.iterdir()) == sorted([path, *tmp_path.glob(".*.lock")])


@pytest.mark.parametrize("place", ["step", "weights", "ema", "optimizer", "beside"])
@pytest.mark.parametrize("kind", ["ddpm", "dit"])
def test_an_object_anywhere_in_a_published_checkpoint_is_refused_and_not_made(
    dualoptim: Run, tmp_path: Path, kind: str, place: str
) -> None:
    evil: Any = Trap(tmp_path / "made")
    state: dict[str, Any] = published_state() if kind == "ddpm" else original_weights()
    path = tmp_path / "c.pt"
    if place == "weights":
        torch.save(state | {"more": evil}, path)
    elif place == "beside":
        torch.save({"model": state, "args": evil}, path)
    else:
        torch.save([state, evil if place == "optimizer" else {}, evil if place == "step" else 7,
                    {"w": evil} if place == "ema" else None], path)  # fmt: skip
    refused(dualoptim("import", path, "--out", tmp_path / "out", "--image-size", 8), "an object of the kind")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("form", ["pickle", "torch"])
@pytest.mark.parametrize("where", ["run", "model", "judge"])
def test_an_object_in_place_of_safetensors_is_refused_and_not_made(
    dualoptim: Run, tiny: str, recipes: Path, finished: Path, tmp_path: Path, where: str, form: str
) -> None:
    made, out = tmp_path / "made", tmp_path / "out"
    forget = ("forget", tiny, "--class", "three")
    if where == "run":
        run = shutil.copytree(finished, tmp_path / "run")
        for path in (run / "checkpoints").glob("step_*/state.safetensors"):
            manifest = json.loads((path.parent / "manifest.json").read_text())
            manifest["files"][path.name] = file_sha256(trap(path, form, made))  # as one who knows the format would
            (path.parent / "manifest.json").write_text(json.dumps(manifest))
        refused(dualoptim(*forget, "--out", run, "--resume"), "No checkpoint verifies")
    elif where == "model":
        model = shutil.copytree(finished / "model", tmp_path / "model")
        trap(model / UNET, form, made)
        refused(dualoptim("sample", model, "--seeds", "0", "--out", out), "is not a pipeline folder")
    else:
        judge = tmp_path / "judge"
        assert dualoptim("train-classifier", recipes / "tiny_classifier.yaml", "--out", judge).code == 0
        trap(judge / "classifier.safetensors", form, made)
        refused(dualoptim(*forget, f"evaluation.classifier={judge}", "--out", out), "train-classifier")
    assert not made.exists()


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "pytorch_model.bin", "diffusion_pytorch_model.pt"])
@pytest.mark.parametrize("family", ["ddpm", "dit"])
def test_pickled_weights_of_a_model_folder_are_not_loaded(
    dualoptim: Run, recipes: Path, tmp_path: Path, family: str, name: str
) -> None:
    recipe = recipes / ("tiny_pretrain.yaml" if family == "ddpm" else "tiny_dit_pretrain.yaml")
    model = tmp_path / "model"
    assert dualoptim("pretrain", recipe, "--out", model).code == 0
    weights = model / ("unet" if family == "ddpm" else "transformer") / Path(UNET).name
    trap(weights.with_name(name), "mixed", tmp_path / "made")
    weights.unlink()
    refused(dualoptim("sample", model, "--seeds", "0", "--out", tmp_path / "out"), "is not a pipeline folder")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("library", ["evil", "pipeline", "unet.evil", "os", "antigravity"])
def test_code_that_a_model_folder_brings_or_names_is_not_run(
    dualoptim: Run, finished: Path, tmp_path: Path, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shutil.copytree(finished / "model", tmp_path / "model")
    code = f"import os\nos.mkdir({str(tmp_path / 'made')!r})\nclass Net:\n    pass\nConditionalDDPMPipeline = Net\n"
    for name in ("evil.py", "pipeline.py", "unet/evil.py", "unet/unet.py", "unet/modeling.py"):
        (model / name).write_text(code)
    index = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(json.dumps(index | {"unet": [library, "Net"]}))
    monkeypatch.chdir(model)
    monkeypatch.syspath_prepend(model)
    refused(dualoptim("sample", model, "--seeds", "0", "--out", tmp_path / "out"), f"its part 'unet' is of {library!r}")
    with pytest.raises(ValueError, match="its part 'unet' is of"):
        load_pipeline(model)
    assert not (tmp_path / "made").exists()


def test_our_pipeline_file_in_a_folder_is_not_run_to_load_it(dualoptim: Run, finished: Path, tmp_path: Path) -> None:
    model = shutil.copytree(finished / "model", tmp_path / "model")
    (model / "pipeline.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'made')!r})\n")
    sampling = ("sample", model, "--class", "one", "--seeds", "0", "--steps", "1", "--out", tmp_path / "out")
    assert dualoptim(*sampling).code == 0
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_cached_files_that_hold_an_object_are_made_anew(
    dualoptim: Run, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: Path, cache: Path, form: str
) -> None:
    mine, made = shutil.copytree(cache, tmp_path / "cache"), tmp_path / "made"
    monkeypatch.setenv("DUALOPTIM_CACHE", str(mine))
    kinds = ("masks", "references")
    files = [path for kind in kinds for path in (mine / kind).glob("*.safetensors")]
    assert {path.parent.name for path in files} == set(kinds)
    for path in files:
        trap(path, form, made)
    assert dualoptim("forget", tiny, "--class", "three", "--out", tmp_path / "run").code == 0
    for kind in kinds:
        assert any(_is_sound(path) for path in (mine / kind).glob("*.safetensors"))
    assert not made.exists()
    first, again = ((run / "mask.safetensors").read_bytes() for run in (finished, tmp_path / "run"))
    assert first == again


def _is_sound(path: Path) -> bool:
    try:
        return bool(load_file(path))
    except Exception:
        return False


def test_a_cached_model_that_holds_an_object_is_made_anew_and_the_object_is_not(
    dualoptim: Run, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: Path, cache: Path
) -> None:
    mine = shutil.copytree(cache, tmp_path / "cache")
    monkeypatch.setenv("DUALOPTIM_CACHE", str(mine))
    for path in (mine / "models").rglob(Path(UNET).name):
        trap(path, "torch", tmp_path / "made")
    done = dualoptim("forget", tiny, "--class", "three", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert "in the cache is damaged" in done.err
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("module", ["posix", "builtins", "os", "numpy.testing._private.utils", "torch"])
def test_a_batch_of_cifar10_builds_arrays_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    call = {"posix": "mkdir", "os": "mkdir", "builtins": "eval"}.get(module, "runstring")
    made = str(tmp_path / "made")
    argument = f"__import__('os').mkdir({made!r})" if call != "mkdir" else made
    evil = f"c{module}\n{call}\n(V{argument}\ntR.".encode()
    write_cifar(tmp_path, monkeypatch)
    first = tmp_path / CIFAR10.base_folder / CIFAR10.train_list[0][0]
    first.write_bytes(evil)
    monkeypatch.setattr("torchvision.datasets.utils.check_integrity", lambda *_: True)  # as if it were the published
    with pytest.raises(InputError, match=f"data_batch_1 is no batch of CIFAR-10 .it holds {module}.{call}"):
        cifar10._decode_all(tmp_path / CIFAR10.base_folder)
    assert not (tmp_path / "made").exists()


def test_an_archive_of_cifar10_that_is_not_the_published_one_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, root = tmp_path / "root" / CIFAR10.filename, tmp_path / "root"
    root.mkdir()
    with tarfile.open(archive, "w:gz") as packed:
        entry = tarfile.TarInfo("../../escaped")
        entry.size = 4
        packed.addfile(entry, io.BytesIO(b"evil"))
    monkeypatch.setattr(CIFAR10, "url", (tmp_path / "nowhere").as_uri())
    with pytest.raises(InputError, match="cannot be had"):
        cifar10._obtain(root)
    assert not list(tmp_path.parent.rglob("escaped"))
    assert not (root / CIFAR10.base_folder).exists()


@pytest.mark.parametrize("tag", ["object/apply:os.mkdir", "object/new:os.mkdir", "name:os.mkdir", "module:os"])
def test_a_recipe_makes_no_python_objects(dualoptim: Run, recipes: Path, tmp_path: Path, tag: str) -> None:
    recipe = tmp_path / "evil.yaml"
    recipe.write_text(f"run: !!python/{tag} [{str(tmp_path / 'made')!r}]\n")
    for verb in ("forget", "pretrain", "train-classifier", "classes", "encode", "saliency"):
        refused(dualoptim(verb, recipe), f"python/{tag}")
    refused(dualoptim("forget", recipes / "tiny.yaml", f"method.num_steps=!!python/{tag} ['x']"), "cannot be read")
    assert list(tmp_path.iterdir()) == [recipe]


NASTY = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


def test_a_class_name_is_text_in_the_page_of_a_report(dualoptim: Run, finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    text = (run / "results.json").read_text().replace('"three"', json.dumps(NASTY))
    results = json.loads(text) | {"seconds": {NASTY: 1.0}}
    results["protocol"]["name"] = NASTY
    (run / "results.json").write_text(json.dumps(results))
    for name in ("recipe.yaml", "provenance.json"):
        content = yaml.safe_load((run / name).read_text()) | {"note": NASTY}
        (run / name).write_text(json.dumps(content))
    assert dualoptim("report", run).code == 0
    page = (run / "report.html").read_text()
    for part in ("<script>alert", "<img src=x", "onerror=alert(1)>"):
        assert part not in page
    assert "&lt;script&gt;alert(1)" in page


@pytest.mark.parametrize("name", ["../../class0003-seed000000-000003.safetensors", "/etc/passwd", "x/../../y",
                                  "class0003-seed../../x.safetensors", "class0003-seed0-3.safetensors\n"])  # fmt: skip
def test_a_manifest_of_samples_names_files_of_its_own_folder_alone(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "a" / "b" / "samples"
    folder.mkdir(parents=True)
    outside = tmp_path / "a" / "class0003-seed000000-000003.safetensors"
    save_file({"seeds": torch.arange(4), "images": torch.zeros(4, 1, 8, 8, dtype=torch.uint8)}, outside)
    (folder / "manifest.json").write_text(json.dumps({"id2label": {"3": "three"}, "shards": {name: "0"}}))
    with pytest.raises(InputError, match=r"its manifest.json names the file"):
        open_replay(folder)


def test_shards_that_a_manifest_invents_are_neither_read_nor_written(
    dualoptim: Run, finished: Path, tmp_path: Path
) -> None:
    sampling = ("sample", finished, "--class", "one", "--seeds", "0", "--steps", "1", "--out", tmp_path / "a" / "s")
    assert dualoptim(*sampling).code == 0
    path = tmp_path / "a" / "s" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"shards": {"../../escaped.safetensors": "0", **manifest["shards"]}}))
    assert dualoptim(*sampling).code == 0
    assert not (tmp_path / "escaped.safetensors").exists()


@pytest.mark.parametrize("name", ["..", ".", "../../../escaped", "/escaped", "a/../../../escaped", "a\0b", "a\\b"])
def test_pictures_of_a_class_lie_in_their_own_folder_whatever_its_name(
    dualoptim: Run, finished: Path, tmp_path: Path, name: str
) -> None:
    model = shutil.copytree(finished / "model", tmp_path / "model")
    index = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(json.dumps(index | {"id2label": index["id2label"] | {"3": name}}))
    before = set(tmp_path.iterdir())
    done = dualoptim("sample", model, "--class", "3", "--seeds", "0", "--steps", "1", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert {path for path in set(tmp_path.iterdir()) - before if path.suffix != ".lock"} == {tmp_path / "out"}
    (picture,) = (tmp_path / "out").rglob("*.png")
    assert picture.parent.parent == tmp_path / "out" / "png"
    assert not Path("/escaped").exists()


def test_a_run_folder_by_default_lies_in_runs_whatever_the_class_is_called(
    dualoptim: Run, tiny: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = tmp_path / "replay"
    replay.mkdir()
    names = {"0": "/../../../escaped", "1": "one"}
    for label in range(2):
        save_file({"seeds": torch.arange(8), "images": torch.zeros(8, 1, 8, 8, dtype=torch.uint8)},
                  replay / f"class{label:04d}-seed000000-000007.safetensors")  # fmt: skip
    shards = {path.name: "0" for path in replay.iterdir()}
    (replay / "manifest.json").write_text(json.dumps({"id2label": names, "shards": shards}))
    (home := tmp_path / "home" / "work").mkdir(parents=True)
    monkeypatch.chdir(home)
    outcome = dualoptim("forget", tiny, "data.name=replay", f"data.path={replay}", "--class", "0")
    assert outcome.code == 1  # the model draws other classes, which shows after the folder was looked at
    written = [path for path in tmp_path.rglob("*") if "escaped" in path.name and replay not in path.parents]
    assert all(home / "runs" in path.parents for path in written), os.fspath(written[0])
