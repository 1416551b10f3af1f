"""Recipes: strict, overridable, hashed."""

from pathlib import Path

import pytest
import yaml

from dualoptim_diffusion.core.classes import resolve_class, resolve_classes
from dualoptim_diffusion.core.config import ForgetRecipe
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.recipes import load_recipe, parse_seeds, recipe_folder, recipe_sha256, resolve_keys
from dualoptim_diffusion.core.training_config import ClassifierRecipe, PretrainRecipe
from dualoptim_diffusion.unlearning.methods import METHODS

FORGET_RECIPES = sorted(p.stem for p in recipe_folder().glob("*.yaml") if "method:" in p.read_text())


def resolved(*overrides: str, recipe: str = "digits_sfron_dual") -> tuple[dict, list[str]]:
    loaded = load_recipe(ForgetRecipe, recipe, overrides)
    method = METHODS[loaded.method.name]
    return resolve_keys(loaded, method.reads, method.alternates_under(loaded.method))


@pytest.mark.parametrize("name", FORGET_RECIPES)
def test_every_recipe_parses_drops_nothing_and_reads_back_to_the_same_hash(name: str, tmp_path: Path) -> None:
    values, dropped = resolved(recipe=name)
    assert dropped == []
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    again, _ = resolved(recipe=str(tmp_path / "recipe.yaml"))
    assert recipe_sha256(again) == recipe_sha256(values)


@pytest.mark.parametrize("name", FORGET_RECIPES)
def test_every_recipe_states_its_five_facts_and_names_recipes_that_parse(name: str) -> None:
    path = recipe_folder() / f"{name}.yaml"
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert len(header) == 5
    assert f"dualoptim forget {name} --class" in header[-1]
    recipe = load_recipe(ForgetRecipe, name)
    if recipe.model.path is None:
        load_recipe(PretrainRecipe, recipe.model.pretrain or "", beside=path)
    load_recipe(ClassifierRecipe, recipe.evaluation.classifier, beside=path)


def test_scientific_notation_is_a_number_though_yaml_reads_text() -> None:
    assert yaml.safe_load("1e-4") == "1e-4"
    assert load_recipe(ForgetRecipe, "digits_sfron_dual", ["method.forget_lr=1e-4"]).method.forget_lr == 1e-4


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("method.forget_lrr=1", "no key method.forget_lrr; did you mean forget_lr"),
        ("method.mask.treshold=1", "did you mean threshold"),
        ("metod.name=x", "no key metod; did you mean method"),
        ("method.forget_lr=fast", "method.forget_lr is 'fast', expected a valid number"),
        ("method.forget_lr=-1", "method.forget_lr is -1, expected greater than or equal to 0"),
        ("method.forget_lr=.nan", "expected a finite number"),
        ("method.num_steps=1.5", "expected a valid integer"),
        ("method.num_steps=0", "expected greater than or equal to 1"),
        ("method.forget_schedule=linear", "expected 'constant', 'cosine' or 'one_cycle'"),
        ("method.mask.kind=best", "'fisher_ratio', 'top_fraction'"),
        ("optimizers.mode=both", "expected 'dual', 'shared', 'dual_plus', 'dual_m' or 'dual_v'"),
        ("data.name=mnist", "expected 'digits'"),
        ("run.precision=fp16", "expected 'fp32' or 'bf16'"),
        ("method", "not of the form section.key=value"),
        ("method.forget_lr", "not of the form section.key=value"),
        ("forget_lr=1", "not of the form section.key=value"),
        ("method.mask=[", "cannot be read"),
    ],
)
def test_a_wrong_value_is_one_sentence_with_key_value_and_expectation(override: str, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        load_recipe(ForgetRecipe, "digits_sfron_dual", [override])
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pairs_of_linked_adams_take_no_other_optimizer() -> None:
    with pytest.raises(InputError, match="expected adam for both phases: mode dual_plus is a pair of Adams"):
        load_recipe(ForgetRecipe, "digits_sfron_dual", ["optimizers.mode=dual_plus", "optimizers.retain=sgd"])


@pytest.mark.parametrize("content", ["[1, 2]", "method: 3", "{", "just text"])
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "r.yaml").write_text(content)
    with pytest.raises(InputError, match="Recipe"):
        load_recipe(ForgetRecipe, str(tmp_path / "r.yaml"))


def test_an_unknown_recipe_names_its_neighbours() -> None:
    with pytest.raises(InputError, match="did you mean digits_sfron_dual"):
        load_recipe(ForgetRecipe, "digits_sfron_duall")


def test_a_missing_section_is_named(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("data: {name: digits}")
    with pytest.raises(InputError, match="the key model is missing"):
        load_recipe(ForgetRecipe, str(tmp_path / "r.yaml"))


def test_base_is_merged_below_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: digits_sfron_dual\nmethod: {num_steps: 7, mask: {threshold: 2}}")
    recipe = load_recipe(ForgetRecipe, str(tmp_path / "mine.yaml"))
    assert (recipe.method.num_steps, recipe.method.mask.threshold, recipe.method.name) == (7, 2, "sfron")


def test_a_recipe_is_never_its_own_base_and_a_base_has_none(tmp_path: Path) -> None:
    mine = tmp_path / "digits_sfron_dual.yaml"
    mine.write_text("base: digits_sfron_dual\nmethod: {num_steps: 7}")  # the packaged one of the same name
    assert load_recipe(ForgetRecipe, str(mine)).method.num_steps == 7
    (tmp_path / "third.yaml").write_text("base: digits_sfron_dual")
    with pytest.raises(InputError, match="one level is allowed"):
        load_recipe(ForgetRecipe, str(tmp_path / "third.yaml"))


def test_keys_that_the_method_does_not_read_are_dropped_and_named() -> None:
    values, dropped = resolved("method.name=finetune")
    assert set(values["method"]) == {
        "name",
        "num_steps",
        "num_steps_per",
        "retain_steps",
        "retain_lr",
        "retain_schedule",
        "clip_norm",
        "ema_decay",
    }
    assert values["optimizers"] == {"retain": "adam", "retain_momentum": None, "fused": False}
    assert {"method.forget_lr", "method.mask", "optimizers.mode", "optimizers.forget"} <= set(dropped)


def test_shared_steps_by_retain_lr_and_refuses_an_explicitly_different_forget_lr() -> None:
    with pytest.raises(InputError, match=r"method\.retain_lr=0.00032, but method\.forget_lr is 0.0001"):
        resolved("optimizers.mode=shared", "method.forget_lr=1e-4")
    values, _ = resolved("optimizers.mode=shared", "method.forget_lr=3.2e-4")
    assert "forget_lr" not in values["method"]


def test_a_shared_optimizer_has_one_rate_and_one_schedule_in_both_phases() -> None:
    from dualoptim_diffusion.runs.experiment import open_experiment

    overrides = ["optimizers.mode=shared", "method.retain_lr=7e-4", "method.forget_lr=7e-4"]
    method = open_experiment("digits_sfron_dual", ["three"], overrides).method.settings
    assert (method.forget_lr, method.forget_schedule) == (7e-4, "cosine")
    method = open_experiment("digits_gradient_ascent", ["three"]).method.settings
    assert (method.forget_lr, method.forget_schedule) == (method.retain_lr, method.retain_schedule) == (3e-4, "cosine")


def test_the_device_does_not_enter_the_hash_and_everything_else_does() -> None:
    base = recipe_sha256(resolved()[0])
    assert recipe_sha256(resolved("run.device=cpu")[0]) == base
    for override in ("run.seed=1", "method.forget_lr=1e-5", "sampling.seeds=0-9", "data.batch_size=32"):
        assert recipe_sha256(resolved(override)[0]) != base


def test_seed_lists() -> None:
    assert parse_seeds("0-4,7") == [0, 1, 2, 3, 4, 7]
    assert parse_seeds("12") == [12]
    for wrong in ("", "a", "99999999999999999999", "5-", "-5", "9-1", "1-3,2", "1.5"):
        with pytest.raises(InputError):
            parse_seeds(wrong)


def test_classes_by_name_synonym_and_id() -> None:
    names = {0: "cock", 1: "crane", 2: "crane, lifting device", 3: "golden retriever"}
    assert resolve_class("Golden Retriever", names) == 3
    assert resolve_class("lifting device", names) == 2
    assert resolve_class("0", names) == 0
    assert resolve_class("Crane", names) == 1  # a whole name before a synonym
    with pytest.raises(InputError, match=r"ambiguous: 0 \(crane, bird\), 1 \(crane, lifting device\)"):
        resolve_class("crane", {0: "crane, bird", 1: "crane, lifting device"})
    with pytest.raises(InputError, match="did you mean golden retriever"):
        resolve_class("golden retreiver", names)
    assert resolve_classes(["3", "cock", "golden retriever"], names) == (0, 3)
    with pytest.raises(InputError, match="No class was named"):
        resolve_classes([], names)
    with pytest.raises(InputError, match="at least one must be retained"):
        resolve_classes(["0", "1", "2", "3"], names)
