"""Shapes of what computes with arrays: products, polynomials, statistics, linear algebra."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, SupportsInt

import numpy as np

from engine.base.lengths import Facts
from engine.base.op import ShapeDtype
from engine.ops.infer import Dim, probe, size_of, total
from engine.ops.numpy_shapes import Function, Rule, Undecided
from engine.ops.numpy_shapes_terms import FLOAT, operand, promoted

if TYPE_CHECKING:
    from numpy.typing import DTypeLike


def _convolved(a: object, v: object, mode: int | str | None = None, default: str = "full") -> ShapeDtype:
    a, v = operand(a), operand(v)
    n, m = (size_of(each.shape) for each in (a, v))
    if not isinstance(mode, str):
        mode = default if mode is None else {0: "valid", 1: "same", 2: "full"}.get(mode, str(mode))
    if n is None or m is None:
        raise Undecided("a length is not known")
    if not n or not m:
        raise ValueError("a and v cannot be empty")
    lengths = {"full": n + m - 1, "same": max(n, m), "valid": max(n, m) - min(n, m) + 1}
    if mode not in lengths:
        raise ValueError(f"mode must be one of 'full', 'same' and 'valid', but got {mode!r}")
    return ShapeDtype((lengths[mode],), probe(np.convolve, a.dtype, v.dtype))


def convolve_rule(a: object, v: object, mode: int | str = "full") -> ShapeDtype:
    return _convolved(a, v, mode)


def correlate_rule(a: object, v: object, mode: int | str = "valid") -> ShapeDtype:
    return _convolved(a, v, mode, "valid")


def outer_rule(a: object, b: object) -> ShapeDtype:
    a, b = operand(a), operand(b)
    return ShapeDtype((size_of(a.shape), size_of(b.shape)), probe(np.outer, a.dtype, b.dtype))


def kron_rule(a: object, b: object) -> ShapeDtype:
    a, b = operand(a), operand(b)
    ndim = max(len(a.shape), len(b.shape))
    pairs = zip(*((1,) * (ndim - len(each.shape)) + each.shape for each in (a, b)), strict=True)
    return ShapeDtype(tuple(None if None in pair else math.prod(pair) for pair in pairs), promoted(a, b))


def covariance_rule(function: Function) -> Rule:
    def rule(
        m: object = None,
        y: object = None,
        rowvar: object = True,
        *,
        dtype: DTypeLike | None = None,
        x: object = None,
        **_: object,
    ) -> ShapeDtype | Facts:
        m = operand(x if m is None else m)
        if len(m.shape) > 2:
            raise ValueError("m has more than 2 dimensions")
        kind = np.result_type(m.dtype, *(() if y is None else (operand(y).dtype,)), np.float64)
        asked = kind if dtype is None else np.dtype(dtype)
        if function is np.corrcoef and dtype is None and kind.kind == "c":
            asked = kind
        rows = _variables(m, rowvar)
        if y is not None:
            rows = total([rows, _variables(operand(y), rowvar)])
        return ShapeDtype(() if rows == 1 else (rows, rows), asked)

    return rule


def _variables(m: ShapeDtype, rowvar: object) -> Dim:
    """How many variables an array of observations has."""
    if len(m.shape) < 2:
        return 1
    return m.shape[0] if rowvar else m.shape[1]


def polyadd_rule(a1: object, a2: object) -> ShapeDtype:
    a1, a2 = operand(a1), operand(a2)
    sizes = [size_of(each.shape) for each in (a1, a2)]
    length = None if None in sizes else max(size or 0 for size in sizes)
    return ShapeDtype((length,), probe(np.add, a1.dtype, a2.dtype))


def polysub_rule(a1: object, a2: object) -> ShapeDtype:
    return polyadd_rule(a1, a2)._replace(dtype=probe(np.subtract, operand(a1).dtype, operand(a2).dtype))


def polyfit_rule(
    x: object, y: object, deg: object, rcond: object = None, full: object = False, w: object = None, cov: object = False
) -> ShapeDtype | Facts:
    x, y = operand(x), operand(y)
    if not isinstance(deg, int | np.integer):
        raise Undecided("deg is an array")
    if len(x.shape) != 1 or len(y.shape) not in (1, 2):
        raise TypeError("expected 1D vector for x, and 1D or 2D array for y")
    order = int(deg) + 1
    dtype = np.result_type(x.dtype, y.dtype, np.float64)
    fit = ShapeDtype((order, *y.shape[1:]), dtype)
    if full:
        raise Undecided("the residuals depend on the rank")
    return (fit, ShapeDtype((order, order, *y.shape[1:]), FLOAT)) if cov else fit


def polyint_rule(p: object, m: SupportsInt = 1, k: object = None) -> ShapeDtype:
    p = operand(p)
    if k is not None and not isinstance(k, int | float):
        raise Undecided("k is an array")
    dtype = probe(np.polyint, p.dtype)
    return ShapeDtype((total([size_of(p.shape), int(m)]),), p.dtype if not int(m) else dtype)


def polyder_rule(p: object, m: SupportsInt = 1) -> ShapeDtype:
    p = operand(p)
    size = size_of(p.shape)
    return ShapeDtype(
        (None if size is None else max(size - int(m), 0),), np.polyder(np.ones(2 + int(m), p.dtype), int(m)).dtype
    )


def tensorinv_rule(a: object, ind: int = 2) -> ShapeDtype:
    a = operand(a)
    return ShapeDtype(a.shape[ind:] + a.shape[:ind], probe(np.linalg.inv, a.dtype, ndim=2))


def tensorsolve_rule(a: object, b: object, axes: Iterable[int] | None = None) -> ShapeDtype:
    a, b = operand(a), operand(b)
    if axes is not None:
        order = list(range(len(a.shape)))
        for axis in axes:
            order.remove(axis)
            order.insert(len(order) + 1, axis)
        a = ShapeDtype(tuple(a.shape[axis] for axis in order), a.dtype)
    return ShapeDtype(a.shape[len(b.shape) :], np.result_type(a.dtype, b.dtype, np.float32 if _single(a, b) else FLOAT))


def _single(*operands: ShapeDtype) -> bool:
    """Tell whether LAPACK computes in single precision."""
    return all(each.dtype in (np.dtype(np.float32), np.dtype(np.complex64)) for each in operands)


def lstsq_rule(a: object, b: object, rcond: object = None) -> Facts:
    a, b = operand(a), operand(b)
    n, m = a.shape
    dtype = np.result_type(a.dtype, b.dtype, np.float32 if _single(a, b) else FLOAT)
    real = np.zeros(0, dtype).real.dtype
    smaller = None if n is None or m is None else min(n, m)
    return (
        ShapeDtype((m, *b.shape[1:]), dtype),
        ShapeDtype((None,), real),
        ShapeDtype((), np.dtype(np.int32)),
        ShapeDtype((smaller,), real),
    )


def eigenvalues_rule(a: object) -> ShapeDtype:
    a = operand(a)
    if a.dtype.kind != "c":
        raise Undecided("the values decide whether it is complex")
    return ShapeDtype(a.shape[:-1], a.dtype)


def eig_rule(a: object) -> Facts:
    return eigenvalues_rule(a), operand(a)
