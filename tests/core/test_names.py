"""A class may have any name: it is listed so that it can be typed, has files of its own and never reaches a terminal
raw."""

import unicodedata

import pytest

from dualoptim_diffusion.core.classes import (
    LONGEST_FILE_NAME,
    NONE_OF_THESE,
    NULL_LABEL,
    composed,
    file_name,
    file_names,
    resolve_class,
    usable_names,
)
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.core.terminal import printable

SETS = {  # names as folders or files give them
    "commas": ["cat, black", "cat, white", "cat", "dog"],
    "brackets and copies": ["car", "car (2)", "car (1)", "[car]", "{car}"],
    "one name twice": ["crane", "crane", "crane (0)", "crane (1)"],
    "signs of shells and YAML": ["#1", "50%", "a: b", "- c", "null", "true", "*", "&x", "!y", "~", "a=b", "$(x)", "`"],
    "quotes": ['"', "'", "it's", '"quoted"', "\\"],
    "digits": ["10", "9", "1", "0", "007", "1e3", "-1"],
    "twins in case": ["Cat", "cat", "CAT", "caT (1)"],
    "spaces": [" ", "  ", " cat", "cat ", "c at", "cat"],
    "parts of paths": ["a/b", "a_b", "a\\b", "..", ".", ".hidden", "~root"],
    "devices of Windows": ["con", "NUL", "com1", "aux.png", "a:b", "a?b", "end."],
    "composed and decomposed": ["é", "é", "Å", "Å"],
    "other scripts": ["кошка", "猫", "قطة", "🐈‍⬛", "ß", "ss", "ǆ"],
    "no UTF-8": ["caf\udce9", "caf\udce8", "café"],
    "control characters": [
        "\x1b]0;owned\x07cat",
        "\x1b[2Acat",
        "cat\n",
        "cat\r",
        "a\tb",
        "\u202egod",
        "\u2028",
        "\n\u0301",
    ],
    "words of reports": [NULL_LABEL, NONE_OF_THESE, f"{NULL_LABEL} (0)", "dog"],
    "long": ["x" * 200, "x" * 199 + "y", "猫" * 200, "猫" * 199 + "犬"],
    "alike in the beginning": ["a", "aa", "a a", "a,b", "a-b"],
    "ids": ["id:1", "id:0", "2", "id:x"],
}
cases = pytest.mark.parametrize("raw", SETS.values(), ids=SETS)


@cases
def test_each_class_has_a_name_of_its_own_that_a_terminal_and_a_file_can_hold(raw: list[str]) -> None:
    names = usable_names(dict(enumerate(raw)))
    assert len(set(names.values())) == len(raw)
    assert not {NULL_LABEL, NONE_OF_THESE} & {*names.values()}
    for name in names.values():
        assert name == unicodedata.normalize("NFC", name)
        assert printable(name) == name
        name.encode("utf-8")
    assert usable_names(names) == names


@cases
def test_what_is_listed_can_be_typed_and_so_can_what_the_folder_is_called(raw: list[str]) -> None:
    names = usable_names(dict(enumerate(raw)))
    for i, name in names.items():
        assert resolve_class(name, names) == i
        assert resolve_class(f"id:{i}", names) == i or f"id:{i}" in names.values()
    for i, name in enumerate(raw):
        if [composed(other) for other in raw].count(names[i]) == 1:
            assert resolve_class(name, names) == i


@cases
def test_no_two_classes_share_a_folder_on_any_system(raw: list[str]) -> None:
    names = usable_names(dict(enumerate(raw)))
    folders = list(file_names(names).values())
    assert len({unicodedata.normalize("NFD", folder).casefold() for folder in folders}) == len(raw)
    for folder in folders:
        assert folder
        assert not folder.startswith(".")
        assert not set(folder) & set('/\\<>:"|?*\0')
        assert folder[-1] not in " ."
        assert len(folder.encode()) <= LONGEST_FILE_NAME + 12


@pytest.mark.parametrize(("text", "other"), [("a/b", "a_b"), ("x" * 200, "x" * 199 + "y"), ("", "-"), ("con", "con_")])
def test_a_name_that_must_be_changed_for_a_file_is_told_from_what_it_becomes(text: str, other: str) -> None:
    assert file_name(text) != file_name(other)
    assert file_name("three") == "three"


def test_a_name_before_an_id_is_said_so(capsys: pytest.CaptureFixture[str]) -> None:
    names = {0: "1", 1: "10", 2: "2"}
    assert resolve_class("1", names) == 0
    assert "'1' is taken as the name of class 0, not for id:1 (10)." in capsys.readouterr().err
    assert resolve_class("id:1", names) == 1
    assert resolve_class("0", names) == 0
    with pytest.raises(InputError, match="no class '3'"):
        resolve_class("3", names)


def test_what_is_no_class_is_named_in_one_short_printable_line() -> None:
    with pytest.raises(InputError) as raised:
        resolve_class("\x1b[2J" + "x" * 100_000, dict(enumerate(map(str, range(1000)))))
    assert len(str(raised.value)) < 2000
    assert "\x1b" not in str(raised.value)
