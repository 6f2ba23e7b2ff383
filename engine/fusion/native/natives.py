"""The compiled structures of the process: found, compiled in the background, and let go of.

The first group of a structure is executed in NumPy's way, and its structure is compiled meanwhile on a thread of low
priority; no group waits for that. The lock guards the entries, the queue and the counts; LLVM is called by the
compiling thread alone, which holds `_compiling` meanwhile, so that a fork does not find it at work.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections import OrderedDict, deque
from contextlib import suppress
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Literal

from engine.fusion.native.compiler import Code, compile_structure, dispose, is_available
from engine.fusion.native.describe import Description, described
from engine.fusion.native.selfcheck import SelfCheck
from engine.fusion.native.structure import Structure, UnsupportedError
from engine.fusion.runs import Run
from engine.fusion.walks import Walk

LIMIT = 256
"""Structures whose code is kept."""
WAITING = 64
"""Structures that wait for the compiler, at most; others are compiled when they are seen again."""
OFTEN = 8
"""One block in so many that is computed again is too many."""
_NICE = 10

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FusionStatistics:
    """Native fusion in this process, at one moment.

    Example:
        >>> import engine
        >>> engine.fusion_statistics().failed
        0
    """

    available: bool
    """True if groups are compiled: llvmlite is installed, and the machine is one that code is written for."""
    cached: int
    """Structures whose code is there."""
    limit: int
    """Structures whose code is kept at most."""
    compiled: int
    """Structures that were compiled."""
    evicted: int
    """Structures whose code was given up for that of others."""
    unsupported: int
    """Structures that no code is written for: they are computed by NumPy's ufuncs, block by block."""
    failed: int
    """Structures that the compiler failed on; they are computed as if they were not supported."""
    compile_seconds: float
    """Seconds that compiling took, all in the background."""
    hits: int
    """Groups that were executed as compiled code."""
    misses: int
    """Groups that were executed by NumPy's ufuncs, block by block."""
    blocks_repeated: int
    """Blocks that were computed once more by NumPy's ufuncs, for a warning or for bits that were not certain."""
    differing: tuple[str, ...]
    """Ops whose compiled form did not have NumPy's bits on this machine, with their dtypes: NumPy's are called."""


_Entry = Code | Literal[False] | None
"""The code, None where there can be none, False where it is being compiled."""


class Natives:
    """A cache of compiled structures."""

    def __init__(self, limit: int = LIMIT, *, enabled: bool = True, at_once: bool = False) -> None:
        self._limit = limit
        self.enabled = enabled
        self._at_once = at_once
        """True if a group waits for its code, for tests."""
        self._available: bool | None = None
        self._entries: OrderedDict[Structure, _Entry] = OrderedDict()
        self._counts = dict.fromkeys(
            ("compiled", "evicted", "unsupported", "failed", "hits", "misses", "blocks_repeated"), 0
        )
        self._seconds = 0.0
        self._check = SelfCheck()
        self._careful: set[Structure] = set()
        self._compiling = threading.RLock()
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._queue: deque[Structure] = deque()
        self._thread: threading.Thread | None = None
        self._stopped = False

    @property
    def available(self) -> bool:
        """Tell whether groups can be compiled here."""
        if self._available is None:
            self._available = is_available()
        return self._available

    def find(self, run: Run, walk: Walk) -> tuple[Code, Description] | None:
        """The code of a group; None where it is not there, which it may be next time."""
        if not (self.enabled and self.available):
            return None
        try:
            description = described(run, walk)
        except UnsupportedError:
            self.count("misses")
            return None
        if description.structure in self._careful:
            description = replace(description, structure=description.structure._replace(careful=True))
        code = self._code_of(description.structure)
        self.count("hits" if code is not None else "misses")
        return None if code is None else (code, description)

    def repeated(self, description: Description, blocks: int, of: int) -> None:
        """So many blocks of a group had to be computed again: where NaNs may be the reason, look at them closer."""
        self.count("blocks_repeated", blocks)
        structure = description.structure
        if blocks * OFTEN > of and structure.minds_nans and not structure.careful and len(self._careful) < self._limit:
            self._careful.add(structure)

    def _code_of(self, structure: Structure) -> Code | None:
        with self._lock:
            entry = self._entries.get(structure)
            if isinstance(entry, Code):
                self._entries.move_to_end(structure)
                return entry
            if structure in self._entries or self._stopped or len(self._queue) >= WAITING:
                return None
            self._entries[structure] = False
            self._queue.append(structure)
        if self._at_once:
            self._work()
            entry = self._entries.get(structure)
            return entry if isinstance(entry, Code) else None
        self._start()
        return None

    # The compiling thread

    def _start(self) -> None:
        with self._lock:
            if self._thread is not None or not self._queue:
                return
            thread = self._thread = threading.Thread(target=self._work, name="eagerloop-compiler", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system has no more threads, or the interpreter is about to end
            self._give_up()

    def _give_up(self) -> None:
        with self._lock:
            self._thread = None
            while self._queue:
                self._entries.pop(self._queue.popleft(), None)

    def _work(self) -> None:
        if not self._at_once:
            with suppress(OSError, AttributeError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        while True:
            with self._lock:
                if not self._queue or self._stopped:
                    self._thread = None
                    return
                structure = self._queue.popleft()
            with self._compiling:
                self._compile(structure)
                dispose()

    def _compile(self, structure: Structure) -> None:
        began = perf_counter()
        code: Code | None = None
        try:
            code = compile_structure(structure, self._check.agrees)
            outcome = "compiled"
        except UnsupportedError:
            outcome = "unsupported"
        except BaseException as error:  # noqa: BLE001 - the group is computed without it
            outcome = "failed"
            if not self._counts["failed"]:
                _log.warning("native fusion failed, and NumPy's ufuncs are called instead: %r", error)
        self.count(outcome)
        self._seconds += perf_counter() - began
        self._keep(structure, code)

    def _keep(self, structure: Structure, code: Code | None) -> None:
        with self._lock:
            self._entries[structure] = code
            self._entries.move_to_end(structure)
            gone = []
            while len(self._entries) > self._limit:
                oldest = next(iter(self._entries))
                entry = self._entries.pop(oldest)
                if entry:
                    self._counts["evicted"] += 1
                    gone.append(entry)
        gone.clear()  # outside the lock

    # What is known

    def count(self, what: str, number: int = 1) -> None:
        """Count something."""
        with self._lock:
            self._counts[what] += number

    def statistics(self) -> FusionStatistics:
        """Count what was compiled, and how often it served."""
        with self._lock:
            cached = sum(1 for entry in self._entries.values() if entry)
            return FusionStatistics(
                available=self.available,
                cached=cached,
                limit=self._limit,
                compile_seconds=self._seconds,
                differing=self._check.differing,
                **self._counts,
            )

    def settle(self, timeout: float | None = None) -> bool:
        """Wait until nothing is being compiled; whether that is so."""
        with self._lock:
            thread = self._thread
        if thread is None:
            return True
        try:
            thread.join(timeout)
        except RuntimeError:  # it is about to be started
            return False
        return not thread.is_alive()

    def stop(self) -> None:
        """Compile nothing more, and wait for what is being compiled: the interpreter is about to end."""
        self._stopped = True
        self.settle(timeout=10)

    # Forks

    def before_fork(self) -> None:
        """Wait until LLVM is not at work, for a child would find its locks held."""
        self._compiling.acquire()

    def after_fork_in_parent(self) -> None:
        self._compiling.release()

    def after_fork_in_child(self) -> None:
        """The compiling thread is not there: what it was about to compile is compiled when it is seen again."""
        self._compiling = threading.RLock()
        self._reset()
        for structure in [each for each, entry in self._entries.items() if entry is False]:
            del self._entries[structure]


natives = Natives()
atexit.register(natives.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=natives.before_fork,
        after_in_parent=natives.after_fork_in_parent,
        after_in_child=natives.after_fork_in_child,
    )


def fusion_statistics() -> FusionStatistics:
    """Count what native fusion has compiled in this process, and how often the code served.

    Example:
        >>> import engine
        >>> statistics = engine.fusion_statistics()
        >>> statistics.cached <= statistics.limit
        True
    """
    return natives.statistics()
