"""Slots: how many ops of one kind may run at once, and in which order those that wait get one.

Purpose: a queue claims slots for an op that is about to start, and gives them back when the op has ended. A queue that
gets none is remembered, and called when its turn has come.

Guarantees: never more slots are taken than there are, but for an op that needs more than all, which gets all. Of those
that wait the highest rank goes first, and within a rank the one that waits longest; none behind overtakes, so an op
that needs many slots is not kept waiting by a stream of ops that need one. A queue that was overtaken by higher ranks
`PATIENCE` times is the next, at any rank. One lock guards all of it, and is never held while a queue is called.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from engine.threads.blas import core_count

PATIENCE = 8
"""Grants to others of a higher rank after which a queue that waits is the next."""

BACKGROUND = -(1 << 62)
"""The rank of ops that no task waits for."""


class Claimant(Protocol):
    """A queue as slots see it."""

    def slot_free(self) -> None:
        """Called on any thread when a claim that failed may succeed now."""


class _Caller:
    """A thread that waits for a slot."""

    def __init__(self) -> None:
        self.called = threading.Semaphore(0)

    def slot_free(self) -> None:
        """Wake the thread."""
        self.called.release()


class _Claim:
    """A queue that waits: for how many slots, at which rank, and how often others went first."""

    __slots__ = ("need", "overtaken", "rank")

    def __init__(self, need: int, rank: int) -> None:
        self.need = need
        self.rank = rank
        self.overtaken = 0


class Slots:
    """A number of slots; `capacity` is asked anew each time, because the cores of a process may change."""

    def __init__(self, capacity: Callable[[], int] | int) -> None:
        self._capacity = capacity if callable(capacity) else lambda: capacity
        self._reset()
        _all.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self.taken = 0
        self._waiting: dict[Claimant, _Claim] = {}  # the one that waits longest stands first

    @property
    def capacity(self) -> int:
        """Slots that there are."""
        return self._capacity()

    def claim(
        self,
        claimant: Claimant,
        need: int = 1,
        most: int | None = None,
        rank: int = 0,
        *,
        noted: list[Grant] | None = None,
    ) -> int:
        """Take `need` slots, up to `most` where more are free and no other queue waits.

        Returns how many were taken. With 0 the claimant is remembered, and called when its turn has come. What was
        taken is in `noted` as well, also where an interrupt kept this from returning.
        """
        with self._lock:
            granted = self._grant(claimant, need, most, rank, noted)
            called = self._next_that_fits() if self._waiting else None
        if called is not None and called is not claimant:  # its rank may have fallen since it was called
            called.slot_free()
        return granted

    def _grant(self, claimant: Claimant, need: int, most: int | None, rank: int, noted: list[Grant] | None) -> int:
        need = max(1, min(need, self._capacity()))
        free = self._capacity() - self.taken
        claim = self._waiting.get(claimant)
        if claim is not None:
            claim.need, claim.rank = need, rank
        if free < need or not self._is_next(claimant, rank):
            if claim is None:
                self._waiting[claimant] = _Claim(need, rank)
            return 0
        self._waiting.pop(claimant, None)
        for other in self._waiting.values():
            other.overtaken += other.rank < rank
        granted = need if self._waiting or most is None else max(need, min(most, free))
        self.taken += granted  # no interrupt comes between this and the note
        if noted is not None:
            noted.append((self, granted))
        return granted

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold one slot in the block; the calling thread waits until it has one."""
        caller = _Caller()
        grants: list[Grant] = []
        try:
            while not self.claim(caller, noted=grants):
                caller.called.acquire()
        except BaseException:  # an interrupt: those behind it would wait for a thread that has gone
            self.leave(caller)
            if grants:
                self.release(1)
            raise
        try:
            yield
        finally:
            with self._lock:  # not in a function of its own: where that begins, an interrupt would keep the slot
                self.taken -= 1
                called = self._next_that_fits()
            if called is not None:
                called.slot_free()

    def release(self, count: int) -> None:
        """Give slots back, and call the queue whose turn it is."""
        with self._lock:
            self.taken -= count
            called = self._next_that_fits()
        if called is not None:
            called.slot_free()

    def leave(self, claimant: Claimant) -> None:
        """Wait no longer."""
        if self._waiting:
            with self._lock:
                first = self._waiting.pop(claimant, None)
                called = self._next_that_fits() if first is not None else None
            if called is not None:
                called.slot_free()

    def waits(self, claimant: Claimant) -> bool:
        """True if a claim of this queue failed, and its turn has not come."""
        return claimant in self._waiting

    def _is_next(self, claimant: Claimant, rank: int) -> bool:
        first = self._first()
        if first is None or first is claimant:
            return True
        ahead = self._waiting[first]
        return claimant not in self._waiting and rank > ahead.rank and ahead.overtaken < PATIENCE

    def _first(self) -> Claimant | None:
        overdue = (each for each, claim in self._waiting.items() if claim.overtaken >= PATIENCE)
        best = max(self._waiting, key=lambda each: self._waiting[each].rank, default=None)  # the first of equals
        return next(overdue, best)

    def _next_that_fits(self) -> Claimant | None:
        first = self._first()
        if first is None:
            return None
        capacity = self._capacity()  # there may be fewer than when it asked
        return first if min(self._waiting[first].need, capacity) <= capacity - self.taken else None

    def check(self) -> None:
        """Raise `AssertionError` unless the invariants hold."""
        with self._lock:
            assert self.taken >= 0, f"{self.taken} slots are taken"
            for claimant, claim in self._waiting.items():
                assert claim.need >= 1, f"{claimant} waits for {claim.need} slots"


Grant = tuple[Slots, int]
"""Slots of one kind, and how many."""

_all: weakref.WeakSet[Slots] = weakref.WeakSet()


def _reset_all() -> None:
    for slots in list(_all):
        slots._reset()


os.register_at_fork(after_in_child=_reset_all)  # the threads whose ops held slots stayed behind

core_slots = Slots(lambda: core_count())
"""The cores of the machine, shared by the ops of all executors: an op takes as many as it has threads."""
