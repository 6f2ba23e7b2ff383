"""NumPy's protocols: `np.anything(handle, ...)` becomes an op, by way of a row where there is one."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.base.op import Op, ShapeDtype
from engine.base.pytree import fill, take
from engine.ops.creation import asarray, astype
from engine.ops.infer import (
    Infer,
    broadcast,
    described,
    dtype_of,
    elementwise,
    normalize_axes,
    of_core_dimensions,
    sample,
    shape_of,
    without as without_axes,
)
from engine.ops.numpy_binding import bind, first_name, named, parameters, without
from engine.ops.numpy_forms import FORMS
from engine.ops.numpy_known import cost_of_call
from engine.ops.numpy_results import Several, several
from engine.ops.numpy_shapes import Function, filled, with_constants
from engine.ops.numpy_shapes_table import shape_of_call
from engine.ops.numpy_writes import (
    IGNORES_OUT,
    arrays_of,
    change_first,
    cost_of_arrays,
    function_into,
    host,
    mutate,
    mutator_op,
    name_of,
)
from engine.ops.rows import BY_NUMPY
from engine.queues.operands import settled
from engine.runtime.current import current
from handles.base import Handle
from handles.symbol import Symbol
from handles.views import rebind, refresh

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

# ---------------------------------------------------------------------------------------------------------------------
# __array_ufunc__


def call_ufunc(ufunc: np.ufunc, method: str, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Dispatch a ufunc, or a method of one. `out=` handles are rebound; an `out=` array is written to, which waits."""
    if kwargs:
        kwargs = _with_axis(kwargs)
        outs = kwargs.get("out")
        if outs is not None:
            return _call_into(ufunc, method, inputs, kwargs, outs)
        kwargs = {name: value for name, value in kwargs.items() if name != "out"}
    if method == "at":
        return _at(ufunc, inputs)
    if method == "__call__" and not kwargs:
        if inputs[0].__class__ is np.ndarray and ufunc in _EQUALITIES:
            _check_loop(ufunc, inputs)
        row = BY_NUMPY.get(ufunc)
        if row is not None:
            return row(*inputs)
        handles = current().dispatch_several(plain_op(ufunc), inputs)
        return handles[0] if ufunc.nout == 1 else handles
    operands: list[Any] = []
    call = take((inputs, kwargs), operands, settled)
    handles = current().dispatch_several(method_op(ufunc, method), tuple(operands), {"call": call})
    return handles[0] if len(handles) == 1 else handles


_EQUALITIES = frozenset({np.equal, np.not_equal})


def _check_loop(ufunc: np.ufunc, inputs: tuple[Any, ...]) -> None:
    """Raise at the call what NumPy raises for dtypes that cannot be compared.

    The operator of an array, which calls the ufunc, looks for that error: it then answers for each element.
    """
    dtypes = []
    for each in inputs:
        value = each._cell.value if isinstance(each, Handle) else each
        if not isinstance(value, np.ndarray):
            known = described(each)
            if known is None:
                return
        dtypes.append(value.dtype if isinstance(value, np.ndarray) else dtype_of(known))
    if any(dtype.kind not in "biufc" for dtype in dtypes):
        ufunc.resolve_dtypes((*dtypes, None))


def _with_axis(kwargs: dict[str, object]) -> dict[str, object]:
    """The keywords with the value of an axis that is an array or a handle: the shape of the result depends on it."""
    axis = kwargs.get("axis")
    if not isinstance(axis, Handle | np.ndarray) or axis.shape != () or axis.dtype.kind not in "iu":
        return kwargs
    return {**kwargs, "axis": index(axis)}


def _nanoseconds(ufunc: np.ufunc) -> float | None:
    """The cost of one element; None for ufuncs of others, which may be Python functions."""
    return 10.0 if getattr(np, ufunc.__name__, None) is ufunc else None


@functools.cache
def plain_op(ufunc: np.ufunc) -> Op:
    """The op of a ufunc that the namespace has no row for."""
    infer = elementwise(ufunc) if ufunc.signature is None else _infer_core(ufunc)
    return Op(ufunc.__name__, ufunc, infer=infer, ns=_nanoseconds(ufunc), outputs=ufunc.nout)


def _infer_core(ufunc: np.ufunc) -> Infer | None:
    """The rule of a ufunc of NumPy's own with a signature; one of others may have any."""
    return of_core_dimensions(ufunc) if getattr(np, ufunc.__name__, None) is ufunc else None


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
        cost=None if ns is None else _outer_cost(ns) if method == "outer" else cost_of_arrays(ns),
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


def _outer_cost(ns: float) -> Callable[[Sequence[object], dict[str, object]], float]:
    def cost(values: Sequence[Any], params: dict[str, Any]) -> float:
        return ns * math.prod(array.size for array in arrays_of(values))

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


def _call_shape(*args: object, where: object = True, **kwargs: object) -> object:
    return broadcast(*map(shape_of, args), shape_of(where))


def _outer_shape(a: object, b: object, **kwargs: object) -> object:
    return (*shape_of(a), *shape_of(b))


def _reduce_shape(
    a: object, axis: object = 0, dtype: DTypeLike | None = None, out: object = None, keepdims: bool = False, **_: object
) -> object:
    shape = shape_of(a)
    return without_axes(shape, normalize_axes(axis, len(shape)), keepdims=keepdims)


def _accumulate_shape(a: object, axis: int = 0, *_: object, **__: object) -> object:
    return shape_of(a)


def _reduceat_shape(a: object, indices: Any, axis: int = 0, *_: object, **__: object) -> object:
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
    call = take((inputs, {**kwargs, "out": outs}), operands, settled)
    handles = current().dispatch_several(method_op(ufunc, method, True), tuple(operands), {"call": call})
    results = tuple(map(_rebound, outs, handles))
    return results[0] if len(results) == 1 else results


def _rebound(out: object, result: object) -> object:
    """Give the caller its `out`: that very object, with its new value."""
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
    return mutator_op(f"{ufunc.__name__}.at", ufunc.at, _nanoseconds(ufunc))


# ---------------------------------------------------------------------------------------------------------------------
# __array_function__


def call_function(function: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]) -> object:
    """Dispatch a NumPy function: as a row, as an op of unknown cost, or, where it returns no array, answer at once."""
    special = SPECIAL.get(function)
    if special is not None:
        return special(function, args, kwargs)
    form = FORMS.get(function)
    if form is not None:
        fitted = form.fit(bind(function, args, kwargs))
        if fitted is not None:
            return form.row(*fitted[0], **fitted[1])
    return dispatched(function, args, kwargs)


def dispatched(function: Function, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
    """Dispatch a call of a NumPy function as an op of its own. An `out` is written to."""
    args, kwargs = named(function, args, kwargs, "out")
    if kwargs.get("out") is not None:
        if function not in IGNORES_OUT:
            return function_into(function, args, kwargs)
        kwargs = without(kwargs, "out")
    operands: list[object] = []
    result = several(function, args, kwargs)
    if result is not None and not result.arrays:
        return result.build(())
    if np.ndarray in map(type, (*args, *kwargs.values())):
        args, kwargs = with_constants(function, args, kwargs)
    call = take((args, kwargs), operands, settled)
    cost = cost_of_call(function, args, kwargs) if result is None else None
    op = Op(
        name_of(function),
        _opaque(function, result),
        infer=shape_of_call(function, result),
        ns=None if cost is None else 1.0,
        cost=cost,
        outputs=1 if result is None else result.arrays,
        view=True,
        computes=not any(map(callable, (*args, *kwargs.values()))),
    )
    handles = current().dispatch_several(op, tuple(operands), {"call": call})
    if result is None:
        return handles[0]
    return result.build(handles)


def _opaque(function: Callable[..., object], result: Several | None) -> Callable[..., object]:
    def kernel(*operands: Any, call: Any) -> Any:
        args, kwargs = filled(call, operands)
        value = function(*args, **kwargs)
        if result is None:
            return value
        arrays = tuple(result.flatten(value))
        return arrays if len(arrays) != 1 else arrays[0]

    return kernel


# Functions that may write to what they read


def _nan_to_num(function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`copy=False` rebinds the handle: its value may be read by others, and is not written to."""
    args, kwargs = named(function, args, kwargs, "copy")
    if kwargs.get("copy", True):
        return dispatched(function, args, without(kwargs, "copy"))
    target = args[0] if args else kwargs[first_name(function)]
    if isinstance(target, Handle):
        refresh(target)
    result = dispatched(function, args, without(kwargs, "copy"))
    return rebind(target, result) if isinstance(target, Handle) and isinstance(result, Handle) else result


def _keeping_its_input(function: Function, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
    """`overwrite_input=True` allows NumPy to write to the operand, and does not ask for it."""
    args, kwargs = named(function, args, kwargs, "overwrite_input")
    return dispatched(function, args, without(kwargs, "overwrite_input"))


_WRITTEN = {np.apply_along_axis: "arr", np.apply_over_axes: "a", np.rot90: "k"}
"""The argument that is written to: by the function that is called back, or, in `rot90`, by NumPy itself."""


def _with_a_copy_to_write_to(function: Function, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
    place = parameters(function).names.index(_WRITTEN[function])
    written = args[place] if len(args) > place else kwargs.get(_WRITTEN[function])
    return dispatched(function if isinstance(written, int | None) else _copying(function), args, kwargs)


def _copy(value: object) -> object:
    return value.copy(order="K") if isinstance(value, np.ndarray) else value


@functools.cache
def _copying(function: Function) -> Function:
    """A function that hands a copy of the argument that is written to on to the wrapped one."""
    name = _WRITTEN[function]
    place = parameters(function).names.index(name)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if len(args) > place:
            args = (*args[:place], _copy(args[place]), *args[place + 1 :])
        else:
            kwargs[name] = _copy(kwargs[name])
        return function(*args, **kwargs)

    return call


# Functions that return no array


def _answer(function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    args, kwargs = host((args, kwargs), f"np.{name_of(function)}()")
    return function(*args, **kwargs)


def _answer_in_eager_code(function: Function, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
    """A plain bool, as NumPy's; in a graph, where there is no value yet, a symbol."""
    if any(isinstance(each, Symbol) for each in (*args, *kwargs.values())):
        return dispatched(function, args, kwargs)
    return _answer(function, args, kwargs)


def _describe(function: Function, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
    """An answer that depends on shapes and dtypes only: the caller does not wait."""
    operands: list[object] = []
    call = take((args, kwargs), operands)
    args, kwargs = fill(call, [_outline(each) if isinstance(each, Handle) else each for each in operands])
    return function(*args, **kwargs)


def _outline(handle: Handle) -> object:
    shape = handle.shape
    lengths = [1 if length is None else length for length in shape]
    return np.broadcast_to(np.zeros((), handle.dtype), lengths)


def _answer_shape(function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    given = bind(function, args, kwargs) or {}
    a = given.get("a")
    if isinstance(a, Handle) and None in a.shape:
        if function is np.shape:
            return a.shape
        if function is np.size:
            axis = given.get("axis")
            return a.size if axis is None else math.prod(a.shape[each] or 0 for each in np.atleast_1d(axis))
    return _describe(function, args, kwargs)


def _answer_path(function: Function, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
    """The order of a contraction depends on lengths; where one is not known yet, on the values."""
    operands: list[object] = []
    take((args, kwargs), operands)
    known = all(None not in each.shape for each in operands if isinstance(each, Handle))
    return (_describe if known else _answer)(function, args, kwargs)


Special = Callable[[Function, tuple[Any, ...], dict[str, Any]], object]

SPECIAL: dict[object, Special] = {
    np.shape: _answer_shape,
    np.size: _answer_shape,
    np.einsum_path: _answer_path,
    **dict.fromkeys(
        (np.can_cast, np.common_type, np.iscomplexobj, np.isrealobj, np.ndim, np.result_type),
        _describe,
    ),
    **dict.fromkeys(
        (
            np.array2string,
            np.array_repr,
            np.array_str,
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
        change_first,
    ),
    **dict.fromkeys((np.allclose, np.array_equal, np.array_equiv), _answer_in_eager_code),
    np.nan_to_num: _nan_to_num,
    **dict.fromkeys(
        (np.median, np.nanmedian, np.nanpercentile, np.nanquantile, np.percentile, np.quantile),
        _keeping_its_input,
    ),
    **dict.fromkeys(_WRITTEN, _with_a_copy_to_write_to),
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
    cost=cost_of_arrays(1.0),
    view=True,
)
