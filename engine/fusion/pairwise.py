"""NumPy's pairwise summation, cut into pieces: the same additions in the same order, so the same bits.

The rule, from NumPy's `pairwise_sum`: up to 128 elements are added in a loop; more are split into `n // 2`, rounded
down to a multiple of 8, and the rest, each summed in the same way.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

SERIAL = 128


class Splits:
    """Where NumPy splits a sum of `n` elements, down to pieces of at most about `most`, and how it adds them up."""

    def __init__(self, n: int, most: int) -> None:
        spans: list[tuple[int, int]] = []
        pairs: dict[int, list[tuple[int, int, int]]] = {}
        """For each height above the pieces: the numbers of two sums, and of their sum."""
        most = max(most, SERIAL)

        def divide(start: int, stop: int) -> tuple[int, int]:
            """The number of a sum, and its height; sums of sums are numbered from -1 downwards."""
            if stop - start <= most:
                spans.append((start, stop))
                return len(spans) - 1, 0
            middle = start + split(stop - start)
            left, left_height = divide(start, middle)
            right, right_height = divide(middle, stop)
            height = 1 + max(left_height, right_height)
            number = -1 - sum(map(len, pairs.values()))
            pairs.setdefault(height, []).append((left, right, number))
            return number, height

        divide(0, n)
        self.spans: Array = np.array(spans, np.int64)
        self._levels = [np.array(pairs[height], np.intp).T for height in sorted(pairs)]
        self._sums = sum(map(len, pairs.values()))

    def combine(self, sums: Array) -> Any:
        """The sum of all elements from the sums of the pieces."""
        values = np.empty(len(sums) + self._sums, sums.dtype)
        values[: len(sums)] = sums
        for left, right, number in self._levels:
            values[number] = values[left] + values[right]
        return values[-self._sums] if self._sums else values[0]


@lru_cache(maxsize=64)
def splits(n: int, most: int) -> Splits:
    """The splits of a sum, made once."""
    return Splits(n, most)


def split(n: int) -> int:
    """Where NumPy splits a sum of `n` elements, more than 128 of them."""
    half = n // 2
    return half - half % 8
