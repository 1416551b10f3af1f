"""scikit-learn's handwritten digits (Alpaydin and Kaynak, 1998), read from its own file: loading it loads scipy."""

import gzip
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

FILE = "datasets/data/digits.csv.gz"


@cache
def read() -> npt.NDArray[np.float64]:
    """1,797 rows of 64 grey levels from 0 to 16, then the digit."""
    spec = find_spec("sklearn")
    file = None if spec is None or spec.origin is None else Path(spec.origin).parent / FILE
    if file is not None and file.is_file():
        with gzip.open(file, "rt", encoding="ascii") as lines:
            return np.loadtxt(lines, delimiter=",")
    from sklearn.datasets import load_digits  # which says what is wrong

    digits = load_digits()
    return np.column_stack([digits.data, digits.target])
