"""The CPU: logical devices that share the machine's memory; values are NumPy arrays."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from engine.devices.base import Device
from engine.kernels.buffers import Lease
from engine.kernels.layout import forwards

Array = np.ndarray[Any, Any]

# What refers to an array inside `adopt`, beside the caller: two names there and the argument of getrefcount; for the
# base of a view, that view, one name and that argument.
_OWN_REFERENCES = 3


class CpuBackend:
    """NumPy in this process."""

    kind = "CPU"
    on_host = True

    def count(self) -> int | None:
        return None

    def kernel(self, name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
        return kernel

    def from_host(self, device: Device, array: Array) -> Array:
        return array

    def to_host(self, value: Array) -> Array:
        """A read-only view: the value and what it is a view of are locked, so nobody can write to it."""
        if value.base is not None:
            lock(value)
        else:
            value.setflags(False)  # type: ignore[call-arg]  # by position, and unasked: both are faster
        return value.view()

    def adopt(self, result: Any, held: int) -> Array:
        """The result as an exact ndarray that only the engine can write to; copied where somebody else may.

        `held` says how many references the caller itself has to the result.
        """
        if result.__class__ is not np.ndarray:
            return checked(np.array(plain(result) if isinstance(result, np.ndarray) else result))
        if result.dtype.hasobject:
            return checked(result)
        if is_frozen(result):
            return result
        owner: Any = result
        known = _OWN_REFERENCES + held
        while sys.getrefcount(owner) <= known:
            if owner.base is None:
                return result
            if not isinstance(owner.base, np.ndarray):
                break
            owner, known = owner.base, _OWN_REFERENCES
        return snapshot(result)


def checked(array: Array) -> Array:
    """The array, unless its elements are Python objects: running those is running unknown code anywhere."""
    if array.dtype.hasobject:
        raise TypeError("arrays of Python objects are not supported: use a numeric, bool, string or datetime dtype")
    return array


def is_frozen(array: Array) -> bool:
    """Whether nobody can write to the array: it is read-only, and so is what it is a view of, down to the owner."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        if owner.flags.writeable:
            return False
        owner = owner.base
    return owner is None or isinstance(owner, bytes | Borrowed | Lease)


def lock(array: Array) -> None:
    """Make the array read-only down to its owner."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        if owner.flags.writeable:
            owner.setflags(write=False)
        owner = owner.base


class Borrowed:
    """Lets a value share the user's own memory without its being locked for the user."""

    __slots__ = ("__array_interface__", "array")

    def __init__(self, array: Array) -> None:
        self.array = array
        self.__array_interface__ = {
            "version": 3,
            "typestr": f"|V{array.itemsize}",  # as bytes, because the array interface loses some dtypes
            "shape": array.shape,
            "strides": array.strides,
            "data": (array.ctypes.data, True),
        }


def borrow(array: Array) -> Array:
    """A read-only array of the same memory, which the caller promises not to write to."""
    return np.asarray(Borrowed(array)).view(array.dtype)


def snapshot(array: Array) -> Array:
    """A copy that no later write can reach, laid out as the original is.

    The order in which NumPy reduces, and so the last bit of a float sum, depends on the layout: the order and sign of
    the strides, and which axes can be walked as one.
    """
    if array.__class__ is not np.ndarray:
        array = plain(array)
    checked(array)
    if is_frozen(array):
        return array
    flags = array.flags
    if flags.c_contiguous or flags.f_contiguous:
        copy = array.copy(order="K")
        if array.size == 1 and min(array.strides, default=0) < 0:
            return copy[forwards(array.strides)]
        return copy
    return _relaid(array)


def plain(array: Array) -> Array:
    """An ndarray subclass as what the engine computes with; a mask cannot be dropped in silence."""
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError("masked arrays are not supported: pass .filled(value), or .data and .mask apart")
    return np.asarray(array)


def _relaid(array: Array) -> Array:
    """A copy with small gaps where the original has gaps of any size."""
    strides = [0] * array.ndim
    extent, walked = array.itemsize, array.itemsize
    for axis in sorted(range(array.ndim), key=lambda axis: (abs(array.strides[axis]), -axis)):
        stride, length = array.strides[axis], array.shape[axis]
        if stride == 0 or length == 1:
            continue
        extent += 0 if abs(stride) == walked else array.itemsize
        strides[axis] = extent if stride > 0 else -extent
        extent, walked = extent * length, abs(stride) * length
    start = sum(-stride * (length - 1) for stride, length in zip(strides, array.shape, strict=True) if stride < 0)
    memory = np.empty(extent + array.itemsize, dtype=np.uint8)
    copy: Array = np.ndarray(array.shape, array.dtype, memory, start, tuple(strides))
    repeated = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in strides)
    copy[repeated] = array[repeated]
    return copy
