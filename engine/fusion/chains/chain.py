"""One chain, planned: its frame is made once, so that computing it is little more than a call of its compiled code.

In place, the call keeps the interpreter lock: such a chain takes less time than getting the lock back may. That also
means that one thread at a time uses the scratch memory there. On a worker, several threads share the blocks without it.

The operands are never written over. So a chain on which NumPy would have warned, or whose bits are not certain, is left
to those who asked for it, to be computed in another way; nothing has happened then.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from time import thread_time_ns
from typing import Any

import numpy as np

from engine.fusion.chains.calling import Call, call_in_place, prepare
from engine.fusion.chains.key import ChainKey, kinds_of
from engine.fusion.chains.layout import Layout, laid_out
from engine.fusion.chains.matching import Matcher, matcher
from engine.fusion.fused import NATIVE_BLOCK_BYTES, ONE_PASS_BYTES
from engine.fusion.native.calls import constant_frame, slot_bytes_of
from engine.fusion.native.compiler import Code
from engine.fusion.native.helping import helper
from engine.fusion.native.machine import address_of, data_offset, flags, math_library
from engine.fusion.native.natives import Entry, Natives
from engine.fusion.native.structure import Frame, Structure, UnsupportedError
from engine.fusion.program import Deviation
from engine.fusion.reductions import reduced
from engine.threads.pool import hand_over, together

Array = np.ndarray[Any, Any]

NOTED = {"divide", "over", "invalid"}
"""The errors that NumPy warns of by default; compiled code needs the last one also where two NaNs may meet."""
LONGEST_NS = 600_000
"""Nanoseconds that a chain may take in place."""
PATIENCE = 4
"""Calls in a row that had to be done again, after which the chain is computed in another way for good."""
HANDED_OVER_NS = 4_000_000
"""Nanoseconds of a core from which a worker lets other threads have the interpreter lock before it begins."""
WATCHED_NS = 20_000
"""Estimated nanoseconds from which a call is timed: below, the clock would cost more than it tells."""
HELPED_NS = 30_000
"""Estimated nanoseconds of a core from which a call in place may be shared with the helper."""
ALONE = 1.5
"""How much longer a call may take, at least, where the helper is not free."""
HELPED_BYTES = 64 << 10
"""Bytes of one operand's block, then, and in what may have a block of its own: the last one is waited for."""


class Chain:
    """A chain of ops on operands of certain dtypes, shapes and strides."""

    def __init__(self, key: ChainKey, scalars: Sequence[Any], natives: Natives, *, careful: bool = False) -> None:
        """Plan a chain. Raises `UnsupportedError` where it cannot be computed by one call, and `BusyError`."""
        if not data_offset():
            raise UnsupportedError("the objects of arrays are not as NumPy says")
        self.key = key
        self._natives = natives
        self.layout = laid_out(key, scalars, careful=careful)
        entry = natives.entry(self.structure)
        if entry is None:
            raise BusyError
        self.entry: Entry = entry
        self._frames: Frames | None = None
        self.match: Matcher = matcher(key)
        """Recognizes the chain in the records at the front of a queue."""
        self.kept = [number for number, step in enumerate(self.layout.group.steps) if step.keep]
        """The steps whose results are there after a call."""
        self.failures = 0
        """Calls in a row that had to be done again."""
        self.ns = self.layout.ns
        """Nanoseconds of a core that a call takes."""
        if self.ns > HELPED_NS:
            helper.prepare()

    @property
    def structure(self) -> Structure:
        """The structure of its compiled code."""
        return self.layout.description.structure

    @property
    def is_hopeless(self) -> bool:
        """True if its calls have to be done again, time after time."""
        return self.failures >= PATIENCE

    @property
    def is_ready(self) -> bool:
        """True if its code is there, and its calls are worth it."""
        return self.entry.code is not None and self.failures < PATIENCE

    def may_hold_loop(self) -> bool:
        """Tell whether a call takes so little time that the thread of a loop may compute it."""
        if self.ns <= LONGEST_NS:
            return True
        self.ns *= 0.98  # it may have been slow for another reason: after some time it is tried again
        return False

    def compute(self, arrays: Sequence[Array], scalars: Sequence[Any]) -> list[Any] | None:
        """Compute it on this thread, which may be a loop's.

        Returns the result of each step, its shape and dtype where it is not kept; None to have it computed op by op.
        """
        code = self.entry.code
        if code is None:
            return None
        if self.ns <= WATCHED_NS:
            return self._called(code, arrays, scalars)
        began = thread_time_ns()
        outcomes = self._called(code, arrays, scalars)
        if outcomes is not None:
            taken: float = thread_time_ns() - began
            if self._frames is not None and self._frames.was_helped:
                taken *= ALONE  # another time the helper may not be free
            more = taken - self.ns
            self.ns += more / (8 if more > 0 else 2)  # what else a machine does makes a call longer, never shorter
        return outcomes

    def call(self, arrays: int, constants: Sequence[Array], scalars: Sequence[Any], otherwise: Call) -> Call | None:
        """The function that computes it in place, given arrays one by one; the last ones and the scalars stay the same.

        `otherwise` is called with them where that is not possible. None for a chain of several results, and for one
        that takes long, or needs more than its frame.
        """
        code, outputs = self.entry.code, self.layout.outputs
        if code is None or self.ns > WATCHED_NS or self.structure.reductions or len(outputs) != 1 or code.stages.slots:
            return None
        frames = self._framed(code, scalars)
        around = {"chain": self, "entry": self.entry, "natives": self._natives, "otherwise": otherwise}
        return call_in_place(self.layout, arrays, constants, scalars, around | frames.names)

    def compute_on(self, threads: int, arrays: Sequence[Array], scalars: Sequence[Any]) -> list[Any] | None:
        """Compute it on so many threads, this one included, none of which is a loop's; as `compute` does."""
        code = self.entry.code
        if code is None:
            return None
        if self.ns > HANDED_OVER_NS:
            hand_over()
        return self._called(code, arrays, scalars, threads)

    def _called(
        self, code: Code, arrays: Sequence[Array], scalars: Sequence[Any], threads: int | None = None
    ) -> list[Any] | None:
        frames = self._frames or self._framed(code, scalars)
        head, outcomes, partials = frames.prepare(arrays, scalars)
        done = frames.in_place(head) if threads is None else frames.shared(head, threads)
        if not done or (partials and not self._reduce(outcomes, partials)):
            self.failures += 1
            return None
        self.failures = 0
        self.entry.used = True
        self._natives.hits += 1
        return outcomes

    def _framed(self, code: Code, scalars: Sequence[Any]) -> Frames:
        if self._frames is None:
            self._frames = Frames(self.layout, code, len(kinds_of(self.key)), len(scalars))
        return self._frames

    def _reduce(self, outcomes: list[Any], partials: list[Array]) -> bool:
        """Make the results of reductions; False where NumPy would have warned, or another order might matter."""
        group, splits = self.layout.group, self.layout.walk.splits
        steps = [(index, step) for index, step in enumerate(group.steps) if step.reduction is not None]
        try:
            with np.errstate(divide="raise", over="raise", invalid="raise", under="ignore"):
                for (index, step), each, its in zip(steps, partials, self.structure.reductions, strict=True):
                    blocks = each.view(its.code)[:: 8 // np.dtype(its.code).itemsize]
                    outcomes[index] = reduced(step, group.shape, splits, blocks)
        except (Deviation, FloatingPointError):
            return False
        return True


class BusyError(Exception):
    """Too much waits to be compiled: the chain is planned another time."""


class Frames:
    """The frames of the calls of one chain. What is the same in all of them is made once.

    It refers to the loops of the code by their addresses: it is used while the code is held.
    """

    def __init__(self, layout: Layout, code: Code, arrays: int, scalars: int) -> None:
        group, walk = layout.group, layout.walk
        one_pass = len(code.stages.stages) == 1 and not code.stages.slots
        block_bytes = ONE_PASS_BYTES if one_pass else NATIVE_BLOCK_BYTES
        self._helped = HELPED_NS < layout.ns < HANDED_OVER_NS
        if self._helped:  # the results of blocks are put together one by one: fewer of them
            block_bytes = HELPED_BYTES * (2 if layout.description.structure.reductions else 1)
        elements = max(64, block_bytes // max(step.dtype.itemsize for step in group.steps))
        if layout.description.structure.reductions:
            walk.cut_for_sums(elements)
        else:
            walk.cut(elements)
        self._walk, self._direct = code.walk, code.direct
        self._address = ctypes.cast(code.walk, ctypes.c_void_p).value or 0  # type: ignore[arg-type]
        self.was_helped = False
        """True if the last call in place was shared with the helper."""
        self.blocks = len(walk)
        """Blocks that the walk is cut into."""
        self.prepare = prepare(layout, arrays, scalars, self.blocks)
        self._kept = np.ascontiguousarray(walk.table), np.zeros(len(walk), np.uint8)
        table, redo = self._kept
        slot_bytes = slot_bytes_of(walk, layout.description)
        self._scratch_bytes = code.stages.slots * slot_bytes
        frame = constant_frame(code, layout.description, redo, table, flags(NOTED), slot_bytes)
        frame[code.frame.header(Frame.OBJECTS)] = data_offset()
        self._tail = frame[code.frame.changing :].tobytes()
        library = math_library()
        assert library is not None
        frame[code.frame.header(Frame.YIELD)] = library.give_way
        self._shared_tail = frame[code.frame.changing :].tobytes()

    @property
    def names(self) -> dict[str, Any]:
        """The entry that code written for a chain calls in place, without scratch memory; and the rest of its frame."""
        return {"direct": self._direct, "tail": self._tail}

    def in_place(self, head: bytes) -> bool:
        """Walk all blocks under the interpreter lock; False where one has to be computed in NumPy's way."""
        self.was_helped = self._helped and self.blocks > 1 and helper.is_free()
        if self.was_helped:
            first, second = _scratch_of(self._scratch_bytes), _scratch_of(self._scratch_bytes, 1)
            return not helper.walk(self._address, head + self._tail, first.address, second.address)
        if not self._scratch_bytes:
            return not self._direct(head + self._tail, 0, None)
        scratch = _scratch_of(self._scratch_bytes)  # held: another thread may come and take a larger one
        return not self._direct(head + self._tail, scratch.address, None)

    def shared(self, head: bytes, threads: int) -> bool:
        """Walk all blocks on so many threads, which give way between blocks; False as above."""
        if threads == 2 and self._helped and self.blocks > 1 and helper.is_free(has_slots=True):
            mine, its = _Scratch(self._scratch_bytes), _Scratch(self._scratch_bytes)
            whole = head + self._shared_tail
            return not helper.walk(self._address, whole, mine.address, its.address, locked=False)
        frame, counter = head + self._shared_tail, np.zeros(1, np.int64)
        repeated: list[int] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                scratch = _Scratch(self._scratch_bytes)
                repeated.append(self._walk(frame, scratch.address, address_of(counter)))
            except BaseException as error:  # noqa: BLE001 - no memory for scratch: the thread that began it is told
                errors.append(error)

        together(work, min(threads, self.blocks))
        return not errors and not any(repeated)


class _Scratch:
    """Memory for what lies between the passes over a block."""

    def __init__(self, nbytes: int) -> None:
        self.memory = np.empty(nbytes, np.uint8)
        self.address = address_of(self.memory)


_latest = [_Scratch(0), _Scratch(0)]


def _scratch_of(nbytes: int, which: int = 0) -> _Scratch:
    """So much scratch memory, the same for all threads: it is used under the interpreter lock; 1 is the helper's."""
    scratch = _latest[which]
    if scratch.memory.nbytes < nbytes:
        scratch = _latest[which] = _Scratch(nbytes)
    return scratch
