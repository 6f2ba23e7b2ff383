"""How the shape of each NumPy function without a row is told, and why that of some is not.

`VIEWED`, `COPIED` and `RULES` are the three ways of `numpy_shapes`; `UNTOLD` gives the reason for every other function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine.base.op import ShapeDtype
from engine.ops.infer import Dim, Shape, broadcast, normalize_axes, probe, replaced, size_of, total
from engine.ops.numpy_results import Several
from engine.ops.numpy_shapes import Facts, Function, Undecided, Way, copied, inference, ruled, viewed

INTP = np.dtype(np.intp)
FLOAT = np.dtype(np.float64)
Rule = Callable[..., ShapeDtype | Facts]

VIEWED: tuple[Function, ...] = (
    *(np.array_split, np.atleast_1d, np.atleast_2d, np.atleast_3d, np.broadcast_arrays, np.diagonal, np.dsplit),
    *(np.fliplr, np.flipud, np.hsplit, np.rollaxis, np.rot90, np.split, np.swapaxes, np.vsplit),
    *(np.lib.stride_tricks.sliding_window_view, np.linalg.diagonal, np.matrix_transpose, np.linalg.matrix_transpose),
    *(np.transpose, np.permute_dims, np.expand_dims, np.squeeze, np.broadcast_to, np.flip, np.moveaxis),
)
"""Functions that only rearrange: what they give has the memory of their operand."""

_KEEPING_LENGTHS = (
    *("capitalize", "count", "endswith", "find", "index", "lower", "lstrip", "rfind", "rindex", "rstrip"),
    *("startswith", "strip", "swapcase", "title", "upper"),
)
"""Functions of strings whose results are no longer than their operands, or numbers."""

COPIED: tuple[Function, ...] = (
    *(np.allclose, np.angle, np.argpartition, np.array_equal, np.array_equiv, np.average, np.busday_count),
    *(np.busday_offset, np.choose, np.clip, np.cross, np.datetime_as_string, np.digitize, np.dot, np.einsum, np.fix),
    *(np.geomspace, np.gradient, np.i0, np.inner, np.interp, np.is_busday, np.isclose, np.iscomplex, np.isneginf),
    *(np.isposinf, np.isreal, np.ix_, np.lexsort, np.linspace, np.logspace, np.mean, np.median, np.meshgrid),
    *(np.nan_to_num, np.nanargmax, np.nanargmin, np.nanmax, np.nanmean, np.nanmedian, np.nanmin, np.nanpercentile),
    *(np.nanprod, np.nanquantile, np.nanstd, np.nansum, np.nanvar, np.partition, np.percentile, np.polyval, np.ptp),
    *(np.quantile, np.ravel_multi_index, np.round, np.select, np.sinc, np.sort_complex, np.std, np.sum, np.take),
    *(np.trace, np.trapezoid, np.unravel_index, np.unwrap, np.vander, np.var, np.vdot),
    *(np.amax, np.amin, np.max, np.min, np.prod, np.all, np.any, np.argmax, np.argmin, np.around, np.count_nonzero),
    *(np.astype, np.tensordot, np.linalg.cond, np.linalg.cross, np.linalg.matmul, np.linalg.matrix_norm),
    *(np.linalg.matrix_power, np.linalg.matrix_rank, np.linalg.multi_dot, np.linalg.norm, np.linalg.pinv),
    *(np.linalg.qr, np.linalg.svd, np.linalg.vector_norm, np.linalg.trace, np.linalg.eigvalsh),
    *(np.linalg.eigh, np.linalg.vecdot, np.linalg.tensordot),
    *(getattr(module, name) for module in (np.strings, np.char) for name in _KEEPING_LENGTHS),
)
"""Functions whose results have lengths of the operands."""


# ---------------------------------------------------------------------------------------------------------------------
# Rules


def _operand(value: Any) -> ShapeDtype:
    """An argument as an array: a sequence may hold some."""
    if isinstance(value, ShapeDtype):
        return value
    if isinstance(value, list | tuple):
        parts = [_operand(each) for each in value]
        if not parts:
            return ShapeDtype((0,), FLOAT)
        if len({part.shape for part in parts}) > 1:
            raise Undecided("a sequence of arrays of several shapes")
        return ShapeDtype((len(parts), *parts[0].shape), np.result_type(*(part.dtype for part in parts)))
    array = np.asarray(value)
    return ShapeDtype(array.shape, array.dtype)


def _promoted(*values: Any) -> np.dtype[Any]:
    """The dtype that NumPy promotes to; Python scalars are weak."""
    types: list[Any] = [
        value if isinstance(value, bool | int | float | complex) else _operand(value).dtype for value in values
    ]
    return np.result_type(*types)


def _one_axis(axis: Any, ndim: int) -> int:
    (found,) = normalize_axes(axis, ndim)
    return found


def _joined(shapes: Sequence[Shape], axis: int) -> Shape:
    """The shape of arrays joined along an axis. Raises `ValueError` where they do not fit."""
    first = shapes[0]
    for shape in shapes[1:]:
        if len(shape) != len(first):
            raise ValueError(
                "all the input array dimensions must match exactly, but along dimension 0 there are arrays with "
                f"{len(first)} and {len(shape)} dimensions"
            )
    where = _one_axis(axis, len(first))
    for other in range(len(first)):
        if other != where and len({shape[other] for shape in shapes} - {None}) > 1:
            raise ValueError(
                "all the input array dimensions except for the concatenation axis must match exactly, but along "
                f"dimension {other} they have {', '.join(str(shape[other]) for shape in shapes)}"
            )
    return replaced(first, where, total([shape[where] for shape in shapes]))


def _parts(arrays: Any) -> list[ShapeDtype]:
    """The arrays of a sequence, or of the rows of an array."""
    if isinstance(arrays, ShapeDtype):
        if not arrays.shape or arrays.shape[0] is None:
            raise Undecided("the number of arrays is not known")
        return [ShapeDtype(arrays.shape[1:], arrays.dtype)] * arrays.shape[0]
    if not isinstance(arrays, list | tuple):
        raise Undecided("arrays of no known kind")
    return [_operand(each) for each in arrays]


def _at_least(ndim: int) -> Callable[[Shape], Shape]:
    def shape(lengths: Shape) -> Shape:
        if ndim == 3 and len(lengths) < 3:  # as `np.atleast_3d` does
            return {0: (1, 1, 1), 1: (1, *lengths, 1), 2: (*lengths, 1)}[len(lengths)]
        return (1,) * (ndim - len(lengths)) + lengths

    return shape


def _stacked(ndim: int, axis: int | None) -> Rule:
    """Arrays of so many dimensions at least, joined along an axis (of vectors, along the only one)."""
    at_least = _at_least(ndim)

    def rule(tup: Any, dtype: Any = None, casting: str = "same_kind") -> ShapeDtype:
        parts = _parts(tup)
        if not parts:
            raise ValueError("need at least one array to concatenate")
        shapes = [at_least(part.shape) for part in parts]
        where = axis if axis is not None else 0 if len(shapes[0]) == 1 else 1
        asked = np.result_type(*(part.dtype for part in parts)) if dtype is None else np.dtype(dtype)
        return ShapeDtype(_joined(shapes, where), asked)

    return rule


def _column_stack(tup: Any) -> ShapeDtype:
    parts = _parts(tup)
    shapes = [(*part.shape, 1)[:2] if len(part.shape) == 1 else (part.shape or (1, 1)) for part in parts]
    return ShapeDtype(_joined(shapes, 1), np.result_type(*(part.dtype for part in parts)))


def _block(arrays: Any) -> ShapeDtype:
    def depth(value: Any) -> int:
        return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0

    def leaves(value: Any) -> list[ShapeDtype]:
        return [leaf for each in value for leaf in leaves(each)] if isinstance(value, list) else [_operand(value)]

    deep = depth(arrays)
    ndim = max(deep, max(len(leaf.shape) for leaf in leaves(arrays)))

    def shape(value: Any, level: int) -> Shape:
        if not isinstance(value, list):
            lengths = _operand(value).shape
            return (1,) * (ndim - len(lengths)) + lengths
        return _joined([shape(each, level - 1) for each in value], -level)

    return ShapeDtype(shape(arrays, deep), np.result_type(*(leaf.dtype for leaf in leaves(arrays))))


def _append(arr: Any, values: Any, axis: Any = None) -> ShapeDtype:
    parts = [_operand(arr), _operand(values)]
    dtype = np.result_type(*(part.dtype for part in parts))
    if axis is None:
        return ShapeDtype((total([size_of(part.shape) for part in parts]),), dtype)
    return ShapeDtype(_joined([part.shape for part in parts], axis), dtype)


def _ediff1d(ary: Any, to_end: Any = None, to_begin: Any = None) -> ShapeDtype:
    ary = _operand(ary)
    size = size_of(ary.shape)
    ends = [size_of(_operand(each).shape) for each in (to_begin, to_end) if each is not None]
    return ShapeDtype((total([None if size is None else max(size - 1, 0), *ends]),), ary.dtype)


def _insert(arr: Any, obj: Any, values: Any, axis: Any = None) -> ShapeDtype:
    arr, its = _operand(arr), _operand(values).shape
    shape, where = _flat_or_along(arr, axis)
    if len(its) > len(shape):
        raise Undecided("the values have more dimensions")
    its = (1,) * (len(shape) - len(its)) + its
    places = _places(obj, shape[where])
    count = places
    if obj.__class__ is not slice and not (obj.shape if isinstance(obj, ShapeDtype) else np.shape(obj)):
        count = its[0]
    elif places == 1:
        count = its[where]
    return ShapeDtype(replaced(shape, where, total([shape[where], count])), arr.dtype)


def _flat_or_along(arr: ShapeDtype, axis: Any) -> tuple[Shape, int]:
    """The shape, flattened where there is no axis, and the axis."""
    return ((size_of(arr.shape),), 0) if axis is None else (arr.shape, _one_axis(axis, len(arr.shape)))


def _places(obj: Any, length: Dim) -> Dim:
    """How many places of an axis an argument stands for: a slice, a mask, or indices."""
    if isinstance(obj, ShapeDtype):
        return None if obj.dtype == np.bool_ else size_of(obj.shape)
    if isinstance(obj, slice):
        return None if length is None else len(range(*obj.indices(length)))
    array = np.asarray(obj)
    return int(np.count_nonzero(array)) if array.dtype == np.bool_ else array.size


def _delete(arr: Any, obj: Any, axis: Any = None) -> ShapeDtype:
    arr = _operand(arr)
    shape, where = _flat_or_along(arr, axis)
    length, left = shape[where], None
    if length is not None and not isinstance(obj, ShapeDtype):
        left = np.delete(np.broadcast_to(np.zeros(1, np.int8), (length,)), obj).size
    return ShapeDtype(replaced(shape, where, left), arr.dtype)


def _pad(array: Any, pad_width: Any, mode: Any = "constant", **_: Any) -> ShapeDtype:
    array = _operand(array)
    ndim = len(array.shape)
    if isinstance(pad_width, dict):
        widths = [(0, 0)] * ndim
        for axis, each in pad_width.items():
            widths[axis] = (each, each) if isinstance(each, int) else tuple(each)
    else:
        widths = np.broadcast_to(np.asarray(pad_width), (ndim, 2)).tolist()
    lengths = [None if n is None else n + int(a) + int(b) for n, (a, b) in zip(array.shape, widths, strict=True)]
    return ShapeDtype(tuple(lengths), array.dtype)


def _convolved(a: Any, v: Any, mode: Any = None, default: str = "full") -> ShapeDtype:
    a, v = _operand(a), _operand(v)
    n, m = (size_of(each.shape) for each in (a, v))
    mode = {0: "valid", 1: "same", 2: "full"}.get(mode, default if mode is None else mode)
    if n is None or m is None:
        raise Undecided("a length is not known")
    if not n or not m:
        raise ValueError("a and v cannot be empty")
    lengths = {"full": n + m - 1, "same": max(n, m), "valid": max(n, m) - min(n, m) + 1}
    if mode not in lengths:
        raise ValueError(f"mode must be one of 'full', 'same' and 'valid', but got {mode!r}")
    return ShapeDtype((lengths[mode],), probe(np.convolve, a.dtype, v.dtype))


def _convolve(a: Any, v: Any, mode: Any = "full") -> ShapeDtype:
    return _convolved(a, v, mode)


def _correlate(a: Any, v: Any, mode: Any = "valid") -> ShapeDtype:
    return _convolved(a, v, mode, "valid")


def _outer(a: Any, b: Any) -> ShapeDtype:
    a, b = _operand(a), _operand(b)
    return ShapeDtype((size_of(a.shape), size_of(b.shape)), probe(np.outer, a.dtype, b.dtype))


def _kron(a: Any, b: Any) -> ShapeDtype:
    a, b = _operand(a), _operand(b)
    ndim = max(len(a.shape), len(b.shape))
    pairs = zip(*((1,) * (ndim - len(each.shape)) + each.shape for each in (a, b)), strict=True)
    return ShapeDtype(tuple(None if None in pair else math.prod(pair) for pair in pairs), _promoted(a, b))


def _diag(v: Any, k: Any = 0) -> ShapeDtype:
    v = _operand(v)
    k = int(k)
    if len(v.shape) == 1:
        return _square(None if v.shape[0] is None else v.shape[0] + abs(k), v.dtype)
    if len(v.shape) != 2:
        raise ValueError("Input must be 1- or 2-d.")
    n, m = v.shape
    if n is None or m is None:
        return ShapeDtype((None,), v.dtype)
    return ShapeDtype((max(0, min(n, m - k) if k >= 0 else min(n + k, m)),), v.dtype)


def _diagflat(v: Any, k: Any = 0) -> ShapeDtype:
    v = _operand(v)
    size = size_of(v.shape)
    return _square(None if size is None else size + abs(int(k)), v.dtype)


def _square(length: Dim, dtype: np.dtype[Any]) -> ShapeDtype:
    return ShapeDtype((length, length), dtype)


def _covariance(function: Function) -> Rule:
    def rule(m: Any = None, y: Any = None, rowvar: Any = True, *, dtype: Any = None, x: Any = None, **_: Any) -> Any:
        m = _operand(x if m is None else m)
        if len(m.shape) > 2:
            raise ValueError("m has more than 2 dimensions")
        kind = np.result_type(m.dtype, *(() if y is None else (_operand(y).dtype,)), np.float64)
        asked = kind if dtype is None else np.dtype(dtype)
        if function is np.corrcoef and dtype is None and kind.kind == "c":
            asked = kind
        rows = _variables(m, rowvar)
        if y is not None:
            rows = total([rows, _variables(_operand(y), rowvar)])
        return ShapeDtype(() if rows == 1 else (rows, rows), asked)

    return rule


def _variables(m: ShapeDtype, rowvar: Any) -> Dim:
    """How many variables an array of observations has."""
    if len(m.shape) < 2:
        return 1
    return m.shape[0] if rowvar else m.shape[1]


def _histogram(a: Any, bins: Any = 10, range: Any = None, density: Any = None, weights: Any = None) -> Facts:
    count, edges = _bins(_operand(a), bins)
    if density:
        return ShapeDtype((count,), FLOAT), edges
    counted = INTP if weights is None else _operand(weights).dtype
    return ShapeDtype((count,), counted), edges


def _bins(a: ShapeDtype, bins: Any) -> tuple[Dim, ShapeDtype]:
    """How many bins there are, and their edges."""
    if isinstance(bins, str):
        return None, ShapeDtype((None,), np.result_type(a.dtype, 1.0) if a.dtype.kind != "f" else a.dtype)
    if isinstance(bins, int | np.integer):
        edges = np.histogram_bin_edges(np.zeros(2, a.dtype), 1)
        return int(bins), ShapeDtype((int(bins) + 1,), edges.dtype)
    its = _operand(bins)
    if len(its.shape) != 1:
        raise Undecided("the number of bins is a value") if not its.shape else ValueError("`bins` must be 1d")
    return None if its.shape[0] is None else its.shape[0] - 1, its


def _edges(a: Any, bins: Any = 10, range: Any = None, weights: Any = None) -> ShapeDtype:
    return _bins(_operand(a), bins)[1]


def _histogramdd(sample: Any, bins: Any = 10, range: Any = None, density: Any = None, weights: Any = None) -> Facts:
    if isinstance(sample, ShapeDtype):
        ndim: Dim = sample.shape[1] if len(sample.shape) > 1 else 1
    else:
        ndim = len(sample)
    if ndim is None:
        raise Undecided("the number of dimensions is not known")
    several = list(bins) if isinstance(bins, list | tuple) else [bins] * ndim
    if len(several) != ndim:
        raise ValueError("The dimension of bins must be equal to the dimension of the sample x.")
    facts = [_bins(ShapeDtype((None,), FLOAT), each) for each in several]
    return ShapeDtype(tuple(count for count, _ in facts), FLOAT), *(edges for _, edges in facts)


def _histogram2d(
    x: Any,
    y: Any,
    bins: Any = 10,
    range: Any = None,
    density: Any = None,
    weights: Any = None,
) -> Facts:
    if (isinstance(bins, list | tuple) and len(bins) not in (1, 2)) or (
        isinstance(bins, ShapeDtype) and bins.shape not in ((1,), (2,))
    ):
        bins = [bins, bins]
    elif isinstance(bins, ShapeDtype) or (isinstance(bins, list | tuple) and len(bins) == 1):
        raise Undecided("the numbers of bins are values")
    return _histogramdd([x, y], bins)


def _resize(a: Any, new_shape: Any) -> ShapeDtype:
    lengths = (new_shape,) if isinstance(new_shape, int | np.integer) else tuple(new_shape)
    return ShapeDtype(tuple(map(int, lengths)), _operand(a).dtype)


def _packbits(a: Any, axis: Any = None, bitorder: str = "big") -> ShapeDtype:
    return _bits(a, axis, lambda n: -(-n // 8))


def _unpackbits(a: Any, axis: Any = None, count: Any = None, bitorder: str = "big") -> ShapeDtype:
    def bits(n: int) -> int:
        return 8 * n if count is None else count if count >= 0 else 8 * n + count

    return _bits(a, axis, bits)


def _bits(a: Any, axis: Any, lengths: Callable[[int], int]) -> ShapeDtype:
    a = _operand(a)
    shape: Shape = (size_of(a.shape),) if axis is None else a.shape
    where = _one_axis(0 if axis is None else axis, len(shape))
    length = shape[where]
    return ShapeDtype(replaced(shape, where, None if length is None else lengths(length)), np.dtype(np.uint8))


def _polyadd(a1: Any, a2: Any) -> ShapeDtype:
    a1, a2 = _operand(a1), _operand(a2)
    sizes = [size_of(each.shape) for each in (a1, a2)]
    length = None if None in sizes else max(size or 0 for size in sizes)
    return ShapeDtype((length,), probe(np.add, a1.dtype, a2.dtype))


def _polysub(a1: Any, a2: Any) -> ShapeDtype:
    return _polyadd(a1, a2)._replace(dtype=probe(np.subtract, _operand(a1).dtype, _operand(a2).dtype))


def _polyfit(x: Any, y: Any, deg: Any, rcond: Any = None, full: Any = False, w: Any = None, cov: Any = False) -> Any:
    x, y = _operand(x), _operand(y)
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


def _polyint(p: Any, m: Any = 1, k: Any = None) -> ShapeDtype:
    p = _operand(p)
    if k is not None and not isinstance(k, int | float):
        raise Undecided("k is an array")
    dtype = probe(np.polyint, p.dtype)
    return ShapeDtype((total([size_of(p.shape), int(m)]),), p.dtype if not m else dtype)


def _polyder(p: Any, m: Any = 1) -> ShapeDtype:
    p = _operand(p)
    size = size_of(p.shape)
    return ShapeDtype(
        (None if size is None else max(size - int(m), 0),), np.polyder(np.ones(2 + int(m), p.dtype), m).dtype
    )


def _tensorinv(a: Any, ind: Any = 2) -> ShapeDtype:
    a = _operand(a)
    return ShapeDtype(a.shape[ind:] + a.shape[:ind], probe(np.linalg.inv, a.dtype, ndim=2))


def _tensorsolve(a: Any, b: Any, axes: Any = None) -> ShapeDtype:
    a, b = _operand(a), _operand(b)
    if axes is not None:
        order = list(range(len(a.shape)))
        for axis in axes:
            order.remove(axis)
            order.insert(len(order) + 1, axis)
        a = ShapeDtype(tuple(a.shape[axis] for axis in order), a.dtype)
    return ShapeDtype(a.shape[len(b.shape) :], np.result_type(a.dtype, b.dtype, np.float32 if _single(a, b) else FLOAT))


def _single(*operands: ShapeDtype) -> bool:
    """Whether LAPACK computes in single precision."""
    return all(each.dtype in (np.dtype(np.float32), np.dtype(np.complex64)) for each in operands)


def _lstsq(a: Any, b: Any, rcond: Any = None) -> Facts:
    a, b = _operand(a), _operand(b)
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


def _eigenvalues(a: Any) -> ShapeDtype:
    a = _operand(a)
    if a.dtype.kind != "c":
        raise Undecided("the values decide whether it is complex")
    return ShapeDtype(a.shape[:-1], a.dtype)


def _eig(a: Any) -> Facts:
    return _eigenvalues(a), _operand(a)


def _along(function: Function, dtype: np.dtype[Any] | None = None, *, last: bool = False) -> Rule:
    """A function along an axis that keeps the shape; without an axis it flattens."""
    name = "x" if function in (np.sort_complex,) else "a"

    def rule(axis: Any = -1 if last else None, **given: Any) -> ShapeDtype:
        x, asked = _operand(given[name]), given.get("dtype")
        shape: Shape = (size_of(x.shape),) if axis is None else x.shape
        if axis is not None:
            _one_axis(axis, len(shape) or 1)
        return ShapeDtype(shape, dtype or (np.dtype(asked) if asked is not None else probe(function, x.dtype)))

    return rule


def _flat(a: Any, order: Any = "C") -> ShapeDtype:
    a = _operand(a)
    return ShapeDtype((size_of(a.shape),), a.dtype)


def _copy(a: Any, **_: Any) -> ShapeDtype:
    return _operand(a)


def _piecewise(x: Any, condlist: Any, funclist: Any, *_: Any, **__: Any) -> ShapeDtype:
    return _operand(x)


def _indices(arr: Any) -> Facts:
    arr = _operand(arr)
    return (ShapeDtype((arr.shape[0],), INTP),) * len(arr.shape)


def _triangle(*, upper: bool) -> Rule:
    def rule(arr: Any, k: Any = 0) -> Facts:
        n, m = _operand(arr).shape
        if not isinstance(k, int | np.integer):
            raise Undecided("k is no integer")
        if n is None or m is None:
            return (ShapeDtype((None,), INTP),) * 2
        lower = sum(min(max(row + int(k) + (0 if upper else 1), 0), m) for row in range(n))
        return (ShapeDtype((n * m - lower if upper else lower,), INTP),) * 2

    return rule


# What depends on values has one unknown length


def _some(dtype: np.dtype[Any] | None = None) -> Rule:
    """One dimension of an unknown length."""

    def rule(*args: Any, **given: Any) -> ShapeDtype:
        first = next(iter(given.values()))
        return ShapeDtype((None,), dtype or _operand(first).dtype)

    return rule


def _argwhere(a: Any) -> ShapeDtype:
    return ShapeDtype((None, len(_operand(a).shape)), INTP)


def _where(condition: Any, x: Any = None, y: Any = None) -> Any:
    if x is None and y is None:
        ndim = len(_operand(condition).shape)
        return (ShapeDtype((None,), INTP),) * max(ndim, 1)
    shape = broadcast(*(_operand(each).shape for each in (condition, x, y)))
    return ShapeDtype(shape, _promoted(x, y))


def _bincount(x: Any, weights: Any = None, minlength: Any = 0) -> ShapeDtype:
    return ShapeDtype((None,), INTP if weights is None else FLOAT)


def _compress(condition: Any, a: Any, axis: Any = None, out: Any = None) -> ShapeDtype:
    a = _operand(a)
    if axis is None:
        return ShapeDtype((None,), a.dtype)
    return ShapeDtype(replaced(a.shape, _one_axis(axis, len(a.shape)), None), a.dtype)


def _extract(condition: Any, arr: Any) -> ShapeDtype:
    return ShapeDtype((None,), _operand(arr).dtype)


def _joined_sets(ar1: Any, ar2: Any, *_: Any, return_indices: Any = False, **__: Any) -> Any:
    common = ShapeDtype((None,), np.result_type(_operand(ar1).dtype, _operand(ar2).dtype))
    return (common, *(ShapeDtype((None,), INTP),) * 2) if return_indices else common


def _difference(ar1: Any, ar2: Any, assume_unique: Any = False) -> ShapeDtype:
    return ShapeDtype((None,), _operand(ar1).dtype)


def _unique(
    ar: Any,
    return_index: Any = False,
    return_inverse: Any = False,
    return_counts: Any = False,
    axis: Any = None,
    **_: Any,
) -> Any:
    ar = _operand(ar)
    shape: Shape = (None,) if axis is None else replaced(ar.shape, _one_axis(axis, len(ar.shape)), None)
    facts = [ShapeDtype(shape, ar.dtype)]
    one = ShapeDtype((None,), INTP)
    length = ar.shape if axis is None else (ar.shape[_one_axis(axis, len(ar.shape))],)
    facts += (
        [one] * bool(return_index) + [ShapeDtype(length, INTP)] * bool(return_inverse) + [one] * bool(return_counts)
    )
    return tuple(facts)


RULES: dict[Function, Rule] = {
    np.append: _append,
    np.argsort: _along(np.argsort, INTP, last=True),
    np.argwhere: _argwhere,
    np.bincount: _bincount,
    np.block: _block,
    np.column_stack: _column_stack,
    np.compress: _compress,
    np.convolve: _convolve,
    np.copy: _copy,
    np.corrcoef: _covariance(np.corrcoef),
    np.correlate: _correlate,
    np.cov: _covariance(np.cov),
    np.cumprod: _along(np.cumprod),
    np.cumsum: _along(np.cumsum),
    np.delete: _delete,
    np.diag: _diag,
    np.diag_indices_from: _indices,
    np.diagflat: _diagflat,
    np.dstack: _stacked(3, 2),
    np.ediff1d: _ediff1d,
    np.extract: _extract,
    np.flatnonzero: _some(INTP),
    np.histogram: _histogram,
    np.histogram2d: _histogram2d,
    np.histogram_bin_edges: _edges,
    np.histogramdd: _histogramdd,
    np.hstack: _stacked(1, None),
    np.insert: _insert,
    np.intersect1d: _joined_sets,
    np.kron: _kron,
    np.linalg.eig: _eig,
    np.linalg.eigvals: _eigenvalues,
    np.linalg.lstsq: _lstsq,
    np.linalg.tensorinv: _tensorinv,
    np.linalg.tensorsolve: _tensorsolve,
    np.nancumprod: _along(np.nancumprod),
    np.nancumsum: _along(np.nancumsum),
    np.outer: _outer,
    np.packbits: _packbits,
    np.pad: _pad,
    np.piecewise: _piecewise,
    np.polyadd: _polyadd,
    np.polyder: _polyder,
    np.polyfit: _polyfit,
    np.polyint: _polyint,
    np.polysub: _polysub,
    np.ravel: _flat,
    np.resize: _resize,
    np.setdiff1d: _difference,
    np.setxor1d: _joined_sets,
    np.sort: _along(np.sort, last=True),
    np.tril_indices_from: _triangle(upper=False),
    np.trim_zeros: _some(),
    np.triu_indices_from: _triangle(upper=True),
    np.union1d: _joined_sets,
    np.unique: _unique,
    np.unpackbits: _unpackbits,
    np.vstack: _stacked(2, 0),
    np.where: _where,
}
"""The rule of each function that has one: of its arguments, with shapes and dtypes in place of arrays."""

_CHANGING_LENGTHS = (
    *("center", "decode", "encode", "expandtabs", "join", "ljust", "mod", "multiply", "partition", "replace"),
    *("rjust", "rpartition", "slice", "translate", "zfill"),
)

UNTOLD: dict[Function, str] = {
    np.apply_along_axis: "it calls a function of the user",
    np.apply_over_axes: "it calls a function of the user",
    np.poly: "NumPy iterates over the argument before it dispatches, which is a sync point",
    np.polydiv: "leading zeros are cut off",
    np.polymul: "leading zeros are cut off",
    np.real_if_close: "the values decide its dtype",
    np.roots: "NumPy iterates over the argument before it dispatches, which is a sync point",
}
"""Functions of which nothing can be told before they have run, and why."""

UNTOLD.update(
    (getattr(module, name), "the values decide how long the strings are")
    for module in (np.strings, np.char)
    for name in _CHANGING_LENGTHS
    if hasattr(module, name)
)

WAYS: dict[Function, Way] = {
    **dict.fromkeys(VIEWED, viewed),
    **dict.fromkeys(COPIED, copied),
    **{function: ruled(rule) for function, rule in RULES.items()},
}


def shape_of_call(function: Function, result: Several | None) -> Callable[..., Any] | None:
    """What tells the shapes and dtypes of a call; None where only running it can."""
    way = WAYS.get(function)
    return None if way is None else inference(way, function, result)
