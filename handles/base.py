"""The handle: an array that may not have been computed yet, seen from outside."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np

from handles.cell import PENDING, CancelOutcome, Cell, Failure, Undescribed, Unready
from handles.conversion import Export, Scalars
from handles.display import handle_html
from handles.facts import Facts
from handles.memory import Memory
from handles.methods import Methods
from handles.missing import names_there
from handles.operators import Operators
from handles.unavailable import Unavailable
from handles.views import rebind, refresh, shows

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from handles.types import Index

Array = np.ndarray[Any, Any]

Value: TypeAlias = Any
"""The value that a handle is read as: an ndarray, or a NumPy scalar where there are no dimensions."""


class Handle(Facts, Operators, Methods, Scalars, Export, Memory):
    """The result of an op: a view of a write-once result cell.

    Dropping a handle cancels nothing. `==` is elementwise; `hash` is identity, and refused where there are no
    dimensions. Everything that needs the value (`bool`, `float`, `item`, `np.asarray`, ...) is an implicit sync point:
    on a running event loop, in ASYNC mode, it raises `BlockingSyncError` for a non-ready handle, whether the value
    happens to be there or not.

    >>> h = ops.sqrt(ops.asarray([1.0, 4.0])) + 1
    >>> h.shape, h.dtype, h.device
    ((2,), dtype('float64'), Device('CPU:0'))
    >>> await h
    array([2., 3.])
    """

    __slots__ = ()

    READING = "(await handle)"
    """How the value is read, for messages."""

    def __init__(self) -> None:
        raise TypeError(f"{type(self).__name__} is made by ops, not called: use engine.ops.asarray(...)")

    # What handles cannot have

    itemset = Unavailable("write h[index] = value")
    newbyteorder = Unavailable("use h.view(h.dtype.newbyteorder()), or h.byteswap() to swap the bytes")
    ptp = Unavailable("use np.ptp(h), or h.max() - h.min()")
    tostring = Unavailable("use h.tobytes()")
    __array_interface__ = Unavailable("use np.asarray(h), which is read-only")
    __array_struct__ = Unavailable("use np.asarray(h), which is read-only")

    # Waiting

    def __await__(self) -> Generator[object, None, Value]:
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

    # An array of rows

    def __iter__(self) -> Iterator[Any]:
        """Handles of the rows; of one dimension NumPy scalars, as arrays give, which is an implicit sync point.

        Code that iterates over one dimension (`set(h)`, `isin(h)` of pandas) hashes and compares what it gets.
        """
        shape = self.shape
        if not shape:
            raise TypeError(
                "iteration over a handle with no dimensions: give its value, `await h` (or h.item() where blocking is "
                "allowed), to code that takes numbers"
            )
        if len(shape) == 1:
            return iter(self._sync("iterating over the elements (`for`, `list`; np.roots and np.poly do it, too)"))
        return (self[index] for index in range(len(self)))

    def __getitem__(self, key: Index) -> Handle:
        return self._cell.home.namespace.getitem(self, key)

    def __setitem__(self, key: Index, value: ArrayLike) -> None:
        """Rebind this handle to a new value; handles made from the old value keep it.

        Of a view (`row = h[0]`) the handle that it is part of is written to as well.
        """
        if isinstance(value, Handle) and shows(value, self, key):
            return
        cell = self._cell
        if cell.op.memory.view or cell.rare is not None:
            refresh(self)
        rebind(self, self._cell.home.namespace.setitem(self, key, value))

    def to_device(self, device: object, /, *, stream: object = None) -> Handle:
        """A handle of the same value on another device ("CPU:1"); this handle stays where it is."""
        if stream is not None:
            raise ValueError("stream must be None: this engine has no streams to pass on")
        return self._cell.home.namespace.to_device(self, device)

    def __copy__(self) -> Self:
        twin = object.__new__(self.__class__)
        twin._cell = self._cell
        return twin

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
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


def check_seconds(name: str, value: object) -> None:
    """Raise `ValueError` unless `value` is None or a number of seconds."""
    if value is not None and not (isinstance(value, int | float) and value >= 0):
        raise ValueError(f"{name} must be None or a number of seconds, 0 or more, but got {value!r}")


class _Wait:
    """Awaits a cell, not its value."""

    __slots__ = ("cell",)

    def __init__(self, cell: Cell) -> None:
        self.cell = cell

    def __await__(self) -> Generator[object, None, None]:
        yield from self.cell.home.wait(self.cell)


def _shorten(value: Array) -> str:
    text = np.array2string(value, threshold=8, edgeitems=2, separator=", ", max_line_width=10_000)
    text = " ".join(text.split())
    return text if len(text) <= 100 else text[:97] + "..."


def _shorten_error(error: BaseException) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 100 else text[:97] + "..."
