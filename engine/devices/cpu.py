"""The CPU: logical devices that share the machine's memory; values are NumPy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol, cast

import numpy as np

from engine.devices.base import Array, Backend, Device, Record
from engine.memory.buffers import Lease
from engine.memory.layout import forwards
from engine.memory.references import HELD_BY_VIEW, others
from engine.memory.snapshots import SHARED, snapshots
from engine.threads.pool import workers
from handles.operands import MASKED


class HostRecord(Record, Protocol):
    """A record of a queue of the host, which computes it itself."""

    def run(self) -> None:
        """Compute it, and what can be computed with it: called on a worker."""


class CpuBackend(Backend[Array]):
    """NumPy in this process. A worker looks ahead itself, when it begins, so records come one at a time."""

    on_host = True

    def submit(self, device: Device, records: Sequence[Record]) -> None:
        """Have workers compute the records."""
        for record in cast("Sequence[HostRecord]", records):
            workers.submit(record.run)

    def from_host(self, device: Device, array: Array) -> Array:
        return array

    def to_host(self, value: Array) -> Array:
        """A read-only view: the value and what it is a view of are locked, so that no code can write to it."""
        if value.base is not None:
            lock(value)
        else:
            value.setflags(False)  # type: ignore[call-arg]  # by position, and unasked: both are faster
        return value.view()

    def adopt(self, box: list[Any], known: int | None = 0) -> Array:
        """The result, which is all that `box` holds, as an exact ndarray that only the engine can write to.

        It is copied where other code may: where anything refers to it but the box and `known` places; None says that
        others do. It comes in a box, since how many names of callers count depends on the interpreter.
        """
        result = box.pop()
        if result is None:
            return NOTHING
        if result.__class__ is not np.ndarray:
            return checked(np.array(unmasked(result) if isinstance(result, np.ndarray) else result))
        if holds_objects(result.dtype):
            return checked(result)
        if is_frozen(result):
            return result
        if known is not None and not others(result, known) and _is_sole_owner(result):
            return result
        return _copied(result)


NOTHING = np.array(None, dtype=object)
"""The value of a function that returns nothing: it is read as None."""
NOTHING.setflags(write=False)

HOST = CpuBackend()
"""The host as such: for kernels that run here on behalf of another device."""


def holds_objects(dtype: np.dtype[Any]) -> bool:
    """Tell whether elements are Python objects. Strings of any length are none: NumPy keeps them itself."""
    return dtype.hasobject and dtype.kind != "T"


def checked(array: Array) -> Array:
    """The array, unless its elements are Python objects: running those is running unknown code anywhere."""
    if holds_objects(array.dtype):
        raise TypeError("arrays of Python objects are not supported: use a numeric, bool, string or datetime dtype")
    return array


def _is_sole_owner(array: Array) -> bool:
    """Tell whether nothing refers to what an array is a view of but that view, down to the owner of the memory."""
    base: Any = array.base
    while base is not None:
        if not isinstance(base, np.ndarray) or others(base, HELD_BY_VIEW):
            return False
        base = base.base
    return True


def is_frozen(array: Array) -> bool:
    """Tell whether no code can write to the array: it is read-only, as is what it is a view of, down to the owner."""
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
    if array.dtype.hasobject:  # strings of any length, which are not in the array's own memory
        shared = array.view()
        shared.setflags(write=False)
        return shared
    return np.asarray(Borrowed(array)).view(array.dtype)


def snapshot(array: Array) -> Array:
    """A copy that no later write can reach, laid out as the original is; of large arrays, pending ops share one.

    The order in which NumPy reduces, and so the last bit of a float sum, depends on the layout: the order and sign of
    the strides, and which axes can be walked as one.
    """
    if array.__class__ is not np.ndarray:
        array = plain(array)
    checked(array)
    if is_frozen(array):
        return array
    return _copied(array) if array.nbytes < SHARED else snapshots.take(array, _copied)


def _copied(array: Array) -> Array:
    """A copy of the array's own layout."""
    flags = array.flags
    if flags.c_contiguous or flags.f_contiguous or array.dtype.hasobject:
        copy = array.copy(order="K")
        if array.size == 1 and min(array.strides, default=0) < 0:
            return copy[forwards(array.strides)]
        return copy
    return _relaid(array)


def plain(array: Array) -> Array:
    """An operand of a subclass of ndarray as the ndarray that the engine computes with.

    Raises `TypeError` for a class with rules of its own (masked arrays, `numpy.matrix`, arrays with units): the engine
    computes by the rules of ndarrays, so the results would be others than the class promises.
    """
    cls: Any = array.__class__
    if _has_rules_of_its_own(cls):
        unmasked(array)
        name = f"{cls.__module__}.{cls.__qualname__}"
        raise TypeError(
            f"arrays of class {name} are not supported: their operators are not those of ndarrays; "
            "pass np.asarray(array), which computes by the rules of ndarrays"
        )
    return np.asarray(array)


def unmasked(array: Array) -> Array:
    """The ndarray of an array of any class, for a conversion that was asked for.

    Raises `TypeError` for a masked array: a mask cannot be dropped in silence.
    """
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(MASKED)
    return np.asarray(array)


_RULES = (
    "__array_ufunc__",
    "__array_function__",
    *("__lt__", "__le__", "__eq__", "__ne__", "__gt__", "__ge__", "__neg__", "__pos__", "__abs__", "__invert__"),
    *("__add__", "__sub__", "__mul__", "__truediv__", "__floordiv__", "__mod__", "__pow__", "__matmul__"),
    *("__and__", "__or__", "__xor__", "__lshift__", "__rshift__", "__iadd__", "__imul__", "__ipow__"),
)
"""Methods that say what operators and NumPy's functions make of an array."""


@lru_cache(maxsize=256)
def _has_rules_of_its_own(cls: Any) -> bool:
    """Tell whether operators or NumPy's functions mean something else for a subclass of ndarray."""
    return any(getattr(cls, name, None) is not getattr(np.ndarray, name, None) for name in _RULES)


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
