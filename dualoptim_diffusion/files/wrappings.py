"""What training scripts put around weights: containers and prefixes, told from the network's own names."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor

PLAIN = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "params", "online_model", "module",
)  # fmt: skip
EMA = ("ema", "ema_model", "model_ema", "state_dict_ema", "ema_state_dict", "params_ema")
COMPILED, PARALLEL = "_orig_mod", "module"  # around a compiled network or part, and around a replicated one
DEEPEST = 8  # containers, one in another
COUNTER = "num_batches_tracked"  # of BatchNorm; files from before PyTorch 0.4.1 have none


class Reading(NamedTuple):
    """Tensors of a file under the names that they have inside of some containers."""

    containers: tuple[str, ...]  # the outermost first
    tensors: dict[str, Tensor]

    @property
    def is_ema(self) -> bool:
        """Whether they are a moving average."""
        return any(name in EMA for name in self.containers)

    @property
    def place(self) -> str:
        """The containers as a user would name them."""
        return ".".join(name for name in self.containers if name != PARALLEL) or "no key"


def fitting_readings(content: Any, wanted: Collection[str]) -> list[Reading]:
    """The readings of a file's content that hold the wanted names, plain ones before averages.

    A prefix such as `model.` is the same as a container called `model`. If no reading holds any wanted name, the
    tensors are returned as they are, for a refusal to name them.

    Args:
        content: a mapping, or a list `[state_dict, optimizer_state, step, ema_shadow]` with or without its later parts.
        wanted: names of tensors of the network, or some that every network of its kind has.

    Raises:
        ValueError: if it holds no named tensors, or they lie deeper than 8 containers.
    """
    if isinstance(content, list | tuple):
        state, _, _, ema = (list(content) + 4 * [None])[:4]
        content = {"state_dict": state, "ema": ema}
    tensors = dict(_flat(content))
    if not tensors:
        raise ValueError("it holds something other than named tensors")
    names = {name for name in wanted if not name.endswith(COUNTER)}
    plain = _without(tensors, COMPILED)
    readings = [*_readings(plain), *_readings(_without(plain, PARALLEL))]
    scores = [len(names & reading.tensors.keys()) for reading in readings]
    close = [i for i, score in enumerate(scores) if 2 * score > max(scores)]  # one name alone may be a coincidence
    fitting = [readings[i] for i in sorted(close, key=lambda i: (readings[i].is_ema, -scores[i]))]
    return [_alone(reading, fitting) for reading in fitting] or readings[:1]


def _flat(content: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Tensors at the top and in containers, by name; a script's other values are passed over."""
    if depth > DEEPEST:
        raise ValueError(f"its weights lie in more than {DEEPEST} containers, one in another")
    for key, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, Tensor):
            if not isinstance(key, str):
                raise ValueError(f"it names a tensor {key!r}")
            yield prefix + key, value
        elif key in PLAIN + EMA:
            yield from _flat(value, f"{prefix}{key}.", depth + 1)


def _without(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors with this part of a name left out wherever it stands; as they are if two names would be one."""
    renamed = {".".join(p for p in name.split(".") if p != part): value for name, value in tensors.items()}
    return renamed if len(renamed) == len(tensors) else tensors


def _readings(tensors: dict[str, Tensor], containers: tuple[str, ...] = ()) -> Iterator[Reading]:
    """The tensors as they are, and those inside of each container."""
    yield Reading(containers, tensors)
    for key in PLAIN + EMA if len(containers) < DEEPEST else ():
        start = f"{key}."
        if inside := {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}:
            yield from _readings(inside, (*containers, key))


def _alone(reading: Reading, others: list[Reading]) -> Reading:
    """The reading without the weights that lie in further containers inside of it, such as an average beside them."""
    depth = len(reading.containers)
    inner = [o.containers for o in others if len(o.containers) > depth and o.containers[:depth] == reading.containers]
    starts = tuple(f"{containers[depth]}." for containers in inner)
    kept = {name: value for name, value in reading.tensors.items() if not name.startswith(starts)}
    return Reading(reading.containers, kept)


def fitted(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], spare: bool = False) -> dict[str, Tensor]:
    """The given tensors in the number formats of the wanted ones.

    BatchNorm's counters, which no output depends on, are taken from `wanted` where a file has none of that form.

    Args:
        spare: tensors that are not wanted are left out; else they are refused.

    Raises:
        ValueError: naming what is missing, left over or different, in one line.
    """
    whole = {name: value for name, value in wanted.items() if name.endswith(COUNTER)}
    whole |= {name: value for name, value in given.items() if name not in whole or _alike(value, whole[name])}
    differing = [name for name in wanted if name in whole and not _alike(whole[name], wanted[name])]
    problems = (
        ("it lacks the weights {}", [name for name in wanted if name not in whole]),
        ("it has no use for the weights {}", [] if spare else [name for name in whole if name not in wanted]),
        ("{}", [f"{name} is {_form(whole[name])}, expected {_form(wanted[name])}" for name in differing]),
    )
    if found := [sentence.format(listed(names)) for sentence, names in problems if names]:
        raise ValueError("; ".join(found))
    return {name: whole[name].to(value.dtype) for name, value in wanted.items()}


def listed(names: list[str], most: int = 3) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _alike(value: Tensor, other: Tensor) -> bool:
    return value.shape == other.shape and value.is_floating_point() == other.is_floating_point()


def _form(tensor: Tensor) -> str:
    kind = "" if tensor.is_floating_point() else f" {str(tensor.dtype).removeprefix('torch.')}"
    return f"{list(tensor.shape)}{kind}"
