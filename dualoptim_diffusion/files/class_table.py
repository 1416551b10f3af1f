"""Tables of images: a CSV file that names a file and a class in each row. No torch here."""

import csv
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from dualoptim_diffusion.core.classes import usable_names
from dualoptim_diffusion.core.errors import InputError, nearest, reason
from dualoptim_diffusion.files.class_folders import Listing, list_folder, sort_files

SEPARATORS = {".csv": ",", ".tsv": "\t"}
FILE_COLUMNS = ("file_name", "filename", "file", "path", "filepath", "image", "image_path")
LABEL_COLUMNS = ("label", "class", "class_name", "category", "target")
SPLIT_COLUMNS = ("split", "set", "subset")
TRAIN, TEST = ("train", "training"), ("test", "val", "valid", "validation", "dev", "eval")


class Row(NamedTuple):
    """What a row says: an image, its class, and whether it is held out."""

    path: Path
    name: str
    is_test: bool


def list_images(source: str | Path) -> Listing:
    """The images of a folder with a subfolder for each class, or of a table.

    Raises:
        InputError: if there are none, or something about them is wrong.
    """
    return list_table(Path(source)) if Path(source).suffix.lower() in SEPARATORS else list_folder(source)


def list_table(table: Path) -> Listing:
    """The images that a table names; classes are those of its training rows, sorted, numbers as numbers.

    A column gives the file, relative to the table's folder, and another the class; a third may say which rows are
    held out (train, test, val, ...). Without one, or where no row is, a fifth of each class will be.

    Raises:
        InputError: if a column is missing, a row says nothing or names a file again, or a class is held out alone.
    """
    rows = list(_rows(table))
    if twice := [path for path, n in Counter(row.path for row in rows).items() if n > 1]:
        raise InputError(f"{table} names {twice[0]} twice; leave one of the rows out.")
    names = {row.name for row in rows if not row.is_test}
    if not names:
        raise InputError(f"{table} names no training images; give it a row for each.")
    if unknown := [row.name for row in rows if row.name not in names]:
        raise InputError(f"{table} has the class {unknown[0]!r} in held-out rows alone: {nearest(unknown[0], names)}")
    ordered = sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)
    labels = {name: i for i, name in enumerate(ordered)}
    train, test = (
        sort_files((labels[row.name], row.path) for row in rows if row.is_test is held_out)
        for held_out in (False, True)
    )
    present = {*train.labels}
    if empty := [name for name, i in labels.items() if i not in present]:
        broken = next((f" ({path} is empty or no file)" for path in train.unreadable), "")
        raise InputError(f"{table} names no image of {empty[0]!r} that is there{broken}; correct its rows.")
    return Listing(usable_names(dict(enumerate(ordered))), train, test)


def _rows(table: Path) -> Iterator[Row]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, delimiter=SEPARATORS[table.suffix.lower()], restval="")
            columns = {(name or "").strip().lower(): name for name in reader.fieldnames or ()}
            file, label = (_column(table, columns, known) for known in (FILE_COLUMNS, LABEL_COLUMNS))
            split = next((columns[name] for name in SPLIT_COLUMNS if name in columns), None)
            for row in reader:
                place = f"Line {reader.line_num} of {table}"
                if not row[file].strip() or not row[label].strip():
                    raise InputError(f"{place} names no {'file' if not row[file].strip() else 'class'}; fill it in.")
                part = TRAIN[0] if split is None else row[split].strip().lower()
                if part not in (*TRAIN, *TEST):
                    raise InputError(f"{place} is of the split {part!r}, expected {', '.join((*TRAIN, *TEST))}.")
                path = Path(os.path.normpath(table.absolute().parent / row[file].strip()))
                yield Row(path, row[label].strip(), part in TEST)
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"The table {table} cannot be read ({reason(error)}); save it as CSV in UTF-8.") from None


def _column(table: Path, columns: dict[str, str], known: Sequence[str]) -> str:
    found = next((columns[name] for name in known if name in columns), None)
    if found is None:
        raise InputError(
            f"{table} has the columns {', '.join(columns) or 'none'}, expected one of {', '.join(known)}; name it so "
            "in its first line."
        )
    return found
