"""NumPy's pairwise summation, cut into pieces: the same additions in the same order, so the same bits.

The rule, from NumPy's `pairwise_sum`: up to 128 elements are added in a loop; more are split into `n // 2`, rounded
down to a multiple of 8, and the rest, each summed in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SERIAL = 128


def split(n: int) -> int:
    """Where NumPy splits a sum of `n` elements, more than 128 of them."""
    half = n // 2
    return half - half % 8


def leaves(n: int, most: int) -> list[tuple[int, int]]:
    """The spans of at most about `most` elements at which NumPy's splitting of `n` elements arrives, in order."""
    spans, stack = [], [(0, n)]
    most = max(most, SERIAL)
    while stack:
        start, stop = stack.pop()
        length = stop - start
        if length <= most:
            spans.append((start, stop))
        else:
            middle = start + split(length)
            stack += [(middle, stop), (start, middle)]
    return spans


def combine(sums: Sequence[Any], n: int, lengths: Sequence[int]) -> Any:
    """The sum of `n` elements from the sums of its leaves, added up as NumPy's splitting says."""
    position = 0

    def total(length: int) -> Any:
        nonlocal position
        if length == lengths[position]:
            position += 1
            return sums[position - 1]
        left = split(length)
        first = total(left)
        return first + total(length - left)

    return total(n)
