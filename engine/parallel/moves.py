"""Moving and selecting elements of a row-major array: pieces of the result are written by several threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from engine.base.op import Op
from engine.base.pytree import Slot
from engine.memory.buffers import buffers
from engine.memory.layout import pieces
from engine.parallel.joins import PIECES, copied, cut_up, is_plain
from engine.parallel.lanes import place_for, share_out

Array = np.ndarray[Any, Any]
Params = dict[str, Any]
Copy = tuple[Array, Array]

_FEW = 16
"""Repetitions up to which each is a copy of its own: NumPy is slow where the innermost axis is that short."""
_PIECE = 1 << 16
"""Elements that are selected at once, so that their indices stay in cache."""


def rolled(op: Op, values: Sequence[Any], params: Params, threads: int) -> Array | None:
    """`numpy.roll` along one axis or of all elements; None where it has to be run as a whole."""
    (x,) = values
    shift, axis = params["shift"], params["axis"]
    if not isinstance(shift, int) or not isinstance(axis, int | None):
        return None
    result = _place(op, values, params)
    if result is None:
        return None
    source, target = (x.reshape(-1), result.reshape(-1)) if axis is None else (x, result)
    before = (slice(None),) * (0 if axis is None else normalize_axis_index(axis, x.ndim))
    length = source.shape[len(before)]
    shift %= length
    halves = [(slice(shift, None), slice(length - shift)), (slice(shift), slice(length - shift, None))]
    copies = [(target[(*before, to)], source[(*before, origin)]) for to, origin in halves]
    return _copied(result, copies, threads)


def tiled(op: Op, values: Sequence[Any], params: Params, threads: int) -> Array | None:
    """`numpy.tile`; None where it has to be run as a whole."""
    (x,) = values
    result = _place(op, values, params)
    if result is None:
        return None
    lengths = (1,) * (result.ndim - x.ndim) + x.shape
    counts = [whole // length for whole, length in zip(result.shape, lengths, strict=True)]
    # Each axis apart from its repetitions: the first of them are one copy each.
    target = result.reshape([each for pair in zip(counts, lengths, strict=True) for each in pair])
    source = x.reshape([each for length in lengths for each in (1, length)])[0]
    return _copied(result, [(part, np.broadcast_to(source, part.shape)) for part in target], threads)


def repeated(op: Op, values: Sequence[Any], params: Params, threads: int) -> Array | None:
    """`numpy.repeat` with one count for all elements; None where it has to be run as a whole."""
    x, count, axis = values[0], params["reps"], params["axis"]
    result = None if count is None else _place(op, values, params)
    if result is None:
        return None
    source = x.reshape(-1) if axis is None else x
    place = 0 if axis is None else normalize_axis_index(axis, x.ndim)
    target = result.reshape((*source.shape[: place + 1], count, *source.shape[place + 1 :]))
    if count > _FEW:
        return _copied(result, [(target, np.broadcast_to(np.expand_dims(source, place + 1), target.shape))], threads)

    def repeat(copy: Copy) -> None:
        to, origin = copy
        for each in np.moveaxis(to, place + 1, 0):
            each[...] = origin

    return result if share_out(repeat, _small(target, source), threads) else None


def taken(op: Op, values: Sequence[Any], params: Params, threads: int) -> Array | None:
    """`numpy.take` from all elements or along the first axis; None where it has to be run as a whole."""
    x, indices = values
    if params["axis"] not in (None, 0) or not isinstance(indices, np.ndarray) or indices.dtype != np.intp:
        return None
    return _taken(_place(op, values, params), x if params["axis"] == 0 else np.ravel(x), indices, threads)


def selected(op: Op, values: Sequence[Any], params: Params, threads: int) -> Array | None:
    """`x[indices]` with one array of integers, or a mask of the shape of x; None where it has to be run as a whole."""
    if not isinstance(params["key"], Slot) or len(values) != 2 or not all(map(_is_plain, values)):
        return None
    x, indices = values
    if indices.dtype == np.intp and x.ndim:
        return _taken(_place(op, values, params), x, indices, threads)
    if indices.dtype == np.bool_ and indices.shape == x.shape:
        return _masked(x.reshape(-1), indices.reshape(-1), threads)
    return None


def _taken(result: Array | None, x: Array, indices: Array, threads: int) -> Array | None:
    if result is None or not _is_plain(indices):
        return None
    flat = indices.reshape(-1)
    target = result.reshape((flat.size, *x.shape[1:]))

    def take(copy: Copy) -> None:
        to, which = copy
        if which.min() < -len(x) or which.max() >= len(x):
            raise IndexError  # NumPy says it when it is run as a whole
        np.take(x, which, axis=0, out=to, mode="wrap")

    return result if share_out(take, _small(target, flat), threads) else None


def _masked(x: Array, mask: Array, threads: int) -> Array | None:
    parts = pieces(x.size, -(-x.size // _PIECE))
    counts = [0] * len(parts)

    def count(number: int) -> None:
        counts[number] = int(np.count_nonzero(mask[parts[number]]))

    if not share_out(count, range(len(parts)), threads):
        return None
    ends = list(accumulate(counts))
    result = buffers.array((ends[-1],), x.dtype)

    def select(number: int) -> None:
        part, end = parts[number], ends[number]
        where = np.flatnonzero(mask[part])
        np.take(x[part], where, out=result[end - counts[number] : end], mode="clip")

    return result if share_out(select, range(len(parts)), threads) else None


def _place(op: Op, values: Sequence[Any], params: Params) -> Array | None:
    return place_for(op, values, params) if _is_plain(values[0]) and values[0].size else None


def _is_plain(value: Any) -> bool:
    return isinstance(value, np.ndarray) and is_plain(value) and value.flags.aligned


def _copied(result: Array, copies: Sequence[Copy], threads: int) -> Array | None:
    return copied(result, [piece for copy in copies for piece in cut_up(*copy, threads * PIECES)], threads)


def _small(target: Array, source: Array) -> Iterator[Copy]:
    """Both in pieces none of which is much larger than what stays in cache."""
    return cut_up(target, source, -(-target.size // _PIECE))
