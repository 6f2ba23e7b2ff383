"""The compiled structures of the process: found, compiled in the background, and let go of.

The first group of a structure is executed in NumPy's way, and its structure is compiled meanwhile on a thread of low
priority; no group waits for that. The lock guards the entries and the counts.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections import OrderedDict
from dataclasses import replace
from functools import partial
from time import perf_counter

from engine.fusion.groups import FusionGroup
from engine.fusion.native import llvm
from engine.fusion.native.background import Background
from engine.fusion.native.compiler import Code, compile_structure
from engine.fusion.native.describe import Description, described
from engine.fusion.native.machine import is_available
from engine.fusion.native.selfcheck import SelfCheck
from engine.fusion.native.statistics import FusionStatistics
from engine.fusion.native.structure import Structure, UnsupportedError
from engine.fusion.walks import Walk

LIMIT = 256
"""Structures whose code is kept."""
OFTEN = 8
"""One block in so many that is computed again is too many."""
EXIT_SECONDS = 10.0
"""How long the exit of the interpreter waits for LLVM."""

_log = logging.getLogger(__name__)


_COUNTED = ("compiled", "evicted", "unsupported", "failed", "misses", "blocks_repeated", "from_disk")


class Entry:
    """The code of one structure, as long as the cache keeps it."""

    __slots__ = ("code", "coming", "refused", "used")

    def __init__(self) -> None:
        self.code: Code | None = None
        """None before it has been compiled, where it cannot be, and once the cache has let go of it."""
        self.coming = True
        """True until the compiler has looked at the structure."""
        self.refused = False
        """True if the compiler has no code for the structure."""
        self.used = False
        """True if the code came, or served, since the cache last looked for what to let go of."""


class Natives:
    """A cache of compiled structures."""

    def __init__(self, limit: int = LIMIT, *, enabled: bool = True, at_once: bool = False) -> None:
        self._limit = limit
        self.enabled = enabled
        self.at_once = at_once
        """True if a group waits for its code, for tests."""
        self.background = Background()
        self._lock = threading.Lock()
        self._entries: OrderedDict[Structure, Entry] = OrderedDict()
        self._counts = dict.fromkeys(_COUNTED, 0)
        self.hits = 0
        """Groups that were executed as compiled code. Counted without the lock, by threads that may meet."""
        self._seconds = 0.0
        self._check = SelfCheck()
        self._careful: set[Structure] = set()

    @property
    def available(self) -> bool:
        """Tell whether groups can be compiled here."""
        return is_available()

    def find(self, group: FusionGroup, walk: Walk) -> tuple[Code, Description] | None:
        """The code of a group; None where it is not there, which it may be next time."""
        if not (self.enabled and self.available):
            return None
        try:
            description = described(group, walk)
        except UnsupportedError:
            self.count("misses")
            return None
        if description.structure in self._careful:
            description = replace(description, structure=description.structure._replace(careful=True))
        entry = self.entry(description.structure)
        code = None if entry is None else entry.code
        if entry is not None:
            entry.used = True
        if code is None:
            self.count("misses")
            return None
        self.hits += 1
        return code, description

    def entry(self, structure: Structure) -> Entry | None:
        """The entry of a structure, which is compiled in the background; None where it cannot be now."""
        with self._lock:
            entry = self._entries.get(structure)
            if entry is not None:
                return entry
            entry = self._entries[structure] = Entry()
        job = partial(self._compile, structure, entry)
        if self.at_once:
            job()
        elif not self.background.submit(job):
            with self._lock:
                self._entries.pop(structure, None)
            return None
        return entry

    def repeated(self, description: Description, blocks: int, of: int) -> None:
        """So many blocks of a group had to be computed again: where NaNs may be the reason, look at them closer."""
        self.count("blocks_repeated", blocks)
        structure = description.structure
        if blocks * OFTEN > of and structure.minds_nans and not structure.careful and len(self._careful) < self._limit:
            self._careful.add(structure)

    # In the background

    def _compile(self, structure: Structure, entry: Entry) -> None:
        began = perf_counter()
        try:
            with llvm.at_work:
                entry.code = compile_structure(structure, self._check.agrees)
            outcome = "compiled"
            self.count("from_disk", int(entry.code.from_disk))
        except (UnsupportedError, llvm.EndingError):
            outcome = "unsupported"
        except BaseException as error:  # noqa: BLE001 - the group is computed without it
            outcome = "failed"
            if not self._counts["failed"]:
                _log.warning("native fusion failed, and NumPy's ufuncs are called instead: %r", error)
        entry.refused, entry.coming, entry.used = entry.code is None, False, True
        self.count(outcome)
        self._seconds += perf_counter() - began
        self._make_room()
        with llvm.at_work:
            llvm.dispose()

    def _make_room(self) -> None:
        """Let go of the code that was not used for the longest time."""
        gone: list[Code] = []
        with self._lock:
            for _ in range(2 * len(self._entries)):  # once round for those that were used, and once more
                if len(self._entries) <= self._limit:
                    break
                structure, entry = next(iter(self._entries.items()))
                if entry.used or entry.coming:
                    entry.used = False
                    self._entries.move_to_end(structure)
                    continue
                del self._entries[structure]
                if entry.code is not None:
                    self._counts["evicted"] += 1
                    gone.append(entry.code)
                    entry.code = None
        gone.clear()  # outside the lock

    # What is known

    def count(self, what: str, number: int = 1) -> None:
        """Count something."""
        with self._lock:
            self._counts[what] += number

    def statistics(self) -> FusionStatistics:
        """Count what was compiled, and how often it served."""
        with self._lock:
            cached = sum(1 for entry in self._entries.values() if entry.code is not None)
            return FusionStatistics(
                available=self.available,
                cached=cached,
                limit=self._limit,
                compile_seconds=self._seconds,
                differing=self._check.differing,
                hits=self.hits,
                **self._counts,
            )

    def settle(self, timeout: float | None = None) -> bool:
        """Wait until nothing is being compiled; return whether that is so."""
        return self.background.settle(timeout)

    def stop(self) -> None:
        """Compile nothing more, and wait for what is being compiled: the interpreter is about to end."""
        self.background.stop()
        llvm.ending(EXIT_SECONDS)

    def after_fork_in_child(self) -> None:
        """The compiling thread is not there: what it was about to compile is compiled when it is seen again."""
        self._lock = threading.Lock()
        self.background.start_over()
        for structure in [each for each, entry in self._entries.items() if entry.coming]:
            del self._entries[structure]


natives = Natives()
atexit.register(natives.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=natives.after_fork_in_child)


def fusion_statistics() -> FusionStatistics:
    """Count what native fusion has compiled in this process, and how often the code served.

    Example:
        >>> import engine
        >>> statistics = engine.fusion_statistics()
        >>> statistics.cached <= statistics.limit
        True
    """
    return natives.statistics()
