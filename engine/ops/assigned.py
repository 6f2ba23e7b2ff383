"""Values that are written into elements (`h[k] = None`, `h[k] = (1, 2.5)`), converted as NumPy's own `setitem` does.

NumPy does not make an array of such a value first, whose dtype the value decides, and cast that: it packs each element
into the dtype of the array that is written to. `None` becomes NaN in floats, a tuple a record, a text a number, and a
date is refused by integers. What is no array and no number is therefore converted at the call, where that dtype is
known, by NumPy itself; its errors are raised there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from engine.base.warned import call_at
from engine.devices.cluster.values import is_chunked
from engine.devices.cpu import holds_objects, unmasked
from engine.failures import user_frame
from engine.ops.infer import described, dtype_of
from engine.queues.operands import holds_handle
from handles.base import Handle
from handles.views import ndim_of

Array = np.ndarray[Any, Any]

_AS_THEY_ARE = (Handle, bool, int, float, complex, np.generic)


def assigned(x: Handle | Array, key: object, value: Any) -> Any:
    """The operand for a value that is written to `x[key]`; `key` is an index without slots, or the name of a field.

    Raises what NumPy raises where the value does not fit the dtype.
    """
    if _is_operand(value):
        return value
    dtype = _dtype_of(x, key)
    if dtype is None:
        return value
    return _convert(_way(key, ndim_of(x) if isinstance(x, Handle) else np.ndim(x)), value, dtype)


def filling(value: Any, dtype: np.dtype[Any] | None, like: object = None) -> Any:
    """The operand for the value of all elements of a new array, of this dtype, or else of that of another array."""
    if _is_operand(value):
        return value
    if dtype is None and like is not None:
        known = described(like)
        dtype = None if known is None else dtype_of(known)
    return value if dtype is None else _convert(_cast, value, dtype)


def element(x: Handle, value: Any) -> Any:
    """The operand for a value that `x.fill` writes to each element."""
    if _is_operand(value) and not isinstance(value, np.ndarray):
        return value
    dtype = _dtype_of(x, ...)
    return value if dtype is None else _convert(_fill, value, dtype)


def _is_operand(value: Any) -> bool:
    """Tell whether a value is taken as it is: the kernel's own `setitem` packs numbers, and casts arrays."""
    if isinstance(value, _AS_THEY_ARE):
        return True
    if isinstance(value, np.ndarray):
        return not holds_objects(value.dtype)
    return is_chunked(value) or holds_handle(value)


def _convert(way: Callable[[object, np.dtype[Any]], Array], value: Any, dtype: np.dtype[Any]) -> Array:
    """The value converted in one of the ways below; NumPy's warnings name the user's line."""
    frame = user_frame(3)
    if isinstance(value, np.ndarray):
        value = unmasked(value)
    converted: Array = call_at(frame.f_code, frame.f_lasti, way, (value, dtype), {})
    converted.setflags(write=False)  # it is the operand's own: no snapshot is needed
    return converted


def _dtype_of(x: Handle | Array, key: object) -> np.dtype[Any] | None:
    """The dtype of what is written to, None where it is not known yet."""
    try:
        dtype: Any = x.dtype
    except Exception:  # noqa: BLE001 - that of another op, which is raised where a result is read
        return None
    if dtype is None or not isinstance(key, str | list):  # of a symbol it may be None
        return dtype  # type: ignore[no-any-return]
    for name in [key] if isinstance(key, str) else key:
        if name not in (dtype.names or ()):
            raise ValueError(f"no field of name {name}")
    return dtype[key]  # type: ignore[no-any-return]


def _way(key: object, ndim: int | None) -> Callable[[object, np.dtype[Any]], Array]:
    """How NumPy converts a value that is written to a key of an array of so many dimensions (None: not known)."""
    entries = key if isinstance(key, tuple) else (key,)
    integers = sum(isinstance(each, int) and not isinstance(each, bool) for each in entries)
    if integers == ndim and len(entries) == integers:
        return _packed
    if integers == ndim and [each for each in entries if not isinstance(each, int)] == [...]:
        return _filled
    return _converted


def _packed(value: object, dtype: np.dtype[Any]) -> Array:
    """One element, which any value is taken for: an array of no dimensions."""
    cell = np.zeros(1, dtype)
    cell[0] = value
    return cell.reshape(())


def _filled(value: object, dtype: np.dtype[Any]) -> Array:
    """An array of no dimensions, which no sequence fits in."""
    cell = np.zeros((), dtype)
    cell[...] = value
    return cell


def _converted(value: object, dtype: np.dtype[Any]) -> Array:
    """An array of the dimensions that the value has itself."""
    return np.array(value, dtype)


def _cast(value: object, dtype: np.dtype[Any]) -> Array:
    """An array of the value's own dtype, cast: so `np.full` and its kin do it."""
    return np.asarray(value).astype(dtype)


def _fill(value: Any, dtype: np.dtype[Any]) -> Array:
    """An array of no dimensions, as `ndarray.fill` takes a value for one element."""
    cell = np.zeros((), dtype)
    cell.fill(value)
    return cell
