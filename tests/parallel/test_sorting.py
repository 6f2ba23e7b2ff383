"""Sorting by value is stable to the bit, however it is done."""

from typing import Any

import numpy as np
import pytest

import engine
from engine import ops


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint16", "int64", "bool", "complex64"])
@pytest.mark.parametrize("size", [0, 1, 2, 17, 1000])
def test_a_stable_sort_has_the_bits_of_numpys(mode: engine.ExecutionMode, dtype: str, size: int) -> None:
    x = tricky(size, dtype)
    for array, axis in ((x, -1), (x[::-1], 0), (np.stack([x, x[::-1]]), 0), (np.stack([x, x[::-1]]), 1)):
        expected = np.sort(array, axis=axis, stable=True)
        assert ops.sort(array, axis=axis).result().tobytes() == expected.tobytes()
        assert ops.sort(array, axis=axis, descending=True).result().tobytes() == np.flip(expected, axis).tobytes()


@pytest.mark.parametrize("axis", [1, -2])
def test_an_axis_that_is_not_there_is_refused(mode: engine.ExecutionMode, axis: int) -> None:
    with pytest.raises(np.exceptions.AxisError):
        ops.sort(np.zeros(3), axis=axis).result()


def tricky(size: int, dtype: str) -> np.ndarray[Any, Any]:
    """Few values many times; where the dtype has them, zeros of both signs and NaNs of several payloads."""
    rng = np.random.default_rng(size)
    x = rng.integers(0, 5, size).astype(dtype)
    if dtype.startswith("float"):
        x[rng.random(size) < 0.2] = -0.0
        nans = np.full(size, np.nan, dtype)
        bits = nans.view(f"u{nans.itemsize}")
        bits += rng.integers(0, 3, size).astype(bits.dtype)
        x = np.where(rng.random(size) < 0.2, nans, x)
    return x
