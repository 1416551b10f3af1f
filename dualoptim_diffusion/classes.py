"""Class names <-> ids. No torch here."""

from collections.abc import Mapping, Sequence

from dualoptim_diffusion.errors import InputError, nearest

SPELLINGS = 50  # of so many names one may be spelled otherwise elsewhere


def same_classes(ours: Mapping[int, str], theirs: Mapping[int, str]) -> bool:
    """Whether both have the same classes under the same ids: a synonym in common for each, but for 2% of many.

    Lists of ImageNet's thousand names differ in a few; two of its classes are called "crane".
    """
    differing = sum(not _synonyms(name) & _synonyms(theirs.get(i, "")) for i, name in ours.items())
    return len(ours) == len(theirs) and differing <= len(ours) // SPELLINGS


def _synonyms(label: str) -> set[str]:
    return {part.strip().lower() for part in label.split(",")}


def resolve_class(text: str, id2label: Mapping[int, str], aliases: Mapping[str, int] | None = None) -> int:
    """The id of a class given by its name or one of its synonyms (any case), by its id, or by an alias such as a wnid.

    Raises:
        InputError: if no class or more than one is called so; the nearest names or the candidates are listed.
    """
    wanted = text.strip().lower()
    matches = [i for i, label in id2label.items() if wanted in _synonyms(label)]
    if len(matches) > 1:
        candidates = ", ".join(f"{i} ({id2label[i]})" for i in matches)
        raise InputError(f"Class {text!r} is ambiguous: {candidates}; give the id.")
    if matches:
        return matches[0]
    if aliases and wanted in aliases:
        return aliases[wanted]
    if wanted.isdecimal() and int(wanted) in id2label:
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
