"""`dualoptim push`: a run's model, its card and its grid on the Hugging Face hub, in one commit."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, get_token
from huggingface_hub.utils import HFValidationError, validate_repo_id

from dualoptim_diffusion.core.config import ForgetRecipe
from dualoptim_diffusion.core.errors import InputError, reason
from dualoptim_diffusion.core.recipes import load_recipe
from dualoptim_diffusion.files.pipeline_folder import is_hub_id
from dualoptim_diffusion.files.run_folder import RunFolder
from dualoptim_diffusion.models import DenoisingModel
from dualoptim_diffusion.models.loading import load_model
from dualoptim_diffusion.runs.card import make_card

USAGE = """\
```python
from dualoptim_diffusion import load_pipeline

pipeline = load_pipeline("{place}")
images = pipeline([{label}] * 4).images
```

`dualoptim export` makes a folder of it that diffusers loads without that package."""
Files = Mapping[str, Path | bytes]  # by name on the hub


def push(
    run: Path, repo_id: str, private: bool = False, branch: str | None = None, dry_run: bool = False
) -> dict[str, Any]:
    """Uploads the model of a run.

    Args:
        repo_id: OWNER/NAME; made if it does not exist.
        private: make it private; a public one that exists is refused.
        branch: made if it does not exist; by default the main one.
        dry_run: say what would be uploaded; needs no network and no token.

    Returns:
        The files with their sizes in bytes; of an upload also its address.

    Raises:
        InputError: if there is no run, no such name can be, there is no token, or the hub refuses.
    """
    _check_name(repo_id)
    folder = RunFolder(run)
    if not folder.is_run or not folder.model_index.is_file():
        raise InputError(f"There is no finished run folder {str(run)!r} (it would hold recipe.yaml and model).")
    folder.check_whole()
    files = _files(folder, load_model(folder.model), repo_id if branch is None else f"{repo_id}@{branch}")
    sizes = {name: len(found) if isinstance(found, bytes) else found.stat().st_size for name, found in files.items()}
    listed = {"repository": repo_id, "branch": branch or "main", "files": sizes, "bytes": sum(sizes.values())}
    if dry_run:
        return listed
    if (token := get_token()) is None:
        raise InputError("There is no Hugging Face token; run `hf auth login`, or set HF_TOKEN to one that may write.")
    try:
        return listed | {"url": _upload(HfApi(token=token), repo_id, private, branch, files)}
    except InputError:
        raise
    except Exception as error:  # of the hub's library, or of the one for HTTP that its version uses
        raise InputError(f"{repo_id} was not uploaded ({reason(error)}); nothing here was changed.") from None


def _check_name(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
        if repo_id.count("/") != 1:
            raise HFValidationError("it has no owner")
    except HFValidationError as error:
        raise InputError(f"{repo_id!r} is no name on the hub ({reason(error, 120)}); expected OWNER/NAME.") from None


def _files(folder: RunFolder, model: DenoisingModel, place: str) -> Files:
    """What is uploaded: the model folder with a card that says where it lies now, and the grid."""
    retained = (name for name in model.id2label.values() if name not in model.forgotten and "`" not in name)
    label: str | int = next(retained, 0)
    card = make_card(folder.path, model, USAGE.format(place=place, label=json.dumps(label, ensure_ascii=False)))
    base = load_recipe(ForgetRecipe, str(folder.recipe)).model.path
    front = ModelCard(card.text)
    if base is not None and is_hub_id(base):
        front.data["base_model"] = base.partition("@")[0]
    paths = (path for path in sorted(folder.model.rglob("*")) if path.is_file() and not path.name.startswith("."))
    found = {path.relative_to(folder.model).as_posix(): path for path in paths}
    pictures = {card.grid.name: card.grid} if card.grid else {}
    return found | pictures | {folder.model_card.name: str(front).encode()}


def _upload(api: HfApi, repo_id: str, private: bool, branch: str | None, files: Files) -> str:
    """Makes repository and branch where they are not there yet; returns the address of the commit."""
    api.create_repo(repo_id, private=private or None, exist_ok=True)
    if private and not api.model_info(repo_id).private:
        raise InputError(f"{repo_id} exists and is public; make it private on the hub, or choose another name.")
    if branch is not None:
        api.create_branch(repo_id, branch=branch, exist_ok=True)
    added = [CommitOperationAdd(name, found) for name, found in files.items()]
    message = "Upload a model that forgot classes, with its card"
    return str(api.create_commit(repo_id, added, commit_message=message, revision=branch).commit_url)
