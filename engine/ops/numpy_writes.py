"""NumPy functions that write to an argument: to `out`, or, as `np.copyto` and its kin do, to the first one.

A value never changes. Where NumPy writes to an array, the handle is rebound to a new value, once the op has been
dispatched: a call that is refused changes nothing, and handles made from the old value keep it. An ndarray is written
to by NumPy itself, for which the caller waits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine.base.op import Estimate, Op
from engine.base.pytree import fill, take
from engine.ops.numpy_binding import Arguments, first_name, without
from engine.queues.operands import settled
from engine.runtime.current import current
from handles.base import Handle
from handles.views import rebind

Array = np.ndarray[Any, Any]


def name_of(function: Callable[..., object]) -> str:
    """The name of a NumPy function as users type it, without `numpy.`."""
    module = str(getattr(function, "__module__", "") or "").removeprefix("numpy").lstrip(".")
    name = str(getattr(function, "__name__", function))
    return f"{module}.{name}" if module else name


def host(value: Any, what: str) -> Any:
    """The arguments with values in place of handles; an implicit sync point."""
    operands: list[Any] = []
    call = take(value, operands)
    return fill(call, [np.asarray(each._sync(what)) if isinstance(each, Handle) else each for each in operands])


def arrays_of(values: Sequence[object]) -> list[Array]:
    """The arrays among operands."""
    return [value for value in values if isinstance(value, np.ndarray)]


def cost_of_arrays(ns: float) -> Estimate:
    """The cost of so many nanoseconds for each element of the operands, or of what they are broadcast to."""

    def cost(values: Sequence[Any], params: dict[str, Any]) -> float:
        arrays = arrays_of(values)
        try:
            size = math.prod(np.broadcast_shapes(*(array.shape for array in arrays)))
        except ValueError:
            size = 0
        return ns * max([size, *(array.size for array in arrays)])

    return cost


# ---------------------------------------------------------------------------------------------------------------------
# `out`


def function_into(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Dispatch a call with `out` among its keywords: a handle is rebound, an ndarray written to, which waits.

    Returns `out`, as NumPy does. What is neither it refuses, a tuple too, except in `clip`, which is a ufunc inside.
    """
    out = kwargs["out"]
    if not isinstance(out, Handle):
        args, kwargs = host((args, without(kwargs, "out")), f"np.{name_of(function)}(out=an ndarray)")
        result = function(*args, **kwargs, out=out)
        return result if isinstance(out, tuple) else out

    def kernel(*operands: Any, call: Any) -> Any:
        args, kwargs = fill(call, operands)
        kwargs["out"] = np.array(kwargs["out"])
        return function(*args, **kwargs)

    operands: list[Any] = []
    call = take((args, kwargs), operands, settled)
    op = Op(name_of(function), kernel, infer=_infer_out, ns=None)
    return rebind(out, current().dispatch_several(op, tuple(operands), {"call": call})[0])


def _infer_out(*operands: Any, call: Any) -> Any:
    return fill(call, operands)[1]["out"]


def _ignores_out(function: Callable[..., object]) -> bool:
    operand = np.ones((2, 2))
    out = np.empty_like(function(operand))
    return function(operand, out=out) is not out


_TRANSFORMS: tuple[Callable[..., object], ...] = (
    np.fft.hfft,
    np.fft.ihfft,
    np.fft.fft2,
    np.fft.ifft2,
    np.fft.rfft2,
    np.fft.irfft2,
)
IGNORES_OUT = frozenset(function for function in _TRANSFORMS if _ignores_out(function))
"""Functions that have the parameter, and return a new array all the same."""


# ---------------------------------------------------------------------------------------------------------------------
# The first argument


def mutator_op(name: str, function: Callable[..., Any], ns: float | None = None) -> Op:
    """The op of a function that writes to its first argument: it does so to a copy, which is the result."""

    def kernel(*operands: Any, call: Any) -> Any:
        args, kwargs = fill(call, operands)
        target = np.array(args[0], order="K")
        function(target, *args[1:], **kwargs)
        return target

    cost = None if ns is None else cost_of_arrays(max(ns, 10.0))
    return Op(name, kernel, infer=lambda target, *_, call: target, ns=ns, cost=cost)


def mutate(op: Op, args: tuple[Any, ...], kwargs: dict[str, object]) -> None:
    """Dispatch what would change the first argument, and rebind it to the result."""
    operands: list[Any] = []
    call = take((args, kwargs), operands, settled)
    rebind(args[0], current().dispatch_several(op, tuple(operands), {"call": call})[0])


def change_first(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Dispatch a function that writes to its first argument: a handle is rebound; to write to an ndarray, it waits."""
    args, kwargs = _with_first(function, args, kwargs)
    if isinstance(args[0], Handle):
        mutate(mutator_op(name_of(function), function), args, kwargs)
        return
    args, kwargs = host((args, kwargs), f"np.{name_of(function)}() of an ndarray")
    function(*args, **kwargs)


def _with_first(function: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]) -> Arguments:
    """The same call with its first argument given by position."""
    if args:
        return args, kwargs
    first = first_name(function)
    return (kwargs[first],), without(kwargs, first)
