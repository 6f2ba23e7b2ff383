"""The stepped device: an asynchronous device whose records end when a test says so, and in the order that it says.

It stands for every device that computes by itself: nothing is computed when a batch is submitted, and values are of a
class of their own, which nothing computes on by mistake. It is also an example of a backend: what a record needs to be
computed is in `_outcome`, a dozen lines.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.devices.base import Array, Backend, Device, Record, loss

COMPUTED: Any = object()
"""Stands for the value that a record has when it is computed."""


class SteppedValue:
    """An array that lives on a stepped device: it has a shape and a dtype, and nothing to compute with."""

    __slots__ = ("_array", "device", "dtype", "shape")

    def __init__(self, device: Device, array: Array) -> None:
        self.device = device
        """Where it lives."""
        self._array = array
        self.shape: tuple[int, ...] = array.shape
        """Its shape."""
        self.dtype: np.dtype[Any] = array.dtype
        """Its dtype."""

    def __repr__(self) -> str:
        return f"<value on {self.device}, shape={self.shape}, dtype={self.dtype}>"


class SteppedBackend(Backend[SteppedValue]):
    """A device that keeps what it is given until a test ends it: `pending`, `complete`, `fail`, `complete_all`.

    With `automatic=True` a thread of its own ends the records instead, in the order in which they came. `lookahead`
    says how many records a batch may have, `count` how many such devices there are. `without` names ops that it does
    not compute, so that the host does.

    It counts what it was asked to do in `reads` (values that went to the host), `writes` (that came from there) and
    `copies`, and keeps the sizes of its batches in `batches` and the threads that called it in `threads`.

    >>> stepped = engine.devices.SteppedBackend()
    >>> with engine.devices.registered("STEPPED", lambda: stepped):
    ...     config = engine.Config(device_count={"STEPPED": 1})
    ...     async with engine.Executor(config, execution_mode=engine.ASYNC):
    ...         with engine.device("STEPPED:0"):
    ...             h = ops.add(1, 2)
    ...         (record,) = await asyncio.to_thread(stepped.wait_pending)
    ...         stepped.complete(record)
    ...         assert await h == 3
    """

    def __init__(
        self,
        *,
        automatic: bool = False,
        lookahead: int = 1,
        count: int | None = None,
        without: Sequence[str] = (),
    ) -> None:
        if lookahead < 1:
            raise ValueError(f"lookahead must be an integer, 1 or more, but got {lookahead!r}")
        self.reads = self.writes = self.copies = 0
        self.batches: list[int] = []
        self.threads: set[int] = set()
        self.closed = False
        """True if its executor has closed."""
        self._lookahead = lookahead
        self._count = count
        self._without = frozenset(without)
        self._automatic = automatic
        self._changed = threading.Condition()
        self._pending: deque[Record] = deque()
        self._values: weakref.WeakKeyDictionary[Record, Any] = weakref.WeakKeyDictionary()  # for those that read them
        self._lost: dict[Device, str] = {}
        self._serving = False

    # What the engine calls

    def count(self) -> int | None:
        """How many such devices there are."""
        return self._count

    def lookahead(self) -> int:
        """How many records a batch may have."""
        return self._lookahead

    def runs(self, name: str, kernel: object) -> bool:
        """Tell whether it computes this op."""
        return name not in self._without

    def submit(self, device: Device, records: Sequence[Record]) -> None:
        """Keep the records until they are ended."""
        self._check(device)
        with self._changed:
            self._called()
            self.batches.append(len(records))
            self._pending.extend(records)
            self._changed.notify_all()
            serve = self._automatic and not self._serving
            self._serving = self._serving or serve
        if serve:
            threading.Thread(target=self.complete_all, name="stepped", daemon=True).start()

    def to_host(self, value: SteppedValue) -> Array:
        """The array of a value."""
        self._check(value.device)
        with self._changed:
            self._called()
            self.reads += 1
        return value._array

    def from_host(self, device: Device, array: Array) -> SteppedValue:
        """The value of an array."""
        self._check(device)
        with self._changed:
            self._called()
            self.writes += 1
        return SteppedValue(device, array)

    def copy(self, value: SteppedValue, source: Device, target: Device) -> SteppedValue:
        """The value on another stepped device."""
        self._check(source)
        self._check(target)
        with self._changed:
            self._called()
            self.copies += 1
        return SteppedValue(target, value._array)

    def close(self) -> None:
        """Remember it. Values can still be read."""
        self.closed = True

    # What a test calls

    def pending(self) -> list[Record]:
        """The records that were submitted and have not ended, in the order in which they came."""
        with self._changed:
            return list(self._pending)

    def wait_pending(self, number: int = 1, timeout: float = 10.0) -> list[Record]:
        """Block until so many records are pending, and return them. Raises `TimeoutError` after `timeout` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._pending) >= number, timeout):
                raise TimeoutError(f"{len(self._pending)} records are pending after {timeout:.3g} s, not {number}")
            return list(self._pending)

    def complete(self, record: Record, value: Any = COMPUTED) -> None:
        """Compute a pending record and end it. Earlier records of its batch that it reads are ended before it.

        With a `value`, which may be anything, end it with that and nothing else.
        """
        if value is not COMPUTED:
            self._take(record).complete(value)
            return
        needed, stack = {record}, [record]
        while stack:
            operands = [each for each in stack.pop().operands if isinstance(each, Record) and each not in needed]
            needed.update(operands)
            stack.extend(operands)
        for each in self.pending():
            if each in needed and each is not record:
                self._end(self._take(each))
        self._end(self._take(record))

    def complete_all(self) -> None:
        """Compute and end what is pending, in the order in which it came, and what becomes pending meanwhile."""
        while (record := self._next()) is not None:
            self._end(record)

    def fail(self, record: Record, error: BaseException) -> None:
        """End a pending record with an error."""
        self._take(record).fail(error)

    def lose(self, device: str | Device, reason: str = "it was unplugged") -> None:
        """Take a device away, values included: from now on each method that needs it raises `DeviceLostError`.

        The engine is not told: `engine.devices.lost` does that.
        """
        device = Device(device)
        with self._changed:
            self._lost[device] = reason
            self._pending = deque(record for record in self._pending if record.device is not device)

    # How it is done

    def _called(self) -> None:
        self.threads.add(threading.get_ident())

    def _check(self, device: Device) -> None:
        if device in self._lost:
            raise loss(device, self._lost[device])

    def _take(self, record: Record) -> Record:
        with self._changed:
            if record not in self._pending:
                raise ValueError(f"record must be one of pending(), but {record.name!r} is not, or has ended")
            self._pending.remove(record)
        return record

    def _next(self) -> Record | None:
        with self._changed:
            if self._pending:
                return self._pending.popleft()
            self._serving = False
            return None

    def _end(self, record: Record) -> None:
        try:
            outcome = self._outcome(record)
        except Exception as error:  # noqa: BLE001 - any error of a kernel is the op's failure
            record.fail(error)
            return
        with self._changed:
            self._values[record] = outcome
        record.complete(outcome)

    def _outcome(self, record: Record) -> Any:
        operands = [self._values[each] if isinstance(each, Record) else each for each in record.operands]
        result = record.call(*(each._array if isinstance(each, SteppedValue) else each for each in operands))
        if record.outputs != 1:
            return tuple(SteppedValue(record.device, each) for each in result)
        assert isinstance(result, np.ndarray)
        return SteppedValue(record.device, result)
