"""Joining arrays: each is copied into its place in a used buffer, by several threads where it is large."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from engine.devices.workers import give_way, together
from engine.kernels.lanes import place_for
from engine.kernels.layout import pieces
from engine.planning.op import Op

Array = np.ndarray[Any, Any]
Copy = tuple[Array, Array]

_PIECES = 8
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
    result = place_for(op, values, params) if all(map(_is_plain, values)) else None
    if result is None:
        return None
    todo = iter(list(_copies(result, arrays, axis % result.ndim, threads)))
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for target, source in todo:
                if errors:
                    return
                give_way()
                np.copyto(target, source)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that began
            errors.append(error)

    together(work, threads)
    return None if errors else result


def _is_plain(array: Array) -> bool:
    """Whether the strides are those of fresh row-major memory: on an axis of one element, too, they tell NumPy how to
    lay the result out."""
    strides = np.empty(array.shape, array.dtype).strides if 1 in array.shape else array.strides
    return array.flags.c_contiguous and array.strides == strides


def _copies(result: Array, arrays: Sequence[Array], axis: int, threads: int) -> Iterator[Copy]:
    """What to copy, and where: each array in pieces along the first axis."""
    ends = accumulate(each.shape[axis] for each in arrays)
    for array, end in zip(arrays, ends, strict=True):
        place = result[(*[slice(None)] * axis, slice(end - array.shape[axis], end))]
        for piece in pieces(len(array), min(len(array), threads * _PIECES)):
            yield place[piece], array[piece]
