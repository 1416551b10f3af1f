"""Patch files: the new weights in the smallest form, bit for bit, and whatever is damaged refused in one sentence."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.files.delta_file import Header, changed_weights, patched, read_delta, write_delta

Tensors = dict[str, Tensor]
HEADER = Header(
    base_sha256="b", result_sha256="r", forgotten=["cat"], method="sfron", recipe_sha256="c", package_version="1",
    class_names=["cat", "dog"], null_class=None,
)  # fmt: skip
SIZE = 8000


def same_bytes(one: Tensor, other: Tensor) -> bool:
    return (one.dtype, one.shape) == (other.dtype, other.shape) and torch.equal(
        one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8)
    )


@pytest.mark.parametrize(
    ("changed", "names", "size"),
    [
        (0, set(), 0),
        (200, {"values.w", "indices.w"}, 200 * (4 + 4)),  # fewer than one weight in 32
        (4000, {"values.w", "bits.w"}, 4000 * 4 + SIZE // 8),
        (7900, {"values.w"}, SIZE * 4),  # more than 31 in 32
        (SIZE, {"values.w"}, SIZE * 4),
    ],
)
def test_a_tensor_takes_the_smallest_of_its_forms_and_comes_back_bit_for_bit(
    changed: int, names: set[str], size: int
) -> None:
    base = {"w": torch.randn(80, 100)}
    places = torch.randperm(SIZE)[:changed]
    result = {"w": base["w"].flatten().index_fill(0, places, 7.0).view(80, 100)}
    tensors = changed_weights(base, result)
    assert tensors.keys() == names
    assert sum(tensor.nbytes for tensor in tensors.values()) == size
    assert same_bytes(patched(base, tensors)["w"], result["w"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (5, 1, 7)])
def test_tensors_of_every_type_and_shape_come_back(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    base, result = ({"buffer": torch.randint(0, 2, shape).to(dtype)} for _ in range(2))
    assert same_bytes(patched(base, changed_weights(base, result))["buffer"], result["buffer"])


def test_what_differs_in_bytes_alone_comes_back_too() -> None:
    quiet, payload = torch.tensor([0x7FC00000, 0x7FC00001], dtype=torch.int32).view(torch.float32)
    base = {"w": torch.stack([torch.tensor(0.0), quiet, quiet]), "same": torch.tensor([torch.nan, -0.0])}
    result = {"w": torch.stack([torch.tensor(-0.0), payload, quiet]), "same": base["same"].clone()}
    tensors = changed_weights(base, result)
    assert {name.partition(".")[2] for name in tensors} == {"w"}
    assert same_bytes(patched(base, tensors)["w"], result["w"])


def test_weights_in_another_memory_order_are_the_same_weights() -> None:
    base = {"w": torch.randn(2, 3, 4, 5)}
    turned = {"w": base["w"].to(memory_format=torch.channels_last)}
    assert changed_weights(base, turned) == {}
    assert same_bytes(patched(turned, {"values.w": base["w"] + 1})["w"], base["w"] + 1)


def test_the_base_stays_as_it_is() -> None:
    base = {"w": torch.zeros(100)}
    patched(base, {"values.w": torch.ones(1), "indices.w": torch.tensor([3])})
    assert not base["w"].any()


def test_another_network_is_named() -> None:
    with pytest.raises(ValueError, match="b is in one alone"):
        changed_weights({"a": torch.ones(1)}, {"a": torch.ones(1), "b": torch.ones(1)})
    with pytest.raises(ValueError, match=r"a is \[2\] float64, expected \[1\] float32"):
        changed_weights({"a": torch.ones(1)}, {"a": torch.ones(2).double()})


BASE = {"w": torch.zeros(4, 5)}


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"w": torch.ones(4, 5)}, "it holds the tensor w, expected values.NAME"),
        ({"values.v": torch.ones(4, 5)}, "the base has no tensor v"),
        ({"values.w": torch.ones(20)}, r"w is \[20\] float32, expected \[4, 5\] float32"),
        ({"values.w": torch.ones(4, 5).half()}, r"w is \[4, 5\] float16, expected"),
        ({"indices.w": torch.tensor([1])}, "lacks the values of w"),
        ({"values.w": torch.ones(1), "indices.w": torch.tensor([1.0])}, "indices.w is no list of whole numbers"),
        ({"values.w": torch.ones(1), "indices.w": torch.tensor([[1]])}, "indices.w is no list of whole numbers"),
        ({"values.w": torch.ones(1), "indices.w": torch.tensor([20])}, "from 20 to 20, but there are 20 weights"),
        ({"values.w": torch.ones(2), "indices.w": torch.tensor([-1, 3])}, "from -1 to 3, but there are 20 weights"),
        ({"values.w": torch.ones(2), "indices.w": torch.tensor([3, 3])}, "indices.w repeats"),
        ({"values.w": torch.ones(2), "indices.w": torch.tensor([3, 1])}, "or does not rise"),
        ({"values.w": torch.ones(2), "indices.w": torch.tensor([3])}, r"values.w is \[2\] float32, expected \[1\]"),
        ({"values.w": torch.ones(1), "bits.w": torch.ones(2).byte()}, r"bits.w is \[2\] uint8, expected \[3\]"),
        ({"values.w": torch.ones(1), "bits.w": torch.ones(3)}, r"bits.w is \[3\] float32, expected \[3\] uint8"),
        ({"values.w": torch.ones(1), "bits.w": torch.ones(3).byte()}, r"expected \[2\] float32"),
        ({"values.w": torch.ones(1), "bits.w": torch.ones(3), "indices.w": torch.tensor([3])}, "says twice"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_the_base_are_refused(tensors: Tensors, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        patched(BASE, tensors)


def test_a_patch_is_read_as_it_was_written_and_equal_patches_are_equal_files(tmp_path: Path) -> None:
    tensors = {"values.w": torch.ones(2), "indices.w": torch.tensor([1, 3], dtype=torch.int32)}
    for name in ("a", "b"):
        write_delta(tmp_path / name, HEADER, tensors)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    _, header, found = read_delta(tmp_path / "a")
    assert header == HEADER
    assert all(same_bytes(found[name], tensors[name]) for name in tensors | found)


def with_metadata(**metadata: str) -> Callable[[Path], None]:
    return lambda path: save_file(load_file(path), path, metadata=metadata)


def header_with(**changes: object) -> Callable[[Path], None]:
    return with_metadata(dualoptim_delta=HEADER.model_copy(update=changes).model_dump_json(warnings=False))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (Path.unlink, "There is no patch file .*; `dualoptim delta` makes one"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "no sound patch"),
        (lambda path: path.write_bytes(b""), "no sound patch"),
        (lambda path: path.write_text("hello"), "no sound patch"),
        (with_metadata(), "its metadata have no entry dualoptim_delta"),
        (with_metadata(dualoptim_delta="{"), "no sound patch .*JSON"),
        (with_metadata(dualoptim_delta="[]"), "no sound patch"),
        (header_with(format_version=2), "format_version is 2, expected 1"),
        (header_with(base_sha256=None), "base_sha256 is None, expected a valid string"),
        (header_with(class_names=["cat", ""]), "class_names.1 is ''"),
        (header_with(null_class="0"), "null_class is '0', expected"),
    ],
)
def test_a_file_that_is_no_sound_patch_is_refused(
    tmp_path: Path, damage: Callable[[Path], object], sentence: str
) -> None:
    path = tmp_path / "p.safetensors"
    write_delta(path, HEADER, {"values.w": torch.ones(2)})
    damage(path)
    with pytest.raises(InputError, match=sentence):
        read_delta(path)
