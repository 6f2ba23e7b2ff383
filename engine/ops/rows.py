"""Makers of rows for the op tables: one function for each form that an op can have."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

import numpy as np

from engine.base.loops import running_loop
from engine.base.modes import ExecutionMode
from engine.base.op import Op, ShapeDtype
from engine.dispatch.dispatcher import note
from engine.failures import user_frame
from engine.ops import checks
from engine.ops.infer import described, elementwise, outline, reduced, shape_of
from engine.parallel.axes import reducing
from engine.parallel.lanes import in_lanes
from engine.runtime.current import current
from engine.runtime.defaults import defaults
from engine.settings.in_force import mode_in_force
from engine.settings.scope import NOTHING, scope_var
from handles.base import Handle
from handles.views import Call, link

Operand: TypeAlias = "ArrayLike | date | timedelta"
"""A handle, an array, a Python scalar, or a nested sequence of them; text and dates where the op takes them."""
Axis = int | tuple[int, ...] | None

BY_NUMPY: dict[object, Callable[..., object]] = {}
"""The function of the namespace for a ufunc."""

if TYPE_CHECKING:
    from datetime import date, timedelta

    from numpy.typing import ArrayLike, DTypeLike

F = TypeVar("F", bound=Callable[..., Any])

scope = scope_var.get


class UnaryRow(Protocol):
    """An elementwise function of one array."""

    def __call__(self, x: Operand, /) -> Handle: ...


class BinaryRow(Protocol):
    """An elementwise function of two arrays, which are broadcast."""

    def __call__(self, x1: Operand, x2: Operand, /) -> Handle: ...


class ReductionRow(Protocol):
    """A reduction over axes."""

    def __call__(self, x: Operand, /, *, axis: Axis = None, keepdims: bool = False) -> Handle: ...


class TypedReductionRow(Protocol):
    """A reduction over axes, in a dtype that may be given."""

    def __call__(
        self, x: Operand, /, *, axis: Axis = None, dtype: DTypeLike | None = None, keepdims: bool = False
    ) -> Handle: ...


class SpreadRow(Protocol):
    """A reduction over axes with a correction of the number of elements."""

    def __call__(
        self, x: Operand, /, *, axis: Axis = None, correction: float = 0.0, keepdims: bool = False
    ) -> Handle: ...


class CumulativeRow(Protocol):
    """A running reduction along an axis."""

    def __call__(
        self, x: Operand, /, *, axis: int | None = None, dtype: DTypeLike | None = None, include_initial: bool = False
    ) -> Handle: ...


class SearchRow(Protocol):
    """A search along one axis, or of the flattened array."""

    def __call__(self, x: Operand, /, *, axis: int | None = None, keepdims: bool = False) -> Handle: ...


def unary(name: str, ufunc: Any, doc: str, *, ns: float = 1.0) -> UnaryRow:
    """A row: an elementwise op of one operand, which costs `ns` nanoseconds an element."""
    op = Op(name, ufunc, infer=elementwise(ufunc), ns=ns)

    def function(x: Operand, /) -> Handle:
        inside = scope()  # as `current` does; its call costs more
        if inside is NOTHING:
            here = defaults.here.now
            if here.seat._thread_id is here.thread:
                return here.dispatcher.dispatch(op, x)  # type: ignore[no-any-return]
        elif inside.executor is not None and inside.dispatcher is not None:
            return inside.dispatcher.dispatch(op, x)  # type: ignore[no-any-return]
        return current().dispatch(op, x)

    return named(function, name, doc, ufunc)


def binary(name: str, ufunc: Any, doc: str, *, ns: float = 1.0) -> BinaryRow:
    """A row: an elementwise op of two operands, broadcast against each other."""
    op = Op(name, ufunc, infer=elementwise(ufunc), ns=ns)

    def function(x1: Operand, x2: Operand, /) -> Handle:
        inside = scope()  # as `current` does; its call costs more
        if inside is NOTHING:
            here = defaults.here.now
            if here.seat._thread_id is here.thread:
                return here.dispatcher.dispatch(op, x1, x2)  # type: ignore[no-any-return]
        elif inside.executor is not None and inside.dispatcher is not None:
            return inside.dispatcher.dispatch(op, x1, x2)  # type: ignore[no-any-return]
        return current().dispatch(op, x1, x2)

    return named(function, name, doc, ufunc)


def reduction(name: str, kernel: Callable[..., Any], doc: str, *, ns: float = 1.0) -> ReductionRow:
    """A row: a reduction over axes, without a dtype of its own."""
    op = Op(name, kernel, infer=reduced(kernel), ns=ns, parallel=in_lanes(reducing(kernel)))

    def function(x: Operand, /, *, axis: Axis = None, keepdims: bool = False) -> Handle:
        if axis is not None or keepdims is not False:
            axis, keepdims = checks.axes(name, axis), checks.flag(name, "keepdims", keepdims)
        return current().dispatch(op, x, params={"axis": axis, "keepdims": keepdims})

    return named(function, name, doc)


def typed_reduction(name: str, kernel: Callable[..., Any], doc: str, *, ns: float = 1.0) -> TypedReductionRow:
    """A row: a reduction over axes, in a dtype that may be given."""
    op = Op(name, kernel, infer=reduced(kernel), ns=ns, parallel=in_lanes(reducing(kernel)))

    def function(x: Operand, /, *, axis: Axis = None, dtype: DTypeLike | None = None, keepdims: bool = False) -> Handle:
        if axis is not None or keepdims is not False or dtype is not None:
            axis, keepdims = checks.axes(name, axis), checks.flag(name, "keepdims", keepdims)
            dtype = checks.dtype_or_none(name, dtype)
        return current().dispatch(op, x, params={"axis": axis, "dtype": dtype, "keepdims": keepdims})

    return named(function, name, doc)


def op_of_several(
    name: str, kernel: Callable[..., Any], outputs: int, *, infer: Callable[..., Any], **facts: Any
) -> Op:
    """An op whose kernel returns a tuple of so many arrays, of one too."""
    if outputs != 1:
        return Op(name, kernel, infer=infer, outputs=outputs, **facts)

    def only(*operands: Any, **params: Any) -> Any:
        return kernel(*operands, **params)[0]

    def infer_only(*operands: Any, **params: Any) -> Any:
        return infer(*operands, **params)[0]

    return Op(name, only, infer=infer_only, **facts)


def dispatch_view(op: Op, x: Operand, params: dict[str, object] | None = None, *, read_only: bool = False) -> Handle:
    """Dispatch an op whose result NumPy may give as a view of its operand: what is written into it reaches that."""
    handle = current().dispatch(op, x, params=params)
    if isinstance(x, Handle):
        # As `Call(...)`, in a third of the time.
        link(handle, x, tuple.__new__(Call, (op.kernel, (), params or {}, None, read_only)))
    return handle


def dispatch_views(op: Op, x: Operand, params: dict[str, object]) -> tuple[Handle, ...]:
    """The same for an op of several results."""
    handles = current().dispatch_several(op, (x,), params)
    if isinstance(x, Handle):
        for number, handle in enumerate(handles):
            link(handle, x, Call(op.kernel, (), params, number if op.outputs > 1 else None))
    return handles


def check_operands(op: Op, *operands: object, **params: object) -> None:
    """Off the loop, in ASYNC mode, raise at the call what the op would raise for operands that do not fit.

    Code off the loop may block, so it is that of libraries, which expect an error where NumPy raises it. The caller
    does not wait, and nothing is computed: the error is the one that NumPy has for arrays of these shapes. On the loop
    the op fails when it runs, as the others do.
    """
    if running_loop() is not None or mode_in_force() is not ExecutionMode.ASYNC:
        return
    known = list(map(described, operands))
    if any(each is None or None in shape_of(each) for each in known):
        return
    assert op.infer is not None
    try:
        op.infer(*known, **params)
    except Exception:  # noqa: BLE001 - NumPy has the last word
        try:
            op.kernel(*(outline(*each, 1) if isinstance(each, ShapeDtype) else each for each in known), **params)
        except Exception as error:
            dispatcher = current()
            error.add_note(note(op, dispatcher.device or dispatcher.core.default_device, user_frame(2)))
            raise


def name_of(function: object) -> str | None:
    """The name that the namespace has for a ufunc of NumPy; None where it has none for it."""
    ours = BY_NUMPY.get(function)
    return None if ours is None else ours.__name__


def named(function: F, name: str, doc: str, *ufuncs: np.ufunc) -> F:
    """Give a row's function its name and its documentation; it is what these ufuncs mean on handles."""
    function.__name__ = function.__qualname__ = name
    function.__module__ = "engine.ops"
    function.__doc__ = doc
    for ufunc in ufuncs:
        BY_NUMPY.setdefault(ufunc, function)
    return function
