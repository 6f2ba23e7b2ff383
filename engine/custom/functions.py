"""`@engine.op`: the user's own functions, sync and async, as ops."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal, overload

import numpy as np

from engine.base.op import Op, ShapeDtype
from engine.base.pytree import fill, take
from engine.custom.coalescing import Flights
from engine.dispatch.queueing import AsyncDispatcher
from engine.runtime.current import current
from engine.threads.slots import Slots
from handles.base import Handle

Function = Callable[..., Any]


@overload
def op(  # type: ignore[overload-overlap]  # one output is no tuple of one
    function: Function,
    /,
    *,
    name: str | None = None,
    num_outputs: Literal[1] = 1,
    shape: Any = None,
    max_concurrency: int | None = None,
    coalesce: bool = False,
) -> Callable[..., Handle]: ...
@overload
def op(
    function: Function,
    /,
    *,
    name: str | None = None,
    num_outputs: int,
    shape: Any = None,
    max_concurrency: int | None = None,
    coalesce: bool = False,
) -> Callable[..., tuple[Handle, ...]]: ...
@overload
def op(  # type: ignore[overload-overlap]  # one output is no tuple of one
    function: None = None,
    /,
    *,
    name: str | None = None,
    num_outputs: Literal[1] = 1,
    shape: Any = None,
    max_concurrency: int | None = None,
    coalesce: bool = False,
) -> Callable[[Function], Callable[..., Handle]]: ...
@overload
def op(
    function: None = None,
    /,
    *,
    name: str | None = None,
    num_outputs: int,
    shape: Any = None,
    max_concurrency: int | None = None,
    coalesce: bool = False,
) -> Callable[[Function], Callable[..., tuple[Handle, ...]]]: ...


def op(
    function: Any = None,
    /,
    *,
    name: str | None = None,
    num_outputs: Any = 1,
    shape: Any = None,
    max_concurrency: Any = None,
    coalesce: Any = False,
) -> Any:
    """Make an op of a Python function: arrays in; an array, a tuple of `num_outputs` arrays, or nothing out.

    A function that returns None has a handle of no outputs: awaiting it waits for the call, raises what it raised, and
    gives None.

    A sync function runs on a worker, never on the loop's thread in ASYNC mode; an `async def` runs on the event loop,
    beside compute. Independent calls run at once, on different workers; `max_concurrency` bounds how many calls of
    this function do, in the whole process. Arrays arrive read-only; what is not an array, a handle or a sequence
    of them is passed as it is. Contextvars are those of the dispatch. `shape` makes shape and dtype known before the
    op has run: a `(shape, dtype)` pair, or a function that returns one (a tuple of them for several outputs) for the
    `ShapeDtype` of each operand.

    With `coalesce=True` concurrent calls with equal arguments (the same handles, arrays of equal bytes, equal values)
    share one call of the function while it is in flight: for pure functions, whose results depend on nothing else. Each
    call has a handle of its own, and cancelling one takes nothing from the others. Calls in SYNC mode have run when
    they return, so there is nothing to share.

    Raises `TypeError` for what is not callable, for generator functions and for a `shape` that says neither, and
    `ValueError` for `num_outputs` or `max_concurrency` below 1; the op raises `TypeError` at the call where the
    arguments do not fit the function's signature.

    >>> @engine.op
    ... def smooth(x, width):
    ...     return np.convolve(x, np.ones(width) / width, mode="valid")
    >>> await smooth(ops.arange(4.0), 2)
    array([0.5, 1.5, 2.5])

    >>> @engine.op(num_outputs=2, shape=lambda x: [((), x.dtype)] * 2)
    ... def extremes(x):
    ...     return x.min(), x.max()
    >>> least, most = extremes(ops.arange(4.0))
    >>> least.shape, await most
    ((), np.float64(3.0))
    """
    if function is None:
        options = {"name": name, "num_outputs": num_outputs, "shape": shape, "max_concurrency": max_concurrency}
        return functools.partial(op, **options, coalesce=coalesce)
    if not callable(function):
        raise TypeError(f"engine.op makes ops of functions, but got {function!r}")
    _refuse_generator(function)
    if isinstance(num_outputs, bool) or not isinstance(num_outputs, int) or num_outputs < 1:
        raise ValueError(f"num_outputs must be an integer, 1 or more, but got {num_outputs!r}")
    if max_concurrency is not None:
        _check_max_concurrency(max_concurrency)
    if not isinstance(coalesce, bool):
        raise TypeError(f"coalesce must be True or False, but got {coalesce!r}")
    if name is not None and not isinstance(name, str):
        raise TypeError(f"name must be a str or None, but got {name!r}")
    name = name or str(getattr(function, "__name__", type(function).__name__))
    limit = None if max_concurrency is None else Slots(max_concurrency)
    return _make(function, name, num_outputs, shape, limit, coalesce)


def _refuse_generator(function: object) -> None:
    called = function
    while isinstance(called, functools.partial):
        called = called.func
    if not inspect.isroutine(called):
        called = type(called).__call__
    if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
        raise TypeError(
            f"engine.op makes ops of functions that return arrays, but {getattr(function, '__name__', function)!r} "
            "is a generator function: return what it yields as one array, np.stack(list(...)), or make an op of what "
            "one step computes"
        )


def _check_max_concurrency(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"max_concurrency must be None or an integer, 1 or more, but got {value!r}")
    if value < 1:
        raise ValueError(f"max_concurrency must be None or an integer, 1 or more, but got {value!r}")


def _make(
    function: Function, name: str, outputs: int, shape: Any, limit: Slots | None, coalesce: bool
) -> Callable[..., Any]:
    coroutine = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
    signature = _signature(function)

    def kernel(*operands: Any, arguments: Any) -> Any:
        args, kwargs = fill(arguments, operands)
        return function(*args, **kwargs)

    row = Op(
        name,
        kernel,
        infer=_inference(shape, outputs),
        ns=None,
        outputs=outputs,
        coroutine=coroutine,
        view=True,
        limit=limit,
    )

    flights = Flights(row) if coalesce else None

    @functools.wraps(function)
    def dispatch(*args: object, **kwargs: object) -> Any:
        if signature is not None:
            try:
                signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{name}: {error}") from None
        operands: list[Any] = []
        arguments = take((args, kwargs), operands)
        dispatcher, params = current(), {"arguments": arguments}
        if flights is not None and isinstance(dispatcher, AsyncDispatcher):
            handles = flights.dispatch(dispatcher, tuple(operands), params)
        else:
            handles = dispatcher.dispatch_several(row, tuple(operands), params)
        return handles[0] if outputs == 1 else handles

    return dispatch


def _signature(function: Function) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None  # a builtin that does not tell


def _inference(shape: Any, outputs: int) -> Callable[..., Any] | None:
    if shape is None:
        return None

    if not callable(shape):
        fixed = _fixed(shape, outputs)
        return lambda *operands, arguments: fixed

    def infer(*operands: Any, arguments: Any) -> Any:
        args, kwargs = fill(arguments, operands)
        return _described(shape(*args, **kwargs), outputs)

    return infer


def _fixed(shape: Any, outputs: int) -> Any:
    """The shapes and dtypes that a `shape` says which is no function; raises `TypeError` where it says none."""
    with suppress(TypeError, ValueError):
        said = _described(shape, outputs)
        if outputs == 1 or len(said) == outputs:
            return said
    wanted = "a (shape, dtype) pair" if outputs == 1 else f"a tuple of {outputs} (shape, dtype) pairs"
    raise TypeError(f"shape must be {wanted}, or a function that returns one, but got {shape!r}")


def _described(said: Any, outputs: int) -> Any:
    """The shape and dtype of each output, as `shape` says them; of one output by itself."""
    return _pair(said) if outputs == 1 else tuple(map(_pair, said))


def _pair(said: Any) -> ShapeDtype:
    lengths, dtype = said
    return ShapeDtype((lengths,) if isinstance(lengths, int) else tuple(lengths), np.dtype(dtype))
