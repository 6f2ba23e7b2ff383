"""Sums of pieces, combined, have the bits of NumPy's sum of the whole."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from engine.fusion.pairwise import SERIAL, splits

SIZES = (1, 7, 8, 9, 127, 128, 129, 136, 137, 255, 256, 257, 1_000, 4_095, 65_537, 1_000_003)


def numbers(n: int, dtype: Any, seed: int) -> np.ndarray[Any, Any]:
    """Numbers of so many magnitudes that any other order of additions gives another sum."""
    source = np.random.default_rng(seed)
    return (source.normal(size=n) * 10.0 ** source.integers(-6, 6, n)).astype(dtype)


def summed(array: np.ndarray[Any, Any], most: int) -> Any:
    parts = splits(array.size, most)
    return parts.combine(np.array([np.add.reduce(array[start:stop]) for start, stop in parts.spans]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", SIZES)
def test_pieces_add_up_to_numpys_bits(n: int, dtype: Any) -> None:
    array = numbers(n, dtype, n)
    assert summed(array, 64).tobytes() == np.sum(array).tobytes()


@settings(max_examples=200, deadline=None)
@given(
    n=st.integers(1, 20_000),
    most=st.integers(1, 5_000),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 1_000),
)
def test_any_size_of_pieces_gives_numpys_bits(n: int, most: int, dtype: Any, seed: int) -> None:
    array = numbers(n, dtype, seed)
    assert summed(array, most).tobytes() == np.sum(array).tobytes()


def test_the_numbers_tell_orders_of_additions_apart() -> None:
    array = numbers(1_000_003, np.float32, 0)
    in_chunks = np.add.reduce([np.add.reduce(array[start : start + 1_000]) for start in range(0, array.size, 1_000)])
    assert in_chunks.tobytes() != np.sum(array).tobytes()


@given(n=st.integers(1, 1_000_000), most=st.integers(1, 100_000))
def test_pieces_cover_the_whole_in_order_and_are_small(n: int, most: int) -> None:
    spans = splits(n, most).spans
    assert [spans[0][0], *(stop for _, stop in spans)] == [*(start for start, _ in spans), n]
    assert all(0 < stop - start <= max(most, SERIAL) for start, stop in spans)
