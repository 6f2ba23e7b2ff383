"""Lanes: how an op that works along axes is cut between threads. Pure.

Each lane, the elements along those axes, is computed by itself: a sort, a running sum, a transform, a reduction. So the
array is cut along another axis, and each element comes out as in one call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from engine.base.facts import facts_of
from engine.fusion.groups import reduces_exactly
from engine.memory.layout import NARROWEST, pieces

Array = np.ndarray[Any, Any]
Params = dict[str, Any]
Lanes = Callable[[Array, Params], tuple[int, ...] | None]
"""The axes that an op works along, from its operand and parameters; None where it may not be cut."""

_PIECES = 4
"""Pieces for each thread, so that none waits long for the last."""


def along_axis(x: Array, params: Params) -> tuple[int, ...] | None:
    """Plan an op whose results along an axis depend on nothing but the elements along it."""
    axis = params["axis"]
    return None if axis is None else np.lib.array_utils.normalize_axis_tuple(axis, x.ndim)


def in_order(x: Array, params: Params) -> tuple[int, ...] | None:
    """Plan a sort, which may be turned round when it is done."""
    return None if params["descending"] else along_axis(x, params)


def of_finite(x: Array, params: Params) -> tuple[int, ...] | None:
    """Plan a transform: which NaN it gives depends on how many lanes it is given at once."""
    with np.errstate(all="ignore"):
        finite = np.isfinite(x.sum())
    return along_axis(x, params) if finite else None


def reducing(kernel: Callable[..., Any]) -> Lanes:
    """Plan a reduction, where NumPy adds without casting: else it goes by buffers, which begin where the array does."""
    kind = facts_of(kernel).reduction or ("add" if kernel is np.prod else "mean")

    def lanes(x: Array, params: Params) -> tuple[int, ...] | None:
        axes = along_axis(x, params)
        if axes is None or params.get("dtype") is not None or not reduces_exactly(kind, x.dtype):
            return None
        enough = all(x.shape[axis] > params.get("correction", 0) for axis in axes)
        return axes if enough else None

    return lanes


def cut(shape: tuple[int, ...], axes: tuple[int, ...], threads: int) -> tuple[int, list[slice]] | None:
    """The axis along which to cut and the pieces; None where none is long enough."""
    axis = next((axis for axis, n in enumerate(shape) if axis not in axes and n >= threads * NARROWEST), None)
    if axis is None:
        return None
    length = shape[axis]
    count = min(threads * _PIECES, length // NARROWEST)
    return axis, pieces(length, count)
