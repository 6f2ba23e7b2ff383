"""Conversion of handles: to Python scalars and lists, to NumPy's arrays, to bytes, to other libraries.

Each is an implicit sync point.
"""

from __future__ import annotations

import operator
import sys
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from handles.cell import Failure
from handles.holder import Holder
from handles.interruption import end_as_before, remember
from handles.operands import MASKED

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from handles.types import File, Order

Array = np.ndarray[Any, Any]


_FORMAT = 0x04
"""The flag of a request for a buffer that asks what its elements are."""


def _tells_all(dtype: np.dtype[Any]) -> bool:
    """Tell whether NumPy reads the dtype of an array back from its buffer."""
    return dtype.metadata is None and (dtype.kind != "V" or dtype.names is not None)


class Scalars(Holder):
    """Numbers, text and lists, as Python's own functions make them of a handle."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return bool(self._sync("bool()"))

    def __int__(self) -> int:
        return int(self._sync("int()"))

    def __float__(self) -> float:
        return float(self._sync("float()"))

    def __complex__(self) -> complex:
        return complex(self._sync("complex()"))

    def __index__(self) -> int:
        return operator.index(self._sync("operator.index()"))

    def __contains__(self, value: object) -> bool:
        return value in self._sync("the in operator")

    def __format__(self, spec: str) -> str:
        return format(self._sync("format()")[()], spec) if spec else repr(self)

    def item(self, *index: SupportsIndex | tuple[SupportsIndex, ...]) -> Any:
        """The element as a Python scalar, as `ndarray.item`; an implicit sync point."""
        return self._sync("item()").item(*index)  # type: ignore[arg-type]

    def tolist(self) -> Any:
        """The value as nested lists of Python scalars; an implicit sync point."""
        return self._sync("tolist()").tolist()


class Export(Holder):
    """The value as an array, as bytes, in a file, for another library."""

    __slots__ = ()

    @property
    def _data(self) -> Array:
        """The array that `numpy.ma` computes with, where a handle meets a masked array; an implicit sync point.

        Where that must not block, the masked array is what cannot be: `TypeError` says so.
        """
        try:
            return self._sync("numpy.ma")
        except ValueError as error:
            if isinstance(self._cell.value, Failure):
                raise
            raise TypeError(MASKED) from error

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        end_as_before(self._cell)
        value = self._sync("np.asarray()")
        if dtype is not None and np.dtype(dtype) != value.dtype:
            if copy is False:
                raise ValueError(f"cannot turn {value.dtype} into {np.dtype(dtype)} without a copy")
            return value.astype(dtype)
        return value.copy() if copy else value

    def tobytes(self, order: Order = "C") -> bytes:
        """The bytes of the value; an implicit sync point."""
        return self._sync("tobytes()").tobytes(order)

    def __dlpack__(
        self,
        *,
        stream: object = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """The value as a DLPack capsule, for other array libraries; an implicit sync point.

        It is read-only; a consumer that does not know of such (one that asks for no version, or for one before 1.0)
        gets a copy, or, with `copy=False`, the value itself, and promises not to write to it.
        """
        value = self._sync("__dlpack__()")
        if max_version is not None and max_version[0] >= 1:
            return value.__dlpack__(stream=stream, max_version=max_version, dl_device=dl_device, copy=copy)
        shared = np.asarray(_Shared(value)) if copy is False and value.size else value.copy()
        return shared.__dlpack__(stream=stream, dl_device=dl_device)

    def __dlpack_device__(self) -> tuple[int, int]:
        """The kind and number of the device, in DLPack's terms: (1, 0) for all that is in the host's memory."""
        return (1, 0)

    if sys.version_info >= (3, 12):

        def __buffer__(self, flags: int, /) -> memoryview:
            """The memory of the value, read-only, for what takes bytes: `memoryview`, files, sockets, hashes.

            Raises what NumPy raises for a dtype that a buffer cannot say (dates), and for a reader that wants to write.
            """
            try:
                value = self._sync("the buffer protocol")
            except Exception:
                raise
            except BaseException as error:
                remember(self._cell, error)
                raise
            if flags & _FORMAT and not _tells_all(value.dtype):
                raise BufferError(f"a buffer does not say all of dtype {value.dtype!r}: read the value as an array")
            return value.__buffer__(flags)

    def __bytes__(self) -> bytes:
        return self._sync("bytes()").tobytes()

    def tofile(self, fid: File, sep: str = "", format: str = "%s") -> None:  # noqa: A002
        """Write the value to a file, as `ndarray.tofile`; an implicit sync point."""
        self._sync("tofile()").tofile(fid, sep, format)

    def dump(self, file: File) -> None:
        """Pickle the value to a file, as an ndarray; an implicit sync point."""
        self._sync("dump()").dump(file)

    def dumps(self) -> bytes:
        """The value pickled, as an ndarray; an implicit sync point."""
        return self._sync("dumps()").dumps()


class _Shared:
    """Shows a value as one that can be written to, for a consumer that promises not to."""

    __slots__ = ("__array_interface__", "value")

    def __init__(self, value: Array) -> None:
        self.value = value
        pointer, _ = value.__array_interface__["data"]
        self.__array_interface__ = {**value.__array_interface__, "data": (pointer, False)}
