"""The house stands: floors, no cycles, no torch where none belongs."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "dualoptim_diffusion"
FLOORS = {
    "pure": "dual_optim linked_adam masked_adamw places diffusion randomness config recipes classes schedules ema "
    "errors guards rates checked",
    "parts": "models data classifier timm_models weight_files sampling samples saliency checkpoint grids panels "
    "provenance encoding class_fisher metrics",
    "doing": "unlearn methods training classifier_training evaluation audit",
    "surface": "cli report experiment forgetting scoring run_folder assets dry_run sample_folder __main__ looks "
    "masking replay porting auditing",
}
FLOOR_OF = {room: level for level, rooms in enumerate(FLOORS.values()) for room in rooms.split()}
STRANGERS = {"unlearn", "evaluation", "audit"}  # these do not import each other


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Rooms that a file imports, also inside functions; type-only imports do not count."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dualoptim_diffusion"):
            parts = node.module.split(".")[1:]
            names |= {parts[0]} if parts else {alias.name for alias in node.names}
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"relative import in {path}"
    return names & FLOOR_OF.keys()


FILES = [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_imports_only_from_its_own_floor_or_below(path: Path) -> None:
    assert room(path) in FLOOR_OF, f"{path} stands on no floor"
    for other in imports(path):
        assert FLOOR_OF[other] <= FLOOR_OF[room(path)], f"{path} imports {other} from above"
        assert other == room(path) or not {room(path), other} <= STRANGERS


def test_rooms_import_each_other_without_cycles() -> None:
    graph: dict[str, set[str]] = {name: set() for name in FLOOR_OF}
    for path in FILES:
        graph[room(path)] |= imports(path) - {room(path)}
    while leaves := [name for name, others in graph.items() if not others]:
        for leaf in leaves:
            del graph[leaf]
        graph = {name: others - set(leaves) for name, others in graph.items()}
    assert not graph, f"cycle among {sorted(graph)}"


def test_help_recipes_and_class_names_need_no_torch() -> None:
    code = (
        "import sys, contextlib, io\n"
        "from dualoptim_diffusion import cli, config, recipes, classes\n"
        "recipes.load_recipe(config.ForgetRecipe, 'digits_sfron_dual')\n"
        "sys.argv = ['dualoptim', '--help']\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()): cli.main()\n"
        "heavy = {'torch', 'diffusers', 'timm', 'sklearn', 'matplotlib', 'accelerate'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_public_names_are_lazy_complete_and_functions() -> None:
    import dualoptim_diffusion as package

    for name in package.__all__:
        assert callable(getattr(package, name)), name
    assert (PACKAGE / "py.typed").is_file()
    with pytest.raises(AttributeError):
        _ = package.nothing


def test_nothing_is_pickled_and_nothing_pickled_is_executed() -> None:
    for path in FILES:
        text = path.read_text()
        loads = re.findall(r"torch\.load\([^)]*\)", text)
        assert all("weights_only=True" in call for call in loads), f"{path} may execute a file"
        if path == PACKAGE / "data" / "cifar10.py":
            # What torchvision reads is pickled: here by a reader that builds arrays alone.
            used = re.findall(r"pickle\.(\w+)", text)
            assert set(used) == {"Unpickler", "UnpicklingError"}
            assert used.count("Unpickler") == 1  # as the base class below
            assert re.search(r"class \w+\(pickle\.Unpickler\):.*?    def find_class\(", text, re.DOTALL)
        else:
            assert "pickle" not in text, path
