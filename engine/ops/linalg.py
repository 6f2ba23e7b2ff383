"""Linear algebra functions: those of the namespace, and the extension `linalg`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np

from engine.base.hints import raise_missing
from engine.base.op import Op, ShapeDtype
from engine.ops import checks, costs
from engine.ops.infer import (
    Facts,
    Infer,
    Shape,
    broadcast,
    dtype_of,
    normalize_axes,
    normalize_axis,
    probe,
    shape_of,
    size_of,
    viewed,
    without,
)
from engine.ops.manipulation import matrix_transpose
from engine.ops.rows import BY_NUMPY, Axis, Operand, check_operands, dispatch_view, name_of, named
from engine.runtime.current import current
from handles.base import Handle

Array = np.ndarray[Any, Any]

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

# ---------------------------------------------------------------------------------------------------------------------
# Products


def matrix_product(x1: object, x2: object) -> ShapeDtype:
    """Infer `matmul`: stacks of matrices broadcast, vectors lose their dimension."""
    left, right = shape_of(x1), shape_of(x2)
    dtype = np.matmul.resolve_dtypes((dtype_of(x1), dtype_of(x2), None))[-1]
    if not left or not right:
        raise ValueError("matmul: operands must have at least one dimension")
    inner = (left[-1], right[-2] if len(right) > 1 else right[0])
    if None not in inner and inner[0] != inner[1]:
        raise ValueError(f"matmul: the inner dimensions differ: shapes {left} and {right}")
    shape = broadcast(left[:-2], right[:-2])
    shape += left[-2:-1] if len(left) > 1 else ()
    shape += right[-1:] if len(right) > 1 else ()
    return ShapeDtype(shape, dtype)


MATMUL = Op("matmul", np.matmul, infer=matrix_product, cost=costs.product, blas=True)


def matmul(x1: Operand, x2: Operand, /) -> Handle:
    """Matrix product of the last two axes; stacks of matrices broadcast, vectors lose their dimension."""
    check_operands(MATMUL, x1, x2)
    return current().dispatch(MATMUL, x1, x2)


def _product_dtype(x1: object, x2: object) -> np.dtype[Any]:
    return np.result_type(dtype_of(x1), dtype_of(x2))


def _infer_tensordot(x1: object, x2: object, *, axes: Any) -> ShapeDtype:
    left, right = shape_of(x1), shape_of(x2)
    if isinstance(axes, int):
        mine, theirs = tuple(range(len(left) - axes, len(left))), tuple(range(axes))
    else:
        mine, theirs = axes
    mine, theirs = normalize_axes(mine, len(left)), normalize_axes(theirs, len(right))
    pairs = [(left[a], right[b]) for a, b in zip(mine, theirs, strict=True)]
    if any(None not in pair and pair[0] != pair[1] for pair in pairs):
        raise ValueError("shape-mismatch for sum")
    shape = (*without(left, mine, keepdims=False), *without(right, theirs, keepdims=False))
    return ShapeDtype(shape, probe(np.dot, dtype_of(x1), dtype_of(x2)))


def _tensordot_cost(values: Sequence[object], params: dict[str, object]) -> float:
    return float(10_000.0 + costs.elements(values) ** 1.5)


_TENSORDOT = Op("tensordot", np.tensordot, infer=_infer_tensordot, cost=_tensordot_cost, blas=True)


def tensordot(x1: Operand, x2: Operand, /, *, axes: int | tuple[Sequence[int], Sequence[int]] = 2) -> Handle:
    """The product summed over the last `axes` axes of `x1` and the first ones of `x2`, or over two lists of axes."""
    pair: object
    if isinstance(axes, tuple | list):
        if len(axes) != 2:
            raise ValueError(f"tensordot: axes must be an integer or two sequences of them, but got {axes!r}")
        pair = tuple(checks.integers("tensordot", "axes", each) for each in axes)
        if len(pair[0]) != len(pair[1]):
            raise ValueError(f"tensordot: axes must name as many axes of x1 as of x2, but got {axes!r}")
    else:
        pair = checks.integer("tensordot", "axes", axes)
    return current().dispatch(_TENSORDOT, x1, x2, {"axes": pair})


def _vecdot(x1: object, x2: object, *, axis: int) -> object:
    return np.vecdot(x1, x2, axis=axis)  # type: ignore[call-overload]


def _infer_vecdot(x1: object, x2: object, *, axis: int) -> ShapeDtype:
    shapes = []
    lengths = []
    for operand in (x1, x2):
        shape = shape_of(operand)
        where = normalize_axis(axis, len(shape))
        lengths.append(shape[where])
        shapes.append(without(shape, (where,), keepdims=False))
    if None not in lengths and lengths[0] != lengths[1]:
        raise ValueError(f"vecdot: the lengths along the axis differ: {lengths[0]} and {lengths[1]}")
    dtype = np.vecdot.resolve_dtypes((dtype_of(x1), dtype_of(x2), None))[-1]
    return ShapeDtype(broadcast(*shapes), dtype)


_VECDOT = Op("vecdot", _vecdot, infer=_infer_vecdot, ns=1, blas=True)


def vecdot(x1: Operand, x2: Operand, /, *, axis: int = -1) -> Handle:
    """The dot product of vectors along an axis, the first one conjugated."""
    axis = checks.integer("vecdot", "axis", axis)
    check_operands(_VECDOT, x1, x2, axis=axis)
    return current().dispatch(_VECDOT, x1, x2, {"axis": axis})


def _infer_outer(x1: object, x2: object) -> ShapeDtype:
    if len(shape_of(x1)) != 1 or len(shape_of(x2)) != 1:
        raise ValueError("Input arrays must be one-dimensional")
    dtype = np.multiply.resolve_dtypes((dtype_of(x1), dtype_of(x2), None))[-1]
    return ShapeDtype((*shape_of(x1), *shape_of(x2)), dtype)


_OUTER = Op("linalg.outer", np.linalg.outer, infer=_infer_outer, cost=costs.outer)


def outer(x1: Operand, x2: Operand, /) -> Handle:
    """The products of all pairs of elements of two one-dimensional arrays."""
    return current().dispatch(_OUTER, x1, x2)


def _infer_cross(x1: object, x2: object, *, axis: int) -> ShapeDtype:
    shapes = []
    for operand in (x1, x2):
        shape = shape_of(operand)
        where = normalize_axis(axis, len(shape))
        if shape[where] not in (None, 3):
            raise ValueError("Both input arrays must be (arrays of) 3-dimensional vectors")
        shapes.append((*without(shape, (where,), keepdims=False), 3))
    shape = broadcast(*shapes)
    where = normalize_axis(axis, len(shape))
    rest = shape[:-1]
    return ShapeDtype((*rest[:where], 3, *rest[where:]), _product_dtype(x1, x2))


_CROSS = Op("linalg.cross", np.linalg.cross, infer=_infer_cross, ns=20)


def cross(x1: Operand, x2: Operand, /, *, axis: int = -1) -> Handle:
    """The cross product of vectors of three elements along an axis."""
    return current().dispatch(_CROSS, x1, x2, {"axis": checks.integer("linalg.cross", "axis", axis)})


# ---------------------------------------------------------------------------------------------------------------------
# Matrices


def _matrix(x: object) -> Shape:
    shape = shape_of(x)
    if len(shape) < 2:
        raise np.linalg.LinAlgError(f"{len(shape)}-dimensional array given. Array must be at least two-dimensional")
    return shape


def _square(x: object) -> Shape:
    shape = _matrix(x)
    if None not in shape[-2:] and shape[-1] != shape[-2]:
        raise np.linalg.LinAlgError("Last 2 dimensions of the array must be square")
    return shape


def _probe(kernel: Callable[..., object], x: object) -> Any:
    return probe(kernel, dtype_of(x), ndim=2)


class MatrixRow(Protocol):
    """A function of one matrix, or of a stack of them."""

    def __call__(self, x: Operand, /) -> Handle: ...


def _of_matrix(
    name: str, kernel: Callable[..., Any], doc: str, shape: Callable[[object], Shape], ns: float = 1.0
) -> MatrixRow:
    """A row: an op of one stack of matrices, whose result has the shape that `shape` says."""

    def infer(x: object) -> ShapeDtype:
        return ShapeDtype(shape(x), _probe(kernel, x))

    op = Op(f"linalg.{name}", kernel, infer=infer, cost=costs.cubic(ns), blas=True)

    def function(x: Operand, /) -> Handle:
        return current().dispatch(op, x)

    return named(function, name, doc)


def _stack_of(x: object) -> Shape:
    return _square(x)[:-2]


def _eigenvalues(x: object) -> Shape:
    return _square(x)[:-1]


def _least(shape: Shape) -> int | None:
    rows, columns = shape[-2:]
    if rows is None or columns is None:
        return None
    return min(rows, columns)


def _singular_values(x: object) -> Shape:
    shape = _matrix(x)
    return (*shape[:-2], _least(shape))


def _eigvals(x: Array) -> object:
    # NumPy gives real eigenvalues where all happen to be; here the dtype must not depend on values.
    values = np.linalg.eigvals(x)
    return values if values.dtype.kind == "c" else values.astype(np.result_type(values.dtype, np.complex64))


inv = _of_matrix("inv", np.linalg.inv, "The inverse of each square matrix.", _square, 2)
det = _of_matrix("det", np.linalg.det, "The determinant of each square matrix.", _stack_of)
svdvals = _of_matrix("svdvals", np.linalg.svdvals, "The singular values, largest first.", _singular_values, 8)
eigvals = _of_matrix("eigvals", _eigvals, "The eigenvalues of each matrix, complex.", _eigenvalues, 20)
eigvalsh = _of_matrix(
    "eigvalsh", np.linalg.eigvalsh, "The eigenvalues of each symmetric or Hermitian matrix, ascending.", _eigenvalues, 8
)

_CHOLESKY = Op(
    "linalg.cholesky",
    np.linalg.cholesky,
    infer=lambda x, upper: ShapeDtype(_square(x), _probe(np.linalg.cholesky, x)),
    cost=costs.cubic(0.5),
    blas=True,
)


def cholesky(x: Operand, /, *, upper: bool = False) -> Handle:
    """The Cholesky factor of each positive definite matrix: lower triangular, or upper."""
    return current().dispatch(_CHOLESKY, x, params={"upper": checks.flag("linalg.cholesky", "upper", upper)})


def _infer_solve(x1: object, x2: object) -> ShapeDtype:
    left, right = _square(x1), shape_of(x2)
    dtype = probe(np.linalg.solve, dtype_of(x1), dtype_of(x2), ndim=2)
    if len(right) == 1:
        return ShapeDtype((*left[:-2], left[-1] if right[0] is None else right[0]), dtype)
    return ShapeDtype((*broadcast(left[:-2], right[:-2]), *right[-2:]), dtype)


_SOLVE = Op("linalg.solve", np.linalg.solve, infer=_infer_solve, cost=costs.cubic(1), blas=True)


def solve(x1: Operand, x2: Operand, /) -> Handle:
    """The solution X of x1 @ X = x2. A singular x1 gives a `LinAlgError`."""
    return current().dispatch(_SOLVE, x1, x2)


def _infer_power(x: object, *, n: int) -> ShapeDtype:
    dtype = dtype_of(x)
    if n < 0:
        dtype = _probe(np.linalg.inv, x)
    elif n > 1:
        dtype = np.matmul.resolve_dtypes((dtype, dtype, None))[-1]
    return ShapeDtype(_square(x), dtype)


def _power_cost(values: Sequence[Any], params: dict[str, Any]) -> float:
    return costs.cubic(0.5)(values, params) * float(1 + abs(params["n"]).bit_length())


_MATRIX_POWER = Op("linalg.matrix_power", np.linalg.matrix_power, infer=_infer_power, cost=_power_cost, blas=True)


def matrix_power(x: Operand, n: int, /) -> Handle:
    """Each square matrix to an integer power; a negative one is that of its inverse."""
    return current().dispatch(_MATRIX_POWER, x, params={"n": checks.integer("linalg.matrix_power", "n", n)})


def _matrix_rank(x: Array, *rtol: Array) -> object:
    return np.linalg.matrix_rank(x, rtol=rtol[0] if rtol else None)  # of a vector: whether it has an element not 0


def _infer_rank(x: object, *rtol: object) -> ShapeDtype:
    shape = shape_of(x)
    batch = shape[:-2]
    return ShapeDtype(broadcast(batch, *map(shape_of, rtol)) if batch else batch, np.dtype(np.intp))


_MATRIX_RANK = Op("linalg.matrix_rank", _matrix_rank, infer=_infer_rank, cost=costs.cubic(8), blas=True)


def matrix_rank(x: Operand, /, *, rtol: Operand | None = None) -> Handle:
    """The rank of each matrix: singular values below `rtol` times the largest count as zero."""
    return current().dispatch_any(_MATRIX_RANK, (x,) if rtol is None else (x, rtol))


def _pinv(x: Array, *rtol: Array) -> object:
    return np.linalg.pinv(x, rtol=rtol[0]) if rtol else np.linalg.pinv(x)


def _infer_pinv(x: object, *rtol: object) -> ShapeDtype:
    *batch, rows, columns = _matrix(x)
    shape = (*batch, columns, rows)
    # NumPy keeps the dtype of matrices without elements.
    return ShapeDtype(shape, dtype_of(x) if size_of((rows, columns)) == 0 else _probe(np.linalg.pinv, x))


_PINV = Op("linalg.pinv", _pinv, infer=_infer_pinv, cost=costs.cubic(16), blas=True)


def pinv(x: Operand, /, *, rtol: Operand | None = None) -> Handle:
    """The pseudo-inverse of each matrix: singular values below `rtol` times the largest count as zero."""
    return current().dispatch_any(_PINV, (x,) if rtol is None else (x, rtol))


def _diagonal(x: Array, *, offset: int) -> object:
    return np.linalg.diagonal(x, offset=offset)


_DIAGONAL = Op("linalg.diagonal", _diagonal, infer=viewed(_diagonal), ns=0.001, view=True)


def diagonal(x: Operand, /, *, offset: int = 0) -> Handle:
    """The elements of a diagonal of each matrix: the main one, one above (`offset` > 0), or one below."""
    return dispatch_view(_DIAGONAL, x, {"offset": checks.integer("linalg.diagonal", "offset", offset)}, read_only=True)


def _infer_trace(x: object, *, offset: int, dtype: np.dtype[Any] | None) -> ShapeDtype:
    return ShapeDtype(_matrix(x)[:-2], dtype or probe(np.linalg.trace, dtype_of(x), ndim=2))


_TRACE = Op("linalg.trace", np.linalg.trace, infer=_infer_trace, ns=1)


def trace(x: Operand, /, *, offset: int = 0, dtype: DTypeLike | None = None) -> Handle:
    """The sum of a diagonal of each matrix."""
    params = {
        "offset": checks.integer("linalg.trace", "offset", offset),
        "dtype": checks.dtype_or_none("linalg.trace", dtype),
    }
    return current().dispatch(_TRACE, x, params=params)


# ---------------------------------------------------------------------------------------------------------------------
# Norms


def _infer_vector_norm(x: object, *, axis: Axis, keepdims: bool, ord: object) -> ShapeDtype:
    shape = shape_of(x)
    dtype = probe(np.linalg.vector_norm, dtype_of(x), ord=ord)
    return ShapeDtype(without(shape, normalize_axes(axis, len(shape)), keepdims=keepdims), dtype)


_VECTOR_NORM = Op("linalg.vector_norm", np.linalg.vector_norm, infer=_infer_vector_norm, ns=4)


def vector_norm(x: Operand, /, *, axis: Axis = None, keepdims: bool = False, ord: float = 2) -> Handle:
    """The norm of the vectors along the axes, of all elements when none is given."""
    name = "linalg.vector_norm"
    if not isinstance(ord, int | float | np.number):
        raise checks.wrong(name, "ord", "a number", ord)
    params = {"axis": checks.axes(name, axis), "keepdims": checks.flag(name, "keepdims", keepdims), "ord": ord}
    return current().dispatch(_VECTOR_NORM, x, params=params)


def _infer_matrix_norm(x: object, *, keepdims: bool, ord: object) -> ShapeDtype:
    shape = _matrix(x)
    dtype = probe(np.linalg.matrix_norm, dtype_of(x), ndim=2, ord=ord)
    return ShapeDtype(without(shape, (len(shape) - 2, len(shape) - 1), keepdims=keepdims), dtype)


_MATRIX_NORM = Op("linalg.matrix_norm", np.linalg.matrix_norm, infer=_infer_matrix_norm, cost=costs.cubic(8), blas=True)


def matrix_norm(x: Operand, /, *, keepdims: bool = False, ord: float | Literal["fro", "nuc"] | None = "fro") -> Handle:
    """The norm of each matrix: Frobenius, nuclear, or of an order 1, -1, 2, -2, inf or -inf."""
    name = "linalg.matrix_norm"
    ord = checks.one_of(name, "ord", ord, ("fro", "nuc", None, 1, -1, 2, -2, np.inf, -np.inf))
    params = {"keepdims": checks.flag(name, "keepdims", keepdims), "ord": ord}
    return current().dispatch(_MATRIX_NORM, x, params=params)


# ---------------------------------------------------------------------------------------------------------------------
# Decompositions of several results


class EighResult(NamedTuple):
    """Eigenvalues in ascending order, and an eigenvector in each column."""

    eigenvalues: Handle
    eigenvectors: Handle


class EigResult(NamedTuple):
    """Eigenvalues, complex, and an eigenvector in each column."""

    eigenvalues: Handle
    eigenvectors: Handle


class QRResult(NamedTuple):
    """A matrix with orthonormal columns, and an upper triangular one: x = Q @ R."""

    Q: Handle
    R: Handle


class SlogdetResult(NamedTuple):
    """The sign of a determinant, and the logarithm of its absolute value."""

    sign: Handle
    logabsdet: Handle


class SVDResult(NamedTuple):
    """A singular value decomposition: x = U @ diag(S) @ Vh."""

    U: Handle
    S: Handle
    Vh: Handle


def _infer_eig(kernel: Callable[..., Any]) -> Infer:
    def infer(x: object) -> Facts:
        shape = _square(x)
        values, vectors = _probe(kernel, x)
        return ShapeDtype(shape[:-1], values), ShapeDtype(shape, vectors)

    return infer


def _eig(x: Array) -> object:
    values, vectors = np.linalg.eig(x)
    if values.dtype.kind != "c":
        dtype = np.result_type(values.dtype, np.complex64)
        return values.astype(dtype), vectors.astype(dtype)
    return values, vectors


_EIG = Op("linalg.eig", _eig, infer=_infer_eig(_eig), cost=costs.cubic(30), blas=True, outputs=2)
_EIGH = Op("linalg.eigh", np.linalg.eigh, infer=_infer_eig(np.linalg.eigh), cost=costs.cubic(10), blas=True, outputs=2)


def eig(x: Operand, /) -> EigResult:
    """Eigenvalues and eigenvectors of each matrix, complex."""
    return EigResult(*current().dispatch_several(_EIG, (x,)))


def eigh(x: Operand, /) -> EighResult:
    """Eigenvalues and eigenvectors of each symmetric or Hermitian matrix, from its lower triangle."""
    return EighResult(*current().dispatch_several(_EIGH, (x,)))


def _infer_slogdet(x: object) -> Facts:
    shape = _stack_of(x)
    return tuple(ShapeDtype(shape, dtype) for dtype in _probe(np.linalg.slogdet, x))


_SLOGDET = Op("linalg.slogdet", np.linalg.slogdet, infer=_infer_slogdet, cost=costs.cubic(1), blas=True, outputs=2)


def slogdet(x: Operand, /) -> SlogdetResult:
    """Sign and logarithm of the determinant of each square matrix."""
    return SlogdetResult(*current().dispatch_several(_SLOGDET, (x,)))


def _infer_qr(x: object, *, mode: str) -> Facts:
    *batch, rows, columns = _matrix(x)
    inner = _least((rows, columns)) if mode == "reduced" else rows
    q, r = _probe(np.linalg.qr, x)
    return ShapeDtype((*batch, rows, inner), q), ShapeDtype((*batch, inner, columns), r)


_QR = Op("linalg.qr", np.linalg.qr, infer=_infer_qr, cost=costs.cubic(4), blas=True, outputs=2)


def qr(x: Operand, /, *, mode: Literal["reduced", "complete"] = "reduced") -> QRResult:
    """QR decomposition of each matrix; `complete` makes Q square."""
    mode = checks.one_of("linalg.qr", "mode", mode, ("reduced", "complete"))
    return QRResult(*current().dispatch_several(_QR, (x,), {"mode": mode}))


def _infer_svd(x: object, *, full_matrices: bool) -> Facts:
    *batch, rows, columns = shape = _matrix(x)
    least = _least(shape)
    shapes = [
        (*batch, rows, rows if full_matrices else least),
        (*batch, least),
        (*batch, columns if full_matrices else least, columns),
    ]
    return tuple(map(ShapeDtype, shapes, _probe(np.linalg.svd, x)))


_SVD = Op("linalg.svd", np.linalg.svd, infer=_infer_svd, cost=costs.cubic(16), blas=True, outputs=3)


def svd(x: Operand, /, *, full_matrices: bool = True) -> SVDResult:
    """Singular value decomposition of each matrix; the singular values are in descending order."""
    full = checks.flag("linalg.svd", "full_matrices", full_matrices)
    return SVDResult(*current().dispatch_several(_SVD, (x,), {"full_matrices": full}))


BY_NUMPY[np.matmul] = matmul
BY_NUMPY[np.vecdot] = vecdot

__all__ = [
    "EigResult",
    "EighResult",
    "QRResult",
    "SVDResult",
    "SlogdetResult",
    "cholesky",
    "cross",
    "det",
    "diagonal",
    "eig",
    "eigh",
    "eigvals",
    "eigvalsh",
    "inv",
    "matmul",
    "matrix_norm",
    "matrix_power",
    "matrix_rank",
    "matrix_transpose",
    "outer",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "svd",
    "svdvals",
    "tensordot",
    "trace",
    "vecdot",
    "vector_norm",
]


def __dir__() -> list[str]:
    return sorted(__all__)


if not TYPE_CHECKING:  # for a type checker a name that is not there is an error

    def __getattr__(name: str) -> None:
        raise_missing(__name__, name, __all__, "numpy.linalg", name_of)
