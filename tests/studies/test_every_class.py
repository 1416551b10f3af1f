"""The line of a recipe says what it reaches at worst; two recipes are compared class by class."""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from studies import every_class


def results(names: str, fa: float, ra: float = 0.97, low: float = -0.001, none: int = 0) -> dict[str, Any]:
    """Of 100 images of each forgotten label; RA was 0.98 before, and KID is 0.002 farther."""
    forgotten = names.split(",")
    return {
        "forgotten": forgotten,
        "original": {"RA": {"value": 0.98}},
        "unlearned": {
            "FA": {"value": fa, "n": 100, "ci95": [0.0, 0.5]},
            "RA": {"value": ra},
            "kid": {"value": 0.002},
            "drawn": {name: {"four": 100 - none, "none of these": none} for name in forgotten},
        },
        "changes": {"kid": {"difference_ci95": [low, 0.004]}},
    }


def test_the_line_of_a_recipe_names_the_classes_where_it_is_worst() -> None:
    found = {
        "one": results("one", 0.01, ra=0.96),
        "two": results("two", 0.08, low=0.001),
        "three": results("three", 0.06, none=50),
        "two,three": results("two,three", 0.4, none=49),
    }
    assert every_class.summary_line("r", found) == [
        "r", "two, 8.0% (0.0% to 50.0%, n = 100)", "two 8.0%, three 6.0%", "two, three: 40.0%", "one 2.0",
        "two", "three",
    ]  # fmt: skip
    groups = {"two,three": results("two,three", 0.04, ra=0.99)}
    assert every_class.summary_line("r", groups) == ["r", "", "", "two, three: 4.0%", "two, three -1.0", "", ""]


def test_two_recipes_are_compared_over_the_classes_that_both_forgot_alone(tmp_path: Path) -> None:
    two, one = every_class.PAIRS[0]
    rates = {two: {"one": 0.0, "two": 0.02, "one,two": 0.9}, one: {"one": 0.01, "two": 0.05, "three": 0.9}}
    for recipe, parts in rates.items():
        found = {names: results(names, fa) for names, fa in parts.items()}
        (tmp_path / f"every_class_{recipe}.json").write_text(json.dumps(found))
    (line,) = (line for line in every_class.summary(tmp_path).splitlines() if " less d" in line)
    assert line.startswith(f"| {two} less {one} | 2 | -2.00 (")  # the mean of -1 and -3 points
