"""Sums over the process of what services do: requests by how they ended, and batches by the name of their function.

Purpose: counters of Prometheus only ever go up, so these outlive the middleware and the functions that they count for.
They are kept whether `metrics` is there to show them or not: a request costs two of the calls below, a batch two.

All methods are called on any thread. The lock of each object guards all of it.
"""

from __future__ import annotations

import os
import threading
import weakref
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

SECONDS = (1e-6, 1e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0)
"""Bounds of buckets: an op takes from a microsecond to a minute."""
REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
MOST_NAMES = 500
"""Names that have labels of their own; the rest is `other`, since a label costs its server memory for ever."""
OTHER = "other"


class Histogram:
    """Counts of durations, or of sizes, by buckets. Not guarded."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, amount: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, amount)] += 1
        self.sum += amount

    def merge(self, other: Histogram) -> None:
        """Count what another one of the same bounds has counted."""
        self.counts = [sum(pair) for pair in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum

    def buckets(self) -> list[tuple[str, float]]:
        """As Prometheus has it: how many had at most so much."""
        bounds = [*(str(float(bound)) for bound in self.bounds), "+Inf"]
        return [(bound, float(count)) for bound, count in zip(bounds, accumulate(self.counts), strict=True)]


class Requests:
    """The requests of one `ScopeMiddleware`, or of all."""

    def __init__(self) -> None:
        self.start_over()

    def start_over(self) -> None:
        """In a forked child: what was served was served by another process, and no thread holds the lock."""
        self._lock = threading.Lock()
        self.active = 0
        self.dropped_ops = 0
        self.ended: dict[str, int] = {}
        """How many ended in each way; those that were refused are among them."""
        self.seconds: dict[str, Histogram] = {}
        """How long they took, by how they ended; those that were refused are not among them."""

    def begin(self) -> None:
        """A request is being served."""
        with self._lock:
            self.active += 1

    def end(self, outcome: str, seconds: float, dropped_ops: int) -> None:
        """It is served no longer."""
        with self._lock:
            self.active -= 1
            self.dropped_ops += dropped_ops
            self.ended[outcome] = self.ended.get(outcome, 0) + 1
            histogram = self.seconds.get(outcome)
            if histogram is None:
                histogram = self.seconds[outcome] = Histogram(REQUEST_SECONDS)
            histogram.add(seconds)

    def refuse(self, outcome: str) -> None:
        """A request was answered without being served."""
        with self._lock:
            self.ended[outcome] = self.ended.get(outcome, 0) + 1

    def add(self, other: Requests) -> None:
        """Count what another one has counted."""
        with self._lock, other._lock:
            self.active += other.active
            self.dropped_ops += other.dropped_ops
            for outcome, count in other.ended.items():
                self.ended[outcome] = self.ended.get(outcome, 0) + count
            for outcome, histogram in other.seconds.items():
                self.seconds.setdefault(outcome, Histogram(REQUEST_SECONDS)).merge(histogram)


class Queue(Protocol):
    """Calls that wait for a batch."""

    def waiting(self) -> int:
        """How many they are."""


class Batches:
    """The batches of all functions of one name."""

    def __init__(self) -> None:
        self._queues: weakref.WeakSet[Queue] = weakref.WeakSet()
        self.start_over()

    def start_over(self) -> None:
        """In a forked child: the calls were those of another process, and no thread holds the lock."""
        self.lock = threading.Lock()
        self.retried = 0
        """Batches that failed, and whose calls were tried one by one."""
        self.calls: dict[str, int] = {}
        """How many calls ended in each way."""
        self.sizes = Histogram(SIZES)
        self.waits = Histogram()

    def watch(self, queue: Queue) -> None:
        """Have the calls that wait there counted, as long as it lives."""
        with self.lock:
            self._queues.add(queue)

    def waiting(self) -> int:
        """Calls that wait now."""
        with self.lock:
            queues = list(self._queues)
        return sum(queue.waiting() for queue in queues)

    def begin(self, waits: Sequence[float]) -> None:
        """A batch begins, whose calls have waited for so many seconds each."""
        with self.lock:
            self.sizes.add(len(waits))
            for seconds in waits:
                self.waits.add(seconds)

    def end(self, outcome: str, calls: int) -> None:
        """So many calls have ended."""
        if calls:
            with self.lock:
                self.calls[outcome] = self.calls.get(outcome, 0) + calls

    def retry(self) -> None:
        """A batch has failed, and its calls are tried one by one."""
        with self.lock:
            self.retried += 1


# Guarded by `_lock`.
_living: dict[int, Requests] = {}
_gone = Requests()
_batches: dict[str, Batches] = {}
_lock = threading.RLock()  # a middleware may be collected at any time


def requests_of(middleware: object) -> Requests:
    """The sums for one middleware, which count for the process also when it is gone."""
    found = Requests()
    with _lock:
        _living[id(found)] = found
    weakref.finalize(middleware, _retire, found).atexit = False
    return found


def _retire(requests: Requests) -> None:
    with _lock:
        _living.pop(id(requests), None)
        _gone.add(requests)


def all_requests() -> Requests:
    """The requests of the process up to now."""
    total = Requests()
    with _lock:
        for each in (_gone, *_living.values()):
            total.add(each)
    return total


def batches_of(name: str) -> Batches:
    """The sums for functions of this name."""
    with _lock:
        found = _batches.get(name) or (_batches.get(OTHER) if len(_batches) >= MOST_NAMES else None)
        if found is None:
            key = name if len(_batches) < MOST_NAMES else OTHER
            found = _batches[key] = Batches()
        return found


def all_batches() -> dict[str, Batches]:
    """The sums for functions of each name."""
    with _lock:
        return dict(_batches)


def start_over() -> None:
    """Count from zero: what was counted was done by another process, or before a reset."""
    global _lock
    _lock = threading.RLock()
    for requests in (_gone, *_living.values()):
        requests.start_over()
    for batches in _batches.values():
        batches.start_over()


os.register_at_fork(after_in_child=start_over)
