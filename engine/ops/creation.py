"""Creation functions, conversion of dtypes, and copies to other devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine.context import current, device as device_scope
from engine.devices.base import Device
from engine.devices.cpu import borrow, checked, plain
from engine.dispatch import user_frame
from engine.operands import holds_handle
from engine.ops.infer import shape_of
from engine.ops.manipulation import stack
from engine.ops.rows import BY_NUMPY, Operand
from engine.planning.op import Op, ShapeDtype
from handles.base import Handle

Place = str | Device | None


def _filled(values: Sequence[Any], params: dict[str, Any]) -> float:
    return 1.0 * float(np.prod(params["shape"], dtype=np.float64))


def _infer_filled(*operands: Any, shape: Any, dtype: Any) -> ShapeDtype:
    lengths = (int(shape),) if isinstance(shape, int | np.integer) else tuple(map(int, shape))
    if dtype is None:
        dtype = shape_dtype(operands[0]) if operands else np.dtype(np.float64)
    return ShapeDtype(lengths, np.dtype(dtype))


def shape_dtype(operand: Any) -> np.dtype[Any]:
    """The dtype that `numpy.full` gives for a fill value."""
    return operand.dtype if isinstance(operand, ShapeDtype) else np.asarray(operand).dtype


def _full(value: Any, *, shape: Any, dtype: Any) -> Any:
    return np.full(shape, value, dtype=dtype)


_EMPTY = Op("empty", np.zeros, infer=_infer_filled, cost=_filled)
_ZEROS = Op("zeros", np.zeros, infer=_infer_filled, cost=_filled)
_ONES = Op("ones", np.ones, infer=_infer_filled, cost=_filled)
_FULL = Op("full", _full, infer=_infer_filled, cost=_filled)


def on_device(device: Place, op: Op, args: tuple[Any, ...], params: dict[str, Any]) -> Handle:
    """Dispatch, on a device where one is named."""
    if device is None:
        return current().dispatch_slowly(op, args, params, user_frame(2))[0]
    with device_scope(device):
        return current().dispatch_slowly(op, args, params, user_frame(2))[0]


def empty(shape: int | tuple[int, ...], *, dtype: Any = None, device: Place = None) -> Handle:
    """An array of this shape; its values are not defined (here: zero)."""
    return on_device(device, _EMPTY, (), {"shape": shape, "dtype": dtype})


def zeros(shape: int | tuple[int, ...], *, dtype: Any = None, device: Place = None) -> Handle:
    """An array of zeros, float64 when no dtype is given."""
    return on_device(device, _ZEROS, (), {"shape": shape, "dtype": dtype})


def ones(shape: int | tuple[int, ...], *, dtype: Any = None, device: Place = None) -> Handle:
    """An array of ones, float64 when no dtype is given."""
    return on_device(device, _ONES, (), {"shape": shape, "dtype": dtype})


def full(shape: int | tuple[int, ...], fill_value: Operand, *, dtype: Any = None, device: Place = None) -> Handle:
    """An array of one value, of its dtype when none is given."""
    return on_device(device, _FULL, (fill_value,), {"shape": shape, "dtype": dtype})


def _like(name: str, op: Op, value: tuple[Any, ...]) -> Callable[..., Handle]:
    def kernel(x: Any, *fill: Any, dtype: Any) -> Any:
        return op.kernel(*fill, shape=x.shape, dtype=x.dtype if dtype is None else dtype)

    def infer(x: Any, *fill: Any, dtype: Any) -> ShapeDtype:
        return ShapeDtype(shape_of(x), shape_dtype(x) if dtype is None else np.dtype(dtype))

    row = Op(name, kernel, infer=infer, ns=1.0)

    def function(x: Operand, /, *, dtype: Any = None, device: Place = None) -> Handle:
        return on_device(device, row, (x, *value), {"dtype": dtype})

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"As `{op.name}`, of the shape and dtype of another array."
    return function


zeros_like = _like("zeros_like", _ZEROS, ())
ones_like = _like("ones_like", _ONES, ())


def _range_length(values: Sequence[Any], params: dict[str, Any]) -> float:
    return 1.0 * len(range(1)) if params["length"] is None else 1.0 * params["length"]


def _arange(*, start: Any, stop: Any, step: Any, dtype: Any, length: int) -> Any:
    return np.arange(start, stop, step, dtype=dtype)


def _infer_arange(*, start: Any, stop: Any, step: Any, dtype: Any, length: int) -> ShapeDtype:
    if dtype is None:
        dtype = np.arange(start, start, step).dtype
    return ShapeDtype((length,), np.dtype(dtype))


_ARANGE = Op("arange", _arange, infer=_infer_arange, cost=_range_length)


def arange(
    start: float, /, stop: float | None = None, step: float = 1, *, dtype: Any = None, device: Place = None
) -> Handle:
    """Evenly spaced values from `start` up to, not including, `stop`; from 0 to `start` when only that is given."""
    if stop is None:
        start, stop = 0, start
    if step == 0:
        raise ValueError("arange: step must not be 0")
    length = max(0, -int(-(stop - start) // step))
    params = {"start": start, "stop": stop, "step": step, "dtype": dtype, "length": length}
    return on_device(device, _ARANGE, (), params)


def _linspace(*, start: Any, stop: Any, length: int, dtype: Any, endpoint: bool) -> Any:
    return np.linspace(start, stop, length, dtype=dtype, endpoint=endpoint)


def _infer_linspace(*, start: Any, stop: Any, length: int, dtype: Any, endpoint: bool) -> ShapeDtype:
    if dtype is None:
        dtype = np.linspace(start, stop, 1).dtype
    return ShapeDtype((length,), np.dtype(dtype))


_LINSPACE = Op("linspace", _linspace, infer=_infer_linspace, cost=_range_length)


def linspace(
    start: complex, stop: complex, /, num: int, *, dtype: Any = None, device: Place = None, endpoint: bool = True
) -> Handle:
    """`num` evenly spaced values from `start` to `stop`, which is included unless `endpoint` is False."""
    if num < 0:
        raise ValueError(f"linspace: num must be 0 or more, but got {num}")
    params = {"start": start, "stop": stop, "length": num, "dtype": dtype, "endpoint": endpoint}
    return on_device(device, _LINSPACE, (), params)


# ---------------------------------------------------------------------------------------------------------------------
# From other arrays


def _same(x: Any) -> ShapeDtype:
    return ShapeDtype(shape_of(x), shape_dtype(x))


def _cast(x: Any, *, dtype: Any, copy: bool) -> Any:
    return np.asarray(x).astype(dtype, copy=copy)


def _infer_cast(x: Any, *, dtype: Any, copy: bool) -> ShapeDtype:
    return ShapeDtype(shape_of(x), np.dtype(dtype))


_ASARRAY = Op("asarray", np.asarray, infer=_same, ns=0.001, view=True)
_COPY = Op("asarray", np.array, infer=_same)
_ASTYPE = Op("astype", _cast, infer=_infer_cast, view=True)


def asarray(obj: Any, /, *, dtype: Any = None, device: Place = None, copy: bool | None = None) -> Handle:
    """A handle of an array, a scalar, a nested sequence (of handles, too), or another handle.

    An ndarray is snapshotted; with `copy=False` it is not, and the caller promises not to write into it. `device`
    copies to that device, whatever the policy. Raises `ValueError` where `copy=False` cannot be had.
    """
    if isinstance(obj, Handle):
        handle = obj if device is None else to_device(obj, device)
        if dtype is not None and np.dtype(dtype) != handle.dtype:
            if copy is False:
                raise ValueError(f"asarray: {handle.dtype} cannot become {np.dtype(dtype)} with copy=False")
            return astype(handle, dtype)
        return on_device(None, _COPY, (handle,), {}) if copy else handle
    if isinstance(obj, list | tuple) and holds_handle(obj):
        if copy is False:
            raise ValueError("asarray: a sequence of handles cannot be joined with copy=False")
        joined = stack([asarray(each) for each in obj])
        return asarray(joined, dtype=dtype, device=device)
    if copy is False:
        if not isinstance(obj, np.ndarray) or (dtype is not None and np.dtype(dtype) != obj.dtype):
            raise ValueError("asarray: copy=False needs an ndarray, of the dtype asked for")
        return on_device(device, _ASARRAY, (borrow(checked(plain(obj))),), {})
    if dtype is not None:
        return on_device(device, _ASARRAY, (checked(np.array(obj, dtype=dtype)),), {})
    return on_device(device, _ASARRAY, (obj,), {})


def astype(x: Operand, dtype: Any, /, *, copy: bool = True, device: Place = None) -> Handle:
    """The elements in another dtype, converted as NumPy does. Raises `TypeError` for a dtype of Python objects."""
    if np.dtype(dtype).hasobject:
        raise TypeError("astype: arrays of Python objects are not supported")
    return on_device(device, _ASTYPE, (x,), {"dtype": np.dtype(dtype), "copy": copy})


def to_device(x: Handle, device: str | Device, /) -> Handle:
    """The value of a handle on another device; the handle stays where it is. No policy forbids it."""
    return current().transfer(x, Device(device), user_frame(1))


BY_NUMPY.update({np.zeros_like: zeros_like, np.ones_like: ones_like})
