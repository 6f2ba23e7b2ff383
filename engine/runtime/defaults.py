"""Default executors: one for each running loop, and for each thread without one, made at the first op there.

Invariants: a loop has one executor from its first op until it shuts down, and so has a thread without a loop. An op
that is called while another loop runs on the thread never goes to the one before.

`lock` (of the switch) guards the making of executors. `Executors.here` is read and written by its own thread only, so
the look-up of each op takes no lock.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

from engine.base.config import Config
from engine.base.loops import AbstractEventLoop, on_shutdown, report, running_loop, seat_of
from engine.dispatch.dispatcher import Dispatcher
from engine.dispatch.executor import Core, State
from engine.settings.switch import Options, lock, program

_NO_THREAD = object()


class _Here:
    """Where the ops of a thread go: the executor that it used last, of which loop that is, and the dispatcher."""

    __slots__ = ("core", "dispatcher", "loop", "seat", "thread")

    def __init__(self, core: Core | None = None, loop: AbstractEventLoop | None = None) -> None:
        self.core = core
        self.loop = loop
        self.seat = seat_of(None)
        self.thread: object = _NO_THREAD
        """The thread id of `seat` when the loop was last seen running here; another run has another object."""
        self.dispatcher: Any = None

    def settle(self, dispatcher: Dispatcher) -> None:
        """From now on ops go there as long as the loop says that it runs on this thread: `seat` is only known then."""
        self.dispatcher = dispatcher
        self.seat = seat_of(self.loop)
        self.look()

    def look(self) -> None:
        """The loop runs on this thread now."""
        if self.seat._thread_id is not None:
            self.thread = self.seat._thread_id


class _Defaults(threading.local):
    """This thread's `_Here`, and the executor that it has where no loop runs on it, also after one did."""

    now = _Here()
    own: Core | None = None


class Executors:
    """Executors made as needed: those of loops live until their loop shuts down, those of threads as the thread does.

    `freezes` says whether the first one settles how many threads and devices the program has; `on_loops` whether a
    running loop has one of its own, or shares that of its thread.
    """

    def __init__(self, *, freezes: bool = False, on_loops: bool = True) -> None:
        self._freezes = freezes
        self._on_loops = on_loops
        self.here = _Defaults()
        self._by_loop: weakref.WeakKeyDictionary[AbstractEventLoop, tuple[Core, object]] = weakref.WeakKeyDictionary()
        self.cores: weakref.WeakSet[Core] = weakref.WeakSet()

    def core(self, options: Options) -> Core:
        """The executor of this thread's running loop, or of this thread."""
        here = self.here.now
        if here.core is not None and here.seat._thread_id is here.thread:
            return here.core  # as `current` decides: a loop that is run inside another one shares its executor
        loop = running_loop() if self._on_loops else None
        if here.core is not None and here.loop is loop:
            return here.core
        with lock:
            known = self._by_loop.get(loop, (None,))[0] if loop is not None else self.here.own
            core = known if known is not None else self._make(options.config, loop)
            if loop is None:
                self.here.own = core
            if self._freezes:
                program.in_use = program.in_use or options.config  # a configuration that failed freezes nothing
            self.here.now = _Here(core, loop)
        return core

    def known(self) -> Core | None:
        """The executor of this thread's running loop, or of this thread, where there is one already."""
        loop = running_loop() if self._on_loops else None
        here = self.here.now
        if here.core is not None and here.loop is loop:
            return here.core
        return self.here.own if loop is None else self._by_loop.get(loop, (None,))[0]

    def _make(self, config: Config, loop: AbstractEventLoop | None) -> Core:
        core = Core(config, loop)
        self.cores.add(core)
        if loop is not None:
            self._by_loop[loop] = (core, on_shutdown(loop, lambda: self._end(core, loop)))
        return core

    def _end(self, core: Core, loop: AbstractEventLoop) -> None:
        self._by_loop.pop(loop, None)
        report_failures(core, loop)
        core.detach()

    def forget(self) -> None:
        """Have new executors made from now on."""
        with lock:
            self.here = _Defaults()
            self._by_loop.clear()

    def close(self, why: str) -> list[Core]:
        """Close those that are not closed, dropping what is queued; returns them."""
        cores = [core for core in self.cores if core.state is not State.CLOSED]
        for core in cores:
            core.cancel_pending(why)
            core.close()
        self.forget()
        return cores


defaults = Executors(freezes=True)
os.register_at_fork(after_in_child=defaults.forget)  # what ran on the parent's loop and threads stayed with them
program.when_disabled(defaults.forget)


def reset_defaults() -> None:
    """Close all default executors, dropping what is queued and forgetting what failed."""
    for core in defaults.close("the engine was reset"):
        core.ledger.take()


def report_failures(core: Core, loop: AbstractEventLoop | None) -> None:
    """Tell the loop's exception handler of failures that were not reported; without a loop they wait for the exit."""
    if loop is not None:
        for error in core.ledger.take():
            report(loop, "an op failed and nobody read its result", error)
