"""The handle: an array that may not have been computed yet, seen from outside."""

from __future__ import annotations

import operator
from collections.abc import Generator, Iterator
from typing import Any, Self

import numpy as np

from handles.cell import PENDING, CancelOutcome, Cell, Failure, Undescribed, Unready
from handles.display import handle_html
from handles.memory import Memory, Unavailable
from handles.methods import MASKED, Methods
from handles.missing import names_there
from handles.operators import Operators
from handles.views import rebind, refresh, shows

Array = np.ndarray[Any, Any]

Value = Any
"""The value that a handle is read as: an ndarray, or a NumPy scalar where there are no dimensions."""


class Handle(Operators["Handle"], Methods["Handle"], Memory["Handle"]):
    """The result of an op: a view of a write-once result cell.

    Dropping a handle cancels nothing. `==` is elementwise; `hash` is identity, and refused where there are no
    dimensions. Everything that needs the value (`bool`, `float`, `item`, `np.asarray`, ...) is an implicit sync point:
    on a running event loop, in ASYNC mode, it raises `BlockingSyncError` for a non-ready handle, whether the value
    happens to be there or not.
    """

    __slots__ = ()

    READING = "(await handle)"
    """How the value is read, for messages."""

    def __init__(self) -> None:
        raise TypeError(f"{type(self).__name__} is made by ops, not called: use engine.ops.asarray(...)")

    # What is known without waiting

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the result; never waits."""
        cell = self._cell
        return cell.home.infer(cell).dtype

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The shape of the result; never waits. A dimension that depends on values not computed yet is None."""
        cell = self._cell
        return cell.home.infer(cell).shape

    @shape.setter
    def shape(self, shape: Any) -> None:
        rebind(self, self.reshape(shape))

    @property
    def ndim(self) -> int:
        """The number of dimensions; never waits."""
        return len(self.shape)

    @property
    def size(self) -> int | None:
        """The number of elements, None while a dimension is unknown; never waits."""
        size = 1
        for length in self.shape:
            if length is None:
                return None
            size *= length
        return size

    @property
    def itemsize(self) -> int:
        """Bytes of one element; never waits."""
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int | None:
        """Bytes of the result, None while a dimension is unknown; never waits."""
        size = self.size
        return None if size is None else size * self.dtype.itemsize

    @property
    def device(self) -> Any:
        """The device that holds, or will hold, the result; never waits."""
        return self._cell.home.device

    def is_ready(self) -> bool:
        """Tell whether reading would not wait: the op has finished, with a value or with an error."""
        cell = self._cell
        if cell.value is PENDING:
            cell.home.keep_going(cell)
            return False
        return True

    # What handles cannot have

    itemset = Unavailable("write h[index] = value")
    newbyteorder = Unavailable("use h.view(h.dtype.newbyteorder()), or h.byteswap() to swap the bytes")
    ptp = Unavailable("use np.ptp(h), or h.max() - h.min()")
    setflags = Unavailable("its value never changes; h.copy() is another handle, and np.array(h) an array of its own")
    tostring = Unavailable("use h.tobytes()")
    __array_interface__ = Unavailable("use np.asarray(h), which is read-only")
    __array_struct__ = Unavailable("use np.asarray(h), which is read-only")

    # Waiting

    def __await__(self) -> Generator[Any, None, Value]:
        cell = self._cell
        home = cell.home
        if cell.value is PENDING and not home.poll(cell):
            yield from home.wait(cell)
        value = home.host(cell) if home.on_host else (yield from home.fetch(cell))
        return value if value.ndim else value[()]

    async def wait_ready(self) -> Self:
        """Wait until the op has run, without copying the value to the host; raises the op's error."""
        cell = self._cell
        if cell.value is PENDING:
            await _Wait(cell)
        if isinstance(cell.value, Unready):
            cell.home.host(cell)
        return self

    def result(self, timeout: float | None = None) -> Value:
        """Block until the op has run, `timeout` seconds at most, and return the value.

        It is a read-only array, or a NumPy scalar where the result has no dimensions.

        Raises the op's error; `TimeoutError`; `BlockingSyncError` on a thread whose event loop is running.
        """
        check_seconds("timeout", timeout)
        cell = self._cell
        cell.home.block(cell, timeout, "result()")
        value = cell.home.host(cell)
        return value if value.ndim else value[()]

    def cancel(self) -> CancelOutcome:
        """Cancel the op: drop it if it is queued, abandon its result if it is running."""
        cell = self._cell
        return cell.home.cancel(cell)

    # Implicit sync points

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

    def __hash__(self) -> int:
        """Identity, of a handle with dimensions.

        Raises `TypeError` for one without: it equals the number that it is, and would be found by identity only. Where
        only running the op can tell the number of dimensions, this is an implicit sync point.
        """
        if not self._ndim_for_hash():
            raise TypeError(
                f"unhashable type: {type(self).__name__!r} with no dimensions, as a 0-d array is: use its value "
                "(`await h`, `h.item()`) or id(h) as the key; engine.gather waits for such handles, asyncio.gather "
                "hashes what it is given"
            )
        return object.__hash__(self)

    def _ndim_for_hash(self) -> int:
        value = self._cell.value
        if value is not PENDING and isinstance(value, Unready):
            return 1  # it failed, so it equals nothing: identity is right
        try:
            return self.ndim
        except ValueError:  # unknown before the op has run, or what the op fails with
            return self._sync("hash(), which depends on the number of dimensions,").ndim

    def __contains__(self, value: object) -> bool:
        return value in self._sync("the in operator")

    def __format__(self, spec: str) -> str:
        return format(self._sync("format()")[()], spec) if spec else repr(self)

    def item(self, *index: Any) -> Any:
        """The element as a Python scalar, as `ndarray.item`; an implicit sync point."""
        return self._sync("item()").item(*index)

    def tolist(self) -> Any:
        """The value as nested lists of Python scalars; an implicit sync point."""
        return self._sync("tolist()").tolist()

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

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        value = self._sync("np.asarray()")
        if dtype is not None and np.dtype(dtype) != value.dtype:
            if copy is False:
                raise ValueError(f"cannot turn {value.dtype} into {np.dtype(dtype)} without a copy")
            return value.astype(dtype)
        return value.copy() if copy else value

    def tobytes(self, order: Any = "C") -> bytes:
        """The bytes of the value; an implicit sync point."""
        return self._sync("tobytes()").tobytes(order)

    def __dlpack__(
        self,
        *,
        stream: Any = None,
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

    # An array like others

    def __len__(self) -> int:
        shape = self.shape
        if not shape:
            raise TypeError("len() of a handle with no dimensions")
        if shape[0] is None:
            return len(self._sync("len() of an unknown dimension"))
        return shape[0]

    def __iter__(self) -> Iterator[Any]:
        """Handles of the rows; of one dimension NumPy scalars, as arrays give, which is an implicit sync point.

        Code that iterates over one dimension (`set(h)`, `isin(h)` of pandas) hashes and compares what it gets.
        """
        shape = self.shape
        if not shape:
            raise TypeError("iteration over a handle with no dimensions")
        if len(shape) == 1:
            return iter(self._sync("iterating over the elements"))
        return (self[index] for index in range(len(self)))

    def __getitem__(self, key: Any) -> Handle:
        return self._cell.home.namespace.getitem(self, key)  # type: ignore[no-any-return]

    def __setitem__(self, key: Any, value: Any) -> None:
        """Rebind this handle to a new value; handles made from the old value keep it.

        Of a view (`row = h[0]`) the handle that it is part of is written to as well.
        """
        if isinstance(value, Handle) and shows(value, self, key):
            return
        cell = self._cell
        if cell.op.memory.view or cell.rare is not None:
            refresh(self)
        rebind(self, self._cell.home.namespace.setitem(self, key, value))

    def to_device(self, device: Any, /, *, stream: Any = None) -> Handle:
        """A handle of the same value on another device ("CPU:1"); this handle stays where it is."""
        if stream is not None:
            raise ValueError("stream must be None: this engine has no streams to pass on")
        return self._cell.home.namespace.to_device(self, device)  # type: ignore[no-any-return]

    def __copy__(self) -> Self:
        twin = object.__new__(self.__class__)
        twin._cell = self._cell
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.__copy__()  # values never change: h[k] = v rebinds

    def __reduce__(self) -> tuple[Any, ...]:
        return self._cell.home.reduce(self._cell)

    def __dir__(self) -> list[str]:
        return names_there(self)

    def __repr__(self) -> str:
        cell = self._cell
        state = cell.state
        facts = [f"op={cell.op.name}", f"device={cell.home.device}", f"state={state}"]
        try:
            inferred = cell.home.infer(cell, tell=False)
            facts += [f"shape={inferred.shape}", f"dtype={inferred.dtype}"]
        except Undescribed:
            pass
        except Exception as error:  # noqa: BLE001 - what the op will fail with; a repr itself never fails
            if state == "pending":
                facts.append(f"error={_shorten_error(error)}")
        if state == "ready":
            value = cell.home.peek(cell)
            facts.append("value=(not read yet)" if value is None else f"value={_shorten(value)}")
        elif isinstance(cell.value, Failure) and state == "failed":
            facts.append(f"error={_shorten_error(cell.value.error)}")
        return f"<{type(self).__name__} {' '.join(facts)}>"

    def _repr_html_(self) -> str:
        """The HTML that a notebook shows; never waits, never raises."""
        return handle_html(self)


class _Shared:
    """Shows a value as one that can be written to, for a consumer that promises not to."""

    __slots__ = ("__array_interface__", "value")

    def __init__(self, value: Array) -> None:
        self.value = value
        pointer, _ = value.__array_interface__["data"]
        self.__array_interface__ = {**value.__array_interface__, "data": (pointer, False)}


def check_seconds(name: str, value: Any) -> None:
    """Raise `ValueError` unless `value` is None or a number of seconds."""
    if value is not None and not (isinstance(value, int | float) and value >= 0):
        raise ValueError(f"{name} must be None or a number of seconds, 0 or more, but got {value!r}")


class _Wait:
    """Awaits a cell, not its value."""

    __slots__ = ("cell",)

    def __init__(self, cell: Cell) -> None:
        self.cell = cell

    def __await__(self) -> Generator[Any, None, None]:
        yield from self.cell.home.wait(self.cell)


def _shorten(value: Array) -> str:
    text = np.array2string(value, threshold=8, edgeitems=2, separator=", ", max_line_width=10_000)
    text = " ".join(text.split())
    return text if len(text) <= 100 else text[:97] + "..."


def _shorten_error(error: BaseException) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 100 else text[:97] + "..."
