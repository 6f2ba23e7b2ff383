"""Batches: which calls may be stacked, whose turn it is, and how results are taken apart. Pure.

Calls take turns by fair queueing: each has a tag, one more than that of the last call of the same caller, or than that
of the batch that went last; the smallest tags go first. So a caller with a thousand calls gets as many of the places
of a batch as one with three, and a call never waits for more than those that were there before it.
"""

from __future__ import annotations

import heapq
import threading
from collections import deque
from collections.abc import Hashable, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from types import CodeType
from typing import Any, NamedTuple

import numpy as np

from engine.base.loops import AbstractEventLoop, Waiter
from engine.dispatch.dispatcher import Dispatcher
from engine.observe.sums import batches_of
from handles.cell import Failure
from handles.display import statistics_html

BY_AGE = 8
"""Every so many batches begins with the oldest call, of any priority."""


class Place(NamedTuple):
    """A place in the program, as a frame tells it."""

    f_code: CodeType
    f_lasti: int


@dataclass(eq=False, slots=True)
class Call:
    """One call that is to become part of a batch."""

    args: tuple[Any, ...]
    """The arguments that are stacked: arrays, and objects that a list is made of."""
    names: tuple[str, ...]
    """The names of the last of them, which are passed by keyword."""
    options: dict[str, Any]
    """The arguments that are passed as they are."""
    key: Hashable
    """Calls of equal keys may be stacked."""
    caller: Hashable
    priority: int
    context: Context
    dispatcher: Dispatcher
    """Where an op would go that is called here."""
    place: Place
    """Where it was called."""
    began: float
    """When it was called, by the clock of the batcher."""
    loop: AbstractEventLoop | None = None
    """The loop of the task that waits; None where a thread does."""
    waiter: Waiter | None = None
    ticket: Any = None
    """The batch that it is part of, once that has begun."""
    done: bool = False
    value: Any = None
    failure: Failure | None = None
    rank: tuple[int, int, int] = field(default=(0, 0, 0), init=False)
    """Its place among those that wait: priority, tag, number."""


class Waiting:
    """The calls that wait for a batch."""

    def __init__(self) -> None:
        self._groups: dict[Hashable, _Group] = {}
        self._count = 0
        self._number = 0
        self._batches = 0
        self._virtual = 0
        self._tags: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return self._count

    def add(self, call: Call) -> int:
        """Add a call; returns how many wait that may be stacked with it, itself included."""
        tag = max(self._virtual, self._tags.get(call.caller, 0)) + 1
        self._tags[call.caller] = tag
        self._number += 1
        call.rank = (-call.priority, tag, self._number)
        known = self._groups.get(call.key)
        group = known or _Group()
        group.push(call.rank)
        group.calls[self._number] = call  # it waits; where an interrupt came before this, nothing has changed
        if known is None:
            self._groups[call.key] = group
        self._count += 1
        return len(group.calls)

    def remove(self, call: Call) -> bool:
        """Take one call out; False where it does not wait."""
        group = self._groups.get(call.key)
        if group is None or group.calls.pop(call.rank[2], None) is None:
            return False
        self._removed(call.key, 1)
        return True

    def take(self, size: int) -> list[Call]:
        """Take out the calls of the next batch, in the order in which they came."""
        if not self._count:
            return []
        self._batches += 1
        by_age = self._batches % BY_AGE == 0
        key = min(self._groups, key=lambda key: self._groups[key].oldest() if by_age else self._groups[key].best())
        calls = self._groups[key].take(size)
        self._virtual = max(self._virtual, max(call.rank[1] for call in calls))
        self._removed(key, len(calls))
        return calls

    def first(self) -> Call | None:
        """The call that came first."""
        oldest = min(self._groups.values(), key=_Group.oldest, default=None)
        return None if oldest is None else next(iter(oldest.calls.values()))

    def drain(self) -> list[Call]:
        """Take all of them out."""
        calls = [call for group in self._groups.values() for call in group.calls.values()]
        self._groups.clear()
        self._tags.clear()
        self._count = 0
        return calls

    def _removed(self, key: Hashable, count: int) -> None:
        self._count -= count
        if not self._groups[key].calls:
            del self._groups[key]
        if not self._count:
            self._tags.clear()


class _Group:
    """Calls of one key: by age in a dict, by rank in a heap, which has those as well that do not wait any more."""

    __slots__ = ("_heap", "calls")

    def __init__(self) -> None:
        self.calls: dict[int, Call] = {}
        self._heap: list[tuple[int, int, int]] = []

    def push(self, rank: tuple[int, int, int]) -> None:
        heapq.heappush(self._heap, rank)

    def oldest(self) -> tuple[int, ...]:
        return (next(iter(self.calls)),)

    def best(self) -> tuple[int, ...]:
        while self._heap[0][2] not in self.calls:
            heapq.heappop(self._heap)
        return self._heap[0]

    def take(self, size: int) -> list[Call]:
        """The oldest call, so that none waits for ever, and those of the best ranks."""
        number = next(iter(self.calls))
        taken = {number: self.calls.pop(number)}
        while len(taken) < size and self.calls:
            number = self.best()[2]
            taken[number] = self.calls.pop(number)
        return [taken[number] for number in sorted(taken)]


class Pace:
    """How long a call may wait for a running batch to end, before a batch of its own is started beside it.

    A function that computes is not called beside itself as long as its batch takes what batches take: the two would
    share the cores, and each would be smaller. One that waits (for a disk, for another machine) is.
    """

    def __init__(self, max_wait: float) -> None:
        self._max_wait = max_wait
        self._typical = 0.0
        """Seconds that a batch computes, by experience."""

    def note(self, seconds: float, computing: float) -> None:
        """A batch took so many seconds, so many of them computing."""
        seconds = seconds if 2 * computing > seconds else 0.0
        self._typical += (seconds - self._typical) / 4 if self._typical else seconds

    def grace(self) -> float:
        """Seconds that a call waits."""
        return self._max_wait + 2 * self._typical


@dataclass(frozen=True)
class BatchStatistics:
    """Counts of what a batched function has done so far."""

    calls: int
    """Calls, those that wait included."""
    waiting: int
    """Calls that wait for a batch now."""
    batches: int
    """Calls of the function itself, those for retries apart."""
    retried: int
    """Batches that failed, and whose calls were tried one by one."""
    failed: int
    """Calls that ended with an error."""
    cancelled: int
    """Calls whose caller left, or whose executor closed, before they had a result."""
    sizes: tuple[int, ...]
    """How many calls the last 1,000 batches had."""
    waits: tuple[float, ...]
    """Seconds that each of the last 1,000 calls waited until its batch began."""

    def _repr_html_(self) -> str:
        return statistics_html(self)


class Counts:
    """The statistics of a function, or of a method of one instance, on any executor; guarded by its lock."""

    def __init__(self, name: str) -> None:
        self.sums = batches_of(name)
        """Those of the process, for all functions of the name."""
        self.start_over()
        self._calls = self._batches = self._retried = self._failed = self._cancelled = 0
        self._sizes: deque[int] = deque(maxlen=1000)
        self._waits: deque[float] = deque(maxlen=1000)

    def start_over(self) -> None:
        """In a forked child: no thread holds the lock."""
        self._lock = threading.Lock()

    def called(self) -> None:
        """A call has come."""
        with self._lock:
            self._calls += 1

    def begun(self, calls: Sequence[Call], now: float) -> None:
        """A batch has begun."""
        waits = [now - call.began for call in calls]
        with self._lock:
            self._batches += 1
            self._sizes.append(len(calls))
            self._waits.extend(waits)
        self.sums.begin(waits)

    def done(self, calls: int) -> None:
        """So many calls have their results."""
        self.sums.end("done", calls)

    def failed(self, calls: int) -> None:
        """So many calls have ended with an error."""
        with self._lock:
            self._failed += calls
        self.sums.end("failed", calls)

    def cancelled(self, calls: int) -> None:
        """The callers of so many calls have left, or the executor was closed."""
        with self._lock:
            self._cancelled += calls
        self.sums.end("cancelled", calls)

    def retried(self) -> None:
        """The calls of a batch that has failed are tried one by one."""
        with self._lock:
            self._retried += 1
        self.sums.retry()

    def read(self, waiting: int) -> BatchStatistics:
        """The statistics at this moment."""
        with self._lock:
            return BatchStatistics(
                calls=self._calls,
                waiting=waiting,
                batches=self._batches,
                retried=self._retried,
                failed=self._failed,
                cancelled=self._cancelled,
                sizes=tuple(self._sizes),
                waits=tuple(self._waits),
            )


# ---------------------------------------------------------------------------------------------------------------------
# Stacking


def stacked(calls: Sequence[Call], axis: int) -> tuple[list[object], dict[str, object]]:
    """The arguments of the function for these calls, which have equal keys."""
    columns = [_column(column, axis) for column in zip(*(call.args for call in calls), strict=True)]
    first = calls[0]
    at = len(columns) - len(first.names)
    return columns[:at], dict(zip(first.names, columns[at:], strict=True)) | first.options


def _column(values: tuple[Any, ...], axis: int) -> Any:
    """An array of the arrays, stacked along a new axis; a list of other objects."""
    first = values[0]
    if not isinstance(first, np.ndarray):
        return list(values)
    shape = list(first.shape)
    shape.insert(axis + len(shape) + 1 if axis < 0 else axis, len(values))
    array = np.empty(shape, first.dtype)
    rows = np.moveaxis(array, axis, 0)
    for row, value in enumerate(values):
        rows[row] = value
    return array


def parts(result: object, count: int, axis: int) -> list[Any]:
    """Divide a result among so many calls: a tuple or a dict of results is taken apart in its members.

    Parts of a named tuple are named as it is.

    Raises `ValueError` for a result that has not one part for each call.
    """
    if result is None:
        return [None] * count
    if isinstance(result, tuple):
        columns = [parts(each, count, axis) for each in result]
        rows = list(zip(*columns, strict=True)) if columns else [()] * count
        return [type(result)(*row) for row in rows] if hasattr(result, "_fields") else rows
    if isinstance(result, dict):
        members = {name: parts(each, count, axis) for name, each in result.items()}
        return [{name: column[row] for name, column in members.items()} for row in range(count)]
    if isinstance(result, list):
        if len(result) != count:
            raise ValueError(
                f"it returned a list of {len(result)} for {count} calls: it must have one element for each"
            )
        return result
    array = np.asarray(result)
    if not -array.ndim <= axis < array.ndim or array.shape[axis] != count:
        raise ValueError(
            f"it returned an array of shape {array.shape} for {count} calls: axis {axis} must have length {count}"
        )
    return [_own(row) for row in np.moveaxis(array, axis, 0)]


def _own(part: object) -> object:
    """A part that keeps nothing else alive, and that no other code can write to."""
    if not isinstance(part, np.ndarray | np.void):
        return part
    copy = part.copy()
    if isinstance(copy, np.ndarray):
        copy.flags.writeable = False
    return copy
