"""NumPy functions without a row whose cost is known, so that small ones run in place, and whose shapes are, too."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from engine.base.errors import UnknownShapeError
from engine.base.op import Estimate, ShapeDtype
from engine.base.pytree import fill
from engine.ops import costs
from engine.ops.infer import Dim, Shape, dtype_of, outline, probe, shape_of, size_of
from engine.ops.numpy_binding import bind, first_name
from handles.base import Handle

INTP = np.dtype(np.intp)


class Known(NamedTuple):
    """What the engine knows of a NumPy function."""

    cost: Estimate
    infer: Callable[..., Any]
    """Of the operands and the arguments with slots in their place, as the op has them."""


def _copied_lengths(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of a function whose result has lengths of its operands, and 1: called on small arrays, one length for each."""

    def infer(*operands: Any, call: Any) -> Any:
        if any(None in shape_of(operand) for operand in operands):
            raise UnknownShapeError(f"the shape of {function.__name__!r} depends on one that is not known yet")
        lengths: list[Dim] = [0, 1]
        arrays = []
        for operand in operands:
            for length in shape_of(operand):
                if length not in lengths:
                    lengths.append(length)
            arrays.append(np.ones([lengths.index(length) for length in shape_of(operand)], dtype_of(operand)))
        args, kwargs = fill(call, arrays)
        with np.errstate(all="ignore"):
            if any(array.size == 0 for array in arrays):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    result = function(*args, **kwargs)
            else:
                result = function(*args, **kwargs)
        result = np.asarray(result)
        return ShapeDtype(tuple(lengths[n] if n < len(lengths) else None for n in result.shape), result.dtype)

    return infer


def _same_shape(function: Callable[..., Any], dtype: np.dtype[Any] | None = None, *, last: bool = False) -> Any:
    """Of a function along an axis that keeps the shape; without an axis it flattens."""

    def infer(*operands: Any, call: Any) -> Any:
        given = bind(function, *fill(call, operands)) or {}
        x = given[first_name(function)]
        axis = given.get("axis", -1 if last else None)
        asked = given.get("dtype")
        shape: Shape = (size_of(shape_of(x)),) if axis is None else shape_of(x)
        return ShapeDtype(shape, dtype or (np.dtype(asked) if asked is not None else probe(function, dtype_of(x))))

    return infer


def _flat(*operands: Any, call: Any) -> Any:
    return ShapeDtype((size_of(shape_of(operands[0])),), dtype_of(operands[0]))


def _unchanged(*operands: Any, call: Any) -> Any:
    return ShapeDtype(shape_of(operands[0]), dtype_of(operands[0]))


def _viewed(function: Callable[..., Any]) -> Callable[..., Any]:
    def infer(*operands: Any, call: Any) -> Any:
        shapes = []
        for unknown in (1, 2):
            outlines = [outline(shape_of(operand), dtype_of(operand), unknown) for operand in operands]
            args, kwargs = fill(call, outlines)
            shapes.append(function(*args, **kwargs).shape)
        lengths = tuple(n if n == m else None for n, m in zip(*shapes, strict=True))
        return ShapeDtype(lengths, dtype_of(operands[0]))

    return infer


KNOWN: dict[Any, Known] = {
    **{
        function: Known(costs.each(10), _copied_lengths(function))
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
        function: Known(costs.sorting(8), _copied_lengths(function))
        for function in (
            np.median,
            np.nanmedian,
            np.nanpercentile,
            np.nanquantile,
            np.percentile,
            np.quantile,
        )
    },
    **{function: Known(costs.outer, _copied_lengths(function)) for function in (np.dot, np.einsum, np.inner, np.vdot)},
    **{function: Known(costs.each(3), _same_shape(function)) for function in (np.cumsum, np.cumprod)},
    np.sort: Known(costs.sorting(2), _same_shape(np.sort, last=True)),
    np.argsort: Known(costs.sorting(5), _same_shape(np.argsort, INTP, last=True)),
    np.ravel: Known(costs.each(1), _flat),
    np.copy: Known(costs.each(1), _unchanged),
    **{
        function: Known(costs.each(0.001), _viewed(function))
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


def known(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Known | None:
    """What is known of this call; nothing where it has operands in lists, or parameters that only values tell."""
    found = KNOWN.get(function)
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


def _split_subscripts(args: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The operands of `einsum`, and its subscripts: one string, or a list after each operand and one of the result."""
    if not args or isinstance(args[0], str):
        return args[1:], args[:1]
    pairs = len(args) // 2 * 2
    return args[:pairs:2], (*args[1:pairs:2], *args[pairs:])
