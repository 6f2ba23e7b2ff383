"""Values of a cluster: chunked arrays of Dask, in a class of their own."""

from __future__ import annotations

from typing import Any

import numpy as np


class ClusterValue:
    """A chunked array on the cluster: it has a shape and a dtype here, and its chunks there."""

    __slots__ = ("array", "dtype", "shape")

    def __init__(self, array: Any) -> None:
        self.array = array
        """The `dask.array.Array`."""
        self.shape: tuple[int, ...] = array.shape
        self.dtype: np.dtype[Any] = array.dtype

    def __repr__(self) -> str:
        return f"<chunked array, shape={self.shape}, dtype={self.dtype}, chunks={self.array.chunks}>"


def is_chunked(value: object) -> bool:
    """Tell whether something is an array of Dask; asked without importing Dask."""
    cls = type(value)
    return cls.__name__ == "Array" and cls.__module__.startswith("dask.array")
