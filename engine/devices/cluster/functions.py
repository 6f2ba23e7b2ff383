"""Ops as functions of dask.array: what each record of a cluster's batch becomes.

Ufuncs and NumPy's functions find their way by NumPy's own protocols, as long as Dask has them; one that Dask lacks
would gather the array here in silence, so it is refused. The engine's own kernels are NumPy code, and have rules here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import dask.array as da
import numpy as np

from engine.base.op import Op
from engine.base.pytree import fill

Chunked = Any
"""A `dask.array.Array`."""


class Lacking(NotImplementedError):
    """An op that the cluster does not compute."""


def lacking(name: str, why: str = "dask.array has no such function") -> Lacking:
    """The error of an op that the cluster does not compute."""
    return Lacking(
        f"{name!r} cannot be computed on a CLUSTER device: {why}; bring the array to one machine first, with "
        "handle.to_device('CPU:0'), or divide the work among DASK devices"
    )


def compute(op: Op, operands: Sequence[Any], params: dict[str, Any]) -> Any:
    """The chunked array, or arrays, that an op gives: nothing is computed yet.

    Raises `NotImplementedError` for what Dask lacks, and what Dask raises for operands that do not fit.
    """
    try:
        return _compute(op, operands, params)
    except Lacking:
        raise
    except NotImplementedError as error:
        raise lacking(op.name, " ".join(str(error).split())) from error


def _compute(op: Op, operands: Sequence[Any], params: dict[str, Any]) -> Any:
    if "dask_array" in params:
        return params["dask_array"]
    if "call" in params:
        args, kwargs = fill(params["call"], operands)
        return _function(op.name)(*args, **kwargs)
    if not op.known:
        raise lacking(op.name, "functions of users see whole arrays, and no machine has one")
    rule = _RULES.get(op.name)
    if rule is not None:
        return rule(*operands, **params)
    if isinstance(op.kernel, np.ufunc):
        return op.kernel(*map(_operand, operands), **params)
    if op.kernel.__module__.startswith("numpy"):
        return _function(op.name)(*operands, **params)
    raise lacking(op.name)


def _operand(value: Any) -> Any:
    """An operand that NumPy's protocols are asked with: an array of this process may be one of the cluster."""
    return da.asarray(value) if isinstance(value, np.ndarray) else value


def _function(name: str) -> Callable[..., Any]:
    """The function of dask.array of this name."""
    found: Any = da
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise lacking(name)
    return found  # type: ignore[no-any-return]


# The engine's own kernels, and functions that are called otherwise there


def _full(value: Any, *, shape: Any, dtype: Any) -> Chunked:
    return da.full(shape, value, dtype=dtype or np.asarray(value).dtype)


def _filled(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *, shape, dtype: function(shape, dtype=dtype or np.float64)


def _arange(*, start: Any, stop: Any, step: Any, dtype: Any, length: int) -> Chunked:
    return da.arange(start, stop, step, dtype=dtype)


def _linspace(start: Any, stop: Any, *, length: int, dtype: Any, endpoint: bool) -> Chunked:
    return da.linspace(start, stop, length, dtype=dtype, endpoint=endpoint)


def _eye(*, rows: int, columns: int, k: int, dtype: Any) -> Chunked:
    return da.eye(rows, "auto", columns, k, dtype=dtype or np.float64)


def _clip(x: Any, *bounds: Any, given: tuple[bool, bool]) -> Chunked:
    rest = iter(bounds)
    low, high = (next(rest) if there else None for there in given)
    return da.clip(x, low, high)


def _getitem(x: Any, *operands: Any, key: Any) -> Chunked:
    return x[fill(key, operands)]


def _setitem(x: Any, value: Any, *operands: Any, key: Any) -> Chunked:
    result = x.copy()
    result[fill(key, operands)] = value
    return result


def _concatenate(*arrays: Any, axis: int | None) -> Chunked:
    chunked = [da.asarray(each) for each in arrays]
    return da.concatenate([each.ravel() for each in chunked] if axis is None else chunked, axis=axis or 0)


def _repeat(x: Any, *repeats: Any, axis: Any, reps: Any, length: int | None) -> Chunked:
    if repeats:
        raise lacking("repeat", "dask.array repeats each element as often")
    return da.repeat(x.ravel() if axis is None else x, reps, axis=0 if axis is None else axis)


def _split(x: Any, *, cuts: tuple[int, ...], axis: int) -> tuple[Chunked, ...]:
    before = (slice(None),) * (axis % x.ndim)
    bounds = (0, *cuts, x.shape[axis])
    return tuple(x[(*before, slice(low, high))] for low, high in pairwise(bounds))


def _unstack(x: Any, *, axis: int) -> tuple[Chunked, ...]:
    return tuple(da.moveaxis(x, axis, 0))


def _spread(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, *, axis, correction, keepdims: function(x, axis=axis, ddof=correction, keepdims=keepdims)


def _running(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def run(x: Any, *, axis: int | None, dtype: Any, include_initial: bool) -> Chunked:
        if include_initial:
            raise lacking(name, "dask.array knows no include_initial")
        return function(x, axis=0 if axis is None else axis, dtype=dtype)

    return run


def _diff(x: Any, *ends: Any, axis: int, n: int, given: tuple[str, ...]) -> Chunked:
    return da.diff(x, n=n, axis=axis, **dict(zip(given, ends, strict=True)))


def _count(x: Any, *, axis: Any, keepdims: bool) -> Chunked:
    return (x != 0).sum(axis=axis, keepdims=keepdims).astype(np.intp)


def _searchsorted(x1: Any, x2: Any, *sorter: Any, side: Any) -> Chunked:
    if sorter:
        raise lacking("searchsorted", "dask.array knows no sorter")
    return da.searchsorted(da.asarray(x1), da.asarray(x2), side=side)


def _vecdot(x1: Any, x2: Any, *, axis: int) -> Chunked:
    return da.sum(da.conj(x1) * x2, axis=axis)


def _cholesky(x: Any, *, upper: bool = False) -> Chunked:
    return da.linalg.cholesky(x, lower=not upper)


def _svd(x: Any, *, full_matrices: bool = True) -> Any:
    if full_matrices:
        raise lacking("linalg.svd", "dask.array has full_matrices=False only")
    return da.linalg.svd(x)


def _transform(name: str) -> Callable[..., Any]:
    function: Any = getattr(da.fft, name)

    def run(x: Any, *, norm: Any = None, **params: Any) -> Chunked:
        if norm not in (None, "backward"):
            raise lacking(f"fft.{name}", "dask.array knows norm='backward' only")
        return function(x, **params)

    return run


_RULES: dict[str, Callable[..., Any]] = {
    "arange": _arange,
    "asarray": lambda x, **_: da.asarray(x),
    "astype": lambda x, *, dtype, copy=True: da.asarray(x).astype(dtype),
    "broadcast_arrays": lambda *arrays: tuple(da.broadcast_arrays(*arrays)),
    "clip": _clip,
    "concat": _concatenate,
    "conj": lambda x: da.conj(x),
    "count_nonzero": _count,
    "cumulative_prod": _running("cumulative_prod", da.cumprod),
    "cumulative_sum": _running("cumulative_sum", da.cumsum),
    "diff": _diff,
    "empty": _filled(da.zeros),
    "equal": lambda x1, x2: da.equal(x1, x2),
    "eye": _eye,
    "full": _full,
    "full_like": lambda x, value, *, dtype: da.full_like(x, value, dtype=dtype),
    "getitem": _getitem,
    "linalg.cholesky": _cholesky,
    "linalg.diagonal": lambda x, *, offset: da.diagonal(x, offset, -2, -1),
    "linalg.outer": lambda x1, x2: da.outer(x1, x2),
    "linalg.qr": lambda x, *, mode="reduced": _qr(x, mode),
    "linalg.svd": _svd,
    "linalg.trace": lambda x, *, offset, dtype: da.diagonal(x, offset, -2, -1).sum(axis=-1, dtype=dtype),
    "linspace": _linspace,
    "matmul": lambda x1, x2: da.matmul(da.asarray(x1), da.asarray(x2)),
    "matrix_transpose": lambda x: da.swapaxes(x, -1, -2),
    "meshgrid": lambda *arrays, indexing: tuple(da.meshgrid(*map(da.asarray, arrays), indexing=indexing)),
    "nonzero": lambda x: da.nonzero(x),
    "not_equal": lambda x1, x2: da.not_equal(x1, x2),
    "ones": _filled(da.ones),
    "permute_dims": lambda x, *, axes: da.transpose(x, axes),
    "pow": lambda x1, x2: x1**x2,
    "power": lambda x1, x2: x1**x2,
    "repeat": _repeat,
    "reshape": lambda x, *, shape, copy=None: x.reshape(shape),
    "round": lambda x, *, decimals=0: da.round(x, decimals),
    "searchsorted": _searchsorted,
    "setitem": _setitem,
    "split": _split,
    "stack": lambda *arrays, axis: da.stack([da.asarray(each) for each in arrays], axis=axis),
    "std": _spread(da.std),
    "take": lambda x, indices, *, axis: da.take(x if axis is not None else x.ravel(), indices, axis=axis or 0),
    "tile": lambda x, *, reps: da.tile(x, reps),
    "unique_values": lambda x: da.unique(x),
    "unstack": _unstack,
    "var": _spread(da.var),
    "where": lambda condition, x1, x2: da.where(condition, x1, x2),
    "zeros": _filled(da.zeros),
    **{
        f"fft.{name}": _transform(name) for name in ("fft", "ifft", "rfft", "irfft", "fftn", "ifftn", "rfftn", "irfftn")
    },
}


def _qr(x: Any, mode: str) -> Any:
    if mode != "reduced":
        raise lacking("linalg.qr", "dask.array has mode='reduced' only")
    return da.linalg.qr(x)
