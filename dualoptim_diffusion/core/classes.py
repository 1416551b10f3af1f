"""Class names <-> ids. No torch here."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from itertools import islice

from dualoptim_diffusion.core.errors import InputError, nearest
from dualoptim_diffusion.core.terminal import printable, say_once

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NONE_OF_THESE = "none of these"  # what a classifier trained with images of nothing may answer, as its last class
NULL_LABEL = "null label"  # how reports name the class of no class
ID = re.compile(r"(?:id:)?(\d{1,9})", re.ASCII)
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)  # devices of Windows
LONGEST_FILE_NAME = 100  # bytes
MANY_CANDIDATES = 10
NUMBER = re.compile(r" \(\d+\)$")  # as `usable_names` writes it
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


def some(id2label: Mapping[int, str]) -> str:
    """How many classes there are, and the first of them."""
    names = list(id2label.values())
    return f"{len(names)} classes ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def usable_names(names: Mapping[int, str]) -> dict[int, str]:
    """The names of classes as they are used everywhere, whatever a folder or a file calls them.

    They are distinct: a name of several classes, or one that reports use for no class, is followed by the id, such as
    "crane (134)".
    """
    return _distinct({i: composed(name) for i, name in names.items()}, str, (NULL_LABEL, NONE_OF_THESE))


def composed(name: str) -> str:
    """One form (NFC) of a name that Unicode can write in several, with escapes for what no terminal should be given."""
    return unicodedata.normalize("NFC", printable(unicodedata.normalize("NFC", name)))  # an escape may compose again


def file_names(names: Mapping[int, str]) -> dict[int, str]:
    """A folder's name for each class, on any system; no two are the same where upper and lower case are."""
    first = {i: name.split(",")[0].strip() for i, name in names.items()}
    twins = Counter(name.casefold() for name in first.values())
    found = {i: file_name(names[i] if twins[name.casefold()] > 1 else name) for i, name in first.items()}
    return _distinct(found, str.casefold)


def _distinct(names: Mapping[int, str], key: Callable[[str], str], taken: Sequence[str] = ()) -> dict[int, str]:
    """Names followed by the id where several have one key."""
    uses = Counter(map(key, [*names.values(), *taken]))
    found = {i: f"{name} ({i})" if uses[key(name)] > 1 else name for i, name in names.items()}
    return found if found == names else _distinct(found, key, taken)


def file_name(label: str) -> str:
    """A name as part of a path on any system; one that has to be changed for it ends with a part of its hash."""
    kept = re.sub(r'[/\\<>:"|?*\x00-\x1f]|^\.', "_", label).rstrip(" .")
    kept = kept.encode()[:LONGEST_FILE_NAME].decode(errors="ignore")
    if kept == label and kept and not RESERVED.match(kept):
        return kept
    return f"{RESERVED.sub('_', kept)}-{sha256(label.encode(errors='surrogatepass')).hexdigest()[:6]}"


def _synonyms(label: str) -> set[str]:
    return {part.strip().lower() for part in NUMBER.sub("", label).split(",")}


def resolve_class(text: str, id2label: Mapping[int, str], aliases: Mapping[str, int] | None = None) -> int:
    """The id of a class given by its name or a synonym, by its id as 7 or id:7, or by an alias such as a wnid.

    What is spelled exactly so comes before other cases, whole names before synonyms, and names before ids.

    Raises:
        InputError: if no class or more than one is called so; the nearest names or the candidates are listed.
    """
    typed = composed(text)
    wanted = typed.strip().lower()
    number = int(found[1]) if (found := ID.fullmatch(wanted)) else None
    called = [i for i, label in id2label.items() if wanted in _synonyms(label)]
    for matches in (
        [i for i, label in id2label.items() if label == typed],
        [i for i, label in id2label.items() if label.strip().lower() == wanted],
        called,
    ):
        if len(matches) > 1:
            candidates = ", ".join(f"{i} ({NUMBER.sub('', id2label[i])})" for i in matches[:MANY_CANDIDATES])
            raise InputError(f"Class {text!r} is ambiguous: {candidates}; give the id, such as id:{matches[0]}.")
        if matches:
            others = {i: id2label[i] for i in id2label if (i in called or i == number) and i not in matches}
            if others:
                also = ", ".join(f"id:{i} ({name})" for i, name in islice(others.items(), MANY_CANDIDATES))
                say_once(f"{typed!r} is taken as the name of class {matches[0]}, not for {also}.")
            return matches[0]
    if aliases and wanted in aliases:
        return aliases[wanted]
    if number is not None and number in id2label:
        return number
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
