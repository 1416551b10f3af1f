"""`recipes` and `methods` tell what the files, the registry and the networks themselves say."""

import json
from collections.abc import Callable

import pytest

from dualoptim_diffusion.core.catalogue import SECTIONS, packaged, read_head
from dualoptim_diffusion.core.recipes import load_recipe, recipe_folder
from dualoptim_diffusion.core.training_config import ClassifierRecipe, PretrainRecipe
from dualoptim_diffusion.data import data_facts
from dualoptim_diffusion.judge.timm_models import timm_model
from dualoptim_diffusion.runs.recipes import list_recipes
from dualoptim_diffusion.unlearning.methods import METHODS
from dualoptim_diffusion.unlearning.pretraining import new_model
from tests.helpers.commands import Outcome
from tests.test_readme import README, code, rows

Run = Callable[..., Outcome]


def test_every_packaged_recipe_is_listed_once_with_all_that_is_told(dualoptim: Run) -> None:
    found = json.loads(dualoptim("recipes", "--json").out)
    assert sorted(recipe["name"] for recipe in found) == sorted(path.stem for path in recipe_folder().glob("*.yaml"))
    for recipe in found:
        assert recipe["verb"] in SECTIONS.values()
        assert recipe["description"].endswith(".")
        assert recipe["parameters"] > 1e5
        assert recipe["command"].startswith(f"dualoptim {recipe['verb']} {recipe['name']}")
        assert recipe["time"] is not None or recipe["verb"] != "forget"
    by_name = {recipe["name"]: recipe for recipe in found}
    assert by_name["digits_dit_pretrain"]["seconds"] == 587
    assert by_name["cifar10_sa"]["seconds"] is None


def test_the_text_names_the_same_recipes(dualoptim: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for width in (40, 80):
        monkeypatch.setenv("COLUMNS", str(width))
        text = dualoptim("recipes").out
        assert max(map(len, text.splitlines())) <= width
        assert all(f"  {recipe['name']}" in text for recipe in list_recipes())


@pytest.mark.parametrize("name", ["digits_pretrain", "digits_dit_pretrain", "cifar10_pretrain"])
def test_the_size_at_a_recipes_head_is_that_of_its_network(name: str) -> None:
    recipe = load_recipe(PretrainRecipe, name)
    facts = data_facts(recipe.data)
    count = sum(p.numel() for p in new_model(recipe, facts.id2label, facts.shape).network.parameters())
    told = {facts["name"]: facts["parameters"] for facts in list_recipes()}
    assert told[name] == pytest.approx(count, rel=0.01)
    for path in packaged("forget"):
        if f"{name}.yaml" in path.read_text():
            assert told[path.stem] == told[name]


@pytest.mark.parametrize("name", ["digits_classifier", "digits_features", "cifar10_classifier"])
def test_the_size_at_a_classifiers_head_is_that_of_its_network(name: str) -> None:
    recipe = load_recipe(ClassifierRecipe, name)
    channels = data_facts(recipe.data).shape[0]
    network = timm_model(recipe.classifier.name, num_classes=10, in_chans=channels)
    told = {facts["name"]: facts["parameters"] for facts in list_recipes()}
    assert told[name] == pytest.approx(sum(p.numel() for p in network.parameters()), rel=0.01)


def test_a_head_is_read_as_sentences_and_entries() -> None:
    head = read_head(recipe_folder() / "digits_sfron_dual.yaml")
    assert head.description.startswith("SFRon + DualOptim on the handwritten digits: two Adams")
    assert list(head.entries) == ["Hardware", "Memory", "Reached", "Command"]


def test_every_method_is_listed_as_the_readme_lists_it(dualoptim: Run) -> None:
    found = {method["name"]: method for method in json.loads(dualoptim("methods", "--json").out)}
    assert found.keys() == METHODS.keys()
    for name, step, recipe, *_ in rows(README, "`method.name`"):
        method = found[code(name)[0]]
        assert method["forget_step"].rstrip(".").lower() == step.lower()
        assert code(recipe)[0] in method["recipes"]


def test_what_a_method_may_use_follows_from_its_keys_and_its_recipes(dualoptim: Run) -> None:
    found = {method["name"]: method for method in json.loads(dualoptim("methods", "--json").out)}
    assert {name for name, method in found.items() if method["dualoptim"] == "yes"} == {
        "sfron",
        "salun",
        "null_matching",
    }
    assert found["gradient_ascent"]["dualoptim"] == "possible"
    assert found["salun"]["masks"] == ["top_fraction"]
    assert found["sfron"]["masks"] == ["fisher_ratio"]
    assert found["finetune"]["reads_mask"] is False
    assert found["sfron"]["paper"] == "Huang et al., NeurIPS 2024"
    assert [name for name, method in found.items() if method["paper"] is None] == [
        "finetune",
        "gradient_ascent",
        "retrain",
    ]
