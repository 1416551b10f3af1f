"""How help looks: as wide as the terminal, verbs by task and never cut, an example that can be copied."""

import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from dualoptim_diffusion.core.environment import show_libraries

NARROWEST, WIDEST = 30, 100  # columns
NARROW = 60  # columns below which a description stands under its term


class Page(typer.Context.formatter_class):  # type: ignore[misc, valid-type]
    """Text in the columns of the terminal, at most `WIDEST`."""

    def __init__(self, indent_increment: int = 2, width: int | None = None, max_width: int | None = None) -> None:
        columns = shutil.get_terminal_size().columns
        super().__init__(indent_increment, width or max(NARROWEST, min(columns, WIDEST)), max_width)

    def write_dl(self, rows: Sequence[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """A list of terms and their descriptions, beside each other where there is room."""
        if self.width >= NARROW:
            super().write_dl(rows, col_max, col_spacing)
            return
        for term, description in rows:
            self.write_text(term)
            with self.indentation():
                self.write_text(description)

    def write_heading(self, heading: str) -> None:
        self.write_text(f"{heading}:")

    def write_command(self, line: str) -> None:
        """A command line; where it is too long, the shell's own mark continues it."""
        room = self.width - self.current_indent - self.indent_increment - len(" \\")
        units = re.sub(r"(?<= )(--[\w-]+) (?!-)", "\\1\xa0", line)  # an option and its value stay on one line
        parts = textwrap.wrap(units, room, break_long_words=False, break_on_hyphens=False)
        margin = " " * self.current_indent
        continued = f" \\\n{margin}{' ' * self.indent_increment}".join(parts)
        self.write(f"{margin}{continued}\n".replace("\xa0", " "))


class _Context(typer.Context):
    formatter_class = Page


def _speak(wanted: bool) -> None:
    if wanted:
        show_libraries(True)


Verbose = Annotated[
    bool,
    typer.Option(
        "-v", "--verbose", callback=_speak, expose_value=False, help="Show warnings, logs and tracebacks of libraries."
    ),
]


@cache
def _common_options() -> tuple[Any, ...]:
    """Options that are allowed behind every verb as well as before it."""

    def options(verbose: Verbose = False) -> None: ...

    common = typer.Typer(add_completion=False)
    common.command()(options)
    return tuple(typer.main.get_command(common).params)


class Verb(TyperCommand):
    """A verb: its help ends with its epilog, which is one command line or several."""

    context_class = _Context

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.params += _common_options()

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments by name alone, for the usage line shows how often each is given; then options."""
        params = [(param, record) for param in self.get_params(ctx) if (record := param.get_help_record(ctx))]
        for title, kind in (("Arguments", "argument"), ("Options", "option")):
            rows = [
                (str(param.metavar) if kind == "argument" else record[0], record[1])
                for param, record in params
                if param.param_type_name == kind
            ]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        lines = (self.epilog or "").splitlines()
        with formatter.section("Examples" if len(lines) > 1 else "Example"):
            for line in lines:
                formatter.write_command(line)


class Verbs(TyperGroup):
    """All verbs, listed by task."""

    context_class = _Context

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        tasks: dict[str, list[tuple[str, str]]] = {}
        for name, verb in self.commands.items():
            first = " ".join((verb.help or "").split("\n\n")[0].split())
            tasks.setdefault(str(getattr(verb, "rich_help_panel", "")), []).append((name, first))
        width = max(map(len, self.commands))
        for task, rows in tasks.items():
            with formatter.section(task):
                formatter.write_dl([(name.ljust(width), first) for name, first in rows])


def listing(groups: Mapping[str, Sequence[tuple[str, str]]]) -> str:
    """Terms and descriptions under headings, as help shows them."""
    page = Page()
    for title, rows in groups.items():
        with page.section(title):
            page.write_dl(rows)
    return str(page.getvalue()).rstrip("\n")
