"""Class names <-> ids. No torch here."""

import re
from collections.abc import Mapping, Sequence

from dualoptim_diffusion.core.errors import InputError, nearest

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NONE_OF_THESE = "none of these"  # what a classifier trained with images of nothing may answer, as its last class
ID = re.compile(r"\d{1,9}")
NUMBER = re.compile(r" \(\d+\)$")  # as `distinct_names` writes it
MANY, SPELLINGS = 1000, 10  # of so many names so many may be spelled otherwise elsewhere


def same_classes(ours: Mapping[int, str], theirs: Mapping[int, str]) -> bool:
    """Whether both have the same classes under the same ids: a synonym in common for each.

    Of ImageNet's thousand a few names are spelled otherwise in other lists; none may stand under another id.
    """
    if ours.keys() != theirs.keys():
        return False
    differing = [i for i, name in ours.items() if not _synonyms(name) & _synonyms(theirs[i])]
    if len(differing) > (SPELLINGS if len(ours) >= MANY else 0):
        return False
    elsewhere = {synonym for name in theirs.values() for synonym in _synonyms(name)}
    return not any(_synonyms(ours[i]) & elsewhere for i in differing)


def distinct_names(id2label: Mapping[int, str]) -> dict[int, str]:
    """The same names; those of several classes are followed by the id, such as "crane (134)"."""
    names = list(id2label.values())
    return {i: f"{name} ({i})" if names.count(name) > 1 else name for i, name in id2label.items()}


def file_name(label: str) -> str:
    """A name as part of a path that cannot leave its folder."""
    return re.sub(r"[/\\\0]|^\.{1,2}$", "_", label)


def _synonyms(label: str) -> set[str]:
    return {part.strip().lower() for part in NUMBER.sub("", label).split(",")}


def resolve_class(text: str, id2label: Mapping[int, str], aliases: Mapping[str, int] | None = None) -> int:
    """The id of a class given by its name or one of its synonyms (any case), by its id, or by an alias such as a wnid.

    Raises:
        InputError: if no class or more than one is called so; the nearest names or the candidates are listed.
    """
    wanted = text.strip().lower()
    matches = [i for i, label in id2label.items() if NUMBER.sub("", wanted) in _synonyms(label)]
    if NUMBER.search(wanted):  # as `distinct_names` writes it
        matches = [i for i in matches if wanted == id2label[i].lower()]
    if len(matches) > 1:
        candidates = ", ".join(f"{i} ({NUMBER.sub('', id2label[i])})" for i in matches)
        raise InputError(f"Class {text!r} is ambiguous: {candidates}; give the id.")
    if matches:
        return matches[0]
    if aliases and wanted in aliases:
        return aliases[wanted]
    if ID.fullmatch(wanted) and int(wanted) in id2label:
        return int(wanted)
    names = [part.strip().lower() for label in id2label.values() for part in label.split(",")]
    raise InputError(f"There is no class {text!r}: {nearest(wanted, names)}")


def resolve_classes(
    texts: Sequence[str], id2label: Mapping[int, str], aliases: Mapping[str, int] | None = None
) -> tuple[int, ...]:
    """Sorted ids of the named classes, each once.

    Raises:
        InputError: if none is given, one is unknown, or nothing would be left to retain.
    """
    if not texts:
        raise InputError("No class was named; give --class NAME at least once.")
    ids = tuple(sorted({resolve_class(text, id2label, aliases) for text in texts}))
    if len(ids) == len(id2label):
        raise InputError(f"All {len(ids)} classes were named to forget; at least one must be retained.")
    return ids
