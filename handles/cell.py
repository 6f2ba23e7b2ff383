"""The write-once result cell: what an op will have computed, apart from the handles that show it.

Guarantees: a cell goes from pending to a value or to a failure exactly once; each waiter is called
exactly once, whichever thread settles the cell. Assumption: reads and writes of one attribute are atomic and seen in
order (the interpreter lock). Only the slow path, a cell that a task or a thread waits for, takes a lock.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator
from enum import Enum
from types import CodeType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Hashable
    from contextvars import Context
    from weakref import WeakValueDictionary

    import numpy as np

    from handles.namespace import Namespace


class Undescribed(ValueError):
    """The shape or dtype of a result is not known yet. Any other error of `infer` is one that the op will fail with."""


class Unready:
    """A mark in a cell in place of a value."""

    __slots__ = ()


class Pending(Unready):
    """Nothing yet: the op is queued or running."""

    __slots__ = ()


PENDING = Pending()


class CancelOutcome(Enum):
    """The outcome of cancelling an op."""

    DROPPED = "dropped"
    """The op was queued; it never runs, and its handles raise `OpCancelledError`."""
    ABANDONED = "abandoned"
    """The op was running; its result is discarded, its device stays busy until it ends."""
    TOO_LATE = "too late"
    """The op had finished; nothing changed."""


class Failure(Unready):
    """The error of an op, shared by the op's own cell and by those of all its dependents.

    A function that makes the error may be given in its place: of hundreds of ops that are cancelled together few are
    read, and the errors of the others are never made.
    """

    __slots__ = ("_make", "cancelled", "error", "notes", "record", "seen", "traceback")

    error: BaseException
    notes: tuple[str, ...]
    traceback: TracebackType | None

    def __init__(self, error: BaseException | Callable[[], BaseException], *, cancelled: bool = False) -> None:
        self.record: Cell | None = None
        """The record whose op failed."""
        self.seen = cancelled
        """True if a reader of a handle or a barrier was told."""
        self.cancelled = cancelled
        if isinstance(error, BaseException):
            self._take(error)
        else:
            self._make = error

    def _take(self, error: BaseException) -> None:
        self.traceback = error.__traceback__
        self.notes = tuple(vars(error).get("__notes__", ()))
        self.error = error  # last: a thread that finds it has the others as well

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Make the error: an attribute that comes of it is asked for, and is not there."""
            if name not in ("error", "notes", "traceback"):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            with _extending:
                try:
                    object.__getattribute__(self, "error")
                except AttributeError:
                    self._take(self._make())
            return object.__getattribute__(self, name)

    def throw(self) -> None:
        """Raise the error as it left the kernel."""
        self.seen = True
        raise self.restored()

    def restored(self) -> BaseException:
        """The error with the traceback of the kernel and the notes of the op only: earlier readers leave no trace."""
        if self.notes:
            vars(self.error)["__notes__"] = list(self.notes)
        return self.error.with_traceback(self.traceback)


class Rare:
    """The parts that few cells need: kept out of the cell, so that most ops do not pay for it."""

    __slots__ = (
        *(
            "context",
            "copied",
            "copies",
            "entry",
            "host",
            "inferred",
            "nbytes",
            "node",
            "outputs",
            "passed",
            "record",
            "running",
            "shared",
            "task",
        ),
    )

    def __init__(self) -> None:
        self.running = False
        self.context: Context | None = None
        """The contextvars of the dispatch, where the kernel needs them."""
        self.outputs: tuple[Cell, ...] = ()
        """The cells of a record with several results."""
        self.passed: BaseException | None = None
        """The last error of another op that was raised in this record's kernel."""
        self.record: Cell | None = None
        """The record that settles this cell, where that is another one."""
        self.inferred: Any = None
        """Shape and dtype, once they were asked for."""
        self.copies: WeakValueDictionary[Hashable, Cell] | None = None
        """Copies on other devices, as long as they live."""
        self.host: Cell | None = None
        """The copy on the host of a device's value, once a reader asked."""
        self.entry: Any = None
        """The backlog's entry of a record that was set aside."""
        self.nbytes = 0
        """Bytes of snapshotted operands that are its own, counted against the high-water mark."""
        self.copied = 0
        """Bytes of the snapshots that were taken when it was dispatched."""
        self.shared: tuple[np.ndarray[Any, Any], ...] = ()
        """Snapshots that are counted once for all the records that hold them."""
        self.node: Any = None
        """The step that this is in a graph."""
        self.task: Callable[[], object] | None = None
        """The function that cancels the running coroutine of an async op."""


# ---------------------------------------------------------------------------------------------------------------------
# The queue that a cell was dispatched to


class Inferred(Protocol):
    """Shape and dtype of a result that may not exist yet; unknown dimensions are None."""

    @property
    def shape(self) -> tuple[int | None, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...


class Home(Protocol):
    """The queue that a cell was dispatched to."""

    @property
    def device(self) -> Any:
        """The device that holds, or will hold, the result."""

    @property
    def on_host(self) -> bool:
        """Tell whether values are in the memory of the host, so that reading them takes no time."""

    @property
    def namespace(self) -> Namespace:
        """The array API namespace of the engine."""

    def poll(self, cell: Cell) -> bool:
        """Settle the cell here and now, if that takes no time: `await` does this first."""

    def wait(self, cell: Cell) -> Generator[object, None, None]:
        """Suspend until the cell is settled: `await` does this where polling was not enough."""

    def block(self, cell: Cell, timeout: float | None, what: str) -> None:
        """Block this thread until the cell is settled; refuse where that would freeze a running loop."""

    def keep_going(self, cell: Cell) -> None:
        """Make sure that a cell is worked on, for a caller who asks again and again whether it is ready."""

    def host(self, cell: Cell) -> np.ndarray[Any, Any]:
        """The settled value as a read-only array, or the error raised."""

    def fetch(self, cell: Cell) -> Generator[Any, None, np.ndarray[Any, Any]]:
        """Where values are not on the host: suspend until a settled one is there; what `host` returns, or raises."""

    def peek(self, cell: Cell) -> np.ndarray[Any, Any] | None:
        """As `host`, but None where that would take time."""

    def infer(self, cell: Cell, *, tell: bool = True) -> Inferred:
        """Shape and dtype, without waiting; `tell` is False where an error that this raises will not be seen."""

    def cancel(self, cell: Cell) -> CancelOutcome: ...

    def reduce(self, cell: Cell) -> tuple[Any, ...]:
        """How to pickle a settled cell's handle."""


Waiter = Callable[["Cell"], object]

_extending = threading.RLock()  # what is collected meanwhile may extend a cell
os.register_at_fork(before=_extending.acquire, after_in_parent=_extending.release, after_in_child=_extending.release)


class Group(Protocol):
    """Counts the records that were dispatched inside it."""

    def admit(self, cell: Cell) -> None:
        """Count a record that is being dispatched, and have it tell of its end; refuse it where it takes no more."""

    def note(self, cell: Cell) -> None:
        """A record has ended, on any thread: count it, and take it out of the group, both or neither.

        An interrupt may come before, and then this is called again. A record that is in no group any more is counted.
        """


class Cell:
    """A record of one dispatched op, and in the end its result.

    `value` is `PENDING`, then the result or a `Failure`. It is set before `args` is let go, so a reader that takes
    `args` first and still finds the cell pending has the operands.
    """

    __slots__ = ("__weakref__", "args", "code", "group", "home", "lasti", "op", "params", "rare", "value", "waiters")

    op: Any
    args: tuple[Any, ...]
    params: dict[str, Any] | None
    home: Home
    code: CodeType | None
    """The code that dispatched the op, and in it `lasti`, the instruction."""
    lasti: int
    value: Any
    waiters: list[Waiter] | None
    """Functions of those who wait for it, each called when it is settled."""
    group: Group | None
    """The scope, or the request, that counts it until it is settled."""
    rare: Rare | None

    @property
    def state(self) -> str:
        value = self.value
        if value is PENDING:
            rare = self.rare
            if rare is not None and rare.record is not None:
                return rare.record.state
            return "running" if rare is not None and rare.running else "pending"
        if isinstance(value, Failure):
            return "cancelled" if value.cancelled else "failed"
        return "ready"

    def extend(self) -> Rare:
        """The rare part of this cell, made on first use."""
        rare = self.rare
        if rare is None:
            with _extending:  # two threads must not each make one
                rare = self.rare
                if rare is None:
                    rare = self.rare = Rare()
        return rare


def pending_cell(
    op: Any,
    args: tuple[object, ...],
    params: dict[str, object] | None,
    home: Home,
    code: CodeType | None,
    lasti: int,
) -> Cell:
    """A cell that waits for its value. A function, because a class with an `__init__` is slower to call without it."""
    cell = Cell()
    cell.op = op
    cell.args = args
    cell.params = params
    cell.home = home
    cell.code = code
    cell.lasti = lasti
    cell.value = PENDING
    cell.waiters = cell.group = cell.rare = None
    return cell


_waiters_lock = threading.Lock()
os.register_at_fork(
    before=_waiters_lock.acquire, after_in_parent=_waiters_lock.release, after_in_child=_waiters_lock.release
)


def settle(cell: Cell, value: Any) -> bool:
    """Write the result, let go of the operands, and call the waiters; False when the cell was settled before."""
    if cell.value is not PENDING:
        tell_group(cell)  # an interrupt may have come before that
        return False
    cell.value = value
    cell.args = ()
    cell.params = None
    if cell.group is not None:  # before those who wait: what they do then may depend on what the group does
        tell_group(cell)
    if cell.waiters is not None:
        call_waiters(cell)
    return True


def tell_group(cell: Cell) -> None:
    """Tell the group of a cell that it is settled; where it was told, nothing happens."""
    group = cell.group
    if group is not None:
        group.note(cell)


def tell_settled(cell: Cell) -> None:
    """Tell the group and the waiters of a settled cell, where an interrupt came before that."""
    tell_group(cell)
    if cell.waiters is not None:
        call_waiters(cell)


def has_to_tell(cell: Cell) -> bool:
    """Tell whether a group or waiters of a settled cell were not told, because an interrupt came before."""
    return cell.group is not None or cell.waiters is not None


def call_waiters(cell: Cell) -> None:
    with _waiters_lock:
        waiters, cell.waiters = cell.waiters, None
    for waiter in waiters or ():
        waiter(cell)


def add_waiter(cell: Cell, waiter: Waiter) -> bool:
    """Have `waiter(cell)` called once when the cell is settled; False, and no call, when it is settled already."""
    with _waiters_lock:
        # The waiter goes in before the value is looked at: the thread that settles the cell in between finds it.
        if cell.waiters is None:
            cell.waiters = [waiter]
        else:
            cell.waiters.append(waiter)
        if cell.value is PENDING:
            return True
        return not _discard(cell, waiter)


def remove_waiter(cell: Cell, waiter: Waiter) -> None:
    with _waiters_lock:
        _discard(cell, waiter)


def _discard(cell: Cell, waiter: Waiter) -> bool:
    waiters = cell.waiters
    if waiters is None or waiter not in waiters:
        return False
    waiters.remove(waiter)
    if not waiters:
        cell.waiters = None
    return True
