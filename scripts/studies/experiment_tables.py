"""Tables of an experiment on photographs: its base models, its cells, means over classes, differences of pairs."""

from collections.abc import Sequence
from statistics import mean
from typing import Any

import tables

SHARED, DUAL = "SFRon, one Adam", "SFRon + DualOptim"  # names of groups begin so
Found = dict[str, Any]


def tabulate(title: str, bases: Sequence[Found]) -> str:
    """The table of all cells, and of the groups over the classes."""
    lines = [f"# {title}", ""]
    if len(bases) > 1:
        lines += [f"Over {len(bases)} base models:", "", *table_of_pairs([base["cells"] for base in bases])]
    for base in bases:
        lines += [*about(base), ""]
        if base["cells"]:
            lines += [*table_of_groups(base["cells"]), "", *table_of_pairs([base["cells"]])]
            lines += [*table_of_cells(base["cells"]), ""]
        if base.get("samplers"):
            lines += [*table_of_samplers(base["samplers"]), ""]
    return "\n".join(lines)


def about(base: Found) -> list[str]:
    """Where a base model comes from."""
    losses = base["held_out_loss"]
    judges = ", ".join(f"{role} {accuracy:.1%}" for role, accuracy in base["judges"].items())
    seconds = ", ".join(f"{part} {s:.0f}" for part, s in base["seconds"].items())
    quality = base.get("autoencoder")
    encoded = f" Autoencoder: {quality['psnr_held_out_db']:.1f} dB on held-out images." if quality else ""
    return [
        f"## Base model {base['sha256'][:12]}, seed {base['seed']}", "",
        ", ".join(f"`{command}`" for command in base["commands"]), "",
        f"{base['device']}, torch {base['torch']}, {base['passes']} passes. "
        f"{base['parameters'] / 1e6:.1f} M parameters, {base['num_steps']} steps of {base['batch_size']} images "
        f"({base['epochs']:.1f} epochs) at rate "
        f"{base['lr']:g}, in {base['seconds_of_training']:.0f} s: {base['images_per_second']:.0f} images/s, "
        f"{base['share_of_matmul_rate']:.0%} of the measured matmul rate ({base['matmul_rate'] / 1e12:.0f} TFLOP/s). "
        f"Held-out loss {losses['raw']:.4f}, of the averaged weights {losses['averaged']:.4f}. Accuracy on held-out "
        f"images: {judges}. Drawn in {base['steps_of_drawing']} DDIM steps with guidance {base['guidance_scale']:g}."
        f"{encoded} Seconds: {seconds}.",
    ]  # fmt: skip


def table_of_groups(cells: Sequence[Found]) -> list[str]:
    """Mean and deviation over the runs that every group has, by class and seed."""
    body = []
    for group in dict.fromkeys(cell["group"] for cell in cells):
        mine = [cell for cell in cells if cell["group"] == group]
        fa, ra, ratio = ([value(cell) for cell in mine] for value in (fa_of, ra_of, ratio_of))
        kid = [1000 * (cell["after"]["kid"]["value"] - cell["before"]["kid"]["value"]) for cell in mine]
        body.append(
            [
                group, len(mine), tables.spread(fa, ".1%"), f"{max(fa):.1%}", tables.spread(ra, ".1%"),
                tables.spread(ratio, ".2f"), tables.spread(kid, ".2f"),
            ]
        )  # fmt: skip
    head = ["runs", "n", "FA", "largest FA", "RA", "FD∞, of the base model's", "KID - the base model's, x 1000"]
    return tables.table(head, body)


def table_of_pairs(cells_of_bases: Sequence[Sequence[Found]]) -> list[str]:
    """What two optimizers change for the same base model, class and seed: mean differences with intervals over these
    pairs."""
    pairs: dict[str, list[tuple[Found, Found]]] = {}
    for cells in cells_of_bases:
        dual = {(cell["class_name"], cell["seed"]): cell for cell in cells if cell["group"] == DUAL}
        for one in cells:
            two = dual.get((one["class_name"], one["seed"]))
            if one["group"].startswith(SHARED) and two is not None:
                pairs.setdefault(one["group"], []).append((two, one))
    body = []
    for group, mine in pairs.items():
        values = [[value(two) - value(one) for two, one in mine] for value in (fa_of, ra_of, ratio_of, step_of)]
        told = map(tables.mean_with_interval, values, (".1%", ".1%", ".2f", ".4f"))
        body.append([f"{DUAL} - {group}", len(mine), *told])
    head = ["difference", "pairs", "FA (95%)", "RA (95%)", "FD∞, of the base model's (95%)", "seconds a step (95%)"]
    return [*tables.table(head, body), ""] if body else []


def fa_of(cell: Found) -> float:
    return float(cell["after"]["FA"]["value"])


def ra_of(cell: Found) -> float:
    return float(cell["after"]["RA"]["value"])


def ratio_of(cell: Found) -> float:
    """FD∞ after forgetting, of the base model's beside the same images."""
    return float(cell["after"]["fd_infinity"]["value"] / cell["before"]["fd_infinity"]["value"])


def step_of(cell: Found) -> float:
    return float(cell["seconds"]["forgetting"] / cell["num_steps"])


def table_of_cells(cells: Sequence[Found]) -> list[str]:
    body = []
    for cell in cells:
        after, before = cell["after"], cell["before"]
        drawn = sorted(after["drawn"][cell["class_name"]].items(), key=lambda item: -item[1])[:2]
        total = sum(after["drawn"][cell["class_name"]].values())
        retained = [value for name, value in after["spread"].items() if name != cell["class_name"]]
        body.append(
            [
                cell["group"], cell["class_name"], cell["seed"], tables.rate(after["FA"]),
                f"{before['FA']['value']:.1%}", f"{after['RA']['value']:.1%} ({before['RA']['value']:.1%})",
                interval(after["fd_infinity"], ".3g"), interval(before["fd_infinity"], ".3g"),
                ", ".join(f"{name} {count / total:.0%}" for name, count in drawn),
                f"{after['spread'][cell['class_name']]:.2f}", f"{mean(retained):.2f}",
                f"{cell['seconds']['forgetting']:.1f}",
            ]
        )  # fmt: skip
    head = [
        "run", "class", "seed", "FA (95%)", "before", "RA (before)", "FD∞ (95%)", "before", "the label draws",
        "its spread", "others' spread", "seconds",
    ]  # fmt: skip
    return tables.table(head, body)


def table_of_samplers(found: Sequence[Found]) -> list[str]:
    body = [
        [
            part["model"], part["sampler"], part["num_steps"], part["n_reference"], part["n_generated"],
            f"{part['fd_infinity']['at_n']:.3g}", interval(part["fd_infinity"], ".3g"),
        ]
        for part in found
    ]  # fmt: skip
    head = ["model", "sampler", "steps", "real images", "drawn images", "FD", "FD∞ (95%)"]
    return [f"Without {found[0]['without']}, against training images:", "", *tables.table(head, body)]


def interval(figure: Found, form: str) -> str:
    low, high = figure["ci95"]
    return f"{figure['value']:{form}} ({low:{form}} to {high:{form}})"
