"""How NumPy lays out and walks the operands of an elementwise op, and how to cut that walk into blocks. Pure.

The layout of a result is visible: in its strides, and in the order in which a later reduction adds. So a fusion group
must choose the very order of axes that NumPy's iterator would choose.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

Strides = tuple[int, ...]
Shape = tuple[int, ...]


def broadcast_strides(array: np.ndarray[Any, Any], shape: Shape) -> Strides:
    """The strides of an array broadcast to `shape`: 0 where it is repeated, and where the length is 1."""
    added = len(shape) - array.ndim
    own = [0 if length == 1 else stride for length, stride in zip(array.shape, array.strides, strict=True)]
    return (*[0] * added, *own)


def iteration_order(operands: Sequence[Strides], ndim: int) -> tuple[int, ...]:
    """The axes from the slowest to the fastest, as NumPy's iterator orders them for `order="K"`.

    An insertion sort by the size of the strides; where operands disagree, row-major order wins; an axis on which no
    two strides can be compared stays where it is.
    """
    fastest_first = list(range(ndim - 1, -1, -1))
    for position in range(1, ndim):
        axis = fastest_first[position]
        target = position
        for candidate in range(position - 1, -1, -1):
            swap = _comes_before(axis, fastest_first[candidate], operands)
            if swap is None:
                continue
            if not swap:
                break
            target = candidate
        fastest_first.insert(target, fastest_first.pop(position))
    return tuple(reversed(fastest_first))


def copy_order(strides: Strides, ndim: int) -> tuple[int, ...]:
    """The axes from the slowest to the fastest in a copy of one array, as NumPy lays it out for `order="K"`.

    Not always the order in which its iterator walks: an axis that is repeated in memory is the fastest here.
    """
    return tuple(sorted(range(ndim), key=lambda axis: -abs(strides[axis])))


def _comes_before(axis: int, other: int, operands: Sequence[Strides]) -> bool | None:
    """Tell whether `axis` is faster than `other`, which is now faster; None when no operand tells."""
    verdict: bool | None = None
    for strides in operands:
        mine, others = abs(strides[axis]), abs(strides[other])
        if mine and others:
            if others <= mine:
                return False
            verdict = True
    return verdict


def coalesce(shape: Shape, operands: Sequence[Strides]) -> tuple[Shape, list[Strides]]:
    """Join neighbouring axes that every operand walks as one; axes of length 1 vanish."""
    axes: list[list[int]] = []  # of each joined axis: its length, then the stride of each operand
    for axis in range(len(shape) - 1, -1, -1):
        if shape[axis] == 1:
            continue
        strides = [operand[axis] for operand in operands]
        if axes and all(outer == inner * axes[-1][0] for outer, inner in zip(strides, axes[-1][1:], strict=True)):
            axes[-1][0] *= shape[axis]
        else:
            axes.append([shape[axis], *strides])
    axes.reverse()
    if not axes:
        return (1,), [(1,) for _ in operands]
    joined = tuple(axis[0] for axis in axes)
    return joined, [tuple(axis[1 + index] for axis in axes) for index in range(len(operands))]


VECTOR = 64
"""Elements of any vector, or of several: blocks end where vectors end."""


def tile(shape: Shape, operands: Sequence[Strides], elements: int) -> Shape:
    """The shape of a block of about `elements` elements: whole inner axes where every operand is fastest on the last.

    Where an operand is fastest on another axis (a transposed one), blocks are small and nearly square, so that each
    line of cache that it brings in is used up while it is there.
    """
    block = list(shape)
    last = len(shape) - 1
    crossed = {_fastest(strides) for strides in operands if strides[last]} - {last}
    if crossed:
        side = max(64, math.isqrt(elements) // 2)
        elements = 2 * side * side
        block[last] = min(block[last], 2 * side)
    for axis in range(last + 1):
        block[axis] = max(1, min(block[axis], elements // math.prod(block[axis + 1 :])))
    while shape[last] % block[last] == 1 and block[last] > 2:
        # NumPy computes one element with other instructions than many, and what follows the last whole vector.
        block[last] -= VECTOR if block[last] > VECTOR and block[last] % VECTOR == 0 else 1
    return tuple(block)


def _fastest(strides: Strides) -> int:
    """The axis on which neighbours are closest in memory."""
    return max((-abs(stride), axis) for axis, stride in enumerate(strides) if stride)[1]


NARROWEST, NARROWEST_IN_MEMORY = 16, 128
"""Elements that a strip, or the piece of a thread, has at least across: an axis of one element is walked in another
way, and lines of cache that are brought in should be used up."""
WIDEST = 1 << 16
"""Elements that the narrowest strip has at most: it is to stay in cache."""


def strip_axis(shape: Shape, whole: Collection[int]) -> int | None:
    """The axis to cut strips across, the longest that may be cut, where the axes in `whole` may not; None for none."""
    axis = max((axis for axis in range(len(shape)) if axis not in whole), key=lambda axis: shape[axis], default=None)
    if axis is None or shape[axis] < 2 * _narrowest(shape, axis):
        return None
    return axis if math.prod(shape) // shape[axis] * _narrowest(shape, axis) <= WIDEST else None


def _narrowest(shape: Shape, axis: int) -> int:
    return NARROWEST_IN_MEMORY if axis == len(shape) - 1 else NARROWEST


def strips(shape: Shape, axis: int, elements: int) -> list[tuple[slice, ...]]:
    """The slices of strips of about `elements` elements, cut across one axis."""
    length = shape[axis]
    across = max(_narrowest(shape, axis), elements // (math.prod(shape) // length))
    count = max(1, length // across)
    before, after = ([slice(0, n) for n in part] for part in (shape[:axis], shape[axis + 1 :]))
    return [(*before, piece, *after) for piece in pieces(length, count)]


def forwards(strides: Strides) -> tuple[slice, ...]:
    """Find what turns an array of these strides so that it is walked forwards in memory; and what turns it back."""
    return tuple(slice(None, None, -1 if stride < 0 else 1) for stride in strides)


def pieces(length: int, count: int) -> list[slice]:
    """An axis of so many elements in so many pieces, as even as can be."""
    return [slice(length * number // count, length * (number + 1) // count) for number in range(count)]


def blocks(shape: Shape, block: Shape) -> Iterator[tuple[slice, ...]]:
    """The slices of each block, in row-major order."""
    counts = [-(-length // size) for length, size in zip(shape, block, strict=True)]
    for index in np.ndindex(*counts):
        yield tuple(
            slice(i * size, min(length, (i + 1) * size)) for i, size, length in zip(index, block, shape, strict=True)
        )
