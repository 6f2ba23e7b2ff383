"""How results look: shapes and dtypes from those of the operands, by NumPy's own rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine.planning.op import ShapeDtype

Dim = int | None
Shape = tuple[Dim, ...]


def shape_of(operand: Any) -> Shape:
    """The shape of an operand; that of a Python scalar is ()."""
    return operand.shape if isinstance(operand, ShapeDtype) else ()


def dtype_of(operand: Any) -> np.dtype[Any]:
    """The dtype of an operand; that of a Python scalar is the default one of its kind."""
    return operand.dtype if isinstance(operand, ShapeDtype) else np.asarray(operand).dtype


def _type_of(operand: Any) -> Any:
    """What NumPy promotes with: dtypes, and the type itself of a Python scalar (NEP 50)."""
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


def elementwise(ufunc: np.ufunc) -> Callable[..., Any]:
    """Of a ufunc: the broadcast shape, and the dtypes that its type resolution gives."""

    def infer(*operands: Any, **params: Any) -> Any:
        shape = broadcast(*map(shape_of, operands))
        types = (*map(_type_of, operands), *[None] * ufunc.nout)
        dtypes = ufunc.resolve_dtypes(types)[ufunc.nin :]
        results = tuple(ShapeDtype(shape, dtype) for dtype in dtypes)
        return results[0] if ufunc.nout == 1 else results

    return infer


def sample(operand: Any) -> Any:
    """A tiny array (or the scalar) that stands for an operand where only its dtype matters."""
    return np.ones((1,) * len(operand.shape), operand.dtype) if isinstance(operand, ShapeDtype) else operand


def normalize_axes(axis: Any, ndim: int) -> tuple[int, ...]:
    """The axes as non-negative numbers; all of them for None. Raises `AxisError` (a `ValueError`) out of range."""
    if axis is None:
        return tuple(range(ndim))
    return np.lib.array_utils.normalize_axis_tuple(axis, ndim)


def without(shape: Shape, axes: Sequence[int], *, keepdims: bool) -> Shape:
    """The shape once these axes are reduced."""
    if keepdims:
        return tuple(1 if axis in axes else length for axis, length in enumerate(shape))
    return tuple(length for axis, length in enumerate(shape) if axis not in axes)


def reduced(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Of a reduction: the axes are gone (or 1), the dtype is the one that NumPy gives for a tiny array."""

    def infer(x: Any, *, axis: Any = None, keepdims: bool = False, **params: Any) -> ShapeDtype:
        shape = shape_of(x)
        axes = normalize_axes(axis, len(shape))
        dtype = kernel(np.ones(1, dtype_of(x)), **params).dtype
        return ShapeDtype(without(shape, axes, keepdims=keepdims), dtype)

    return infer


def viewed(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Of an op that returns a view: do it to an array of that shape that takes no memory."""

    def infer(x: Any, **params: Any) -> ShapeDtype:
        shape = shape_of(x)
        unknown = [axis for axis, length in enumerate(shape) if length is None]
        result = kernel(np.broadcast_to(np.zeros((), dtype_of(x)), [1 if n is None else n for n in shape]), **params)
        if not unknown:
            return ShapeDtype(result.shape, result.dtype)
        # Twice with other lengths: the dimensions that change are those that depend on the unknown ones.
        other = kernel(np.broadcast_to(np.zeros((), dtype_of(x)), [2 if n is None else n for n in shape]), **params)
        return ShapeDtype(
            tuple(n if n == m else None for n, m in zip(result.shape, other.shape, strict=True)), result.dtype
        )

    return infer


def matrix_product(x1: Any, x2: Any) -> ShapeDtype:
    """Of `matmul`: stacks of matrices broadcast, vectors lose their dimension."""
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
