"""Whatever is given: a result that keeps its promise, or one sentence; looked for at random, the same each time."""

import json
import math
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dualoptim_diffusion.core.classes import resolve_class, resolve_classes, usable_names
from dualoptim_diffusion.core.config import ForgetRecipe
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.rates import rate
from dualoptim_diffusion.core.recipes import MAX_SEED, load_recipe, parse_seeds
from dualoptim_diffusion.core.training_config import ClassifierRecipe, PretrainRecipe
from dualoptim_diffusion.report import report
from dualoptim_diffusion.runs.import_ import _read
from tests.helpers.dit import HEADS, original_weights
from tests.helpers.published import published_state
from tests.helpers.recipes import RECIPES
from tests.helpers.reports import extended, make_run

few = settings(
    derandomize=True,
    database=None,
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
KINDS: dict[str, type[Any]] = {
    "tiny.yaml": ForgetRecipe,
    "tiny_pretrain.yaml": PretrainRecipe,
    "tiny_dit_pretrain.yaml": PretrainRecipe,
    "tiny_classifier.yaml": ClassifierRecipe,
}
SECTIONS = sorted({section for content in RECIPES.values() for section in content} | {"optimizers", "base"})
KEYS = sorted({key for kind in KINDS.values() for part in kind.model_fields.values()
               for key in getattr(part.annotation, "model_fields", ())} | {"kind", "family", "width"})  # fmt: skip

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.dates(),
    st.sampled_from(["adam", "dual", "fisher_ratio", "ddpm", "dit", "~nobody/x", "\0", "0x_", "1" * 5000, "a\nb"]),
)  # fmt: skip
keys = st.one_of(st.sampled_from(KEYS), st.sampled_from(SECTIONS), st.text(max_size=5), st.integers(), st.none())
values = st.recursive(
    scalars, lambda part: st.one_of(st.lists(part, max_size=3), st.dictionaries(keys, part, max_size=4)), max_leaves=8
)
sections = st.dictionaries(st.one_of(st.sampled_from(SECTIONS), st.text(max_size=4)), values, max_size=5)
yaml_like = st.one_of(
    values.map(lambda value: yaml.safe_dump(value, default_flow_style=True).strip()),
    st.text(max_size=12),
    st.text(alphabet="[]{}:,&*!|>-?#'\" \n\ta1.~", max_size=12),
    st.sampled_from(["!!int x", "!!bool x", "!!timestamp x", "!!float x", "!!binary x", "2020-13-45", "0b_", "1:99"]),
)
overrides = st.lists(
    st.one_of(
        st.builds(lambda s, k, v: f"{s}.{k}={v}", st.sampled_from(SECTIONS), st.sampled_from(KEYS), yaml_like),
        st.builds(lambda s, k, j, v: f"{s}.{k}.{j}={v}", *3 * [st.sampled_from(SECTIONS + KEYS)], yaml_like),
        st.text(max_size=12),
    ),
    max_size=3,
)


def one_line(error: InputError) -> None:
    text = str(error)
    assert text.strip()
    assert len(text.splitlines()) == 1, text


def read(name: str, content: Any, changes: list[str]) -> Any:
    """The recipe, or None where it was refused in one line."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
        try:
            return load_recipe(KINDS[name], str(path), changes)
        except InputError as error:
            one_line(error)
            return None


@few
@given(name=st.sampled_from(sorted(KINDS)), content=st.one_of(sections, yaml_like), changes=overrides)
def test_any_file_and_overrides_are_a_recipe_or_one_sentence(name: str, content: Any, changes: list[str]) -> None:
    if not isinstance(content, str):
        content = RECIPES[name] | content
    try:
        found = read(name, content, changes)
    except UnicodeEncodeError:  # a lone surrogate, which no file holds
        return
    assert found is None or isinstance(found, KINDS[name])


@few
@given(name=st.sampled_from(sorted(KINDS)), changes=overrides)
def test_any_overrides_of_a_sound_recipe_are_a_recipe_that_comes_back_equal_or_one_sentence(
    name: str, changes: list[str]
) -> None:
    found = read(name, RECIPES[name], changes)
    if found is not None:
        assert read(name, found.model_dump(mode="json"), []) == found


@few
@given(rate=st.floats(0, 1e6, allow_nan=False), seed=st.integers(0, 2**70), text=st.text(max_size=20))
def test_values_in_range_come_back_as_they_were_given(rate: float, seed: int, text: str) -> None:
    recipe = RECIPES["tiny.yaml"] | {"run": {"seed": seed}, "optimizers": {"forget": text}}
    found = read("tiny.yaml", recipe, [f"method.forget_lr={rate!r}"]) if "\0" not in text and _writable(text) else None
    if found is not None:
        assert (found.run.seed, found.optimizers.forget) == (seed, text)
        assert math.isclose(found.method.forget_lr, rate)
        assert read("tiny.yaml", found.model_dump(mode="json"), []) == found


def _writable(text: str) -> bool:
    try:
        return bool(yaml.safe_load(yaml.safe_dump({"a": text}))["a"] == text and text.encode())
    except (ValueError, yaml.YAMLError):
        return False


names = st.one_of(
    st.text(min_size=1, max_size=8), st.sampled_from(["cat", "Cat", "crane, bird", "crane", "3", "x (1)"])
)
labels = st.lists(names, min_size=1, max_size=6).map(lambda found: usable_names(dict(enumerate(found))))
asked = st.one_of(st.text(max_size=8), names, st.integers().map(str), st.just("7" * 5000), st.just("٣"))


def called(text: str, id2label: dict[int, str], found: int, aliases: dict[str, int]) -> bool:
    """Whether the class found has this name, synonym, id or alias."""
    wanted = text.strip().lower()
    label = id2label[found].lower()
    synonyms = {part.strip() for part in label.rsplit(" (", 1)[0].split(",")} | {p.strip() for p in label.split(",")}
    is_id = wanted.isdecimal() and len(wanted) < 10 and int(wanted) == found
    return wanted in synonyms or wanted == label or is_id or aliases.get(wanted) == found


@few
@given(text=asked, id2label=labels, alias=st.text(max_size=4))
def test_any_text_is_a_class_that_is_called_so_or_one_sentence(text: str, id2label: dict[int, str], alias: str) -> None:
    aliases = {alias.strip().lower(): 0}
    try:
        found = resolve_class(text, id2label, aliases)
    except InputError as error:
        one_line(error)
    else:
        assert called(text, id2label, found, aliases)


@few
@given(id2label=labels, numbers=st.lists(st.integers(-2, 7), max_size=8))
def test_several_classes_are_their_ids_sorted_once_each_or_one_sentence(
    id2label: dict[int, str], numbers: list[int]
) -> None:
    plain = {i: f"name {i}" for i in id2label}
    try:
        found = resolve_classes([str(n) for n in numbers], plain)
    except InputError as error:
        one_line(error)
        assert not numbers or not {*numbers} <= plain.keys() or {*numbers} == plain.keys()
    else:
        assert found == tuple(sorted({*numbers}))


@few
@given(gaps=st.lists(st.tuples(st.integers(1, 50), st.integers(0, 30)), min_size=1, max_size=6), spaces=st.booleans())
def test_seeds_are_what_the_text_says(gaps: list[tuple[int, int]], spaces: bool) -> None:
    parts, expected, position = [], [], 0
    for gap, length in gaps:
        first, last = position + gap, position + gap + length
        parts.append(f"{first}-{last}" if length else f"{first}")
        expected += range(first, last + 1)
        position = last
    assert parse_seeds((", " if spaces else ",").join(parts)) == expected


@few
@given(st.one_of(st.text(max_size=12), st.text(alphabet="0123456789-, ", max_size=30), st.just("9" * 5000),
                 st.just(f"0-{MAX_SEED}"), st.integers().map(str)))  # fmt: skip
def test_any_text_is_seeds_or_one_sentence(text: str) -> None:
    try:
        seeds = parse_seeds(text)
    except InputError as error:
        one_line(error)
    else:
        assert seeds
        assert all(isinstance(seed, int) and 0 <= seed <= MAX_SEED for seed in seeds)
        assert len(set(seeds)) == len(seeds)


@cache
def sound(kind: str) -> dict[str, torch.Tensor]:
    return published_state() if kind == "ddpm" else original_weights()


def _resized(tensor: torch.Tensor, amount: int) -> torch.Tensor:
    return torch.zeros([max(0, size + amount) for size in tensor.shape])


CHANGES: dict[str, Callable[[torch.Tensor, int], Any]] = {
    "flat": lambda t, n: t.flatten(),
    "scalar": lambda t, n: torch.tensor(1.0),
    "empty": lambda t, n: t[:0] if t.ndim else t,
    "resized": _resized,
    "more dimensions": lambda t, n: t[None],
    "transposed": lambda t, n: t.T if t.ndim == 2 else t.flip(0).unsqueeze(-1),
    "half": lambda t, n: t.half(),
    "whole": lambda t, n: t.long(),
    "complex": lambda t, n: t.to(torch.complex64),
    "yes or no": lambda t, n: t > 0,
    "sparse": lambda t, n: t.to_sparse(),
    "nowhere": lambda t, n: t.to("meta"),
    "nan": lambda t, n: torch.full_like(t, math.nan),
    "word": lambda t, n: "weights",
    "number": lambda t, n: n,
    "nothing": lambda t, n: None,
    "list": lambda t, n: [t],
}
mutations = st.lists(
    st.tuples(st.sampled_from(["drop", "rename", "add", *CHANGES]), st.integers(0, 10**6), st.integers(-3, 40)),
    min_size=1,
    max_size=3,
)
forms = st.sampled_from(["bare", "list", "wrapped", "ema", "nested", "not a file of weights"])
# those whose shapes and names tell the architecture
TELLING = ["conv_in.weight", "classes_emb.weight", "null_classes_emb", "down.0.block.0.conv1.weight",
           "down.1.block.0.conv1.weight", "x_embedder.proj.weight", "y_embedder.embedding_table.weight",
           "final_layer.linear.weight", "pos_embed", "blocks.0.attn.qkv.weight", "blocks.0.attn.qkv.bias"]  # fmt: skip


def mutated(kind: str, changes: list[tuple[str, int, int]]) -> dict[Any, Any]:
    state: dict[Any, Any] = dict(sound(kind))
    for change, where, amount in changes:
        telling = [name for name in TELLING if name in state]
        choices = telling if where % 2 and telling else list(state)
        name = choices[where // 2 % len(choices)]
        value = state[name]
        if change == "drop":
            del state[name]
        elif change == "rename":
            state[amount if where % 3 else f"{name}.{amount}"] = state.pop(name)
        elif change == "add":
            state[f"down.{amount}.block.{amount}.more"] = torch.ones(2)
        elif isinstance(value, torch.Tensor):
            state[name] = CHANGES[change](value, amount)
    return state


def packed(form: str, state: dict[Any, Any]) -> Any:
    return {
        "bare": state, "list": [state, {}, 3, state], "wrapped": {"state_dict": state, "epoch": 1},
        "ema": {"model": state, "ema": state}, "nested": {"model": {"state_dict": state}},
        "not a file of weights": list(state.values()),
    }[form]  # fmt: skip


@few
@given(
    kind=st.sampled_from(["ddpm", "dit"]), changes=mutations, form=forms, weights=st.sampled_from(["raw", "ema"]),
    size=st.sampled_from([8, 8, 0, 9]),
)  # fmt: skip
def test_a_changed_checkpoint_is_imported_or_refused_in_one_sentence(
    kind: str, changes: list[tuple[str, int, int]], form: str, weights: str, size: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.pt"
        torch.save(packed(form, mutated(kind, changes)), path)
        try:
            imported = _read(path, weights, size, HEADS)
        except InputError as error:
            one_line(error)
        else:
            assert all(torch.is_floating_point(value) for value in imported.network.state_dict().values())


json_like = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6),
        st.sampled_from([0, -1, 1.5, 1e308, 5e-324, 10**400, "", "\ud800", "three", "null label", "FA", math.nan]),
    ),
    lambda part: st.one_of(st.lists(part, max_size=3), st.dictionaries(st.text(max_size=4), part, max_size=3)),
    max_leaves=5,
)  # fmt: skip


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to every leaf and subtree."""
    parts = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path, *(place for key, part in parts for place in places(part, (*path, key)))]


def changed_at(tree: Any, path: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    """A copy with one part of it changed; GONE there drops it."""
    if not path:
        return change(tree)
    parts = dict(tree) if isinstance(tree, dict) else list(tree)
    parts[path[0]] = changed_at(tree[path[0]], path[1:], change)
    if parts[path[0]] is GONE:
        del parts[path[0]]
    return parts


GONE = object()


def each_group(part: dict[str, Any]) -> dict[str, Any]:
    return {f"{kind}, training": dict(part) for kind in ("forgotten", "retained")}


AUDIT = {
    "forgotten": ["three"], "budget": {"name": "quick", "images": 4, "seed": 0}, "controls": ["runs/retrained"],
    "plain": {"unlearned": rate(0, 4)},
    "probes": {
        "relearn": {"question": "?", "source": "s", "trials": {"1 image": {
            "axis": "step", "steps_to_half": {"unlearned": 1, "control": None},
            "outcomes": {role: {"at": [0, 1], "hits": [0, 2], "n": [4, 4], "each": [[[0, 2]]]}
                         for role in ("unlearned", "control")}}}},
        "leakage": {"question": "?", "source": "s", "trials": {"samplers": {
            "axis": "sampler", "outcomes": {"unlearned": {"at": ["ddim"], "hits": [0], "n": [4], "each": [[[0]]]}}}}},
        "inversion": {"question": "?", "source": "s", "trials": {
            "losses": {"axis": None, "outcomes": {"unlearned": {"timesteps": [1], "groups": each_group(
                {"loss": [1.0], "standard_error": [None]})}}},
            "reconstruction": {"axis": None, "outcomes": {"unlearned": {"groups": each_group(
                {"error": 1.0, "standard_error": 0.1})}}}}},
        "features": {"question": "?", "source": "s", "trials": {"linear probe": {
            "axis": None, "outcomes": {"unlearned": {"AUC": 0.9, "width": 8}}}}},
        "weights": {"question": "?", "source": "s", "trials": {"distances": {"axis": None, "outcomes": {"unlearned": {
            "layers": {"conv_in": {"distance": 0.1}}, "off_mask": {"weights": 5, "changed": 1}}}}}},
    },
    "excess": [{"probe": "relearn", "attack": "1 image", "at": 1, "FA": rate(2, 4), "control": rate(0, 4),
                "difference": 0.5, "interval": [-0.1, 0.9], "upper": 0.8}],
    "headline": {"probe": "relearn", "attack": "1 image", "at": 1, "FA": rate(2, 4), "control": rate(0, 4),
                 "difference": 0.5, "interval": [-0.1, 0.9], "upper": 0.8, "points": 1, "decision": "cannot tell"},
}  # fmt: skip
REPORTED = {"results.json": extended(), "audit.json": AUDIT,
            "provenance.json": {"base_model_sha256": "b", "versions": {"torch": "2"}},
            "metrics.jsonl": {"step": 1, "forget_loss": 1.0, "retain_loss": 2.0, "FA": 0.5, "KID": None},
            "model/model_index.json": {"_class_name": "DiTPipeline", "id2label": {"0": "three"}}}  # fmt: skip


@pytest.mark.slow
@settings(few, max_examples=300)
@given(data=st.data())
def test_a_run_with_a_changed_file_is_reported_or_refused_in_one_sentence(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["results.json", "audit.json"] * 5 + [*REPORTED]))
    content: Any = json.loads(json.dumps(REPORTED[name]))
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(places(content)))
        new = data.draw(st.one_of(json_like, st.just(GONE) if path else json_like))
        key = data.draw(st.one_of(st.text(max_size=4), st.just("ci95")))
        added = data.draw(st.booleans())
        content = changed_at(content, path, lambda old, new=new, key=key, added=added: (
            old | {key: new} if added and isinstance(old, dict) and new is not GONE else new))  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder) / "run", extended())
        (run / "model").mkdir()
        if name != "metrics.jsonl":  # curves take most of the time
            (run / "metrics.jsonl").unlink()
        (run / name).write_text(json.dumps(content), encoding="utf-8")
        try:
            report([run])
        except InputError as error:
            one_line(error)
