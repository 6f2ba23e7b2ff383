"""Ops whose result goes into a buffer that was used before, and those that several threads compute, lane by lane."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np

from engine.base.inference import result_layout
from engine.base.op import Op, Parallel
from engine.memory.buffers import LARGE, buffers
from engine.parallel.axes import Lanes, cut
from engine.threads.pool import give_way, together

Array = np.ndarray[Any, Any]
Params = dict[str, Any]
Piece = TypeVar("Piece")


def place_for(op: Op, values: Sequence[Any], params: Params) -> Array | None:
    """Where the op is to write its result: a leased buffer; None where NumPy had better make an array itself."""
    arrays = [value for value in values if isinstance(value, np.ndarray)]
    if not all(array.flags.c_contiguous for array in arrays):
        return None  # NumPy may lay the result out in another way
    described = result_layout(op, values, params)
    if described is None or described[1].itemsize * math.prod(described[0]) < LARGE:
        return None
    return buffers.array(*described)


def in_lanes(rule: Lanes) -> Parallel:
    """How an op is run on several threads of which each takes some lanes; `rule` says along which axes they run."""
    return partial(_execute, rule)


def _execute(rule: Lanes, op: Op, values: Sequence[Any], params: Params, threads: int) -> Array | None:
    (x,) = values
    if not isinstance(x, np.ndarray) or x.ndim < 2 or not (x.flags.c_contiguous and x.flags.aligned):
        return None  # before the rule is asked: it may look at every element
    axes = rule(x, params)
    pieces = None if axes is None else cut(x.shape, axes, threads)
    described = result_layout(op, values, params)
    if axes is None or pieces is None or described is None:
        return None
    axis, slices = pieces
    result = buffers.array(*described)
    before = (slice(None),) * axis
    kept = (slice(None),) * (axis if result.ndim == x.ndim else axis - sum(each < axis for each in axes))

    def compute(piece: slice) -> None:
        with np.errstate(divide="raise", over="raise", invalid="raise"):
            _compute(op, x[(*before, piece)], params, result[(*kept, piece)])

    return result if share_out(compute, slices, threads) else None


def share_out(do: Callable[[Piece], None], pieces: Iterable[Piece], threads: int) -> bool:
    """Do this with each piece, on so many threads; False where one of them raised, and the rest was left."""
    todo = iter(tuple(pieces))  # a generator cannot be asked by two threads at once
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for piece in todo:
                if errors:
                    return
                give_way()
                do(piece)
        except BaseException as error:  # noqa: BLE001 - the op is run again as a whole, and raises what it raises
            errors.append(error)

    together(work, threads)
    return not errors


def _compute(op: Op, piece: Array, params: Params, out: Array) -> None:
    if op.memory.into is not None:
        op.memory.into(piece, **params, out=out)
    else:
        out[...] = op.kernel(piece, **params)
