"""What a table's figures mean and how they were taken, in plain sentences."""

from collections.abc import Sequence

from dualoptim_diffusion.files.results_file import Results
from dualoptim_diffusion.report.measures import measures, number
from dualoptim_diffusion.report.tables import Table

MEANING = (
    "FA: how often a forgotten label still draws a forgotten class (lower is better). RA: how often the other labels "
    "draw their class (higher is better). Degenerate: share of all images that are one flat colour."
)
REPLAY = (
    "Replay: no real images were at hand. The model was trained on images that a model drew, and distances are to such "
    "images; whether the drawn ones are realistic is not measured here."
)
NOTICEABLE = 0.01  # a rate of flat images that belongs into the first sentence
COLLAPSED = 0.5  # a rate of flat images at which FA says nothing


def listed(names: Sequence[str]) -> str:
    """'a', 'a and b' or 'a, b and c'."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def quoted(names: Sequence[str]) -> str:
    """The same of names in quotation marks."""
    return listed([f"“{name}”" for name in names])


def headline(results: Results) -> str:
    """What was forgotten and what it cost, as one paragraph."""
    before, after = results["original"], results["unlearned"]
    fa, ra = after["FA"], after["RA"]
    low, high = fa["ci95"]
    several = len(results["forgotten"]) > 1
    labels = f"the labels {quoted(results['forgotten'])}" if several else f"the label {quoted(results['forgotten'])}"
    text = (
        f"After unlearning, {labels} {'draw a forgotten class' if several else 'draws its class'} in "
        f"{fa['value']:.1%} of {fa['n']} images (95% interval {low:.1%} to {high:.1%}); before, in "
        f"{before['FA']['value']:.1%}. The other labels draw their class in {ra['value']:.1%} of {ra['n']} images; "
        f"before, in {before['RA']['value']:.1%}."
    )
    name = after["frechet"]["name"]
    old, new = measures(before).get(name), measures(after).get(name)
    if old and new and old.value > 0:
        others = "replayed" if results.get("data") == "replay" else "real"
        text += (
            f" The distance of their images to {others} ones, {name}, is {number(new.value)}, "
            f"{new.value / old.value:.2f} times the original model's."
        )
    if collapsed(results):
        return f"{collapse(results)} {text}"
    if after["degenerate_rate"] >= NOTICEABLE:
        text += f" {after['degenerate_rate']:.1%} of all images are one flat colour."
    return text


def collapsed(results: Results) -> bool:
    """Whether the unlearned model draws mostly flat images."""
    return bool(results["unlearned"]["degenerate_rate"] >= COLLAPSED)


def collapse(results: Results) -> str:
    """What to say of such a model."""
    rate = results["unlearned"]["degenerate_rate"]
    return (
        f"The model has collapsed: {rate:.1%} of its images are one flat colour, so FA says nothing about forgetting."
    )


def table_notes(results: Sequence[Results], control: str | None = None) -> list[str]:
    """The meaning of the columns, then how the figures were taken: once for each protocol.

    Args:
        results: contents of the runs' results.json.
        control: name of the control run, if there is one.
    """
    forgotten = list(dict.fromkeys(name for r in results for name in r["forgotten"]))
    notes = [f"Forgotten: {', '.join(forgotten)}. {MEANING}" if len(results) == 1 else MEANING]
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
    notes += [f"{collapse(r)} ({listed(r['forgotten'])})" for r in results if collapsed(r)]
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
    distances = [r["unlearned"]["frechet"] for r in group]
    counts = [_range([fd[key] for fd in distances]) for key in ("n_generated", "n_reference")]
    return (
        f"Protocol {protocol.get('name', '')} {group[0]['protocol_hash'][:12]}: ".replace("  ", " ") + f"{images}; "
        f"{sampling['scheduler']}, {sampling['num_inference_steps']} steps, guidance_scale "
        f"{sampling['guidance_scale']:g} (w = {protocol['guidance']['w']:g}); "
        f"{listed(list(dict.fromkeys(fd['name'] for fd in distances)))} of {counts[0]} generated against "
        f"{counts[1]} {'replayed' if group[0].get('data') == 'replay' else 'real'} retained images."
    )


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
            "before": original.measures[name].text,
            "after": unlearned.measures[name].text,
            "detail": "; ".join(unlearned.details(name)),
        }
        for name in list(unlearned.measures)[:4]
        if name in original.measures
    ]
