"""Rules of linear algebra: products, decompositions and norms, in the functions that CuPy has."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from engine.devices.cuda.runtime import Namespace, Rule, Term

_eagerloop_internal = True  # its frames are not the user's

Xp = Namespace


def _vecdot(xp: Xp, x1: Term, x2: Term, *, axis: int) -> Term:
    """The dot product of vectors along an axis, the first one conjugated."""
    lengths = x1.shape[axis], x2.shape[axis]
    if lengths[0] != lengths[1]:
        raise ValueError(f"vecdot: the lengths along the axis differ: {lengths[0]} and {lengths[1]}")
    left, right = xp.moveaxis(x1, axis, -1), xp.moveaxis(x2, axis, -1)
    left = xp.conjugate(left) if left.dtype.kind == "c" else left
    dtype = np.vecdot.resolve_dtypes((x1.dtype, x2.dtype, None))[-1]
    return xp.matmul(left[..., None, :], right[..., :, None])[..., 0, 0].astype(dtype, copy=False)


def _outer(xp: Xp, x1: Term, x2: Term) -> Term:
    if x1.ndim != 1 or x2.ndim != 1:
        raise ValueError(f"Input arrays must be one-dimensional, but they are x1.ndim={x1.ndim}, x2.ndim={x2.ndim}.")
    return xp.multiply(x1[:, None], x2[None, :])


def _cross(xp: Xp, x1: Term, x2: Term, *, axis: int) -> Term:
    if x1.shape[axis] != 3 or x2.shape[axis] != 3:
        raise ValueError("Both input arrays must be (arrays of) 3-dimensional vectors")
    return xp.cross(x1, x2, axis=axis)


def _tensordot(xp: Xp, x1: Term, x2: Term, *, axes: Term) -> Term:
    return xp.tensordot(x1, x2, axes=axes)


def _diagonal(xp: Xp, x: Term, *, offset: int) -> Term:
    return xp.diagonal(x, offset, -2, -1)


def _trace(xp: Xp, x: Term, *, offset: int, dtype: Term) -> Term:
    return xp.diagonal(x, offset, -2, -1).sum(axis=-1, dtype=dtype)


def _square(x: Term) -> None:
    if x.ndim < 2:
        raise np.linalg.LinAlgError(f"{x.ndim}-dimensional array given. Array must be at least two-dimensional")
    if x.shape[-1] != x.shape[-2]:
        raise np.linalg.LinAlgError("Last 2 dimensions of the array must be square")


def _of_square(name: str) -> Rule:
    def rule(xp: Xp, x: Term) -> Term:
        _square(x)
        return getattr(xp.linalg, name)(_inexact(x))

    return rule


def _inexact(x: Term) -> Term:
    """The array in a dtype that LAPACK has: integers become float64, as NumPy has it; half precision it refuses."""
    if x.dtype == np.float16:
        raise TypeError("array type float16 is unsupported in linalg")
    return x if x.dtype.kind in "fc" else x.astype(np.float64)


def _solve(xp: Xp, x1: Term, x2: Term) -> Term:
    _square(x1)
    dtype = np.result_type(_inexact(x1).dtype, _inexact(x2).dtype)
    left, right = x1.astype(dtype, copy=False), x2.astype(dtype, copy=False)
    if right.ndim > 1 and left.shape[:-2] != right.shape[:-2]:  # which CuPy does not broadcast
        stack = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        left = xp.broadcast_to(left, stack + left.shape[-2:])
        right = xp.broadcast_to(right, stack + right.shape[-2:])
    return xp.linalg.solve(left, right)


def _cholesky(xp: Xp, x: Term, *, upper: bool) -> Term:
    _square(x)
    lower = xp.linalg.cholesky(_inexact(x))
    if not upper:
        return lower
    turned = xp.swapaxes(lower, -1, -2)
    return xp.conjugate(turned) if turned.dtype.kind == "c" else turned


def _matrix_power(xp: Xp, x: Term, *, n: int) -> Term:
    _square(x)
    return xp.linalg.matrix_power(x if n >= 0 else _inexact(x), n)


def _singular_values(xp: Xp, x: Term) -> Term:
    return xp.linalg.svd(_inexact(x), compute_uv=False)


def _matrix_rank(xp: Xp, x: Term, *rtol: Term) -> Term:
    if x.ndim < 2:
        return xp.any(x != 0).astype(np.intp)
    values = _singular_values(xp, x)
    largest = values.max(axis=-1, keepdims=True)
    relative: Term = rtol[0] if rtol else max(x.shape[-2:]) * np.finfo(values.dtype).eps
    relative = relative[..., None] if getattr(relative, "ndim", 0) else relative
    return xp.sum(values > largest * relative, axis=-1, dtype=np.intp)


def _pinv(xp: Xp, x: Term, *rtol: Term) -> Term:
    x = _inexact(x)
    u, s, vh = xp.linalg.svd(xp.conjugate(x) if x.dtype.kind == "c" else x, full_matrices=False)
    relative: Term = rtol[0] if rtol else 1e-15
    relative = relative[..., None] if getattr(relative, "ndim", 0) else relative
    large = s > s.max(axis=-1, keepdims=True) * relative
    inverted = xp.where(large, 1 / xp.where(large, s, s.dtype.type(1)), s.dtype.type(0)).astype(s.dtype, copy=False)
    return xp.matmul(xp.swapaxes(vh, -1, -2), inverted[..., None] * xp.swapaxes(u, -1, -2))


def _qr(xp: Xp, x: Term, *, mode: str) -> Term:
    return tuple(xp.linalg.qr(_inexact(x), mode=mode))


def _svd(xp: Xp, x: Term, *, full_matrices: bool) -> Term:
    return tuple(xp.linalg.svd(_inexact(x), full_matrices=full_matrices))


def _several(name: str) -> Rule:
    def rule(xp: Xp, x: Term) -> Term:
        _square(x)
        return tuple(getattr(xp.linalg, name)(_inexact(x)))

    return rule


def _complex(x: Term) -> Term:
    return x if x.dtype.kind == "c" else x.astype(np.result_type(x.dtype, np.complex64))


def _eig(xp: Xp, x: Term) -> Term:
    _square(x)
    values, vectors = xp.linalg.eig(_inexact(x))
    return _complex(values), _complex(vectors)


def _eigvals(xp: Xp, x: Term) -> Term:
    _square(x)
    return _complex(xp.linalg.eigvals(_inexact(x)))


# Norms


def _vector_norm(xp: Xp, x: Term, *, axis: Term, keepdims: bool, ord: float) -> Term:
    sizes = xp.absolute(x if x.dtype.kind in "fc" else x.astype(np.float64))
    if ord == np.inf:
        return sizes.max(axis=axis, keepdims=keepdims)
    if ord == -np.inf:
        return sizes.min(axis=axis, keepdims=keepdims)
    if ord == 0:
        return xp.sum(sizes != 0, axis=axis, keepdims=keepdims, dtype=sizes.dtype)
    if ord == 1:
        return xp.sum(sizes, axis=axis, keepdims=keepdims)
    if ord == 2:
        return xp.sqrt(xp.sum(sizes * sizes, axis=axis, keepdims=keepdims))
    return xp.sum(sizes**ord, axis=axis, keepdims=keepdims) ** (1.0 / ord)


def _matrix_norm(xp: Xp, x: Term, *, keepdims: bool, ord: Term) -> Term:
    if ord in ("nuc", 2, -2):
        values = _singular_values(xp, x)
        result = values.sum(axis=-1) if ord == "nuc" else values.max(axis=-1) if ord == 2 else values.min(axis=-1)
    else:
        sizes = xp.absolute(_inexact(x))
        if ord in ("fro", None):
            result = xp.sqrt(xp.sum(sizes * sizes, axis=(-2, -1)))
        else:
            sums = sizes.sum(axis=-2 if abs(ord) == 1 else -1)
            result = sums.max(axis=-1) if ord > 0 else sums.min(axis=-1)
    return result[..., None, None] if keepdims else result


_OPS = "engine.ops.linalg:"

LINALG: Mapping[str, Rule] = {
    "numpy:tensordot": _tensordot,
    "numpy.linalg:cholesky": _cholesky,
    "numpy.linalg:cross": _cross,
    "numpy.linalg:det": _of_square("det"),
    "numpy.linalg:eigh": _several("eigh"),
    "numpy.linalg:eigvalsh": _of_square("eigvalsh"),
    "numpy.linalg:inv": _of_square("inv"),
    "numpy.linalg:matrix_norm": _matrix_norm,
    "numpy.linalg:matrix_power": _matrix_power,
    "numpy.linalg:outer": _outer,
    "numpy.linalg:qr": _qr,
    "numpy.linalg:slogdet": _several("slogdet"),
    "numpy.linalg:solve": _solve,
    "numpy.linalg:svd": _svd,
    "numpy.linalg:svdvals": _singular_values,
    "numpy.linalg:trace": _trace,
    "numpy.linalg:vector_norm": _vector_norm,
    f"{_OPS}_diagonal": _diagonal,
    f"{_OPS}_eig": _eig,
    f"{_OPS}_eigvals": _eigvals,
    f"{_OPS}_matrix_rank": _matrix_rank,
    f"{_OPS}_pinv": _pinv,
    f"{_OPS}_vecdot": _vecdot,
}
