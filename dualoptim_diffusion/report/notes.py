"""What a table's figures mean and how they were taken, in plain sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

from dualoptim_diffusion.core.classes import NONE_OF_THESE
from dualoptim_diffusion.files.results_file import Figures, Results
from dualoptim_diffusion.report.measures import measures, number
from dualoptim_diffusion.report.tables import Table, ratio_text

MEANING = (
    "FA: how often a forgotten label still draws a forgotten class (lower is better). RA: how often the other labels "
    "draw their class (higher is better). For both the classifier must name a class{none}. Degenerate: share of the "
    "forgotten labels' images that are one flat colour."
)
NONE = '; for FA (none) and RA (none) it may also answer "none of these"'
REPLAY = (
    "Replay: no real images were at hand. The model was trained on images that a model drew, and distances are to such "
    "images; whether the drawn ones are realistic is not measured here."
)
NOTICEABLE = 0.01  # a rate of flat images of a label that is told
COLLAPSED = 0.5  # a rate of images of nothing at which a label counts as collapsed
ONE_PATTERN = 0.1  # of the original's variety: with less a label draws one image over and over


def listed(names: Sequence[str]) -> str:
    """'a', 'a and b' or 'a, b and c'."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def quoted(names: Sequence[str]) -> str:
    """The same of names in quotation marks."""
    return listed([f"“{name}”" for name in names])


def headline_of(results: Results) -> str:
    """The key of the distance that the protocol puts first."""
    used = results["protocol"].get("distance")
    return used["headline"] if used else "kid"


def distance_name(results: Results) -> str:
    """What that distance is called."""
    figures: Mapping[str, Any] = results["unlearned"]
    return str(figures[headline_of(results)]["name"])


def headline(results: Results) -> str:
    """What was forgotten and what it cost, as one paragraph."""
    return " ".join([*found(results), *costs(results)])


def found(results: Results) -> list[str]:
    """How often the forgotten labels draw their class, after what must be known first."""
    before, after = results["original"], results["unlearned"]
    fa, (low, high) = after["FA"], after["FA"]["ci95"]
    several = len(results["forgotten"]) > 1
    labels = f"the labels {quoted(results['forgotten'])}" if several else f"the label {quoted(results['forgotten'])}"
    return [
        *_collapsed(after, before)[0],
        f"After unlearning, {labels} {'draw a forgotten class' if several else 'draws its class'} in "
        f"{fa['value']:.1%} of {fa['n']} images (95% interval {low:.1%} to {high:.1%}); before, in "
        f"{before['FA']['value']:.1%}.",
    ]


def costs(results: Results) -> list[str]:
    """What the forgotten labels draw now, and how the others fare."""
    before, after = results["original"], results["unlearned"]
    ra, name = after["RA"], distance_name(results)
    distance = measures(after, headline_of(results))[name]
    known = ratio_text(results.get("changes", {}).get(distance.key)).replace("original", "the original")
    return [
        *_draws_now(results),
        *_collapsed(after, before)[1],
        f"The other labels draw their class in {ra['value']:.1%} of {ra['n']} images; before, in "
        f"{before['RA']['value']:.1%}{_verdict(results, 'RA')}.",
        *_nearest(results),
        f"The distance of their images to {_real_images(results)} ones, {name}, is {number(distance.value)}"
        f"{f', {known}' if known else ''}{_verdict(results, distance.key)}.",
    ]


def _nearest(results: Results) -> list[str]:
    """A sentence on the classes that the classifier takes for a forgotten one most, where forgetting hurts first."""
    before, after = (results[model].get("RA_nearest") for model in ("original", "unlearned"))
    if before is None or after is None:
        return []
    low, high = after["ci95"]
    return [
        f"Of the classes nearest to it by the classifier, {quoted(list(after.get('per_class', {})))}, the labels draw "
        f"their own in {after['value']:.1%} of {after['n']} images (95% interval {low:.1%} to {high:.1%}); before, in "
        f"{before['value']:.1%}."
    ]


def _draws_now(results: Results) -> list[str]:
    """A sentence on what the forgotten labels draw, most frequent first."""
    drawn = results["unlearned"].get("drawn", {})
    parts = []
    for name in results["forgotten"]:
        if total := sum(drawn.get(name, {}).values()):
            most = sorted(drawn[name].items(), key=lambda item: -item[1])[:3]
            parts.append(f"“{name}” now draws " + listed([f"{called} ({n / total:.0%})" for called, n in most]))
    return [f"{'; '.join(parts)}."] if parts else []


def _verdict(results: Results, key: str) -> str:
    """Better or worse than the original, where the interval of the difference says so."""
    change = results.get("changes", {}).get(key)
    if change is None:
        return ""
    low, high = change["difference_ci95"]
    if low <= 0 <= high:
        return " (no measurable difference)"
    return " (better than the original)" if (low > 0) == (key == "RA") else " (worse than the original)"


def collapses(after: Figures, before: Figures | None = None) -> list[str]:
    """A sentence for each label that has collapsed, and one for those of which some images are flat.

    A collapsed label draws nothing, whatever a classifier that must name a class calls it: by chance FA is then 0 or 1.
    One that drew as little before is said to, for no forgetting has done it.
    """
    said, others = _collapsed(after, before)
    return said + others


def _collapsed(after: Figures, before: Figures | None) -> tuple[list[str], list[str]]:
    """The sentences on labels that have collapsed, and the others."""
    said, as_before, some = [], [], []
    for name, flat in _flat(after).items():
        varied = [part.get("variety", {}).get(name) for part in (after, before or after)]
        ratio = varied[0] / varied[1] if varied[0] is not None and varied[1] else 1.0
        reason = _draws_nothing(after, name)
        if reason is None and ratio < ONE_PATTERN:
            reason = f"its images are nearly one image, with {ratio:.1%} of the original's variance"
        if reason is None:
            some += [f"{flat:.1%} of “{name}”"] if flat >= NOTICEABLE else []
        elif before is not None and _draws_nothing(before, name) is not None:
            as_before.append(f"The label “{name}” draws as little as before: {reason}.")
        else:
            said.append(f"The label “{name}” has collapsed: {reason}, so what a classifier calls them says nothing.")
    return said, as_before + ([f"Some images are one flat colour: {listed(some)}."] if some else [])


def _flat(figures: Figures) -> dict[str, float]:
    """Share of images of one flat colour, by label."""
    parts = figures["degenerate"]
    found: dict[str, float] = parts["forgotten"].get("per_class", {}) | parts["others"].get("per_class", {})
    return found


def _draws_nothing(figures: Figures, name: str) -> str | None:
    """Why a label counts as collapsed by its images alone; None if it does not."""
    counts = figures.get("drawn", {}).get(name, {})
    nothing = counts.get(NONE_OF_THESE, 0) / max(1, sum(counts.values()))
    if (flat := _flat(figures).get(name, 0.0)) >= COLLAPSED:
        return f"{flat:.1%} of its images are one flat colour"
    if nothing >= COLLAPSED:
        return f'the classifier calls {nothing:.1%} of its images "{NONE_OF_THESE}"'
    return None


def table_notes(results: Sequence[Results], control: str | None = None) -> list[str]:
    """The meaning of the columns, then how the figures were taken: once for each protocol.

    Args:
        results: contents of the runs' results.json.
        control: name of the control run, if there is one.
    """
    forgotten = list(dict.fromkeys(name for r in results for name in r["forgotten"]))
    meaning = MEANING.format(none=NONE if any("FA_none" in r["unlearned"] for r in results) else "")
    notes = [f"Forgotten: {', '.join(forgotten)}. {meaning}" if len(results) == 1 else meaning]
    groups: dict[str, list[Results]] = {}
    for r in results:
        groups.setdefault(r["protocol_hash"], []).append(r)
    for group in groups.values():
        notes += [_drawing(group), _judging(group)]
    if before := list(dict.fromkeys(name for r in results for name in r.get("forgotten_before", ()))):
        notes.append(f"Forgotten in earlier runs, and neither trained on, drawn nor counted here: {', '.join(before)}.")
    if any(r.get("data") == "replay" for r in results):
        notes.append(REPLAY)
    if control is not None:
        notes.append(f"Beside the figures their gaps to {control}, the control: pp are percentage points above it.")
    for r in results:
        said = collapses(r["unlearned"], r["original"])
        notes += [f"{text} (Forgotten: {listed(r['forgotten'])}.)" if len(results) > 1 else text for text in said]
    steps: dict[str, list[str]] = {}
    for r in results:
        if chosen := r.get("selection"):
            steps.setdefault(chosen["rule"], []).append(f"step {chosen['step']} ({', '.join(r['forgotten'])})")
    notes += [f"Selected by the rule “{rule}”: {', '.join(found)}." for rule, found in steps.items()]
    return notes


def _drawing(group: Sequence[Results]) -> str:
    protocol = group[0]["protocol"]
    sampling = protocol["sampling"]
    forgotten, retained = (_range([r["unlearned"][rate]["n"] for r in group]) for rate in ("FA", "RA"))
    images = f"{forgotten} images of the forgotten and {retained} of the other labels"
    figures: list[Mapping[str, Any]] = [r["unlearned"][headline_of(r)] for r in group]  # type: ignore[literal-required]
    counts = [_range([figure[key] for figure in figures]) for key in ("n_generated", "n_reference")]
    return (
        f"Protocol {protocol_title(group[0])}: {images}; "
        f"{sampling['scheduler']}, {sampling['num_inference_steps']} steps, guidance_scale "
        f"{sampling['guidance_scale']:g} (w = {protocol['guidance']['w']:g}); "
        f"{listed(list(dict.fromkeys(figure['name'] for figure in figures)))} of {counts[0]} generated against "
        f"{counts[1]} {_real_images(group[0])} images of the other classes."
    )


def protocol_title(results: Results) -> str:
    """The protocol's name, where it has one, its version and the beginning of its hash."""
    protocol = results["protocol"]
    name = f"{protocol['name']} {protocol['version']}, " if "name" in protocol else ""
    return f"{name}{results['protocol_hash'][:12]}"


def _real_images(results: Results) -> str:
    """What kind of images the distances are to."""
    if results.get("data") == "replay":
        return "replayed"
    used = results["protocol"].get("distance")
    return "held-out real" if used and used["reference"] == "held-out" else "training"


def _range(counts: Sequence[int]) -> str:
    return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def _judging(group: Sequence[Results]) -> str:
    accuracy: dict[str, str] = {}
    for r in group:
        judge = r["classifier"]
        for name in r["forgotten"]:
            if name in judge["accuracy"]:
                accuracy[name] = f"{judge['accuracy'][name]:.1%} of {judge['n_held_out'][name]} ({name})"
    text = (
        f"Classifier {group[0]['protocol']['classifier']['name']}, right on held-out real images: "
        f"{', '.join(accuracy.values()) or 'not measured'}."
    )
    return text + (" Classifier: unverified." if unverified(group[0]) else "")


def unverified(results: Results) -> bool:
    """Whether the classifier's accuracy on real images is known not to have been checked."""
    return results["classifier"].get("verified") is False


def tiles(table: Table) -> list[dict[str, str]]:
    """The figures of a single run's unlearned model beside the original's: name, before, after, details."""
    original, unlearned = table.rows[0], table.rows[1]
    return [
        {
            "name": name,
            "meaning": original.measures[name].meaning,
            "before": original.measures[name].text,
            "after": unlearned.measures[name].text,
            "detail": "; ".join(unlearned.details(name)),
        }
        for name in list(unlearned.measures)[:4]
        if name in original.measures
    ]
