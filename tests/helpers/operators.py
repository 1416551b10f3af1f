"""What torch is asked to do, operator by operator."""

from collections import Counter
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class Operators(TorchDispatchMode):
    """Counts operators by name while it is open."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, operator: Any, types: Any, inputs: Any = (), named: Any = None) -> Any:
        self.counts[str(operator)] += 1
        return operator(*inputs, **(named or {}))

    @property
    def reads(self) -> int:
        """Values that Python read from tensors one at a time: on a GPU each would wait for it."""
        return self.counts["aten._local_scalar_dense.default"]
