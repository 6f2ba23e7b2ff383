"""What the rows of the op tables are made with: one function for each form that an op can have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np

from engine.context import current
from engine.ops.infer import elementwise, reduced
from engine.planning.op import Op
from handles.base import Handle

Operand = Any
"""A handle, an array, a Python scalar, or a nested sequence of them."""
Axis = int | tuple[int, ...] | None

BY_NUMPY: dict[Any, Callable[..., Any]] = {}
"""The function of the namespace for a NumPy function or ufunc."""

F = TypeVar("F", bound=Callable[..., Any])


class Unary(Protocol):
    def __call__(self, x: Operand, /) -> Handle: ...


class Binary(Protocol):
    def __call__(self, x1: Operand, x2: Operand, /) -> Handle: ...


class Reduction(Protocol):
    def __call__(self, x: Operand, /, *, axis: Axis = None, keepdims: bool = False) -> Handle: ...


class TypedReduction(Protocol):
    def __call__(self, x: Operand, /, *, axis: Axis = None, dtype: Any = None, keepdims: bool = False) -> Handle: ...


def unary(name: str, ufunc: np.ufunc, doc: str, *, ns: float = 1.0) -> Unary:
    """A row: an elementwise op of one operand, which costs `ns` nanoseconds an element."""
    op = Op(name, ufunc, infer=elementwise(ufunc), ns=ns)

    def function(x: Operand, /) -> Handle:
        return current().dispatch(op, (x,))

    return named(function, name, doc, ufunc)


def binary(name: str, ufunc: np.ufunc, doc: str, *, ns: float = 1.0) -> Binary:
    """A row: an elementwise op of two operands, broadcast against each other."""
    op = Op(name, ufunc, infer=elementwise(ufunc), ns=ns)

    def function(x1: Operand, x2: Operand, /) -> Handle:
        return current().dispatch(op, (x1, x2))

    return named(function, name, doc, ufunc)


def reduction(name: str, kernel: Callable[..., Any], doc: str, *, ns: float = 1.0) -> Reduction:
    """A row: a reduction over axes, without a dtype of its own."""
    op = Op(name, kernel, infer=reduced(kernel), ns=ns)

    def function(x: Operand, /, *, axis: Axis = None, keepdims: bool = False) -> Handle:
        return current().dispatch(op, (x,), {"axis": axis, "keepdims": keepdims})

    return named(function, name, doc, kernel)


def typed_reduction(name: str, kernel: Callable[..., Any], doc: str, *, ns: float = 1.0) -> TypedReduction:
    """A row: a reduction over axes, in a dtype that may be given."""
    op = Op(name, kernel, infer=reduced(kernel), ns=ns)

    def function(x: Operand, /, *, axis: Axis = None, dtype: Any = None, keepdims: bool = False) -> Handle:
        params = {"axis": axis, "dtype": dtype, "keepdims": keepdims}
        return current().dispatch(op, (x,), params)

    return named(function, name, doc, kernel)


def named(function: F, name: str, doc: str, *twins: Any) -> F:
    """Give a row's function its name and its documentation; `twins` are the NumPy functions that it stands for."""
    function.__name__ = function.__qualname__ = name
    function.__module__ = "engine.ops"
    function.__doc__ = doc
    for twin in twins:
        BY_NUMPY.setdefault(twin, function)
    return function
