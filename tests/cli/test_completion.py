"""A shell's TAB offers verbs, recipes, run folders and classes; a real bash types them."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dualoptim_diffusion.core.classes import DIGITS
from dualoptim_diffusion.core.recipes import recipe_folder

BASH = shutil.which("bash")
PATIENCE = 60.0  # seconds for what takes one


@pytest.fixture(scope="module")
def home(finished: Path, recipes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory, which is the user's home too: a recipe, runs, and the command in bin."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(finished, folder / "runs" / "demo")
    shutil.copytree(finished, folder / "my run")
    (folder / "runs" / "empty").mkdir()
    for name in ("tiny.yaml", "tiny_pretrain.yaml"):
        shutil.copy(recipes / name, folder)
    (folder / "notes.yaml").write_text("title: no recipe\n")
    for name in ("golden retriever", "tabby", "it's"):
        (folder / "photos" / "train" / name).mkdir(parents=True)
        (folder / "photos" / "train" / name / "0.png").write_bytes(b"not opened")
    command = folder / "bin" / "dualoptim"
    command.parent.mkdir()
    command.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -X importtime -m dualoptim_diffusion "$@" 2>>"$HOME/imports"\n'
    )
    command.chmod(0o755)
    return folder


def environment(home: Path) -> dict[str, str]:
    inside = {"HOME": str(home), "PATH": f"{home / 'bin'}:{os.environ['PATH']}", "TERM": "xterm", "COLUMNS": "80"}
    return {**os.environ, **inside, "PYTHONPATH": str(Path(__file__).parents[2])}


def offered(home: Path, shell: str, *words: str) -> list[str]:
    """What is offered for the last word, by the protocol of typer's script for this shell."""
    asked = {
        "bash": {"COMP_WORDS": "\n".join(["dualoptim", *words]), "COMP_CWORD": str(len(words))},
        "zsh": {"_TYPER_COMPLETE_ARGS": " ".join(["dualoptim", *words])},
        "fish": {"_TYPER_COMPLETE_ARGS": " ".join(["dualoptim", *words]), "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    variables = environment(home) | asked | {"_DUALOPTIM_COMPLETE": f"complete_{shell}"}
    command = [home / "bin" / "dualoptim"]
    (home / "imports").unlink(missing_ok=True)
    done = subprocess.run(command, env=variables, cwd=home, capture_output=True, text=True, check=False)
    noise = [line for line in (home / "imports").read_text().splitlines() if not line.startswith("import time:")]
    assert noise == [], "it says nothing"
    loaded = {line.rpartition("|")[2].strip() for line in (home / "imports").read_text().splitlines()}
    assert not loaded & {"torch", "diffusers", "matplotlib", "timm"}
    return done.stdout.split("\n")[:-1] if done.stdout.strip() else []


PACKAGED = {path.stem for path in recipe_folder().glob("*.yaml")}
PRETRAIN = {name for name in PACKAGED if name.endswith("_pretrain")}
CLASSIFIERS = {name for name in PACKAGED if name.endswith(("_classifier", "_features"))}
CASES: dict[str, tuple[str, set[str]]] = {
    "a verb": ("exp", {"export"}),
    "forgetting recipes": ("forget d", {name for name in PACKAGED - PRETRAIN - CLASSIFIERS if name[0] == "d"}),
    "one's own recipe": ("forget ti", {"tiny.yaml"}),
    "a file that is no recipe": ("forget not", set()),
    "recipes of base models": ("pretrain ", PRETRAIN | {"tiny_pretrain.yaml"}),
    "recipes of classifiers": ("train-classifier ", CLASSIFIERS),
    "runs here and below": ("audit ", {"my\\ run", "runs/demo"}),
    "runs below a folder": ("evaluate runs/", {"runs/demo"}),
    "a further run": ("report runs/demo m", {"my\\ run"}),
    "a control": ("audit runs/demo --control r", {"runs/demo"}),
    "models": ("sample ru", {"runs/demo"}),
    "classes of a packaged recipe": ("forget digits_sa --class t", {"two", "three"}),
    "classes of a run": ("grid runs/demo --contact-sheet ", set(DIGITS)),
    "classes behind another one": ("forget tiny.yaml --class two --class th", {"three"}),
    "classes with overrides": (
        "forget tiny.yaml data.name=image_folder data.path=photos --class ",
        {"golden\\ retriever", "tabby", "it\\'s"},
    ),
    "classes that only torch could list": ("forget imagenet_dit_sfron_dual --class ", set()),
    "classes of a recipe that is not there": ("forget nowhere --class ", set()),
    "classes without a recipe": ("forget --class ", set()),
    "values of an option": ("audit runs/demo --budget s", {"standard"}),
    "options": ("forget tiny.yaml --dry", {"--dry-run"}),
}


@pytest.mark.parametrize(("line", "expected"), CASES.values(), ids=CASES)
def test_bash_is_offered(home: Path, line: str, expected: set[str]) -> None:
    assert set(offered(home, "bash", *line.split(" "))) == expected


def test_zsh_and_fish_are_offered_the_same_and_add_quotes_themselves(home: Path) -> None:
    assert set(offered(home, "fish", "audit", "")) == {"my run", "runs/demo"}
    assert "my run" in "".join(offered(home, "zsh", "audit", ""))
    assert "golden" not in "".join(offered(home, "zsh", "forget", "digits_sa", "--class", ""))


class Terminal:
    """An interactive bash at a pseudo-terminal."""

    def __init__(self, home: Path) -> None:
        self.pid, self.file = pty.fork()
        if self.pid == 0:  # the child
            os.chdir(home)
            os.execvpe("bash", ["bash", "--noprofile", "--rcfile", str(home / ".bashrc"), "-i"], environment(home))
        self.seen = ""

    def until(self, text: str) -> str:
        """Reads until the text has been written; returns what came before it."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.seen:
            assert time.monotonic() < deadline, f"{text!r} did not come: {self.seen!r}"
            if select.select([self.file], [], [], 0.5)[0]:
                self.seen += os.read(self.file, 4096).decode(errors="replace")
        before, _, self.seen = self.seen.partition(text)
        return before

    def type(self, text: str) -> None:
        os.write(self.file, text.encode())

    def close(self) -> None:
        os.write(self.file, b"\x15exit\n")  # the line is cleared first
        os.close(self.file)
        os.waitpid(self.pid, 0)


@pytest.mark.skipif(BASH is None, reason="bash is not installed, so nobody can press its TAB.")
def test_completion_is_installed_once_and_then_tab_types_the_words_in_a_real_bash(home: Path) -> None:
    first = Terminal(home)
    try:
        first.type("dualoptim --install-completion && echo installed=$?\n")
        first.until("installed=0")
    finally:
        first.close()
    assert ".bash_completions/dualoptim.sh" in (home / ".bashrc").read_text()
    second = Terminal(home)
    try:
        second.type("PS1=; bind 'set enable-bracketed-paste off'; clear; echo rea''dy\n")
        second.until("ready")
        second.type("dualoptim forg\tdigits_sal\tj\t--class thr\t--dr\t")
        typed = second.until("--dry-run")
        assert "dualoptim forget digits_salun_joint --class three " in typed.replace("\x07", "")
        second.type("\x15dualoptim audit my\t")
        second.until("my\\ run ")
    finally:
        second.close()


@pytest.mark.skipif(BASH is None, reason="bash is not installed, so there is no terminal to colour.")
def test_no_color_is_respected_where_the_framework_colours(home: Path) -> None:
    terminal = Terminal(home)
    try:
        terminal.type("dualoptim --install-completion; echo colou''red\n")
        assert "\x1b[32m" in terminal.until("coloured")
        terminal.type("NO_COLOR=1 dualoptim --install-completion; echo pla''in\n")
        plain = terminal.until("plain")
        assert "installed in" in plain
        assert "\x1b[32m" not in plain
    finally:
        terminal.close()
