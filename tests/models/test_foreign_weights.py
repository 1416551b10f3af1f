"""Weights that others saved: every importer undoes every wrapping of training scripts, and names what does not fit.

The reference is the state dict itself, as `torch.save(network.state_dict())` would write it.
"""

import argparse
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from diffusers import AutoencoderKL, DDIMPipeline, DiTTransformer2DModel, UNet2DModel
from safetensors.torch import save_file
from torch import Tensor

from dualoptim_diffusion import ConditionalUNet, load_pipeline
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.diffusion.sampling import make_scheduler
from dualoptim_diffusion.evaluation.features import INCEPTION_MARKS
from dualoptim_diffusion.files.weight_files import part_weights, read_weights
from dualoptim_diffusion.judge.timm_models import load_weights
from dualoptim_diffusion.models import ConditionalDDPM, ConditionalDiT, UNetModule
from dualoptim_diffusion.models.autoencoder import load_autoencoder
from dualoptim_diffusion.models.dit_network import DiT
from dualoptim_diffusion.models.loading import load_model
from dualoptim_diffusion.models.published import import_published, published_name
from dualoptim_diffusion.models.published_dit import ATTENTION, import_published_dit, published_dit_name
from tests.helpers.dit import HEADS, original_weights, random_dit, tiny_vae
from tests.helpers.published import Shape, State, Trap, published_state

BIN, SAFE = "diffusion_pytorch_model.bin", "diffusion_pytorch_model.safetensors"
BESIDE = {"optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}, "epoch": 3,
          "acc": 93.1}  # fmt: skip
CONTAINERS = ("state_dict", "model_state_dict", "model", "net", "network", "ema", "ema_model", "model_ema",
              "state_dict_ema", "params", "params_ema")  # fmt: skip


def under(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def inside(part: str, state: State) -> State:
    """A part is wrapped: `conv_in.weight` becomes `conv_in.PART.weight`."""
    return {".".join([*name.split(".")[:-1], part, name.split(".")[-1]]) if "." in name else name: value
            for name, value in state.items()}  # fmt: skip


def other(state: State) -> State:
    """Other values under the same names."""
    return {name: value + 1 for name, value in state.items()}


def deep(levels: int, state: State) -> Any:
    content: Any = state
    for _ in range(levels):
        content = {"model": content}
    return content


PREFIXES = ("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module.", "model.",
            "model.module.", "_orig_mod.model.", "net.", "network._orig_mod.")  # fmt: skip
WRAPPINGS: dict[str, Callable[[State], Any]] = {
    "as it is": lambda w: w,
    **{f"prefix {p}": lambda w, p=p: under(p, w) for p in PREFIXES},
    **{f"under {key}": lambda w, key=key: {key: w, **BESIDE} for key in CONTAINERS},
    "a compiled part": lambda w: inside("_orig_mod", w),
    "a replicated part": lambda w: inside("module", w),
    "Lightning": lambda w: {"state_dict": under("model.", w), "optimizer_states": [BESIDE["optimizer"]],
                            "hyper_parameters": {"lr": 0.1}, "pytorch-lightning_version": "2.1"},
    "Lightning with the weights of its loss": lambda w: {"state_dict": under("model._orig_mod.", w)
                                                         | {"criterion.weight": torch.ones(3)}},
    "Lightning with an average": lambda w: {"state_dict": under("ema_model.", other(w)) | under("model.", w)},
    "torch's AveragedModel": lambda w: {"n_averaged": torch.tensor(5)} | under("module.", w),
    "ema-pytorch": lambda w: {"initted": torch.tensor(True), "step": torch.tensor(9)}
    | under("online_model.", w) | under("ema_model.", other(w)),
    "DeepSpeed": lambda w: {"module": w, "ds_version": "0.14", "global_steps": 7},
    "three containers": lambda w: {"state_dict": {"model": {"net": under("module.", w)}}},
    "an average beside it": lambda w: {"model": w, "ema": other(w), "args": None, **BESIDE},
    "an average inside": lambda w: {"model": {**w, "ema": other(w)}},
    "an average at the same level": lambda w: {**w, "ema": other(w), **BESIDE},
    "numpy's numbers beside it": lambda w: {"net": w, "acc": np.float64(93.1), "best": np.float32(1), "n": np.int64(3),
                                            "rng": np.random.RandomState(0).get_state(), "out": Path("runs/a")},
    "arguments beside it": lambda w: {"state_dict": w, "args": argparse.Namespace(lr=0.1, data=Path("a")), "step": 9},
    "an average before it": lambda w: {"params_ema": other(w), "params": w},
    "timm's average": lambda w: {"state_dict": w, "state_dict_ema": other(w), "arch": "x", "metric": torch.tensor(0.9)},
    "a list": lambda w: [under("module.", w), BESIDE["optimizer"], 7, other(w)],
    "float16": lambda w: {name: value.half() for name, value in w.items()},
    "bfloat16 under a container": lambda w: {"model": {name: value.bfloat16() for name, value in w.items()}},
    "float64": lambda w: {name: value.double() for name, value in w.items()},
}  # fmt: skip
FORMAT = {"float16": torch.float16, "bfloat16 under a container": torch.bfloat16}


@cache
def unet_state() -> State:
    return published_state(Shape((1,), 1, (0,), False, channels=1, classes=2))


def from_unet_file(content: Any, folder: Path) -> tuple[State, State]:
    torch.save(content, folder / "c.pth")
    network = import_published(folder / "c.pth", image_size=4).network
    state = {published_name(name, 1): value for name, value in network.state_dict().items()}
    return state, {name: value.reshape(state[name].shape) for name, value in unet_state().items()}


def from_dit_file(content: Any, folder: Path) -> tuple[State, State]:
    torch.save(content, folder / "c.pt")
    found: dict[str, list[Tensor]] = {}
    for name, value in import_published_dit(folder / "c.pt", num_heads=HEADS).network.state_dict().items():
        found.setdefault(published_dit_name(name), []).append(value)
        assert ATTENTION.fullmatch(name) or len(found[published_dit_name(name)]) == 1
    return {n: torch.cat(v) for n, v in found.items()}, {k: v for k, v in original_weights().items() if k in found}


@cache
def resnet_state() -> State:
    return timm.create_model("test_resnet", num_classes=3).state_dict()


def from_classifier_file(content: Any, folder: Path) -> tuple[State, State]:
    torch.save(content, folder / "w.pth")
    network = timm.create_model("test_resnet", num_classes=3)
    assert load_weights(network, folder / "w.pth", head_may_differ=False)
    return network.state_dict(), resnet_state()


@cache
def native() -> UNetModule:
    torch.manual_seed(0)
    return UNetModule(4, 1, 2, 8, (1,), 1, (4,), False, 0.0, 4).eval()


@cache
def stock() -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=4, in_channels=1, out_channels=1, block_out_channels=(8,), down_block_types=("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",), layers_per_block=1, norm_num_groups=4, num_class_embeds=3,
    ).eval()  # fmt: skip


def save_native(folder: Path) -> Path:
    ConditionalDDPM(native(), {0: "a", 1: "b"}).save(folder)
    return folder / "unet"


def save_stock(folder: Path) -> Path:
    DDIMPipeline(stock(), make_scheduler("ddim")).save_pretrained(folder)
    return folder / "unet"


def save_dit(folder: Path) -> Path:
    ConditionalDiT(random_dit(), {i: str(i) for i in range(5)}).save(folder)
    return folder / "transformer"


def save_stock_dit(folder: Path) -> Path:
    ConditionalDiT(random_dit(num_classes=1000), {i: str(i) for i in range(1000)}, vae=tiny_vae()).save(folder)
    return folder / "transformer"


def from_folder(save: Callable[[Path], Path], state: Callable[[], State], read: Callable[[Path], Any]) -> Any:
    """An importer of a pipeline folder in which a part has been replaced by what a training script saved."""

    def importer(content: Any, folder: Path) -> tuple[State, State]:
        part = save(folder / "model")
        (part / SAFE).unlink()
        torch.save(content, part / BIN)
        return read(folder / "model"), state()

    return importer


IMPORTERS: dict[str, tuple[Callable[[], State], Callable[[Any, Path], tuple[State, State]]]] = {
    "a published U-Net": (unet_state, from_unet_file),
    "a published DiT": (original_weights, from_dit_file),
    "a classifier": (resnet_state, from_classifier_file),
    "a folder of ours": (
        native().state_dict, from_folder(save_native, native().state_dict, lambda f: load_model(f).network.state_dict())
    ),
    "a pipeline of ours": (
        native().state_dict, from_folder(save_native, native().state_dict, lambda f: load_pipeline(f).unet.state_dict())
    ),
    "a stock folder": (
        stock().state_dict, from_folder(save_stock, stock().state_dict, lambda f: load_model(f).network.state_dict())
    ),
    "a DiT of ours": (
        random_dit().state_dict,
        from_folder(save_dit, random_dit().state_dict, lambda f: load_model(f).network.state_dict()),
    ),
}  # fmt: skip


@pytest.mark.parametrize("importer", IMPORTERS)
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_every_wrapping_is_undone_by_every_importer(wrapping: str, importer: str, tmp_path: Path) -> None:
    state, read = IMPORTERS[importer]
    found, expected = read(WRAPPINGS[wrapping](state()), tmp_path)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if value.is_floating_point():
            assert found[name].dtype == torch.float32
            value = value.to(FORMAT.get(wrapping, torch.float32)).float()
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_every_wrapping_of_inception_and_of_an_autoencoder_is_undone(wrapping: str, tmp_path: Path) -> None:
    state = {name: torch.randn(2, 3) for name in (*INCEPTION_MARKS, "Mixed_5b.branch1x1.bn.running_var")}
    torch.save(WRAPPINGS[wrapping](state), tmp_path / "i.pth")
    assert read_weights(tmp_path / "i.pth", INCEPTION_MARKS).keys() == state.keys()
    vae = tiny_vae()
    vae.save_pretrained(tmp_path / "vae")
    (tmp_path / "vae" / SAFE).unlink()
    torch.save(WRAPPINGS[wrapping](vae.state_dict()), tmp_path / "vae" / BIN)
    found = load_autoencoder(str(tmp_path)).state_dict()
    wide = FORMAT.get(wrapping, torch.float32)
    assert all(torch.equal(found[name], value.to(wide).float()) for name, value in vae.state_dict().items())


FLAT = ["as it is", *(name for name in WRAPPINGS if name.startswith(("prefix", "a compiled", "a replicated", "float")))]


@pytest.mark.parametrize("wrapping", [*FLAT, "torch's AveragedModel", "ema-pytorch"])
def test_a_prefix_is_undone_in_safetensors_too(wrapping: str, tmp_path: Path) -> None:
    save_file({n: v.clone() for n, v in WRAPPINGS[wrapping](resnet_state()).items()}, tmp_path / "w.safetensors")
    network = timm.create_model("test_resnet", num_classes=3)
    assert load_weights(network, tmp_path / "w.safetensors", head_may_differ=False)
    wide = FORMAT.get(wrapping, torch.float32)
    found = network.state_dict().items()
    assert all(torch.equal(v, resnet_state()[n].to(wide).float()) for n, v in found if v.is_floating_point())


@pytest.mark.parametrize(
    ("content", "read"),
    [
        (lambda w: {"state_dict": w, "state_dict_ema": other(w)}, "under state_dict and under state_dict_ema; tho"),
        (lambda w: {"ema": other(w), "net": dict([*w.items()][1:])}, "net and under ema; those under net are read"),
        (lambda w: {"ema": other(w), "net": w}, "net and under ema; those under net are read"),
        (lambda w: {"params_ema": other(w), "params": w}, "params and under params_ema; those under params are"),
        (lambda w: {"model": w, "state_dict": other(w)}, "state_dict and under model; those under state_dict are"),
        (lambda w: {"state_dict": {**under("ema.", w), **under("model.", w)}}, "state_dict.model and under state_d"),
    ],
)  # fmt: skip
def test_of_several_containers_the_one_that_is_read_is_said(
    content: Callable[[State], Any], read: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(content(resnet_state()), tmp_path / "w.pth")
    read_weights(tmp_path / "w.pth", resnet_state())
    (line,) = capsys.readouterr().err.splitlines()
    assert read in line
    assert "w.pth holds weights under" in line


def test_one_container_is_not_worth_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from_classifier_file({"state_dict": under("module.", resnet_state()), **BESIDE}, tmp_path)
    assert capsys.readouterr().err == ""


def test_a_network_whose_own_names_look_like_a_prefix_keeps_them(tmp_path: Path) -> None:
    own = {"network.0.weight": torch.ones(1), "norm.weight": torch.ones(2), "block.module.bias": torch.ones(3),
           "net.norm.weight": torch.ones(4), "ema.norm.weight": torch.ones(5)}  # fmt: skip
    for number, content in enumerate((own, under("module.", own), {"network": own}, under("model.module.", own))):
        torch.save(content, tmp_path / f"{number}.pth")
        assert read_weights(tmp_path / f"{number}.pth", own).keys() == own.keys()


@pytest.mark.parametrize("name", ["raw", "ema"])
def test_a_checkpoint_of_one_kind_of_weights_alone_is_read(name: str, tmp_path: Path) -> None:
    torch.save({"model_ema": under("module.", unet_state())}, tmp_path / "c.pth")
    assert import_published(tmp_path / "c.pth", name, image_size=4).left_over == []
    torch.save({"params": unet_state()}, tmp_path / "c.pth")
    if name == "ema":
        with pytest.raises(InputError, match="no moving average"):
            import_published(tmp_path / "c.pth", name, image_size=4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kept", [True, False])
def test_counters_of_batch_norm_may_be_missing_or_rounded(kept: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    state = {n: v.to(dtype) for n, v in resnet_state().items() if kept or "num_batches_tracked" not in n}
    torch.save(state, tmp_path / "w.pth")
    network = timm.create_model("test_resnet", num_classes=3).eval()
    assert load_weights(network, tmp_path / "w.pth", head_may_differ=False)
    plain = timm.create_model("test_resnet", num_classes=3).eval()
    plain.load_state_dict({name: value.float() for name, value in state.items()}, strict=kept)
    x = torch.randn(1, 3, 16, 16)
    assert torch.equal(network(x), plain(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_table_of_positions_is_compared_as_precisely_as_it_is_stored(dtype: torch.dtype, tmp_path: Path) -> None:
    weights = {name: value.to(dtype) for name, value in original_weights().items()}
    torch.save(weights, tmp_path / "c.pt")
    import_published_dit(tmp_path / "c.pt", num_heads=HEADS)
    for wrong in (weights["pos_embed"] + 0.01, weights["pos_embed"] * float("nan"), weights["pos_embed"].flip(1)):
        torch.save(weights | {"pos_embed": wrong}, tmp_path / "c.pt")
        with pytest.raises(InputError, match=r"c\.pt holds positions that are not the published"):
            import_published_dit(tmp_path / "c.pt", num_heads=HEADS)


def without(*names: str) -> State:
    return {name: value for name, value in resnet_state().items() if name not in names}


FIRST = next(iter(resnet_state()))
REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a tensor missing": (lambda _: without(FIRST), f"it lacks the weights {FIRST};"),
    "many missing": (lambda _: dict(list(resnet_state().items())[-2:]), r"lacks the weights .*, .*, .* and \d+ more"),
    "one left over": (lambda _: resnet_state() | {"extra": torch.ones(1)}, "has no use for the weights extra;"),
    "another shape": (lambda _: resnet_state() | {FIRST: torch.ones(2, 3)}, rf"{FIRST} is \[2, 3\], expected \["),
    "integers": (lambda _: resnet_state() | {FIRST: torch.ones_like(resnet_state()[FIRST]).to(torch.int8)},
                 rf"{FIRST} is \[.*\] int8, expected"),
    "one missing and one left over": (lambda _: without(FIRST) | {"extra": torch.ones(1)},
                                      f"lacks the weights {FIRST}; it has no use for the weights extra"),
    "under two names": (lambda _: resnet_state() | {f"_orig_mod.{FIRST}": torch.ones(1)}, f"_orig_mod.{FIRST}"),
    "an empty container": (lambda _: {"state_dict": {}, "epoch": 1}, "something other than named tensors"),
    "an empty file": (lambda _: {}, "something other than named tensors"),
    "an unknown container": (lambda _: {"generator": resnet_state()}, "something other than named tensors"),
    "a container of numbers": (lambda _: {"model": {"a": 1.0, "b": [2]}}, "something other than named tensors"),
    "a single tensor": (lambda _: torch.ones(3), "something other than named tensors"),
    "a text": (lambda _: "weights", "something other than named tensors"),
    "100 containers": (lambda _: deep(100, resnet_state()), "more than 8 containers"),
    "numbers for names": (lambda _: {0: torch.ones(1)}, "it names a tensor 0"),
    "sparse tensors": (lambda _: resnet_state() | {FIRST: torch.ones(2, 2).to_sparse()}, "is sparse"),
    "an object": (lambda folder: {"state_dict": resnet_state(), "args": Trap(folder / "made")}, "object of the kind"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_weights_that_do_not_fit_are_refused_by_name_in_one_sentence(case: str, tmp_path: Path) -> None:
    content, sentence = REFUSED[case]
    torch.save(content(tmp_path), tmp_path / "w.pth")
    with pytest.raises(InputError, match=sentence) as error:
        load_weights(timm.create_model("test_resnet", num_classes=3), tmp_path / "w.pth", head_may_differ=False)
    assert str(tmp_path / "w.pth") in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "made").exists()


def write_shards(folder: Path, state: State, index: str = f"{SAFE}.index.json", **change: Any) -> Path:
    """Two shards and their index."""
    names = sorted(state)
    halves = {"a-1.safetensors": names[::2], "a-2.safetensors": names[1::2]}
    for shard, part in halves.items():
        save_file({name: state[name].contiguous() for name in part}, folder / shard)
    places = {name: shard for shard, part in halves.items() for name in part}
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": places | change}))
    return folder / index


def test_shards_are_read_by_their_index(tmp_path: Path) -> None:
    network = timm.create_model("test_resnet", num_classes=3)
    assert load_weights(network, write_shards(tmp_path, under("module.", resnet_state())), head_may_differ=False)
    assert all(torch.equal(value, resnet_state()[name]) for name, value in network.state_dict().items())


HOSTILE: dict[str, tuple[Any, str]] = {
    "outside of the folder": ("../a-1.safetensors", "names the shard '../a-1.safetensors', expected a file"),
    "by an absolute path": ("/etc/passwd", "names the shard '/etc/passwd'"),
    "by a path of Windows": ("..\\a-1.safetensors", "names the shard"),
    "the index itself": (f"{SAFE}.index.json", "names the shard"),
    "the folder": (".", "names the shard '.'"),
    "nothing": ("", "names the shard ''"),
    "a missing file": ("a-3.safetensors", "its shard a-3.safetensors is missing"),
    "a number": (5, "its shard 5 is missing"),
    "the shard that lacks it": ("a-2.safetensors", "its shard a-2.safetensors lacks"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_an_index_of_shards_that_names_anything_else_is_refused(case: str, tmp_path: Path) -> None:
    place, sentence = HOSTILE[case]
    folder = save_stock(tmp_path / "model")
    (folder / SAFE).unlink()
    state = stock().state_dict()
    index = write_shards(folder, state, **{min(state): place})
    with pytest.raises(InputError) as single:
        read_weights(index, state)
    for load in (load_model, load_pipeline):
        with pytest.raises(InputError) as error:
            load(tmp_path / "model")
        for found in (str(error.value), str(single.value)):
            assert sentence in found
            assert index.name in found
            assert "\n" not in found


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": 3}', "{" * 99999])
def test_an_index_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "w.index.json").write_text(text)
    with pytest.raises(InputError, match=r"w\.index\.json cannot be read"):
        read_weights(tmp_path / "w.index.json", ["a"])


FILES: dict[str, tuple[list[str], str]] = {
    "whole before a variant": ([SAFE, SAFE.replace(".s", ".fp16.s")], SAFE),
    "whole .bin before a variant": ([BIN, SAFE.replace(".s", ".fp16.s")], BIN),
    "safetensors before .bin": ([SAFE, BIN], SAFE),
    "a variant alone": ([SAFE.replace(".s", ".fp16.s")], SAFE.replace(".s", ".fp16.s")),
    "a variant's .bin alone": ([BIN.replace(".b", ".non_ema.b")], BIN.replace(".b", ".non_ema.b")),
    "the first of two variants": (
        [SAFE.replace(".s", ".non_ema.s"), SAFE.replace(".s", ".fp16.s")], SAFE.replace(".s", ".fp16.s")
    ),
    "bf16 before fp16": ([BIN.replace(".b", ".fp16.b"), BIN.replace(".b", ".bf16.b")], BIN.replace(".b", ".bf16.b")),
    "shards alone": ([f"{SAFE}.index.json"], f"{SAFE}.index.json"),
    "shards of .bin": ([f"{BIN}.index.json", "diffusion_pytorch_model-00001-of-00002.bin"], f"{BIN}.index.json"),
    "shards of a variant": ([f"{SAFE}.index.fp16.json"], f"{SAFE}.index.fp16.json"),
    "one file before shards": ([f"{SAFE}.index.json", SAFE], SAFE),
    "among other files": (["config.json", "model.onnx", "optimizer.bin", "diffusion_pytorch_model.pt", BIN], BIN),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_the_file_of_weights_in_a_folder_is_chosen_by_rule(case: str, tmp_path: Path) -> None:
    names, chosen = FILES[case]
    for name in names:
        (tmp_path / name).touch()
    assert part_weights(tmp_path).name == chosen


KINDS = {save_native: ConditionalUNet, save_stock: UNet2DModel, save_dit: DiT, save_stock_dit: DiTTransformer2DModel}
VARIANTS: dict[str, dict[str, Any]] = {
    "safetensors": {},
    ".bin": {"safe_serialization": False},
    "fp16": {"variant": "fp16"},
    "non_ema .bin": {"variant": "non_ema", "safe_serialization": False},
    "shards": {"max_shard_size": "4KB"},
    "shards of fp16": {"max_shard_size": "4KB", "variant": "fp16"},
    "shards of .bin": {"max_shard_size": "4KB", "safe_serialization": False},
}


@pytest.mark.parametrize(
    ("save", "form"),
    [
        pytest.param(save, form, marks=[] if not k or i == k % len(VARIANTS) else [pytest.mark.slow])
        for k, save in enumerate(KINDS)  # every form of the first, one of the others
        for i, form in enumerate(VARIANTS)
    ],
)
def test_what_diffusers_writes_is_read_in_every_form(form: str, save: Callable[[Path], Path], tmp_path: Path) -> None:
    part = save(tmp_path / "model")
    wanted = load_model(tmp_path / "model").network.state_dict()
    network = KINDS[save].from_pretrained(part)
    for path in part.glob("diffusion*"):
        path.unlink()
    network.save_pretrained(part, **VARIANTS[form])
    assert not (part / SAFE).exists() or form == "safetensors"
    for found in (load_model(tmp_path / "model").network, load_pipeline(tmp_path / "model").network):
        assert all(torch.equal(value, wanted[name]) for name, value in found.state_dict().items())


def test_names_of_attention_from_before_2023_are_read(tmp_path: Path) -> None:
    part, old = save_stock(tmp_path / "model"), {}
    for name, value in stock().state_dict().items():
        for new, before in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            name = name.replace(f".{new}.", f".{before}.") if ".attentions." in name else name
        old[name] = value
    (part / SAFE).unlink()
    torch.save(old, part / BIN)
    assert any("proj_attn" in name for name in old)
    plain = UNet2DModel.from_pretrained(part, use_safetensors=False).state_dict()
    found = load_model(tmp_path / "model").network.state_dict()
    assert all(torch.equal(found[name], value) for name, value in plain.items())


def test_an_autoencoder_of_half_precision_is_read_in_float32(tmp_path: Path) -> None:
    vae = tiny_vae()
    vae.half().save_pretrained(tmp_path, variant="fp16")
    found = load_autoencoder(str(tmp_path))
    assert isinstance(found, AutoencoderKL)
    assert all(torch.equal(found.state_dict()[name], value.float()) for name, value in vae.state_dict().items())
