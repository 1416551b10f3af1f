"""The package is built in floors: a folder imports from lower floors alone, and light folders start without torch."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "dualoptim_diffusion"
FLOORS = (  # from the ground up; folders on one line do not import each other
    ("core",),
    ("files",),
    ("diffusion",),
    ("optim",),
    ("models", "report"),
    ("data", "drawing"),
    ("unlearning", "judge"),
    ("evaluation", "audit"),
    ("runs",),
    ("cli",),
)
FLOOR_OF = {folder: level for level, folders in enumerate(FLOORS) for folder in folders}
SEEN_BY_CLI = {"cli", "runs", "report", "files", "core"}
STARTS_WITHOUT_TORCH = {"core", "report", "cli"}
HEAVY = {"torch", "torchvision", "diffusers", "timm", "sklearn", "scipy", "matplotlib", "accelerate"}
LONGEST_FILE, LONGEST_FUNCTION, MOST_PARAMETERS = 280, 60, 8

FILES = sorted(PACKAGE.rglob("*.py"))


def folder_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> Iterator[str]:
    """Modules that a file imports, also inside functions; imports for the type checker alone do not count."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "a relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module == PACKAGE.name)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        yield from imported(node)


def folders_imported(source: str) -> set[str]:
    """Folders of the package that a file imports from."""
    names = [name.split(".") for name in imported(ast.parse(source))]
    return {parts[1] for parts in names if parts[0] == PACKAGE.name and len(parts) > 1} & FLOOR_OF.keys()


def check_floors(folder: str, source: str) -> None:
    for other in folders_imported(source) - {folder}:
        assert FLOOR_OF[other] < FLOOR_OF[folder], f"{folder} imports from {other}, which is not below it"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_imports_from_its_own_folder_and_from_lower_floors_alone(path: Path) -> None:
    if path.parent == PACKAGE:
        assert path.name in ("__init__.py", "__main__.py"), f"{path.name} lies in no folder"
        return
    check_floors(folder_of(path), path.read_text())
    if folder_of(path) == "cli":
        assert folders_imported(path.read_text()) <= SEEN_BY_CLI


@pytest.mark.parametrize(
    "planted",
    [
        "from dualoptim_diffusion.runs.forget import forget",
        "def late():\n    from dualoptim_diffusion import evaluation",
        "from dualoptim_diffusion.drawing.samples import draw_samples",
    ],
)
def test_an_import_from_above_or_from_beside_is_found_wherever_it_stands(planted: str) -> None:
    with pytest.raises(AssertionError, match="not below"):
        check_floors("data", planted)


def test_every_folder_has_a_floor_and_there_are_no_others() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/*.py")}
    assert folders == FLOOR_OF.keys()


def test_files_functions_and_signatures_stay_short() -> None:
    for path in FILES:
        text = path.read_text()
        assert text.count("\n") <= LONGEST_FILE, f"{path} has {text.count(chr(10))} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                where = f"{path.relative_to(PACKAGE)}: {node.name}"
                assert (node.end_lineno or 0) - node.lineno < LONGEST_FUNCTION, f"{where} is long"
                own = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                own = [name for name in own if name not in ("self", "cls")]
                assert len(own) <= MOST_PARAMETERS or is_signature(path, node), f"{where} has {len(own)} parameters"


def is_signature(path: Path, node: ast.FunctionDef) -> bool:
    """Each parameter is an option of a command or of a saved network, or it is the loop or its random numbers."""
    saved = path.stem in ("unet_module", "dit_module") and node.name == "__init__"
    saved = saved or (path.stem == "pipeline" and node.name == "__call__")  # diffusers names what a pipeline takes
    return folder_of(path) == "cli" or saved or node.name in ("unlearn", "draw_update")


def test_light_folders_import_nothing_heavy() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in FILES
        if folder_of(path) in STARTS_WITHOUT_TORCH and path.name != "__init__.py"
    ]
    code = (
        "import sys, importlib\n"
        f"for name in {modules}: importlib.import_module(name)\n"
        f"sys.exit(f'imported {{found}}' if (found := {HEAVY} & set(sys.modules)) else 0)"
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
