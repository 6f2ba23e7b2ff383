"""Joining arrays: each is copied into its place in a used buffer, by several threads where it is large."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from engine.base.op import Op
from engine.memory.buffers import strides_of
from engine.memory.layout import pieces
from engine.parallel.lanes import place_for, share_out

Array = np.ndarray[Any, Any]
Copy = tuple[Array, Array]

PIECES = 8
"""Pieces of each array for each thread, so that none waits long for the last."""


def concatenated(op: Op, values: Sequence[Any], params: dict[str, Any], threads: int) -> Array | None:
    """`numpy.concatenate` of row-major arrays; None where it has to be run as a whole."""
    axis = params["axis"]
    arrays = values if axis is not None else [np.ravel(each) for each in values]
    return _joined(op, values, params, arrays, axis or 0, threads)


def stacked(op: Op, values: Sequence[Any], params: dict[str, Any], threads: int) -> Array | None:
    """`numpy.stack` of row-major arrays; None where it has to be run as a whole."""
    axis = params["axis"]
    return _joined(op, values, params, [np.expand_dims(each, axis) for each in values], axis, threads)


def _joined(
    op: Op, values: Sequence[Any], params: dict[str, Any], arrays: Sequence[Any], axis: int, threads: int
) -> Array | None:
    result = place_for(op, values, params) if all(map(is_plain, values)) else None
    if result is None:
        return None
    return copied(result, list(_copies(result, arrays, axis % result.ndim, threads)), threads)


def is_plain(array: Array) -> bool:
    """Tell whether the strides are those of fresh row-major memory: on an axis of one element, too, they say how NumPy
    lays the result out."""
    usual = 1 not in array.shape or array.strides == strides_of(array.shape, array.itemsize)
    return array.flags.c_contiguous and usual


def _copies(result: Array, arrays: Sequence[Array], axis: int, threads: int) -> Iterator[Copy]:
    """The copies to make, and where to: each array in pieces along the first axis."""
    ends = accumulate(each.shape[axis] for each in arrays)
    for array, end in zip(arrays, ends, strict=True):
        place = result[(*[slice(None)] * axis, slice(end - array.shape[axis], end))]
        yield from cut_up(place, array, threads * PIECES)


def cut_up(place: Array, array: Array, count: int) -> Iterator[Copy]:
    """An array and the place it goes to, in so many pieces along the first axis."""
    for piece in pieces(len(array), min(len(array), count)):
        yield place[piece], array[piece]


def copied(result: Array, copies: Iterable[Copy], threads: int) -> Array | None:
    """The result, when several threads have made these copies; None where that did not go well."""
    return result if share_out(lambda copy: np.copyto(*copy), copies, threads) else None
