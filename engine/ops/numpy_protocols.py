"""NumPy's protocols: `np.anything(handle, ...)` becomes an op, by way of a row where there is one."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine.arguments import fill, take
from engine.context import current
from engine.ops.creation import asarray, astype
from engine.ops.infer import broadcast, elementwise, normalize_axes, sample, shape_of, without
from engine.ops.numpy_forms import FORMS
from engine.ops.numpy_known import known
from engine.ops.numpy_results import Several, several
from engine.ops.rows import BY_NUMPY
from engine.planning.op import Op, ShapeDtype
from handles.base import Handle
from handles.operators import rebind

# ---------------------------------------------------------------------------------------------------------------------
# __array_ufunc__


def call_ufunc(ufunc: np.ufunc, method: str, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Dispatch a ufunc, or a method of one. `out=` handles are rebound; an `out=` array is written to, which waits."""
    if kwargs:
        outs = kwargs.get("out")
        if outs is not None:
            return _call_into(ufunc, method, inputs, kwargs, outs)
        kwargs = {name: value for name, value in kwargs.items() if name != "out"}
    if method == "at":
        return _at(ufunc, inputs)
    if method == "__call__" and not kwargs:
        row = BY_NUMPY.get(ufunc)
        if row is not None:
            return row(*inputs)
        handles = current().dispatch_several(plain_op(ufunc), inputs)
        return handles[0] if ufunc.nout == 1 else handles
    operands: list[Any] = []
    call = take((inputs, kwargs), operands)
    handles = current().dispatch_several(method_op(ufunc, method), tuple(operands), {"call": call})
    return handles[0] if len(handles) == 1 else handles


def _nanoseconds(ufunc: np.ufunc) -> float | None:
    """The cost of one element; None for ufuncs of others, which may be Python functions."""
    return 10.0 if getattr(np, ufunc.__name__, None) is ufunc else None


@functools.cache
def plain_op(ufunc: np.ufunc) -> Op:
    """The op of a ufunc that the namespace has no row for."""
    infer = elementwise(ufunc) if ufunc.signature is None else None
    return Op(ufunc.__name__, ufunc, infer=infer, ns=_nanoseconds(ufunc), outputs=ufunc.nout)


@functools.cache
def method_op(ufunc: np.ufunc, method: str, into: bool = False) -> Op:
    """The op of a method of a ufunc, or of a call with keywords; `into` writes to copies of the `out` operands."""
    function = getattr(ufunc, method)

    def kernel(*operands: Any, call: Any) -> Any:
        args, kwargs = fill(call, operands)
        if into:
            outs = kwargs["out"]
            empty = np.array if "where" in kwargs else np.empty_like
            kwargs["out"] = tuple(None if out is None else empty(out) for out in outs)
            args = tuple(_become(each, outs, kwargs["out"]) for each in args)
            if method != "__call__":
                (kwargs["out"],) = kwargs["out"]
        elif "where" in kwargs:
            kwargs["out"] = None  # without it NumPy warns that elements not selected are undefined
        return function(*args, **kwargs)

    ns = _nanoseconds(ufunc)
    return Op(
        ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}",
        kernel,
        infer=_infer_out if into else _infer_method(ufunc, method),
        ns=ns,
        cost=None if ns is None else _outer_cost(ns) if method == "outer" else _method_cost(ns),
        outputs=ufunc.nout if method == "__call__" else 1,
    )


def _become(operand: Any, outs: Sequence[Any], results: Sequence[Any]) -> Any:
    """An operand; where it is the one element that the result is written over, so is it here.

    NumPy takes that for a reduction, and NaNs get another sign.
    """
    for out, result in zip(outs, results, strict=True):
        if operand is out and out is not None and out.size == 1:
            result[...] = out
            return result
    return operand


def _arrays(values: Sequence[Any]) -> list[np.ndarray[Any, Any]]:
    return [value for value in values if isinstance(value, np.ndarray)]


def _method_cost(ns: float) -> Callable[[Sequence[Any], dict[str, Any]], float]:
    def cost(values: Sequence[Any], params: dict[str, Any]) -> float:
        arrays = _arrays(values)
        try:
            size = math.prod(np.broadcast_shapes(*(array.shape for array in arrays)))
        except ValueError:
            size = 0
        return ns * max([size, *(array.size for array in arrays)])

    return cost


def _outer_cost(ns: float) -> Callable[[Sequence[Any], dict[str, Any]], float]:
    def cost(values: Sequence[Any], params: dict[str, Any]) -> float:
        return ns * math.prod(array.size for array in _arrays(values))

    return cost


def _infer_out(*operands: Any, call: Any) -> Any:
    _, kwargs = fill(call, operands)
    outs = tuple(kwargs["out"])
    return outs[0] if len(outs) == 1 else outs


def _infer_method(ufunc: np.ufunc, method: str) -> Callable[..., Any] | None:
    """The shape by the rule of the method; the dtype from a call with tiny arrays."""
    if ufunc.signature is not None:
        return None

    def infer(*operands: Any, call: Any) -> Any:
        args, kwargs = fill(call, operands)
        results = tiny(
            args, {name: value for name, value in kwargs.items() if name in ("dtype", "casting", "signature")}
        )
        shape = _SHAPES[method](*args, **kwargs)
        inferred = tuple(ShapeDtype(shape, result.dtype) for result in results)
        return inferred[0] if len(inferred) == 1 else inferred

    def tiny(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        with np.errstate(all="ignore"):
            if method == "__call__":
                result = ufunc(*map(sample, args), **kwargs)
                return result if isinstance(result, tuple) else (result,)
            if method == "outer":
                return (ufunc(*map(sample, args), **kwargs),)
            one = np.ones(1, args[0].dtype if isinstance(args[0], ShapeDtype) else np.asarray(args[0]).dtype)
            function = ufunc.accumulate if method == "accumulate" else ufunc.reduce
            return (np.asarray(function(one, **kwargs)),)

    return infer


def _call_shape(*args: Any, where: Any = True, **kwargs: Any) -> Any:
    return broadcast(*map(shape_of, args), shape_of(where))


def _outer_shape(a: Any, b: Any, **kwargs: Any) -> Any:
    return (*shape_of(a), *shape_of(b))


def _reduce_shape(a: Any, axis: Any = 0, dtype: Any = None, out: Any = None, keepdims: bool = False, **_: Any) -> Any:
    shape = shape_of(a)
    return without(shape, normalize_axes(axis, len(shape)), keepdims=keepdims)


def _accumulate_shape(a: Any, axis: int = 0, *_: Any, **__: Any) -> Any:
    return shape_of(a)


def _reduceat_shape(a: Any, indices: Any, axis: int = 0, *_: Any, **__: Any) -> Any:
    shape = shape_of(a)
    (where,) = normalize_axes(axis, len(shape))
    count = shape_of(indices)[0] if isinstance(indices, ShapeDtype) else len(indices)
    return (*shape[:where], count, *shape[where + 1 :])


_SHAPES: dict[str, Callable[..., Any]] = {
    "__call__": _call_shape,
    "outer": _outer_shape,
    "reduce": _reduce_shape,
    "accumulate": _accumulate_shape,
    "reduceat": _reduceat_shape,
}


def _call_into(ufunc: np.ufunc, method: str, inputs: tuple[Any, ...], kwargs: dict[str, Any], outs: Any) -> Any:
    """A call with `out=`: handles get a new value, arrays are written to."""
    outs = outs if isinstance(outs, tuple) else (outs,)
    what = f"np.{ufunc.__name__}(out=an ndarray)"
    if any(out is not None and not isinstance(out, Handle) for out in outs):
        inputs, rest, plain = host((inputs, {**kwargs, "out": None}, outs), what)
        rest["out"] = tuple(
            np.array(array) if isinstance(out, Handle) else out for out, array in zip(outs, plain, strict=True)
        )
        results = getattr(ufunc, method)(*inputs, **rest)
        if isinstance(results, tuple):
            return tuple(map(_rebound, outs, results))
        return _rebound(outs[0], results)
    operands: list[Any] = []
    call = take((inputs, {**kwargs, "out": outs}), operands)
    handles = current().dispatch_several(method_op(ufunc, method, True), tuple(operands), {"call": call})
    results = tuple(map(_rebound, outs, handles))
    return results[0] if len(results) == 1 else results


def _rebound(out: Any, result: Any) -> Any:
    """What the caller gets for an `out`: that very object, with its new value."""
    if not isinstance(out, Handle):
        return result
    return rebind(out, result if isinstance(result, Handle) else asarray(result))


def _at(ufunc: np.ufunc, inputs: tuple[Any, ...]) -> None:
    """`ufunc.at(h, indices, values)`: the handle is rebound to what the array would be."""
    if not isinstance(inputs[0], Handle):
        ufunc.at(*host(inputs, f"np.{ufunc.__name__}.at()"))
        return
    mutate(_at_op(ufunc), inputs, {})


@functools.cache
def _at_op(ufunc: np.ufunc) -> Op:
    return _mutator_op(f"{ufunc.__name__}.at", ufunc.at, _nanoseconds(ufunc))


# ---------------------------------------------------------------------------------------------------------------------
# __array_function__


def call_function(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Dispatch a NumPy function: as a row, as an op of unknown cost, or, where it returns no array, answer at once."""
    special = SPECIAL.get(function)
    if special is not None:
        return special(function, args, kwargs)
    form = FORMS.get(function)
    if form is not None:
        fitted = form.fit(args, kwargs)
        if fitted is not None:
            return form.row(*fitted[0], **fitted[1])
    args, kwargs = _out_by_name(function, args, kwargs)
    out = kwargs.get("out")
    if out is not None:
        return _function_into(function, args, kwargs, out)
    operands: list[Any] = []
    result = several(function, args, kwargs)
    call = take((args, kwargs), operands)
    facts = known(function, args, kwargs) if result is None else None
    op = Op(
        name_of(function),
        _opaque(function, result),
        infer=None if facts is None else facts.infer,
        ns=None if facts is None else 1.0,
        cost=None if facts is None else facts.cost,
        outputs=1 if result is None else result.arrays,
        view=True,
    )
    handles = current().dispatch_several(op, tuple(operands), {"call": call})
    if result is None:
        return handles[0]
    return result.build(handles)


def name_of(function: Any) -> str:
    """The name of a NumPy function as users type it, without `numpy.`."""
    module = str(getattr(function, "__module__", "") or "").removeprefix("numpy").lstrip(".")
    name = str(getattr(function, "__name__", function))
    return f"{module}.{name}" if module else name


def _opaque(function: Callable[..., Any], result: Several | None) -> Callable[..., Any]:
    def kernel(*operands: Any, call: Any) -> Any:
        args, kwargs = fill(call, operands)
        value = function(*args, **kwargs)
        if result is None:
            return value
        arrays = tuple(result.flatten(value))
        return arrays if len(arrays) != 1 else arrays[0]

    return kernel


@functools.cache
def _place_of_out(function: Callable[..., Any]) -> int | None:
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return None
    return names.index("out") if "out" in names else None


def _out_by_name(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """An `out` that was given by position, taken out of it."""
    if len(args) < 2:
        return args, kwargs
    place = _place_of_out(function)
    if place is None or len(args) != place + 1:
        return args, kwargs
    return args[:place], {**kwargs, "out": args[place]}


def _function_into(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
    if not isinstance(out, Handle):
        plain_args, plain_kwargs = host((args, kwargs), f"np.{name_of(function)}(out=an ndarray)")
        function(*plain_args, **{**plain_kwargs, "out": out})
        return out

    def kernel(*operands: Any, call: Any) -> Any:
        args, kwargs = fill(call, operands)
        return function(*args, **{**kwargs, "out": np.array(kwargs["out"])})

    operands: list[Any] = []
    call = take((args, kwargs), operands)
    op = Op(name_of(function), kernel, infer=_infer_keyword_out, ns=None)
    return rebind(out, current().dispatch_several(op, tuple(operands), {"call": call})[0])


def _infer_keyword_out(*operands: Any, call: Any) -> Any:
    return fill(call, operands)[1]["out"]


# Functions that change an argument


def _mutator_op(name: str, function: Callable[..., Any], ns: float | None = None) -> Op:
    def kernel(*operands: Any, call: Any) -> Any:
        args, kwargs = fill(call, operands)
        target = np.array(args[0], order="K")
        function(target, *args[1:], **kwargs)
        return target

    cost = None if ns is None else _method_cost(max(ns, 10.0))
    return Op(name, kernel, infer=lambda target, *_, call: target, ns=ns, cost=cost)


def mutate(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Dispatch what would change the first argument, and rebind it to the result."""
    operands: list[Any] = []
    call = take((args, kwargs), operands)
    rebind(args[0], current().dispatch_several(op, tuple(operands), {"call": call})[0])


def _change_first(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if not args:
        first = next(iter(inspect.signature(function).parameters))
        args, kwargs = (kwargs[first],), {name: value for name, value in kwargs.items() if name != first}
    if isinstance(args[0], Handle):
        mutate(_mutator_op(name_of(function), function), args, kwargs)
        return
    args, kwargs = host((args, kwargs), f"np.{name_of(function)}() of an ndarray")
    function(*args, **kwargs)


# Functions that return no array


def host(value: Any, what: str) -> Any:
    """The arguments with values in place of handles; an implicit sync point."""
    operands: list[Any] = []
    call = take(value, operands)
    return fill(call, [each._sync(what) if isinstance(each, Handle) else each for each in operands])


def _answer(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    args, kwargs = host((args, kwargs), f"np.{name_of(function)}()")
    return function(*args, **kwargs)


def _describe(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An answer that depends on shapes and dtypes only: nobody waits."""
    operands: list[Any] = []
    call = take((args, kwargs), operands)
    args, kwargs = fill(call, [_outline(each) if isinstance(each, Handle) else each for each in operands])
    return function(*args, **kwargs)


def _outline(handle: Handle) -> Any:
    shape = handle.shape
    lengths = [1 if length is None else length for length in shape]
    return np.broadcast_to(np.zeros((), handle.dtype), lengths)


def _answer_shape(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    a = args[0] if args else kwargs.get("a")
    if isinstance(a, Handle) and None in a.shape:
        if function is np.shape:
            return a.shape
        if function is np.size:
            axis = args[1] if len(args) > 1 else kwargs.get("axis")
            return a.size if axis is None else math.prod(a.shape[each] or 0 for each in np.atleast_1d(axis))
    return _describe(function, args, kwargs)


Special = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]

SPECIAL: dict[Any, Special] = {
    np.shape: _answer_shape,
    np.size: _answer_shape,
    **dict.fromkeys(
        (np.can_cast, np.common_type, np.iscomplexobj, np.isrealobj, np.ndim, np.result_type),
        _describe,
    ),
    **dict.fromkeys(
        (
            np.array2string,
            np.array_repr,
            np.array_str,
            np.einsum_path,
            np.may_share_memory,
            np.min_scalar_type,
            np.save,
            np.savetxt,
            np.savez,
            np.savez_compressed,
            np.shares_memory,
        ),
        _answer,
    ),
    **dict.fromkeys(
        (np.copyto, np.fill_diagonal, np.place, np.put, np.put_along_axis, np.putmask),
        _change_first,
    ),
}


def cast(handle: Handle, dtype: Any, order: str, casting: str, copy: bool) -> Handle:
    """`ndarray.astype` of a handle."""
    if order == "K" and casting == "unsafe":
        return astype(handle, dtype, copy=copy)
    operands: list[Any] = []
    call = take(((handle,), {"dtype": np.dtype(dtype), "order": order, "casting": casting, "copy": copy}), operands)
    return current().dispatch_several(_ASTYPE, tuple(operands), {"call": call})[0]


def _astype(*operands: Any, call: Any) -> Any:
    args, kwargs = fill(call, operands)
    return args[0].astype(**kwargs)


_ASTYPE = Op(
    "astype",
    _astype,
    infer=lambda x, call: ShapeDtype(shape_of(x), call[1]["dtype"]),
    cost=_method_cost(1.0),
    view=True,
)
