"""Costs of NumPy functions without a row, where that is known, so that small ones run in place."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.base.op import Estimate
from engine.ops import costs
from engine.ops.numpy_binding import bind
from handles.base import Handle

COSTS: dict[object, Estimate] = {
    **{
        function: costs.each(10)
        for function in (
            np.allclose,
            np.angle,
            np.array_equal,
            np.array_equiv,
            np.average,
            np.isclose,
            np.mean,
            np.nan_to_num,
            np.nanargmax,
            np.nanargmin,
            np.nanmax,
            np.nanmean,
            np.nanmin,
            np.nanprod,
            np.nanstd,
            np.nansum,
            np.nanvar,
            np.ptp,
            np.round,
            np.std,
            np.sum,
            np.var,
        )
    },
    **{
        function: costs.sorting(8)
        for function in (
            np.median,
            np.nanmedian,
            np.nanpercentile,
            np.nanquantile,
            np.percentile,
            np.quantile,
        )
    },
    **dict.fromkeys((np.dot, np.einsum, np.inner, np.vdot), costs.outer),
    **{function: costs.each(3) for function in (np.cumsum, np.cumprod)},
    np.sort: costs.sorting(2),
    np.argsort: costs.sorting(5),
    np.ravel: costs.each(1),
    np.copy: costs.each(1),
    **{
        function: costs.each(0.001)
        for function in (
            np.atleast_1d,
            np.atleast_2d,
            np.atleast_3d,
            np.diagonal,
            np.fliplr,
            np.flipud,
            np.rollaxis,
            np.rot90,
            np.swapaxes,
        )
    },
}


def cost_of_call(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Estimate | None:
    """The cost of this call; nothing where it has operands in lists, or parameters that only values tell."""
    found = COSTS.get(function)
    if found is None or "optimize" in kwargs:
        return None
    if function is np.einsum:
        args, subscripts = _split_subscripts(args)
        if any(isinstance(each, _ARRAYS) for each in subscripts):
            return None
    given = bind(function, args, kwargs) or {str(place): value for place, value in enumerate(args)} | kwargs
    for name, value in given.items():
        if isinstance(value, _ARRAYS if name in _NO_OPERANDS else list | tuple):
            return None
    return found


_ARRAYS = Handle | np.ndarray
_NO_OPERANDS = frozenset({"axes", "axis", "axis1", "axis2", "k", "offset", "start"})
"""Parameters whose values decide the shape of the result."""


def _split_subscripts(args: tuple[object, ...]) -> tuple[tuple[object, ...], tuple[object, ...]]:
    """The operands of `einsum`, and its subscripts: one string, or a list after each operand and one of the result."""
    if not args or isinstance(args[0], str):
        return args[1:], args[:1]
    pairs = len(args) // 2 * 2
    return args[:pairs:2], (*args[1:pairs:2], *args[pairs:])
