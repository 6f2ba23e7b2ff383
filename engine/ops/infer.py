"""How results look: shapes and dtypes from those of the operands, by NumPy's own rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from engine.base.op import ShapeDtype
from handles.base import Handle

Dim = int | None
Shape = tuple[Dim, ...]
Facts = ShapeDtype | tuple[ShapeDtype, ...]
"""Shape and dtype of the result of an op, or of each of several."""

Infer = Callable[..., Facts]
"""A shape rule: called as the kernel, with a `ShapeDtype` in place of each array."""

InferOne = Callable[..., ShapeDtype]
"""A shape rule of an op with one result."""


def shape_of(operand: object) -> Shape:
    """The shape of an operand; that of a Python scalar is ()."""
    return operand.shape if isinstance(operand, ShapeDtype) else ()


def dtype_of(operand: object) -> np.dtype[Any]:
    """The dtype of an operand; that of a Python scalar is the default one of its kind."""
    return operand.dtype if isinstance(operand, ShapeDtype) else np.asarray(operand).dtype


def type_of(operand: object) -> np.dtype[Any] | type:
    """The types that NumPy promotes with: dtypes, and the type itself of a Python scalar (NEP 50)."""
    if isinstance(operand, ShapeDtype):
        return operand.dtype
    return np.dtype(bool) if isinstance(operand, bool) else type(operand)


def broadcast(*shapes: Shape) -> Shape:
    """The broadcast shape; an unknown dimension stays unknown unless another operand says what it is.

    Raises `ValueError` where NumPy would.
    """
    if not any(None in shape for shape in shapes):
        return np.broadcast_shapes(*shapes)  # type: ignore[arg-type]
    ndim = max(map(len, shapes))
    result: list[Dim] = []
    for axis in range(-ndim, 0):
        lengths = {shape[axis] for shape in shapes if len(shape) >= -axis} - {1}
        known = lengths - {None}
        if len(known) > 1:
            np.broadcast_shapes(*((length or 1,) for length in known))
        result.append(known.pop() if known else (None if lengths else 1))
    return tuple(result)


def size_of(shape: Shape) -> Dim:
    """The number of elements, None while a dimension is unknown."""
    return None if None in shape else math.prod(length or 0 for length in shape)


def total(lengths: Sequence[Dim]) -> Dim:
    """The sum of lengths, None where one is unknown."""
    return None if None in lengths else sum(length or 0 for length in lengths)


def sample(operand: object) -> Any:
    """A tiny array (or the scalar) that stands for an operand where only its dtype matters."""
    return np.ones((1,) * len(operand.shape), operand.dtype) if isinstance(operand, ShapeDtype) else operand


@lru_cache(maxsize=4096)
def _probe(
    kernel: Callable[..., Any], dtypes: tuple[np.dtype[Any], ...], ndim: int, params: tuple[tuple[str, object], ...]
) -> Any:
    arrays = [np.ones((1,) * ndim, dtype) for dtype in dtypes]
    with np.errstate(all="ignore"):
        result = kernel(*arrays, **dict(params))
    return tuple(part.dtype for part in result) if isinstance(result, tuple) else result.dtype


def probe(kernel: Callable[..., Any], *dtypes: np.dtype[Any], ndim: int = 1, **params: Any) -> Any:
    """The dtype (or the tuple of dtypes) that a kernel gives for arrays of these dtypes: it is asked, once for each.

    Raises what the kernel raises for dtypes that it does not support.
    """
    return _probe(kernel, dtypes, ndim, tuple(sorted(params.items())))


def described(operand: object) -> Any:
    """An operand as inference sees it; None where its shape is not known yet. Never waits."""
    if isinstance(operand, Handle):
        try:
            known = ShapeDtype(operand.shape, operand.dtype)
        except Exception:  # noqa: BLE001 - that of another op, which is raised where a result is read
            return None
        return None if any(each is None for each in known) else known  # of a symbol both may be unknown
    if isinstance(operand, bool | int | float | complex) and not isinstance(operand, np.generic):
        return operand
    array = np.asarray(operand)
    return ShapeDtype(array.shape, array.dtype)


def same(x: object, *_: object, **__: object) -> ShapeDtype:
    """Infer an op that keeps shape and dtype."""
    return ShapeDtype(shape_of(x), dtype_of(x))


def elementwise(ufunc: np.ufunc) -> Infer:
    """Infer a ufunc: the broadcast shape, and the dtypes that its type resolution gives."""
    nothing = [None] * ufunc.nout

    def infer(*operands: object, **params: object) -> Facts:
        shape = broadcast(*map(shape_of, operands))
        types = (*map(type_of, operands), *nothing)
        dtypes = ufunc.resolve_dtypes(types)[ufunc.nin :]
        results = tuple(ShapeDtype(shape, dtype) for dtype in dtypes)
        return results[0] if ufunc.nout == 1 else results

    return infer


def of_core_dimensions(ufunc: np.ufunc) -> InferOne:
    """Infer a ufunc of vectors and matrices: its signature names the last dimensions, those before them broadcast."""
    given, _, gives = str(ufunc.signature).replace(" ", "").partition("->")
    operand_names = [part.strip("()").split(",") for part in given.split("),(")]
    result_names = [name for name in gives.strip("()").split(",") if name]
    nothing = [None] * ufunc.nout

    def infer(*operands: object) -> ShapeDtype:
        lengths: dict[str, Dim] = {}
        loops: list[Shape] = []
        for operand, names in zip(operands, operand_names, strict=True):
            shape = shape_of(operand)
            if len(shape) < len(names):
                raise ValueError(
                    f"{ufunc.__name__}: an operand has {len(shape)} dimensions, fewer than the {len(names)} that "
                    f"signature {ufunc.signature} requires"
                )
            loops.append(shape[: len(shape) - len(names)])
            for name, length in zip(names, shape[len(shape) - len(names) :], strict=True):
                known = lengths.get(name)
                if known is not None and length is not None and known != length:
                    raise ValueError(f"{ufunc.__name__}: dimension {name!r} is {known} and {length}")
                lengths[name] = length if known is None else known
        dtype = ufunc.resolve_dtypes((*map(type_of, operands), *nothing))[-1]
        return ShapeDtype((*broadcast(*loops), *(lengths[name] for name in result_names)), dtype)

    return infer


def typed(kernel: Callable[..., Any]) -> InferOne:
    """Infer an op that keeps the shape and gives the dtype that NumPy gives for a tiny array."""

    def infer(x: object, *_: object, **__: object) -> ShapeDtype:
        return ShapeDtype(shape_of(x), probe(kernel, dtype_of(x)))

    return infer


def normalize_axes(axis: object, ndim: int, *, repeated: bool = False) -> tuple[int, ...]:
    """The axes as non-negative numbers; all of them for None.

    Raises `AxisError` (a `ValueError`) out of range, and `ValueError` for an axis given twice where it must not be.
    """
    if axis is None:
        return tuple(range(ndim))
    return np.lib.array_utils.normalize_axis_tuple(axis, ndim, allow_duplicate=repeated)  # type: ignore[arg-type]


def axis_of_scalar(shape: Shape) -> Shape:
    """The shape with one axis for an array of none: many of NumPy's C functions take one as an array of one element."""
    return shape or (1,)


def reduced_axes(axis: object, ndim: int) -> tuple[int, ...]:
    """The axes of a reduction; of an array of no dimensions, NumPy's reductions take axis 0 and -1 for none."""
    return () if ndim == 0 and axis in (0, -1) else normalize_axes(axis, ndim)


def normalize_axis(axis: int, ndim: int) -> int:
    """One axis as a non-negative number. Raises `AxisError` out of range."""
    return np.lib.array_utils.normalize_axis_index(axis, ndim)


def without(shape: Shape, axes: Sequence[int], *, keepdims: bool) -> Shape:
    """The shape once these axes are reduced."""
    if keepdims:
        return tuple(1 if axis in axes else length for axis, length in enumerate(shape))
    return tuple(length for axis, length in enumerate(shape) if axis not in axes)


def replaced(shape: Shape, axis: int, length: Dim) -> Shape:
    """The shape with another length along one axis."""
    return (*shape[:axis], length, *shape[axis + 1 :])


def reduced(kernel: Callable[..., Any]) -> InferOne:
    """Infer a reduction: the axes are gone (or 1), the dtype is the one that NumPy gives for a tiny array."""

    def infer(x: object, *, axis: object = None, keepdims: bool = False, **params: Any) -> ShapeDtype:
        shape = shape_of(x)
        axes = reduced_axes(axis, len(shape))
        return ShapeDtype(without(shape, axes, keepdims=keepdims), probe(kernel, dtype_of(x), **params))

    return infer


def viewed(kernel: Callable[..., Any]) -> InferOne:
    """Infer an op that returns a view: do it to an array of that shape that takes no memory."""

    def infer(x: object, **params: object) -> ShapeDtype:
        shape, dtype = shape_of(x), dtype_of(x)
        result = kernel(outline(shape, dtype, 1), **params).shape
        if None not in shape:
            return ShapeDtype(result, dtype)
        # With other lengths, too: the dimensions that change are those that depend on the unknown ones.
        others = [kernel(outline(shape, dtype, length), **params).shape for length in (2, 101)]
        return ShapeDtype(tuple(n if n == m == k else None for n, m, k in zip(result, *others, strict=True)), dtype)

    return infer


def outline(shape: Shape, dtype: np.dtype[Any], unknown: int) -> np.ndarray[Any, Any]:
    """An array of that shape that takes no memory; unknown dimensions have the length `unknown`."""
    return np.broadcast_to(np.zeros((), dtype), [unknown if n is None else n for n in shape])
