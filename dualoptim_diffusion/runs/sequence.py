"""`dualoptim forget --then`: request after request, each on the model before it, and what became of earlier ones."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from dualoptim_diffusion.core.classes import file_name, resolve_class
from dualoptim_diffusion.core.errors import InputError, reason
from dualoptim_diffusion.core.rates import Rate, rate
from dualoptim_diffusion.core.terminal import say
from dualoptim_diffusion.drawing.samples import LazySamples
from dualoptim_diffusion.evaluation import match_classes
from dualoptim_diffusion.files.json_files import Part, read_checked, write_json
from dualoptim_diffusion.files.run_folder import RunFolder
from dualoptim_diffusion.judge.classifier import Classifier
from dualoptim_diffusion.models import DenoisingModel, model_sha256
from dualoptim_diffusion.models.loading import load_model
from dualoptim_diffusion.report.sequence import draw, markdown
from dualoptim_diffusion.runs.evaluate import open_classifier, plan_sampling
from dualoptim_diffusion.runs.experiment import Experiment, open_experiment
from dualoptim_diffusion.runs.forget import forget
from dualoptim_diffusion.runs.models import open_base_model

KIND = "dualoptim sequence"
Sequence_ = dict[str, Any]  # the content of sequence.json


class RequestPart(Part):
    """One request; what is drawn from it is checked where it is read."""

    forgotten: list[str]
    run: str
    model_sha256: str
    own: dict[str, Rate]
    FA: Rate
    RA: Rate


class SequenceFile(Part):
    """sequence.json."""

    kind: Literal["dualoptim sequence"]
    recipe: str
    before: dict[str, Rate]
    requests: list[RequestPart]


def forget_in_turn(
    recipe: str,
    requests: Sequence[Sequence[str]],
    overrides: Sequence[str],
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    stop_after: int | None = None,
) -> Sequence_:
    """Runs each request in a folder of its own below `out`, on the model that the request before it left.

    After each request every class that was forgotten so far is drawn and counted. Writes sequence.json, .md and .png
    after each.

    Args:
        requests: class names or ids of each.

    Returns:
        `before`: how often the base model draws each class under its own label; `requests`: for each its `forgotten`
        names, its `run`, `own` of all classes forgotten so far (how often a label still draws its own class) and `FA`
        (any of them), `RA` and `kid` of the others, and `revived`: earlier classes that their labels surely draw more
        often than right after their own request.

    Raises:
        InputError: before anything is written, if a class is unknown or named twice, or none would be left.
    """
    whole = open_experiment(recipe, [name for names in requests for name in names], overrides)
    if whole.accelerator.num_processes > 1:
        raise InputError("A sequence of requests runs in one process; start it without a launcher.")
    if not (resume or overwrite) and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists; choose another --out, or give --resume or --overwrite.")
    order = _in_order(whole, requests)
    classifier, done = open_classifier(whole), _kept(out) if resume else []
    content: Sequence_ = {"kind": KIND, "recipe": str(whole.recipe_path.stem), "before": {}, "requests": []}
    model = open_base_model(whole).model
    content["before"] = _draw(whole, model, classifier, order)["own"]
    words, so_far = list(overrides), list[int]()
    for number, names in enumerate(requests, start=1):
        experiment = open_experiment(recipe, names, words)
        run = out / f"{number}-{file_name('-'.join(experiment.forget_names))}"
        folder = RunFolder(run)
        if not (resume and folder.results.is_file()):
            say(f"Request {number} of {len(requests)}: {', '.join(experiment.forget_names)}")
            forget(experiment, run, resume=resume and run.exists(), overwrite=overwrite, stop_after=stop_after)
        so_far += experiment.forget_classes
        model = load_model(folder.model, experiment.accelerator.device)
        content["requests"].append(_request(experiment, whole, folder, model, classifier, so_far, done))
        _name_revived(content["requests"])
        _write(out, content)
        words = [*overrides, f"model.path={folder.model}"]
    return content


def runs_of(folder: Path) -> list[Path]:
    """The runs of a sequence in their order; of anything else the folder itself.

    Raises:
        InputError: if sequence.json is damaged.
    """
    if not (folder / "sequence.json").is_file():
        return [folder]
    return [folder / part["run"] for part in _read(folder)["requests"]]


def audit_in_turn(out: Path, attack: Callable[[Path], Mapping[str, Any]]) -> Sequence_:
    """Audits the model after each request for all classes that it was made to forget, and adds what is decided.

    Args:
        attack: audits the run in a folder and returns the content of its audit.json.

    Raises:
        InputError: if sequence.json is damaged, or an audit cannot be made.
    """
    runs, content = runs_of(out), _read(out)
    for run, part in zip(runs, content["requests"], strict=True):
        audit = attack(run)
        part["audit"] = {key: audit[key] for key in ("forgotten", "plain", "headline")}
        _write(out, content)
    return content


def _write(out: Path, content: Sequence_) -> None:
    write_json(out / "sequence.json", content)
    (out / "sequence.md").write_text(markdown(content), encoding="utf-8")
    draw(content, out / "sequence.png")


def _in_order(whole: Experiment, requests: Sequence[Sequence[str]]) -> list[int]:
    """Ids of all classes, in the order in which they are forgotten; the recipe's own come with the first request.

    Raises:
        InputError: if a class is named twice, or the first request names none.
    """
    facts = whole.facts
    named = [[resolve_class(name, facts.id2label, facts.aliases) for name in names] for names in requests]
    later = [label for labels in named[1:] for label in labels]
    first = [i for i in whole.forget_classes if i not in later]
    order = [*first, *later]
    if not first or (set(named[0]) - set(first)) or len(order) > len(set(order)):
        raise InputError("Each request names classes of its own: --class those of the first, --then one of each later.")
    return order


def _kept(out: Path) -> list[dict[str, Any]]:
    """The requests of an earlier call."""
    return list(_read(out)["requests"]) if (out / "sequence.json").is_file() else []


def _read(out: Path) -> Sequence_:
    try:
        return dict(read_checked(out / "sequence.json", SequenceFile))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{out / 'sequence.json'} is not what `dualoptim forget --then` writes ({reason(error)}); restore it, or "
            "forget again with --overwrite."
        ) from None


def _request(
    experiment: Experiment, whole: Experiment, folder: RunFolder, model: DenoisingModel, classifier: Classifier,
    so_far: Sequence[int], done: Sequence[dict[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """What a request came to; counts of the same model from an earlier call are kept."""
    sha256 = model_sha256(model)
    names = [whole.labels[label] for label in so_far]
    known = [part for part in done if part["model_sha256"] == sha256 and list(part["own"]) == names]
    figures = folder.read_results()["unlearned"]
    drawn = {key: known[0][key] for key in ("own", "FA")} if known else _draw(whole, model, classifier, so_far)
    return {
        "forgotten": experiment.forget_names,
        "run": folder.path.name,
        "model_sha256": sha256,
        **drawn,
        "RA": {key: figures["RA"][key] for key in ("value", "hits", "n", "ci95")},
        "kid": figures.get("kid"),
        **{key: known[0][key] for key in ("audit",) if known and key in known[0]},
    }


def _draw(whole: Experiment, model: DenoisingModel, classifier: Classifier, labels: Sequence[int]) -> dict[str, Any]:
    """How often each label draws its own class, by name, and how often all of them draw any of these classes.

    The classifier must name a class.
    """
    whole.prepare(model)
    ids, planned = match_classes(classifier, whole.labels), plan_sampling(whole, model, whole.protocol)
    samples = LazySamples(model, {label: planned[label] for label in labels}, whole.sampling, whole.accelerator)
    gone, own, hits, n = torch.tensor([ids[label] for label in labels]), dict[str, Rate](), 0, 0
    for label in labels:
        called = classifier(samples[label])[1][:, : classifier.num_classes].argmax(1).cpu()
        own[whole.labels[label]] = rate(int((called == ids[label]).sum()), len(called))
        hits, n = hits + int(torch.isin(called, gone).sum()), n + len(called)
    return {"own": own, "FA": rate(hits, n)}


def _name_revived(requests: Sequence[dict[str, Any]]) -> None:
    """Adds to the last request the earlier classes whose rate lies surely above that of their own request."""
    last, first = requests[-1], {name: part["own"][name] for part in requests for name in part["forgotten"]}
    last["revived"] = [
        name
        for name, now in last["own"].items()
        if name not in last["forgotten"] and now["ci95"][0] > first[name]["ci95"][1]
    ]
