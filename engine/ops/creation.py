"""Creation functions, conversion of dtypes, and copies to other devices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from engine.base.errors import UnknownShapeError
from engine.base.op import Op, ShapeDtype
from engine.devices.base import Device
from engine.devices.cluster.backend import no_cluster
from engine.devices.cluster.values import is_chunked
from engine.devices.cpu import borrow, checked, unmasked
from engine.failures import user_frame
from engine.fusion.blocks import cast
from engine.ops import checks, costs
from engine.ops.assigned import filling
from engine.ops.infer import broadcast, dtype_of, same, shape_of, size_of
from engine.ops.manipulation import stack
from engine.ops.rows import Operand, named, op_of_several
from engine.queues.operands import holds_handle
from engine.runtime.current import current
from engine.settings.in_force import list_devices
from engine.settings.libraries import meet_libraries
from engine.settings.scope import device as device_scope
from handles.base import Handle
from handles.views import Call, link

Array = np.ndarray[Any, Any]

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

Place = str | Device | None
"""A device, by name or itself; None for that of the scopes in force."""


def on_device(device: Place, op: Op, args: tuple[Any, ...], params: dict[str, Any]) -> Handle:
    """Dispatch, on a device where one is named."""
    meet_libraries()
    if device is None:
        return current().dispatch_slowly(op, args, params, user_frame(2))[0]
    with device_scope(device):
        return current().dispatch_slowly(op, args, params, user_frame(2))[0]


# ---------------------------------------------------------------------------------------------------------------------
# Arrays of a given shape


def _infer_filled(*operands: object, shape: tuple[int, ...], dtype: Any) -> ShapeDtype:
    if dtype is None:
        dtype = dtype_of(operands[0]) if operands else np.dtype(np.float64)
    return ShapeDtype(shape, dtype)


def _full(value: Any, *, shape: Any, dtype: np.dtype[Any]) -> object:
    return np.full(shape, value, dtype=dtype)


# Undefined values are zeros here: so programs give the same results each time.
_EMPTY = Op("empty", np.zeros, infer=_infer_filled, cost=costs.created)
_ZEROS = Op("zeros", np.zeros, infer=_infer_filled, cost=costs.created)
_ONES = Op("ones", np.ones, infer=_infer_filled, cost=costs.created)
_FULL = Op("full", _full, infer=_infer_filled, cost=costs.created)

Lengths = int | tuple[int, ...]


class FilledRow(Protocol):
    """A function that makes an array of a shape."""

    def __call__(self, shape: Lengths, *, dtype: DTypeLike | None = None, device: Place = None) -> Handle: ...


class FilledLikeRow(Protocol):
    """A function that makes an array of the shape of another."""

    def __call__(self, x: Operand, /, *, dtype: DTypeLike | None = None, device: Place = None) -> Handle: ...


def _shape_and_dtype(name: str, shape: object, dtype: object) -> dict[str, Any]:
    lengths = checks.integers(name, "shape", shape)
    if any(length < 0 for length in lengths):
        raise ValueError(f"{name}: shape must have no negative lengths, but got {shape!r}")
    return {"shape": lengths, "dtype": checks.dtype_or_none(name, dtype)}


def _filled(op: Op, doc: str) -> FilledRow:
    """A row: an array of a shape, all of one value."""

    def function(shape: Lengths, *, dtype: DTypeLike | None = None, device: Place = None) -> Handle:
        return on_device(device, op, (), _shape_and_dtype(op.name, shape, dtype))

    return named(function, op.name, doc)


empty = _filled(_EMPTY, "An array of this shape, float64 when no dtype is given; its values are not defined.")
zeros = _filled(_ZEROS, "An array of zeros, float64 when no dtype is given.")
ones = _filled(_ONES, "An array of ones, float64 when no dtype is given.")


def full(shape: Lengths, fill_value: Operand, *, dtype: DTypeLike | None = None, device: Place = None) -> Handle:
    """An array of one value, of its dtype when none is given."""
    params = _shape_and_dtype("full", shape, dtype)
    return on_device(device, _FULL, (filling(fill_value, params["dtype"]),), params)


def _infer_like(x: Any, *fill: object, dtype: Any) -> ShapeDtype:
    return ShapeDtype(shape_of(x), dtype_of(x) if dtype is None else dtype)


def _like(name: str, kernel: Callable[..., object], doc: str) -> FilledLikeRow:
    """A row: an array of the shape of another, all of one value."""
    op = Op(name, kernel, infer=_infer_like, ns=1.0)

    def function(x: Operand, /, *, dtype: DTypeLike | None = None, device: Place = None) -> Handle:
        return on_device(device, op, (x,), {"dtype": checks.dtype_or_none(name, dtype)})

    return named(function, name, doc)


empty_like = _like(
    "empty_like", np.zeros_like, "An array of the shape and dtype of another; its values are not defined."
)
zeros_like = _like("zeros_like", np.zeros_like, "An array of zeros of the shape and dtype of another.")
ones_like = _like("ones_like", np.ones_like, "An array of ones of the shape and dtype of another.")

_FULL_LIKE = Op("full_like", np.full_like, infer=_infer_like, ns=1.0)


def full_like(x: Operand, /, fill_value: Operand, *, dtype: DTypeLike | None = None, device: Place = None) -> Handle:
    """An array of one value, of the shape and dtype of another."""
    given = checks.dtype_or_none("full_like", dtype)
    return on_device(device, _FULL_LIKE, (x, filling(fill_value, given, x)), {"dtype": given})


def _infer_eye(*, rows: int, columns: int, k: int, dtype: np.dtype[Any] | None) -> ShapeDtype:
    return ShapeDtype((rows, columns), dtype or np.dtype(np.float64))


def _eye(*, rows: int, columns: int, k: int, dtype: np.dtype[Any] | None) -> object:
    return np.eye(rows, columns, k, dtype=float if dtype is None else dtype)


_EYE = Op("eye", _eye, infer=_infer_eye, cost=lambda values, params: 1.0 * float(params["rows"]) * params["columns"])


def eye(
    n_rows: int, n_cols: int | None = None, /, *, k: int = 0, dtype: DTypeLike | None = None, device: Place = None
) -> Handle:
    """A matrix with ones on a diagonal: the main one, one above (`k` > 0), or one below; zeros elsewhere."""
    rows = checks.integer("eye", "n_rows", n_rows)
    columns = rows if n_cols is None else checks.integer("eye", "n_cols", n_cols)
    if rows < 0 or columns < 0:
        raise ValueError(f"eye: n_rows and n_cols must be 0 or more, but got {rows} and {columns}")
    k = checks.integer("eye", "k", k)
    params = {"rows": rows, "columns": columns, "k": k, "dtype": checks.dtype_or_none("eye", dtype)}
    return on_device(device, _EYE, (), params)


# ---------------------------------------------------------------------------------------------------------------------
# Ranges


def _range_cost(values: Sequence[object], params: dict[str, Any]) -> float:
    return 2.0 * float(params["length"])


def _arange(*, start: Any, stop: Any, step: Any, dtype: np.dtype[Any] | None, length: int) -> object:
    return np.arange(start, stop, step, dtype=dtype)


def _infer_arange(*, start: Any, stop: Any, step: Any, dtype: np.dtype[Any] | None, length: int) -> ShapeDtype:
    if dtype is None:
        # NumPy looks at the types of all three, not at what they are.
        dtype = np.arange(type(start)(0), type(stop)(0), type(step)(1)).dtype
    return ShapeDtype((length,), dtype)


_ARANGE = Op("arange", _arange, infer=_infer_arange, cost=_range_cost)


def arange(
    start: float, /, stop: float | None = None, step: float = 1, *, dtype: DTypeLike | None = None, device: Place = None
) -> Handle:
    """Evenly spaced values from `start` up to, not including, `stop`; from 0 to `start` when only that is given."""
    if stop is None:
        start, stop = 0, start
    bounds = {"start": start, "stop": stop, "step": step}
    for name, value in bounds.items():
        if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
            raise checks.wrong("arange", name, "a number", value)
    if step == 0:
        raise ValueError("arange: step must not be 0")
    # As NumPy does: with floats, rounding decides whether the last value is one too many.
    length = max(0, math.ceil((stop - start) / step))
    if all(isinstance(value, int | np.integer) for value in bounds.values()):
        length = len(range(int(start), int(stop), int(step)))
    return on_device(device, _ARANGE, (), {**bounds, "dtype": checks.dtype_or_none("arange", dtype), "length": length})


def _linspace(start: Any, stop: Any, *, length: int, dtype: np.dtype[Any] | None, endpoint: bool) -> object:
    return np.linspace(start, stop, length, dtype=dtype, endpoint=endpoint)


def _infer_linspace(
    start: object, stop: object, *, length: int, dtype: np.dtype[Any] | None, endpoint: bool
) -> ShapeDtype:
    shape = broadcast(shape_of(start), shape_of(stop))
    if dtype is None:
        dtype = np.result_type(dtype_of(start), dtype_of(stop), float(length))
        dtype = dtype if dtype.kind in "fc" else np.dtype(float)
    return ShapeDtype((length, *shape), dtype)


_LINSPACE = Op("linspace", _linspace, infer=_infer_linspace, cost=_range_cost)


def linspace(
    start: complex,
    stop: complex,
    /,
    num: int,
    *,
    dtype: DTypeLike | None = None,
    device: Place = None,
    endpoint: bool = True,
) -> Handle:
    """`num` evenly spaced values from `start` to `stop`, which is included unless `endpoint` is False."""
    num = checks.integer("linspace", "num", num)
    if num < 0:
        raise ValueError(f"linspace: num must be 0 or more, but got {num}")
    params = {
        "length": num,
        "dtype": checks.dtype_or_none("linspace", dtype),
        "endpoint": checks.flag("linspace", "endpoint", endpoint),
    }
    return on_device(device, _LINSPACE, (start, stop), params)


# ---------------------------------------------------------------------------------------------------------------------
# From other arrays


def _meshgrid(*arrays: object, indexing: Literal["xy", "ij"]) -> object:
    return tuple(np.meshgrid(*arrays, indexing=indexing))


def _infer_meshgrid(*arrays: object, indexing: str) -> object:
    lengths = [size_of(shape_of(array)) for array in arrays]
    if indexing == "xy" and len(lengths) > 1:
        lengths[:2] = lengths[1], lengths[0]
    return tuple(ShapeDtype(tuple(lengths), dtype_of(array)) for array in arrays)


def meshgrid(*arrays: Operand, indexing: Literal["xy", "ij"] = "xy") -> tuple[Handle, ...]:
    """The coordinates of the grid that one-dimensional arrays span, an array for each of them."""
    indexing = checks.one_of("meshgrid", "indexing", indexing, ("xy", "ij"))
    if not arrays:
        return ()
    op = op_of_several("meshgrid", _meshgrid, len(arrays), infer=_infer_meshgrid, cost=costs.outer)
    return current().dispatch_several(op, arrays, {"indexing": indexing})


def _infer_triangle(x: object, *, k: int) -> ShapeDtype:
    shape = shape_of(x)
    return ShapeDtype(shape * 2 if len(shape) == 1 else shape, dtype_of(x))


_TRIL = Op("tril", np.tril, infer=_infer_triangle, ns=2)
_TRIU = Op("triu", np.triu, infer=_infer_triangle, ns=2)


def tril(x: Operand, /, *, k: int = 0) -> Handle:
    """The lower triangle of each matrix, up to a diagonal; zeros above."""
    return current().dispatch(_TRIL, x, params={"k": checks.integer("tril", "k", k)})


def triu(x: Operand, /, *, k: int = 0) -> Handle:
    """The upper triangle of each matrix, from a diagonal on; zeros below."""
    return current().dispatch(_TRIU, x, params={"k": checks.integer("triu", "k", k)})


def _cast(x: object, *, dtype: np.dtype[Any], copy: bool) -> object:
    return np.asarray(x).astype(dtype, copy=copy)


def _infer_cast(x: object, *, dtype: np.dtype[Any], copy: bool) -> ShapeDtype:
    return ShapeDtype(shape_of(x), cast_dtype(dtype_of(x), dtype))


def cast_dtype(source: np.dtype[Any], dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that NumPy casts to: of "S" and "U" strings as long as the elements need.

    Raises `UnknownShapeError` for dates without a unit from strings: the values say it.
    """
    if dtype.itemsize and not (dtype.kind in "mM" and np.datetime_data(dtype)[0] == "generic"):
        return dtype
    if dtype.kind in "mM" and source.kind in "SUT":
        raise UnknownShapeError("the unit of the dates is not known before the strings are read: say it in the dtype")
    return np.zeros(1, source).astype(dtype).dtype


_ASARRAY = Op("asarray", np.asarray, infer=same, ns=0.001, view=True)
_COPY = Op("asarray", np.array, infer=same, block=cast)
_ASTYPE = Op("astype", _cast, infer=_infer_cast, view=True, block=cast)


def asarray(obj: Any, /, *, dtype: DTypeLike | None = None, device: Place = None, copy: bool | None = None) -> Handle:
    """A handle of an array, a scalar, a nested sequence (of handles, too), another handle, or an array of Dask.

    An ndarray is snapshotted; with `copy=False` it is not, and the caller promises not to write into it. `device`
    copies to that device, under any policy. Raises `ValueError` where `copy=False` cannot be had.
    """
    dtype = checks.dtype_or_none("asarray", dtype)
    if isinstance(obj, Handle):
        return _of_handle(obj, dtype, device, copy)
    if is_chunked(obj):
        return _of_chunked(obj, dtype, device)
    if isinstance(obj, np.ndarray) and obj.__class__ is not np.ndarray:
        obj = unmasked(obj)
    if isinstance(obj, list | tuple) and holds_handle(obj):
        if copy is False:
            raise ValueError("asarray: a sequence of handles cannot be joined with copy=False")
        return asarray(stack([asarray(each) for each in obj]), dtype=dtype, device=device)
    if copy is False:
        if not isinstance(obj, np.ndarray) or (dtype is not None and dtype != obj.dtype):
            raise ValueError("asarray: copy=False needs an ndarray, of the dtype asked for")
        return on_device(device, _ASARRAY, (borrow(checked(obj)),), {})
    if dtype is not None:
        return on_device(device, _ASARRAY, (checked(np.array(obj, dtype=dtype)),), {})
    if not isinstance(obj, np.ndarray | list | tuple | bool | int | float | complex | np.generic):
        obj = checked(np.array(obj))  # all that NumPy can read: a buffer, an array of another library
    return on_device(device, _ASARRAY, (obj,), {})


def _infer_chunked(*, dask_array: Any) -> ShapeDtype:
    return ShapeDtype(tuple(None if length != length else length for length in dask_array.shape), dask_array.dtype)


_CHUNKED = Op("asarray", np.asarray, infer=_infer_chunked, view=True)


def _of_chunked(obj: object, dtype: np.dtype[Any] | None, device: Place) -> Handle:
    """A handle of an array of Dask, on the cluster as it is; it is copied where another device is asked for."""
    cluster = next((each for each in list_devices() if each.kind == "CLUSTER"), None)
    if cluster is None:
        raise no_cluster()
    handle = on_device(cluster, _CHUNKED, (), {"dask_array": obj})
    return _of_handle(handle, dtype, device, None)


def _of_handle(obj: Handle, dtype: np.dtype[Any] | None, device: Place, copy: bool | None) -> Handle:
    handle = obj if device is None else to_device(obj, device)
    if dtype is not None and dtype != handle.dtype:
        if copy is False:
            raise ValueError(f"asarray: {handle.dtype} cannot become {dtype} with copy=False")
        return astype(handle, dtype, device=device)
    return on_device(device, _COPY, (handle,), {}) if copy else handle


def from_dlpack(x: object, /, *, device: Place = None, copy: bool | None = None) -> Handle:
    """A handle of an array of any library that has `__dlpack__`; a snapshot, unless `copy` is False."""
    if isinstance(x, Handle):
        return asarray(x, device=device, copy=copy)
    if not hasattr(x, "__dlpack__"):
        raise checks.wrong("from_dlpack", "x", "an object with __dlpack__", x)
    return asarray(np.from_dlpack(x), device=device, copy=copy)


def astype(x: Operand, dtype: Any, /, *, copy: bool = True, device: Place = None) -> Handle:
    """The elements in another dtype, converted as NumPy does. Raises `TypeError` for a dtype of Python objects."""
    params = {"dtype": checks.dtype("astype", dtype), "copy": checks.flag("astype", "copy", copy)}
    handle = on_device(device, _ASTYPE, (x,), params)
    return handle if copy or not isinstance(x, Handle) else link(handle, x, Call(_ASTYPE.kernel, (), params))


def to_device(x: Handle, device: str | Device, /) -> Handle:
    """The value of a handle on another device; the handle stays where it is. No policy forbids it."""
    return current().transfer(x, Device(device), user_frame(1))
