"""What the service has loaded: a catalogue, a matrix, and a model. Read-only, so that the engine copies nothing."""

import gc
import math
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier

Array = np.ndarray[Any, Any]

ROWS, FEATURES = 200_000, 64
BLOCK = 4_000


def read_only(array: Array) -> Array:
    """The same array, which no code can write to from now on."""
    array.flags.writeable = False
    return array


class Data:
    """The same in each process, and for each of the services."""

    def __init__(self, rows: int = ROWS) -> None:
        random = np.random.default_rng(0)
        self.catalogue = read_only(random.random((rows, FEATURES), dtype=np.float32))
        self.blocks = self.catalogue.reshape(-1, math.gcd(rows, BLOCK), FEATURES)
        """The catalogue in blocks of rows that fit the cache of a core."""
        half = random.random((400, 400))
        self.matrix = read_only(half + half.T)
        self.start = read_only(np.ones(400))
        digits, labels = load_digits(return_X_y=True)
        self.model: Any = RandomForestClassifier(random_state=0).fit(digits[:1000], labels[:1000])
        """A forest as scikit-learn makes it by default: each call asks a hundred trees, of however many rows it is."""
        gc.freeze()  # all of this stays: a collection of garbage need not look at it, which would hold up every request
