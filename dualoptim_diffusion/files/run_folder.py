"""A run folder: the names of its files, and what they hold once it has been checked."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any

from dualoptim_diffusion.core.classes import file_names
from dualoptim_diffusion.core.errors import InputError, reason
from dualoptim_diffusion.core.hashes import folder_sha256
from dualoptim_diffusion.core.recipes import has_sha256, read_yaml
from dualoptim_diffusion.files.atomic import NEXT, files_seen, seen
from dualoptim_diffusion.files.audit_file import Audit
from dualoptim_diffusion.files.json_files import read_checked, read_json
from dualoptim_diffusion.files.metrics import parse_metrics
from dualoptim_diffusion.files.results_file import Results, SelectionFile


def grid_files(path: Path) -> tuple[Path, Path, Path]:
    """A before/after grid and, beside it, each of its halves: the grid, before, after."""
    return path, path.with_stem(f"{path.stem}_before"), path.with_stem(f"{path.stem}_after")


def _film_names(names: Sequence[str]) -> dict[str, str]:
    files = file_names(dict(enumerate(names)))
    return {name: files[i] for i, name in enumerate(names)}


class RunFolder:
    """The files of a run of `forget`; a pretraining run has those that it needs.

    Attributes:
        recipe, pretrain_recipe, classifier_recipe, features_recipe: the resolved recipe, and the recipes that it names.
        provenance: command, versions, machine, seeds, hashes of the inputs.
        metrics: a JSON line for each step.
        mask: which weights the forget phase may change.
        checkpoints: states to resume from.
        model: the pipeline folder.
        samples: images of the unlearned model under the run's own protocol.
        best_weights, selection: the best weights so far, and why they are.
        results, audit: figures.
        evaluations: figures under other protocols, a file each.
        films: what the forgotten labels drew along the run, a PNG for each class and quick evaluation.
        grid, report: pictures and the page.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path = Path(path)
        self.recipe = path / "recipe.yaml"
        self.pretrain_recipe = path / "pretrain.yaml"
        self.classifier_recipe = path / "classifier.yaml"
        self.features_recipe = path / "features.yaml"
        self.provenance = path / "provenance.json"
        self.metrics = path / "metrics.jsonl"
        self.mask = path / "mask.safetensors"
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.model_index = self.model / "model_index.json"
        self.model_card = self.model / "README.md"
        self.samples = path / "samples"
        self.best = path / "best"
        self.best_weights = self.best / "weights.safetensors"
        self.selection = self.best / "selection.json"
        self.results = path / "results.json"
        self.evaluations = path / "evaluations"
        self.audit = path / "audit.json"
        self.films = path / "films"
        self.grid = path / "grid.png"
        self.report = path / "report.html"

    @property
    def place(self) -> Path:
        """Where it lies once it is whole."""
        return self.path.parent if self.path.name == NEXT else self.path

    @property
    def name(self) -> str:
        return self.place.resolve().name

    @property
    def is_run(self) -> bool:
        """Whether a run has begun here."""
        return self.recipe.is_file() and self.provenance.is_file()

    def model_files_sha256(self) -> str | None:
        """Hash of the weight files in its model; None where there are none."""
        return folder_sha256(self.model, ".safetensors") if self.model.is_dir() else None

    def evaluation(self, protocol_hash: str) -> Path:
        """Where the figures under another protocol than the run's own are."""
        return self.evaluations / f"{protocol_hash[:12]}.json"

    def film(self, names: Sequence[str], name: str, step: int) -> Path:
        """Where the picture of a forgotten class after so many steps is."""
        return self.films / f"{_film_names(names)[name]}-step{step:07d}.png"

    def read_films(self, names: Sequence[str]) -> dict[str, dict[int, Path]]:
        """Pictures by forgotten class and step; classes without any are left out."""
        found: dict[str, dict[int, Path]] = {}
        for name, file in _film_names(names).items():
            paths = sorted(self.films.glob(f"{escape(file)}-step*.png"))
            steps = {int(path.stem[-7:]): path for path in paths if path.stem[-7:].isdecimal()}
            found |= {name: steps} if steps else {}
        return found

    def read_results(self) -> Results:
        """results.json.

        Raises:
            InputError: if there is none, or it is damaged.
        """
        try:
            results: Results = read_checked(self.results, Results)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{self.path} has no readable results ({error}); run `dualoptim evaluate {self.path}` first."
            ) from None
        return results

    @property
    def protocol_hash(self) -> str | None:
        """Of the figures in results.json; None where there are none."""
        found = self.optional(self.results).get("protocol_hash")
        return found if isinstance(found, str) else None

    def read_evaluations(self) -> list[Results]:
        """The figures under other protocols.

        Raises:
            InputError: if a file is damaged.
        """
        found: list[Results] = []
        for path in files_seen(self.evaluations, ".json"):
            with _damaged(path, f"delete it, or evaluate {self.path} in that way again"):
                found.append(read_checked(path, Results))
        return found

    def read_audit(self) -> dict[str, Any] | None:
        """audit.json; None where the run was never audited.

        Raises:
            InputError: if it is damaged.
        """
        if not seen(self.audit).is_file():
            return None
        with _damaged(self.audit, f"delete it and run `dualoptim audit {self.path}` again"):
            content: dict[str, Any] = read_checked(self.audit, Audit)
            return content

    def read_metrics(self, steps: int | None = None) -> list[dict[str, float]]:
        """The records of all steps, or of the first so many; none where there is no metrics.jsonl.

        Raises:
            InputError: if it is damaged.
        """
        if not self.metrics.is_file():
            return []
        with _damaged(self.metrics, "delete it to continue without its curves"):
            return parse_metrics(self.metrics.read_text(encoding="utf-8"), steps)

    def read_selection(self) -> SelectionFile | None:
        """Which weights are the best so far; None where none were selected.

        Raises:
            InputError: if the file is damaged.
        """
        if not self.selection.is_file():
            return None
        with _damaged(self.selection, "restore it, or forget again with --overwrite"):
            selection: SelectionFile = read_checked(self.selection, SelectionFile)
            return selection

    def read_provenance(self) -> dict[str, Any]:
        """provenance.json.

        Raises:
            InputError: if there is none, or it is damaged.
        """
        try:
            content = read_json(self.provenance)
            if not isinstance(content, dict):
                raise ValueError("it is of another kind")
        except (OSError, ValueError) as error:
            raise InputError(f"{self.provenance} is damaged ({error}); restore it or forget again.") from None
        return content

    def check_origin(self, key: str, found: object, name: str, override: str) -> None:
        """Checks that provenance.json records this very input.

        Args:
            override: says where an input that was moved lies now.

        Raises:
            InputError: if it records another, or is damaged.
        """
        if self.read_provenance().get(key) != found:
            raise InputError(
                f"The {name} is not the one that the run {self.path} was made with; restore it, say where it is "
                f"({override}), or forget again."
            )

    def check_whole(self) -> None:
        """Checks that recipe, model, figures and audit are those of this run: provenance.json names their hashes.

        Raises:
            InputError: naming the file that is another run's.
        """
        provenance, recipe = self.optional(self.provenance), self.optional(self.recipe)
        recorded = provenance.get("recipe_sha256")
        foreign = [self.recipe] if recipe and recorded and not has_sha256(recipe, str(recorded)) else []
        model = self.model_files_sha256() if self.is_run else None
        figures = (self.results, self.audit, *files_seen(self.evaluations, ".json"))
        found = {self.model: model} | {path: self.optional(path).get("model_files") for path in figures}
        named = provenance.get("model_files", model)
        foreign += [path for path, sha256 in found.items() if None not in (sha256, named) and sha256 != named]
        if foreign:
            raise InputError(
                f"{foreign[0]} is not of the run in {self.path}, whose provenance.json names another; restore it, or "
                "forget again with --overwrite."
            )

    def optional(self, path: Path) -> dict[str, Any]:
        """The mapping in one of its JSON or YAML files; {} where it is missing or damaged."""
        try:
            content = read_yaml(path) if path.suffix == ".yaml" else read_json(path)
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}


@contextmanager
def _damaged(path: Path, remedy: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({reason(error)}); {remedy}.") from None
