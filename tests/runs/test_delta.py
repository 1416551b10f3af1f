"""A run's model travels as a patch: base model and patch give it again bit for bit, and nothing else does."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dualoptim_diffusion.diffusion.sampling import make_scheduler
from dualoptim_diffusion.files.delta_file import FORMAT
from dualoptim_diffusion.models import ConditionalDDPM, ConditionalDiT, DenoisingModel, model_sha256
from dualoptim_diffusion.models.loading import load_model
from dualoptim_diffusion.models.stock import fold
from tests.helpers.commands import Outcome, refused
from tests.helpers.dit import random_dit, tiny_vae
from tests.helpers.handmade import DIGITS, changed, small_unet, write_run

Run = Callable[..., Outcome]


class Place(NamedTuple):
    """A base model, and three runs: a from the base, b from a, c from the base."""

    base: Path
    a: Path
    b: Path
    c: Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("travel")
    base = ConditionalDDPM(small_unet(), dict(enumerate(DIGITS)))
    base.save(folder / "base")
    first, other = changed(base, "three"), changed(base, "eight", seed=2)
    return Place(
        folder / "base",
        write_run(folder / "a", folder / "base", base, first),
        write_run(folder / "b", folder / "a", first, changed(first, "four", seed=3)),
        write_run(folder / "c", folder / "base", base, other),
    )


@pytest.fixture
def patches(place: Place, tmp_path: Path, dualoptim: Run) -> dict[str, Path]:
    """The patch of each run."""
    found = {name: tmp_path / f"{name}.safetensors" for name in "abc"}
    for name, path in found.items():
        assert dualoptim("delta", getattr(place, name), "--out", path).code == 0
    return found


def files(folder: Path) -> dict[str, bytes]:
    """By name, what lies in a model folder, but for its card."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if name != "README.md"}


def travels(dualoptim: Run, run: Path, base: Path, folder: Path) -> dict[str, object]:
    """The patch of a run, applied to the base, gives its model folder again; returns what delta printed."""
    done = dualoptim("delta", run, "--out", folder / "p.safetensors", "--json")
    assert done.code == 0, done.err
    applied = dualoptim("apply", base, folder / "p.safetensors", "--out", folder / "again", "--json")
    assert applied.code == 0, applied.err
    assert files(folder / "again") == files(run / "model")
    printed: dict[str, object] = json.loads(done.out)
    assert json.loads(applied.out)["sha256"] == printed["result_sha256"]
    return printed


def test_the_model_of_a_finished_run_travels(finished: Path, tmp_path: Path, dualoptim: Run) -> None:
    origin, base = json.loads((finished / "provenance.json").read_text()), tmp_path / "base"
    assert dualoptim("pretrain", finished / "pretrain.yaml", "--out", base).code == 0
    printed = travels(dualoptim, finished, base, tmp_path)
    assert printed["result_sha256"] == origin["model_sha256"]
    with safe_open(tmp_path / "p.safetensors", framework="pt") as stored:
        header = json.loads(stored.metadata()[FORMAT])
    assert (header["forgotten"], header["method"]) == (["three"], "sfron")
    assert header["recipe_sha256"] == origin["recipe_sha256"]
    assert header["base_sha256"] == origin["base_model_sha256"]


def test_where_a_tenth_of_the_weights_changed_the_patch_is_a_quarter_of_the_model(
    place: Place, tmp_path: Path, dualoptim: Run
) -> None:
    printed = travels(dualoptim, place.a, place.base, tmp_path)
    assert printed["patch_bytes"] == (tmp_path / "p.safetensors").stat().st_size
    assert printed["model_bytes"] == sum(p.nbytes for p in load_model(place.a).network.parameters())
    assert printed["patch_bytes"] < 0.25 * printed["model_bytes"]  # type: ignore[operator]
    assert printed["tensors"]["whole"] == 0  # type: ignore[index]


@pytest.mark.parametrize("null_class", [None, 3, 10])
def test_a_stock_network_travels_whichever_row_of_its_table_means_no_class(
    null_class: int | None, tmp_path: Path, dualoptim: Run
) -> None:
    from diffusers import DDIMPipeline

    DDIMPipeline(fold(small_unet()), make_scheduler("ddim")).save_pretrained(tmp_path / "stock")
    names = dict(enumerate([*DIGITS, "none"] if null_class is None else DIGITS))
    base = load_model(tmp_path / "stock", null_class=null_class, id2label=names)
    more = {} if null_class is None else {"null_class": null_class}
    run = write_run(tmp_path / "run", tmp_path / "stock", base, changed(base, "three"), **more)
    travels(dualoptim, run, tmp_path / "stock", tmp_path)
    assert load_model(tmp_path / "again").id2label == names


@pytest.mark.parametrize("latents", [False, True])
def test_a_dit_travels_with_the_autoencoder_that_its_base_has(latents: bool, tmp_path: Path, dualoptim: Run) -> None:
    base = ConditionalDiT(random_dit(), dict(enumerate("abcde")), vae=tiny_vae() if latents else None)
    base.save(tmp_path / "base")
    run = write_run(tmp_path / "run", tmp_path / "base", base, changed(base, "c"))
    travels(dualoptim, run, tmp_path / "base", tmp_path)


def test_a_dit_of_a_thousand_classes_travels_in_diffusers_own_form(tmp_path: Path, dualoptim: Run) -> None:
    base = ConditionalDiT(random_dit(num_classes=1000), {i: f"class {i}" for i in range(1000)}, vae=tiny_vae())
    base.save(tmp_path / "base")
    run = write_run(tmp_path / "run", tmp_path / "base", base, changed(base, "class 7"))
    assert json.loads((run / "model" / "model_index.json").read_text())["_class_name"] == "DiTPipeline"
    travels(dualoptim, run, tmp_path / "base", tmp_path)


def test_patches_of_runs_that_follow_one_another_make_a_chain(
    place: Place, patches: dict[str, Path], tmp_path: Path, dualoptim: Run
) -> None:
    done = dualoptim("apply", place.base, patches["a"], patches["b"], "--out", tmp_path / "m", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["forgotten"] == ["four", "three"]
    assert files(tmp_path / "m") == files(place.b / "model")
    assert dualoptim("apply", place.a, patches["b"], "--out", tmp_path / "n").code == 0  # the model in the run folder
    assert files(tmp_path / "n") == files(place.b / "model")


@pytest.mark.parametrize(
    ("base", "names", "parts"),
    [
        ("base", "ac", ("are patches of the same base", "do not add up", "forget all classes in one run")),
        ("base", "ba", ("is a patch of", "give patches in the order of their runs")),
        ("base", "b", ("has the sha256", "is a patch of", "give the model that its run started from")),
        ("a", "a", ("has the sha256", "is a patch of")),
        ("base", "aa", ("are patches of the same base",)),
    ],
)
def test_patches_are_never_applied_to_another_base_or_summed(
    base: str, names: str, parts: tuple[str, ...], place: Place, patches: dict[str, Path], tmp_path: Path, dualoptim
) -> None:
    outcome = dualoptim("apply", getattr(place, base), *(patches[name] for name in names), "--out", tmp_path / "m")
    for part in parts:
        refused(outcome, part)
    assert not (tmp_path / "m").exists()


def test_another_base_is_refused_with_both_hashes(
    place: Place, patches: dict[str, Path], tmp_path: Path, dualoptim: Run
) -> None:
    outcome = dualoptim("apply", place.a, patches["a"], "--out", tmp_path / "m")
    for folder in (place.base, place.a):
        refused(outcome, model_sha256(load_model(folder)))


Tensors = dict[str, torch.Tensor]


def first(tensors: Tensors, prefix: str) -> torch.Tensor:
    return next(tensor for name, tensor in tensors.items() if name.startswith(prefix))


def one_value(tensors: Tensors) -> None:
    first(tensors, "values.")[0] += 1


def one_index(tensors: Tensors) -> None:
    first(tensors, "indices.")[-1] = 2**30


def one_bit(tensors: Tensors) -> None:
    bits = first(tensors, "bits.")
    bits[0] ^= 128


def one_tensor_less(tensors: Tensors) -> None:
    tensors.pop(next(name for name in tensors if name.startswith("values.")))


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (one_value, "it makes weights of the sha256"),
        (one_index, "to 1073741824, but there are"),
        (one_bit, "expected ["),
        (one_tensor_less, "lacks the values of"),
    ],
)
def test_a_damaged_patch_makes_nothing(
    damage: Callable[[Tensors], None], part: str, place: Place, tmp_path: Path, dualoptim: Run
) -> None:
    model = load_model(place.a)
    sparse = model.frozen_copy()
    sparse.network.unet.conv_out.weight[0, 0, 0, 0] += 1  # the one weight of its tensor
    run = write_run(tmp_path / "run", place.base, load_model(place.base), sparse)
    patch = tmp_path / "p.safetensors"
    assert dualoptim("delta", run, "--out", patch).code == 0
    with safe_open(patch, framework="pt") as stored:
        metadata = stored.metadata()
    tensors = load_file(patch)
    if damage is one_index:
        tensors |= as_indices(tensors)
    damage(tensors)
    save_file(tensors, patch, metadata=metadata)
    refused(dualoptim("apply", place.base, patch, "--out", tmp_path / "m"), part)
    assert not (tmp_path / "m").exists()


def as_indices(tensors: Tensors) -> Tensors:
    """One tensor's bits as indices in their place."""
    name = next(name for name in tensors if name.startswith("bits."))
    values = tensors[name.replace("bits.", "values.")]
    del tensors[name]
    return {name.replace("bits.", "indices."): torch.arange(len(values), dtype=torch.int32)}


def test_a_base_that_was_moved_is_named_and_another_one_is_refused(
    place: Place, tmp_path: Path, dualoptim: Run
) -> None:
    shutil.copytree(place.base, moved := tmp_path / "moved")
    base = load_model(moved)
    run = write_run(tmp_path / "run", tmp_path / "gone", base, changed(base, "three"))
    out = ("--out", tmp_path / "p.safetensors")
    refused(dualoptim("delta", run, *out), "no pipeline folder")
    refused(dualoptim("delta", run, f"model.path={place.a}", *out), "The base model is not the one")
    refused(dualoptim("delta", run, "method.num_steps=1", *out), "would change how the run was made")
    assert not (tmp_path / "p.safetensors").exists()
    assert dualoptim("delta", run, f"model.path={moved}", *out).code == 0
    refused(dualoptim("delta", run, f"model.path={moved}", *out), "use --overwrite")


def test_names_of_classes_travel_and_their_number_is_checked(place: Place, tmp_path: Path, dualoptim: Run) -> None:
    base: DenoisingModel = load_model(place.base)
    result = changed(base, "drei")
    result.id2label[3] = "drei"
    run = write_run(tmp_path / "run", place.base, base, result)
    travels(dualoptim, run, place.base, tmp_path)
    patch = tmp_path / "p.safetensors"
    with safe_open(patch, framework="pt") as stored:
        header = json.loads(stored.metadata()[FORMAT])
    save_file(load_file(patch), patch, metadata={FORMAT: json.dumps(header | {"class_names": ["zero"]})})
    refused(dualoptim("apply", place.base, patch, "--out", tmp_path / "m"), "it names 1 classes, the model draws 10")
