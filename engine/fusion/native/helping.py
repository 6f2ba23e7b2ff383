"""The helper: a thread that takes blocks of a walk together with the thread that asks for it, without the interpreter.

Handing work to a thread of Python's takes longer than a hundred thousand elements: it has to wake, and to get the
interpreter lock. The helper never has that lock. It is a thread of the C library, which executes compiled code only: it
looks for work for some microseconds after it has done some, then sleeps until it is woken by a semaphore. A walk takes
its blocks from a counter, so a helper that comes late finds fewer blocks, or none; the thread that asks waits for no
more than the helper's last block.

Both threads give way while they wait. Where another program has the helper's core nevertheless, a walk would wait for
it: after such a walk the helper is not asked for some time.

One walk at a time: `busy` in the box is taken by an atomic exchange, and who does not get it walks alone. The words of
the box that both threads write are written atomically.

A box is a number of 64-bit words, those of each line apart from the others, so that cores do not fight for them.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from engine.fusion.native.llvm import at_work, compiled, loaded
from engine.fusion.native.machine import address_of
from engine.threads.cores import allowed_cores
from engine.threads.slots import core_slots

_STATE, _JOB, _COUNTER, _SEMAPHORE, _ASLEEP, _FUNCTIONS, _BUSY, _WAITED, _THREAD = 0, 8, 16, 24, 32, 40, 48, 49, 56
_WORDS = 64
_MONOTONIC = 1
"""The clock of that kind, on Linux."""
_SPINS = 60
"""How often the helper looks for work, giving way in between, before it sleeps: some 30 microseconds."""
LATE = 200_000
"""Nanoseconds that a walk may wait for the helper's last block, which takes some ten thousand."""
REST = 64
"""Walks without the helper after one that waited for long; twice as many each time, up to the square of it."""

_NAMES = ("sem_wait", "sem_post", "sched_yield", "gettid", "clock_gettime")


def _words(**words: int) -> str:
    """Lines of a function that name words of its box."""
    return "\n".join(f"  %{name} = getelementptr i64, ptr %box, i64 {word}" for name, word in words.items())


_SERVE = f"""
define ptr @serve(ptr %box) {{
entry:
{_words(asleep=_ASLEEP, semaphore=_SEMAPHORE, counter=_COUNTER, job=_JOB, functions=_FUNCTIONS)}
  %wait = load ptr, ptr %functions
  %third = getelementptr i64, ptr %functions, i64 2
  %yield = load ptr, ptr %third
  %fourth = getelementptr i64, ptr %functions, i64 3
  %identify = load ptr, ptr %fourth
  %own = call i32 %identify()
  %number = sext i32 %own to i64
{_words(thread=_THREAD)}
  store atomic i64 %number, ptr %thread release, align 8
  br label %again
again:
  br label %look
look:
  %looked = phi i64 [ 0, %again ], [ %more, %give ]
  %state = load atomic i64, ptr %box acquire, align 8
  %posted = icmp eq i64 %state, 1
  br i1 %posted, label %claim, label %none
none:
  %more = add i64 %looked, 1
  %tired = icmp sgt i64 %more, {_SPINS}
  br i1 %tired, label %sleep, label %give
give:
  call i32 %yield()
  br label %look
sleep:
  store atomic i64 1, ptr %asleep seq_cst, align 8
  %last = load atomic i64, ptr %box seq_cst, align 8
  %came = icmp eq i64 %last, 1
  br i1 %came, label %awake, label %rest
rest:
  call i32 %wait(ptr %semaphore)
  br label %again
awake:
  store atomic i64 0, ptr %asleep seq_cst, align 8
  br label %claim
claim:
  %pair = cmpxchg ptr %box, i64 1, i64 2 acq_rel acquire
  %mine = extractvalue {{ i64, i1 }} %pair, 1
  br i1 %mine, label %work, label %again
work:
  %walk = load ptr, ptr %job
  %second = getelementptr i64, ptr %job, i64 1
  %frame = load ptr, ptr %second
  %place = getelementptr i64, ptr %job, i64 2
  %scratch = load ptr, ptr %place
  %repeated = call i64 %walk(ptr %frame, ptr %scratch, ptr %counter)
  %result = getelementptr i64, ptr %job, i64 3
  store i64 %repeated, ptr %result
  store atomic i64 3, ptr %box release, align 8
  br label %again
}}
"""

_LEAD = f"""
define i64 @lead(ptr %box, ptr %walk, ptr %frame, ptr %scratch, ptr %other) {{
entry:
  %then = alloca {{ i64, i64 }}
  %now = alloca {{ i64, i64 }}
{_words(busy=_BUSY, waited=_WAITED, asleep=_ASLEEP, semaphore=_SEMAPHORE, counter=_COUNTER, job=_JOB)}
  %before = atomicrmw xchg ptr %busy, i64 1 seq_cst
  %taken = icmp ne i64 %before, 0
  br i1 %taken, label %alone, label %post
alone:
  %all = call i64 %walk(ptr %frame, ptr %scratch, ptr null)
  ret i64 %all
post:
{_words(functions=_FUNCTIONS)}
  %second = getelementptr i64, ptr %functions, i64 1
  %wake = load ptr, ptr %second
  %third = getelementptr i64, ptr %functions, i64 2
  %yield = load ptr, ptr %third
  store ptr %walk, ptr %job
  %job1 = getelementptr i64, ptr %job, i64 1
  store ptr %frame, ptr %job1
  %job2 = getelementptr i64, ptr %job, i64 2
  store ptr %other, ptr %job2
  store atomic i64 0, ptr %counter monotonic, align 8
  store atomic i64 1, ptr %box seq_cst, align 8
  %sleeps = atomicrmw xchg ptr %asleep, i64 0 seq_cst
  %woken = icmp eq i64 %sleeps, 0
  br i1 %woken, label %work, label %call
call:
  call i32 %wake(ptr %semaphore)
  br label %work
work:
  %own = call i64 %walk(ptr %frame, ptr %scratch, ptr %counter)
  %pair = cmpxchg ptr %box, i64 1, i64 0 acq_rel acquire
  %unseen = extractvalue {{ i64, i1 }} %pair, 1
  br i1 %unseen, label %end, label %ask
ask:
  %fifth = getelementptr i64, ptr %functions, i64 4
  %clock = load ptr, ptr %fifth
  call i32 %clock(i32 {_MONOTONIC}, ptr %then)
  br label %wait
wait:
  %state = load atomic i64, ptr %box acquire, align 8
  %done = icmp eq i64 %state, 3
  br i1 %done, label %add, label %give
give:
  call i32 %yield()
  br label %wait
add:
  call i32 %clock(i32 {_MONOTONIC}, ptr %now)
  %then1 = getelementptr i64, ptr %then, i64 1
  %now1 = getelementptr i64, ptr %now, i64 1
  %s0 = load i64, ptr %then
  %s1 = load i64, ptr %now
  %n0 = load i64, ptr %then1
  %n1 = load i64, ptr %now1
  %s = sub i64 %s1, %s0
  %n = sub i64 %n1, %n0
  %ns = mul i64 %s, 1000000000
  %times = add i64 %ns, %n
  %job3 = getelementptr i64, ptr %job, i64 3
  %its = load i64, ptr %job3
  store atomic i64 0, ptr %box release, align 8
  br label %end
end:
  %late = phi i64 [ 0, %work ], [ %times, %add ]
  %more_repeated = phi i64 [ 0, %work ], [ %its, %add ]
  store i64 %late, ptr %waited
  store atomic i64 0, ptr %busy release, align 8
  %sum = add i64 %own, %more_repeated
  ret i64 %sum
}}
"""

_FUNCTIONS_OF_IT = {"serve": _SERVE, "lead": _LEAD}
_ARGUMENTS = (ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
Lead = Callable[[int, int, bytes, int, int], int]
"""Walks with the helper, given the box, the address of the walk, its frame, and scratch memory for both threads."""


class Helper:
    """The helper of the process."""

    def __init__(self) -> None:
        self._owners: list[object] = []
        self._refused: weakref.WeakSet[object] = weakref.WeakSet()
        self._serve = 0
        self._lead: Lead | None = None
        self._unlocked: Lead | None = None
        """The same, without the interpreter lock."""
        self._core: Callable[[], int] | None = None
        """The core that this thread is on."""
        self._reset()

    def _reset(self) -> None:
        self._box: np.ndarray[Any, np.dtype[np.int64]] | None = None
        self._address = 0
        self._failed = False
        self._rest = 0
        self._away = -1
        """The core that the helper is kept from."""
        self._next_rest = REST

    def prepare(self) -> None:
        """Compile what it executes, once; called by the compiling thread. Where that fails, there is no helper."""
        if self._serve or self._failed or not sys.platform.startswith("linux"):
            return  # elsewhere, semaphores without a name are missing
        try:
            with at_work:
                serve, lead = (loaded(compiled(text, name), name) for name, text in _FUNCTIONS_OF_IT.items())
        except Exception:  # noqa: BLE001 - no memory, or the program is about to end: walks go without it
            self._failed = True
            return
        self._owners += serve.owner, lead.owner
        self._lead = ctypes.PYFUNCTYPE(*_ARGUMENTS)(lead.address)
        self._unlocked = ctypes.CFUNCTYPE(*_ARGUMENTS)(lead.address)
        self._serve = serve.address

    def refuse(self, owner: object) -> None:
        """Ask it for nothing as long as this object lives: an executor whose ops have one thread each."""
        self._refused.add(owner)

    def is_free(self, *, has_slots: bool = False) -> bool:
        """Tell whether it may be asked: it is there, or can be, is in time, and no op needs its core.

        With `has_slots` it is a worker that asks, which has a slot for the helper's core.
        """
        if self._rest or self._refused:
            self._rest = max(0, self._rest - 1)
            return False
        if not self._address and not self._started():
            return False
        return (has_slots or core_slots.capacity - core_slots.taken > 1) and self._is_apart()

    def walk(self, walk: int, frame: bytes, scratch: int, other: int, *, locked: bool = True) -> int:
        """Take all blocks of a walk together with it, the interpreter lock kept or not; how many are to be repeated."""
        lead = self._lead if locked else self._unlocked
        assert lead is not None
        repeated = lead(self._address, walk, frame, scratch, other)
        box = self._box
        assert box is not None
        if box[_WAITED] > LATE:
            self._rest, self._next_rest = self._next_rest, min(2 * self._next_rest, REST * REST)
        elif self._next_rest > REST:
            self._next_rest -= 1
        return repeated

    def _is_apart(self) -> bool:
        """Keep the helper from the core of this thread: woken by it, it would wait there until the work is done."""
        assert self._core is not None
        assert self._box is not None
        core = self._core()
        if core != self._away:
            thread = int(self._box[_THREAD])
            others = allowed_cores() - {core}
            if not thread or not others:
                return False
            try:
                os.sched_setaffinity(thread, others)
            except OSError:
                return False
            self._away = core
        return True

    def _started(self) -> bool:
        """Start the thread, which takes over the cores of this one; False where that is not possible."""
        if not self._serve or self._failed or core_slots.capacity < 2:
            return False
        try:
            box = _new_box()
            before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            try:
                thread = ctypes.c_ulong()
                serve, its = ctypes.c_void_p(self._serve), ctypes.c_void_p(address_of(box))
                status = ctypes.CDLL(None).pthread_create(ctypes.byref(thread), None, serve, its)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            self._core = ctypes.PYFUNCTYPE(ctypes.c_int)(("sched_getcpu", ctypes.CDLL(None)))
        except (OSError, AttributeError):
            status = -1
        if status:
            self._failed = True
            return False
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(box))  # the thread refers to it until the process ends
        self._box, self._address = box, address_of(box)
        return True

    def after_fork_in_child(self) -> None:
        """The thread is not there: it is started anew when it is needed."""
        self._reset()


def _new_box() -> np.ndarray[Any, np.dtype[np.int64]]:
    """A box without work. Raises `AttributeError` or `OSError` where the C library lacks something."""
    library = ctypes.CDLL(None)
    memory = np.zeros(_WORDS + 8, np.int64)
    first = -address_of(memory) % 64 // 8
    box = memory[first : first + _WORDS]
    if library.sem_init(ctypes.c_void_p(address_of(box) + 8 * _SEMAPHORE), 0, 0):
        raise OSError("no semaphore")
    for number, name in enumerate(_NAMES):
        box[_FUNCTIONS + number] = ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0
    return box


helper = Helper()
os.register_at_fork(after_in_child=helper.after_fork_in_child)
