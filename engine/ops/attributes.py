"""Methods and attributes of arrays that no function of NumPy stands for: views of the memory, and writes by them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.base.op import Op, ShapeDtype
from engine.ops import checks
from engine.ops.assigned import element
from engine.ops.infer import Dim, Shape, dtype_of, shape_of
from engine.ops.numpy_writes import mutate, mutator_op
from engine.ops.rows import dispatch_view
from engine.runtime.current import current
from handles.base import Handle

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

Array = np.ndarray[Any, Any]


def _view(x: Array, *, dtype: np.dtype[Any]) -> Array:
    return x.view(dtype)


def _infer_view(x: object, *, dtype: np.dtype[Any]) -> ShapeDtype:
    shape, old = shape_of(x), dtype_of(x)
    if not dtype.itemsize:  # "S", say: as long as the elements
        dtype = np.empty(1, old).view(dtype).dtype
    if dtype.itemsize == old.itemsize:
        return ShapeDtype(shape, dtype)
    if not shape:
        raise ValueError("Changing the dtype of a 0d array is only supported if the itemsize is unchanged")
    return ShapeDtype((*shape[:-1], _reinterpreted(shape[-1], old.itemsize, dtype.itemsize)), dtype)


def _reinterpreted(length: Dim, old: int, new: int) -> Dim:
    """How many elements the bytes of an axis are."""
    if length is None:
        return None
    if length * old % new:
        raise ValueError(
            "When changing to a larger dtype, its size must be a divisor of the total size in bytes of the last axis "
            "of the array."
        )
    return length * old // new


_VIEW = Op("view", _view, infer=_infer_view, ns=1e-6, view=True)


def view(x: Handle, dtype: DTypeLike | None = None) -> Handle:
    """The same memory, its bytes read as elements of another dtype."""
    return dispatch_view(_VIEW, x, {"dtype": x.dtype if dtype is None else checks.dtype("view", dtype)})


def _field(x: Array, *, dtype: np.dtype[Any], offset: int) -> Array:
    return x.getfield(dtype, offset)


_FIELD = Op("getfield", _field, infer=lambda x, dtype, offset: ShapeDtype(shape_of(x), dtype), ns=1e-6, view=True)


def getfield(x: Handle, dtype: object, offset: int = 0) -> Handle:
    """A part of each element: the one of that dtype, so many bytes from its beginning."""
    params = {"dtype": checks.dtype("getfield", dtype), "offset": checks.integer("getfield", "offset", offset)}
    return dispatch_view(_FIELD, x, params)


def _byteswap(x: Array) -> Array:
    return x.byteswap()


_BYTESWAP = Op("byteswap", _byteswap, infer=lambda x: ShapeDtype(shape_of(x), dtype_of(x)))


def byteswap(x: Handle) -> Handle:
    """The bytes of each element in the other order."""
    return current().dispatch(_BYTESWAP, x)


def _resized(x: Array, *, shape: tuple[int, ...]) -> Array:
    result = np.array(x)
    result.resize(shape, refcheck=False)
    return result


def _infer_resized(x: object, *, shape: Shape) -> ShapeDtype:
    return ShapeDtype(shape, dtype_of(x))


_RESIZE = Op("resize", _resized, infer=_infer_resized, cost=lambda values, params: float(np.prod(params["shape"])))


def resized(x: Handle, shape: tuple[object, ...]) -> Handle:
    """The elements in another shape: the first ones, with zeros after them where there are too few."""
    return current().dispatch(_RESIZE, x, params={"shape": checks.integers("resize", "new_shape", shape)})


# ---------------------------------------------------------------------------------------------------------------------
# Writes


def _write_all(target: Array, value: Any) -> None:
    target.fill(value)


def _write_flat(target: Array, key: Any, value: Any) -> None:
    target.flat[key] = value


def _write_real(target: Array, value: Any) -> None:
    target.real = value


def _write_imag(target: Array, value: Any) -> None:
    target.imag = value


def _write_field(target: Array, value: Any, dtype: Any, offset: int) -> None:
    target.setfield(value, dtype, offset)


def _op(name: str, function: Callable[..., None]) -> Op:
    return mutator_op(name, function, 1.0)


_WRITES = {
    "fill": _op("fill", _write_all),
    "flat": _op("flat", _write_flat),
    "imag": _op("imag", _write_imag),
    "real": _op("real", _write_real),
    "setfield": _op("setfield", _write_field),
}


def write(handle: Handle, attribute: str, *args: object) -> None:
    """Write to elements by way of an attribute: `h.real = x`, `h.flat[k] = x`. The handle is rebound."""
    if attribute == "fill":
        args = (element(handle, *args),)
    mutate(_WRITES[attribute], (handle, *args), {})
