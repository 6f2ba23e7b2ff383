"""Linear algebra functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from engine.context import current
from engine.ops.infer import broadcast, dtype_of, matrix_product, shape_of
from engine.ops.rows import BY_NUMPY, Operand
from engine.planning.op import Op, ShapeDtype
from handles.base import Handle


def _product_cost(values: Sequence[Any], params: dict[str, Any]) -> float:
    x1, x2 = values
    columns = x2.shape[-1] if getattr(x2, "ndim", 0) > 1 else 1
    return 0.2 * getattr(x1, "size", 1) * columns


def _cubic_cost(values: Sequence[Any], params: dict[str, Any]) -> float:
    x = values[0]
    return 10_000.0 + 2.0 * getattr(x, "size", 1) * (x.shape[-1] if getattr(x, "ndim", 0) else 1)


MATMUL = Op("matmul", np.matmul, infer=matrix_product, cost=_product_cost, blas=True)


def matmul(x1: Operand, x2: Operand, /) -> Handle:
    """Matrix product of the last two axes; stacks of matrices broadcast, vectors lose their dimension."""
    return current().dispatch(MATMUL, (x1, x2))


def _square(x: Any) -> tuple[int | None, ...]:
    shape = shape_of(x)
    if len(shape) < 2:
        raise np.linalg.LinAlgError(f"{len(shape)}-dimensional array given. Array must be at least two-dimensional")
    if None not in shape[-2:] and shape[-1] != shape[-2]:
        raise np.linalg.LinAlgError("Last 2 dimensions of the array must be square")
    return shape


def _infer_inv(x: Any) -> ShapeDtype:
    return ShapeDtype(_square(x), np.linalg.inv(np.eye(1, dtype=dtype_of(x))).dtype)


def _infer_solve(x1: Any, x2: Any) -> ShapeDtype:
    left, right = _square(x1), shape_of(x2)
    dtype = np.linalg.solve(np.eye(1, dtype=dtype_of(x1)), np.ones(1, dtype_of(x2))).dtype
    if len(right) == 1:
        return ShapeDtype((*left[:-2], *right), dtype)
    return ShapeDtype((*broadcast(left[:-2], right[:-2]), *right[-2:]), dtype)


class SVDResult(NamedTuple):
    """A singular value decomposition: x = U @ diag(S) @ Vh."""

    U: Handle
    S: Handle
    Vh: Handle


def _svd(x: Any, *, full_matrices: bool) -> Any:
    return tuple(np.linalg.svd(x, full_matrices=full_matrices))


def _infer_svd(x: Any, *, full_matrices: bool) -> Any:
    shape = shape_of(x)
    if len(shape) < 2:
        raise np.linalg.LinAlgError(f"{len(shape)}-dimensional array given. Array must be at least two-dimensional")
    *stack, rows, columns = shape
    least = None if rows is None or columns is None else min(rows, columns)
    dtypes = [part.dtype for part in np.linalg.svd(np.eye(1, dtype=dtype_of(x)))]
    shapes = [
        (*stack, rows, rows if full_matrices else least),
        (*stack, least),
        (*stack, columns if full_matrices else least, columns),
    ]
    return tuple(ShapeDtype(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True))


_INV = Op("linalg.inv", np.linalg.inv, infer=_infer_inv, cost=_cubic_cost, blas=True)
_SOLVE = Op("linalg.solve", np.linalg.solve, infer=_infer_solve, cost=_cubic_cost, blas=True)
_SVD = Op("linalg.svd", _svd, infer=_infer_svd, cost=_cubic_cost, blas=True, outputs=3)


def inv(x: Operand, /) -> Handle:
    """The inverse of each square matrix. Raises `LinAlgError` for a singular one."""
    return current().dispatch(_INV, (x,))


def solve(x1: Operand, x2: Operand, /) -> Handle:
    """The solution X of x1 @ X = x2. Raises `LinAlgError` for a singular x1."""
    return current().dispatch(_SOLVE, (x1, x2))


def svd(x: Operand, /, *, full_matrices: bool = True) -> SVDResult:
    """Singular value decomposition of each matrix; the singular values are in descending order."""
    return SVDResult(*current().dispatch_several(_SVD, (x,), {"full_matrices": full_matrices}))


BY_NUMPY.update({np.matmul: matmul, np.linalg.inv: inv, np.linalg.solve: solve, np.linalg.svd: svd})

__all__ = ["SVDResult", "inv", "matmul", "solve", "svd"]
