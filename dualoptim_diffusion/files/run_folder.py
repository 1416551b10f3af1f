"""A run folder: the names of its files, and what they hold."""

from pathlib import Path


def grid_files(path: Path) -> tuple[Path, Path, Path]:
    """What `draw_grid` writes: the grid and, beside it, its half before and its half after."""
    return path, path.with_stem(f"{path.stem}_before"), path.with_stem(f"{path.stem}_after")
