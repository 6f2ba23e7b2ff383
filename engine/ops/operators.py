"""Operators of handles that no function of the namespace stands for.

NumPy's power, comparisons with any object, and in-place operators.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine.base.op import Op, ShapeDtype
from engine.devices.cpu import holds_objects, plain
from engine.memory.layout import forwards
from engine.ops.infer import Facts, Infer, broadcast, dtype_of, elementwise, shape_of
from engine.ops.rows import dispatch_view, scope
from engine.queues.operands import holds_handle
from engine.runtime.current import current
from engine.runtime.defaults import defaults
from engine.settings.scope import NOTHING
from engine.settings.switch import program
from handles.base import Handle
from handles.views import Key, follow

Array = np.ndarray[Any, Any]

_SQUARED_BOOL = (np.ones(1, bool) ** 2).dtype


def _called(base: float, exponent: object) -> np.ufunc:
    """The ufunc that NumPy calls for an exponent, as its error says."""
    try:
        with np.errstate(all="raise"):
            np.array([base]) ** exponent
    except FloatingPointError as error:
        return next(ufunc for ufunc in (np.square, np.sqrt, np.power) if str(error).endswith(ufunc.__name__))
    raise AssertionError("no number has such a power")


_SCALAR_POWERS = {
    (int, 2): _called(1e300, 2),
    (float, 2.0): _called(1e300, 2.0),
    (float, 0.5): _called(-1.0, 0.5),
}
"""Which ufunc it is, differs between versions of NumPy."""


def _fused_power(types: Sequence[Any], operands: Sequence[Any], params: dict[str, Any]) -> np.ufunc | None:
    """The ufunc that NumPy's operator calls. Of some scalar exponents it makes other functions in each version."""
    base, exponent = types
    if isinstance(exponent, np.dtype):
        return None if getattr(operands[1], "ndim", 1) == 0 else np.power
    if not isinstance(base, np.dtype) or base.kind not in "iuf" or exponent not in (int, float):
        return None
    value = operands[1]
    if value in (-1, 0, 1) or (base.kind != "f" and (exponent is float or value < 2)):
        return None
    return _SCALAR_POWERS.get((exponent, value), np.power)


def _infer_power(x1: object, x2: object) -> ShapeDtype:
    inferred = elementwise(np.power)(x1, x2)
    assert isinstance(inferred, ShapeDtype)
    squared = isinstance(x1, ShapeDtype) and x1.dtype == bool and x2.__class__ is int and x2 == 2
    return inferred._replace(dtype=_SQUARED_BOOL) if squared else inferred


# `x ** 0.5` is a square root in NumPy; `power(x, 0.5)` is not, in some versions: they differ in the last bit.
_POWER = Op("pow", operator.pow, infer=_infer_power, ns=20, variant=_fused_power)


def power(x1: Any, x2: Any) -> Handle:
    """`x1 ** x2`."""
    return current().dispatch(_POWER, x1, x2)


def _infer_conjugate(x: object) -> ShapeDtype:
    return ShapeDtype(shape_of(x), dtype_of(x))


def _conjugate(x: Array) -> object:
    return x.conj()


def _fused_conjugate(types: Sequence[object], operands: Sequence[object], params: dict[str, object]) -> np.ufunc | None:
    return np.conjugate if isinstance(types[0], np.dtype) and types[0].kind == "c" else None


_CONJUGATE = Op("conj", _conjugate, infer=_infer_conjugate, variant=_fused_conjugate, view=True)


def conjugate(x: Handle) -> Handle:
    """`x.conj()`: of real numbers the array itself, whose dtype stays; `numpy.conjugate` makes integers of bools."""
    return dispatch_view(_CONJUGATE, x)


# ---------------------------------------------------------------------------------------------------------------------
# Comparisons

_COMPARISONS: dict[str, tuple[Callable[[Any, Any], object], str]] = {
    "equal": (operator.eq, "__eq__"),
    "not_equal": (operator.ne, "__ne__"),
    "less": (operator.lt, "__gt__"),
    "less_equal": (operator.le, "__ge__"),
    "greater": (operator.gt, "__lt__"),
    "greater_equal": (operator.ge, "__le__"),
}
"""For each ufunc its operator, and the method that the other operand has for it."""

_MISSING: object = object()


def _infer_equality(ufunc: np.ufunc) -> Infer:
    """The ufunc's rule; where it has no loop for the dtypes, NumPy's operator says False (or True) for each element."""
    by_dtype = elementwise(ufunc)

    def infer(x1: Any, x2: Any) -> Facts:
        try:
            return by_dtype(x1, x2)
        except TypeError:
            return ShapeDtype(broadcast(shape_of(x1), shape_of(x2)), np.dtype(bool))

    return infer


def _equality(ufunc: np.ufunc) -> Callable[[object, object], Handle]:
    """The operator `==` or `!=` between arrays and numbers, of any dtypes."""
    name = ufunc.__name__

    def variant(types: Sequence[object], operands: Sequence[object], params: dict[str, object]) -> np.ufunc | None:
        return ufunc if all(not isinstance(each, np.dtype) or each.kind in "biufc" for each in types) else None

    op = Op(name, _COMPARISONS[name][0], infer=_infer_equality(ufunc), variant=variant)

    def function(x1: Any, x2: Any) -> Handle:
        here = defaults.here.now
        if here.seat._thread_id is here.thread and scope() is NOTHING:  # as `current` does; its call costs more
            return here.dispatcher.dispatch(op, x1, x2)  # type: ignore[no-any-return]
        return current().dispatch(op, x1, x2)

    return function


equal = _equality(np.equal)
not_equal = _equality(np.not_equal)


@functools.cache
def _with_objects(name: str) -> Op:
    """The comparison with an array of Python objects, by the operators of its elements: code of any cost."""
    function = _COMPARISONS[name][0]

    def kernel(x: Array, *, other: Any) -> Any:
        return function(x, other)

    def infer(x: Any, *, other: Any) -> ShapeDtype:
        return ShapeDtype(broadcast(shape_of(x), other.shape), np.dtype(bool))

    return Op(name, kernel, infer=infer, ns=None)


def compared(name: str, x: Handle, other: object) -> object:
    """`x == other`, or another comparison by the name of its ufunc, with an operand of any class.

    It is elementwise, as NumPy's. An object of another library that arrays defer to answers itself; `NotImplemented`
    where it refuses to meet arrays at all.
    """
    if isinstance(other, list | tuple) and holds_handle(other):
        other = program.namespace.asarray(other)
    elif not isinstance(other, np.ndarray | np.generic):
        answer = _answer_of(name, x, other)
        if answer is not _MISSING:
            return answer
        to_numpy = getattr(other, "to_numpy", None)  # a timestamp of pandas, say
        other = np.asarray(other if to_numpy is None else to_numpy())
    if isinstance(other, np.ndarray | np.generic) and holds_objects(other.dtype):
        return current().dispatch_any(_with_objects(name), (x,), {"other": np.array(plain(np.asanyarray(other)))})
    namespace = program.namespace
    row = getattr(namespace.operators if name in ("equal", "not_equal") else namespace, name)
    return row(x, other)


def _answer_of(name: str, x: Handle, other: object) -> object:
    """Ask an object that arrays defer to, by NumPy's rules, for the comparison; missing where there is none."""
    ufunc = getattr(type(other), "__array_ufunc__", _MISSING)
    if ufunc is _MISSING and getattr(type(other), "__array_priority__", 0) <= 0:
        return _MISSING
    answer = getattr(type(other), _COMPARISONS[name][1])(other, x)
    if answer is not NotImplemented or ufunc is None:
        return answer
    return _MISSING if ufunc is _MISSING else getattr(np, name)(x, other)


# ---------------------------------------------------------------------------------------------------------------------
# In-place operators


def updated(ufunc: str, handle: Handle, other: object) -> Handle:
    """Compute `handle op= other` for the handle: its dtype and shape stay. Raises what NumPy raises, when it runs."""
    return current().dispatch(_POWERED if ufunc == "power" else _in_place(ufunc), handle, other)


@functools.cache
def _in_place(name: str) -> Op:
    ufunc: np.ufunc = getattr(np, name)

    def into(x1: object, x2: object, *, out: object) -> Any:
        return ufunc(x1, x2, out=out)

    def kernel(x1: Array, x2: Array) -> Any:
        result = _laid_out_as(x1)
        if x1.size != 1:
            return ufunc(x1, x2, out=result)
        result[...] = x1  # NumPy takes one element that becomes the result for a reduction: NaNs get another sign
        return ufunc(result, x2, out=result)

    if ufunc.signature:
        return Op(name, kernel, infer=lambda x1, x2: x1, ns=None)
    return Op(
        name,
        kernel,
        infer=lambda x1, x2: x1,
        ns=1.5,
        into=into,
        variant=lambda types, operands, params: ufunc,
        updates=True,
    )


def _laid_out_as(x: Array) -> Array:
    """Memory for what an array becomes, which is walked in the directions in which the array is."""
    if min(x.strides, default=0) >= 0:
        return np.empty_like(x)
    turned = forwards(x.strides)
    return np.empty_like(x[turned])[turned]


def _powered(x1: Array, x2: Array) -> object:
    result = _laid_out_as(x1)
    result[...] = x1
    result **= x2
    return result


_POWERED = Op("power", _powered, infer=lambda x1, x2: x1, ns=20, variant=_fused_power, updates=True)


# ---------------------------------------------------------------------------------------------------------------------
# Writes into views


def _seen(x: Array, old: Array, *operands: Array, steps: Sequence[object]) -> Array:
    part = follow(x, steps, operands)
    return part if isinstance(part, np.ndarray) and np.may_share_memory(part, x) else old


def _part(x: Array, operands: Sequence[object], steps: Sequence[object], strict: bool) -> Array | None:
    """The view that a write reaches; None where NumPy makes a copy, which is written to in place of it."""
    part = follow(x, steps, operands)
    if isinstance(part, np.ndarray):
        return part if np.may_share_memory(part, x) else None
    if strict:
        raise TypeError(f"{type(part).__name__!r} object does not support item assignment")
    return None


def _written(x: Array, value: Array, *operands: Array, steps: Sequence[object], strict: bool) -> Array:
    if _part(x, operands, steps, strict) is None:
        return x
    result = x.copy(order="K")
    follow(result, steps, operands)[...] = value
    return result


def _write_over(x: Array, value: Array, *operands: Array, steps: Sequence[object], strict: bool) -> Array:
    """`_written` in place, where nothing else refers to `x`."""
    part = _part(x, operands, steps, strict)
    if part is not None:
        part[...] = value
    return x


_SEEN = Op("view", _seen, infer=lambda x, old, *operands, steps: old, ns=1e-6, view=True)
_WRITTEN = Op(
    "setitem",
    _written,
    infer=lambda x, value, *operands, steps, strict: x,
    cost=lambda values, params: 1.0 * float(values[0].size),
    view=True,
    overwrite=_write_over,
)


def _operands_of(steps: Sequence[object]) -> tuple[object, ...]:
    return tuple(operand for step in steps if step.__class__ is Key for operand in step.operands)


def seen(source: Handle, view: Handle, steps: tuple[object, ...]) -> Handle:
    """The view of a handle by these steps, where NumPy makes one; the old handle where it makes a copy."""
    return current().dispatch_any(_SEEN, (source, view, *_operands_of(steps)), {"steps": steps})


def written(source: Handle, value: Handle, steps: tuple[object, ...], *, strict: bool) -> Handle:
    """The array that a handle would be once a value is written into its view by these steps.

    `strict` refuses a scalar, with `TypeError` when it runs; else it is left alone.
    """
    return current().dispatch_any(_WRITTEN, (source, value, *_operands_of(steps)), {"steps": steps, "strict": strict})
