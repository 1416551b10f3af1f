"""What the README pages show works as it stands there."""

import ast
import importlib
import json
import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any, NamedTuple, get_args

import pytest
import torch
import typer
from pydantic import BaseModel
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

from dualoptim_diffusion import cli
from dualoptim_diffusion.core.budget import BUDGETS, PROBE_NAMES, AuditConfig
from dualoptim_diffusion.core.config import DataConfig, ForgetRecipe
from dualoptim_diffusion.core.recipes import load_recipe, parse_recipe, recipe_folder
from dualoptim_diffusion.core.training_config import ClassifierRecipe, PretrainRecipe
from dualoptim_diffusion.data import load_dataset
from dualoptim_diffusion.evaluation.protocol import PROTOCOLS
from dualoptim_diffusion.report.measures import number
from dualoptim_diffusion.unlearning.methods import METHODS
from studies import recipes
from tests.test_architecture import FLOORS

ROOT = Path(__file__).parent.parent
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in sorted(
        [
            ROOT / "README.md",
            ROOT / "configs" / "README.md",
            *(ROOT / "scripts").rglob("README.md"),
            *(ROOT / "dualoptim_diffusion").rglob("README.md"),
        ]
    )
}
README = PAGES["README.md"]
MOST_LINES = 170
RECIPES: dict[str, Any] = {
    "forget": ForgetRecipe,
    "saliency": ForgetRecipe,
    "encode": ForgetRecipe,
    "pretrain": PretrainRecipe,
    "train-classifier": ClassifierRecipe,
}
PLACEHOLDERS = {"VERB"}
each_page = pytest.mark.parametrize("page", PAGES)


class Block(NamedTuple):
    """A fenced block."""

    language: str
    text: str


def blocks(text: str) -> list[Block]:
    found = re.findall(r"^( *)```(\w*)\n(.*?)^\1```$", text, flags=re.DOTALL | re.MULTILINE)
    return [Block(language, dedent(content)) for _, language, content in found]


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^( *)```(\w*)\n(.*?)^\1```$", "", text, flags=re.DOTALL | re.MULTILINE)


def spans(text: str) -> list[str]:
    """Inline code."""
    return re.findall(r"`([^`\n]+)`", prose(text))


def shell_lines(text: str) -> Iterator[str]:
    for block in blocks(text):
        if block.language == "bash":
            yield from block.text.replace("\\\n", " ").splitlines()


def commands(text: str) -> Iterator[list[str]]:
    """The words behind `dualoptim` of every command in a page: in bash blocks, and in inline code."""
    for line in [*shell_lines(text), *(span for span in spans(text) if span.startswith("dualoptim "))]:
        words = shlex.split(line, comments=True)
        for program in ("dualoptim", ".venv/bin/dualoptim", "dualoptim_diffusion"):
            if program in words:
                yield words[words.index(program) + 1 :]
                break


def keys(section: Any, prefix: str = "") -> set[str]:
    """Dotted keys of a recipe, those of its sections included."""
    if not (isinstance(section, type) and issubclass(section, BaseModel)):
        return {key for part in get_args(section) for key in keys(part, prefix)}
    found = set()
    for name, field in section.model_fields.items():
        found |= {f"{prefix}{name}"} | keys(field.annotation, f"{prefix}{name}.")
    return found


KEYS = set().union(*(keys(kind) for kind in (*RECIPES.values(), AuditConfig)))


def slug(heading: str) -> str:
    """GitHub's anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def rows(text: str, first: str) -> list[list[str]]:
    """The cells of the table whose head begins with `first`, below its head."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first} |"))
    table = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return table


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_the_ten_line_loop_runs_on_a_plain_module_and_forgets() -> None:
    (loop,) = re.findall(r"```python\n(# the loop.*?)```", README, flags=re.DOTALL)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1))
    forget_x, retain_x = torch.randn(64, 2) + 2, torch.randn(64, 2) - 2

    def loss(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return (module(x) - 1).square().mean()

    warm_up = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(200):
        warm_up.zero_grad()
        (loss(network, forget_x) + loss(network, retain_x)).backward()
        warm_up.step()
    names = {
        "network": network,
        "forget_loss": lambda step: loss(network, forget_x),
        "retain_loss": lambda step: loss(network, retain_x),
    }
    exec(loop, names)
    assert loss(network, forget_x) > 0.5
    assert loss(network, retain_x) < 0.1
    assert len([line for line in loop.splitlines() if line.strip() and not line.startswith("#")]) <= 10


def test_the_readme_is_short() -> None:
    assert README.count("\n") <= MOST_LINES


@each_page
def test_every_link_and_script_a_page_names_exists(page: str) -> None:
    missing = []
    for link in re.findall(r"\]\(((?!http)[^)\s]+)\)", PAGES[page]):
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        if not target.exists():
            missing.append(link)
        elif anchor:
            headings = re.findall(r"^#+ (.+)$", prose(target.read_text(encoding="utf-8")), flags=re.MULTILINE)
            missing += [] if anchor in map(slug, headings) else [link]
    scripts = re.findall(r"(?:python|bash) (scripts/[\w/]+\.(?:py|sh))", PAGES[page])
    missing += [script for script in scripts if not (ROOT / script).is_file()]
    assert not missing


@each_page
def test_every_command_a_page_shows_is_one_that_the_command_line_takes(page: str) -> None:
    program: Any = typer.main.get_command(cli.app)
    verbs, options = program.commands, {word for param in program.params for word in param.opts}
    for verb, *arguments in filter(None, commands(PAGES[page])):
        if verb in PLACEHOLDERS or (verb in options and not arguments):
            continue
        assert verb in verbs, f"{page}: dualoptim {verb}"
        if not arguments or arguments == ["--help"]:  # the verb alone, in a sentence
            continue
        parsed = verbs[verb].make_context(verb, list(arguments)).params
        check_overrides(verb, parsed.get("recipe"), parsed.get("overrides") or [])


def test_the_recipes_page_shows_every_verb_and_every_option_of_the_program() -> None:
    program: Any = typer.main.get_command(cli.app)
    page = PAGES["configs/README.md"]
    assert {words[0] for words in commands(page) if words} >= program.commands.keys()
    for param in program.params:
        assert any(f"{word}`" in page for word in param.opts), param.opts


def check_overrides(verb: str, recipe: str | None, overrides: list[str]) -> None:
    """Loads the recipe with the overrides; those of runs are tried on a recipe of the digits."""
    if verb in RECIPES:
        assert recipe is not None
        assert (recipe_folder() / f"{recipe}.yaml").is_file(), recipe
        load_recipe(RECIPES[verb], recipe, overrides)
        return
    of_audit = [override for override in overrides if override.startswith("audit.")]
    parse_recipe(AuditConfig, {"audit": {}}, of_audit, "Audit")
    load_recipe(ForgetRecipe, "digits_sfron_dual", [o for o in overrides if o not in of_audit])


@each_page
def test_every_recipe_and_key_in_inline_code_exists(page: str) -> None:
    sections = {key.partition(".")[0] for key in KEYS}
    for span in spans(PAGES[page]):
        if re.fullmatch(r"(digits|cifar10|imagenet)_\w+", span):
            assert (recipe_folder() / f"{span}.yaml").is_file(), span
        for word in span.split():
            key = re.match(r"(\w+)\.([\w.]+)(?=[=:]|$)", word)
            if key and key[1] in sections and Path(word).suffix not in (".yaml", ".json", ".py", ".md"):
                assert key[0] in KEYS, f"{page}: {span}"


def test_the_job_from_python_runs_as_the_readme_has_it(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = re.findall(r"```python\n(from dualoptim_diffusion import forget.*?)```", README, flags=re.DOTALL)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(finished)
    monkeypatch.chdir(tmp_path)
    names = {"dataset": load_dataset(DataConfig(name="digits"))[0]}
    exec(job.replace("num_steps=150", "num_steps=2, device='cpu', batch_size=8, mask=None"), names)
    assert names["images"][8].shape == (4, 1, 8, 8)
    assert names["result"].model.forgotten == ["eight", "three"]
    assert names["pipeline"].forgotten == ["three"]


@each_page
def test_python_snippets_compile_and_what_they_import_from_the_package_exists(page: str) -> None:
    for block in blocks(PAGES[page]):
        if block.language != "python":
            continue
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dualoptim_diffusion"):
                module = importlib.import_module(node.module or "")
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


RESULTS = ROOT / "scripts" / "results"


def result(stem: str) -> Any:
    return json.loads((RESULTS / f"{stem}.json").read_text(encoding="utf-8"))


def test_the_figures_of_the_recipes_are_those_of_committed_results() -> None:
    """In the table of the recipes page and at the recipes' heads."""
    found = result("digits_recipes")["recipes"] | result("digits_dit_recipes")["recipes"]
    reached = {name: recipes.reached(part["results"]) for name, part in found.items()}
    table = {code(name)[0]: figures for name, _, figures in rows(PAGES["configs/README.md"], "recipe")}
    assert table == reached
    for path in recipe_folder().glob("digits_*.yaml"):
        if found := re.search(r'^# Reached for "three", seed 0: (.+?); original', path.read_text(), flags=re.MULTILINE):
            assert found[1] == reached[path.stem]
    heads = [path.stem for path in recipe_folder().glob("digits_*.yaml") if "# Reached for" in path.read_text()]
    assert sorted(heads) == sorted(reached)


def test_the_readme_lists_every_method_with_figures_of_committed_results() -> None:
    table = rows(README, "`method.name`")
    assert {code(row[0])[0] for row in table} == METHODS.keys()
    found = result("digits_recipes")["recipes"]
    for _, _, recipe, accuracy, draws, decision in table:
        part = found[code(recipe)[0]]
        assert accuracy == f"{part['results']['unlearned']['FA']['value']:.1%}"
        assert draws == recipes.draws(part["results"], "three")
        assert decision == recipes.said(code(recipe)[0], part["headline"])


def test_the_readmes_first_result_is_that_of_its_recipe() -> None:
    (block,) = (block.text for block in blocks(README) if block.text.startswith("model "))
    results = result("digits_recipes")["recipes"]["digits_sfron_dual"]["results"]
    for line, model in zip(block.splitlines()[1:], ("original", "unlearned"), strict=True):
        figures = results[model]
        fa, ra, kid = figures["FA"], figures["RA"], figures["kid"]
        numbers = [f"{fa['value']:.1%} ({fa['hits']}/{fa['n']}, 95%", f"{ra['value']:.1%} (n={ra['n']}, 95%"]
        numbers += [f"{number(kid['value'])} (95% {number(kid['ci95'][0])} to {number(kid['ci95'][1])})"]
        assert all(part in line for part in numbers), line


SAID_AT_MOST = {  # FA over all digits
    "digits_salun_joint": "at most {} with `{}`",
    "digits_null_matching": "at most {} with `digits_salun_joint` (SalUn as published) and `{}`",
    "digits_sfron_dual": "and {} with `{}`",
}


def test_the_readmes_largest_fa_of_a_digit_is_that_of_the_results() -> None:
    said = " ".join(PAGES["README.md"].split())
    for recipe, sentence in SAID_AT_MOST.items():
        alone = {names: run for names, run in result(f"every_class_{recipe}").items() if "," not in names}
        assert len(alone) == 10
        largest = max(run["unlearned"]["FA"]["value"] for run in alone.values())
        assert sentence.format(f"{largest:.1%}", recipe) in said


@pytest.mark.parametrize("stem", ["every_class", "digits_recipes", "intervals", "audit_errors", "audit_study"])
def test_the_tables_of_the_studies_page_are_those_of_the_results(stem: str) -> None:
    page = PAGES["scripts/studies/README.md"]
    written = (RESULTS / f"{stem}.md").read_text(encoding="utf-8")
    tables = [part.strip() for part in written.split("\n\n") if part.startswith("|")]
    assert tables
    for table in tables[: 2 if stem == "audit_study" else None]:  # of the study's five
        assert len(table.splitlines()) > 2
        assert table in page


def test_the_readme_counts_what_the_audit_study_calls_left() -> None:
    said = " ".join(PAGES["README.md"].split())
    left = Counter(run["group"] for run in result("audit_study")["cells"] if run["headline"]["decision"] == "left")
    runs = Counter(run["group"] for run in result("audit_study")["cells"])
    assert {*runs.values()} == {9}
    assert f"{left['sfron_dual']} of 9 results of SFRon with DualOptim" in said
    assert f"{left['sfron_shared']} of 9 with one optimizer" in said
    assert f"SalUn in {left['salun_dual']} of 9 with DualOptim and in none as published" in said
    assert left["salun_joint"] == 0
    assert f"null matching in {left['null_matching']} of 9" in said


SEQUENCES = {
    "SFRon + DualOptim": "digits_sfron_dual",
    "SFRon": "digits_sfron_shared",
    "SalUn + DualOptim": "digits_salun_dual",
    "SalUn": "digits_salun_joint",
    "null matching + DualOptim": "digits_null_matching",
}


def test_the_studies_page_tells_of_sequences_what_the_results_say() -> None:
    found = result("sequences")["recipes"]
    told = [row for row in rows(PAGES["scripts/studies/README.md"], "recipe") if len(row) == 4]
    assert [SEQUENCES[row[0]] for row in told] == list(found)
    for row in told:
        requests = found[SEQUENCES[row[0]]]["requests"]
        assert row[1] == f"{max(rate['value'] for part in requests for rate in part['own'].values()):.0%}"
        revived = [(name, part["own"][name]["value"]) for part in requests for name in part["revived"]]
        assert all(f'"{name}"' in row[2] and f"to {value:.0%}" in row[2] for name, value in revived)
        assert bool(revived) == (row[2] != "none")
        surest = requests[2]["audit"]["headline"]
        low, high = (100 * side for side in surest["interval"])
        assert row[3].startswith(
            f"{surest['decision']}: {100 * surest['difference']:+.0f} pp ({low:+.0f} to {high:+.0f})"
        )


def test_the_pages_list_every_floor_probe_budget_and_protocol() -> None:
    floors = rows(PAGES["dualoptim_diffusion/README.md"], "floor")
    assert [int(row[0]) for row in floors] == list(range(len(FLOORS), 0, -1))
    assert [tuple(code(row[1])) for row in floors] == list(reversed(FLOORS))
    audit = PAGES["dualoptim_diffusion/audit/README.md"]
    assert [code(row[0])[0] for row in rows(audit, "probe")] == list(PROBE_NAMES)
    budgets = {code(row[0])[0]: int(row[1].replace(",", "")) for row in rows(audit, "budget")}
    assert budgets == {name: budget.images for name, budget in BUDGETS.items()}
    protocols = rows(PAGES["dualoptim_diffusion/evaluation/README.md"], "protocol")
    assert [code(row[0])[0] for row in protocols] == list(PROTOCOLS)
