"""One chain, planned: its walk and the frame of its call are made once; computing it is little more than a call.

The call keeps the interpreter lock: a chain that is computed in place takes less time than getting the lock back may.
That also means that one thread at a time is in here with the scratch memory.

The operands are never written over. So a chain on which NumPy would have warned, or whose bits are not certain, is left
to those who asked for it, to be computed op by op; nothing has happened then.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from time import thread_time_ns
from typing import Any

import numpy as np

from engine.base.op import Op, ShapeDtype
from engine.fusion.chains.key import ChainKey, Kind, Step, kinds_of, steps_of
from engine.fusion.chains.matching import Matcher, matcher
from engine.fusion.fused import NATIVE_BLOCK_BYTES, ONE_PASS_BYTES
from engine.fusion.native.calls import constant_frame, slot_bytes_of
from engine.fusion.native.compiler import Code
from engine.fusion.native.describe import Description, described
from engine.fusion.native.machine import address_of, data_offset, flags
from engine.fusion.native.natives import Entry, Natives
from engine.fusion.native.structure import Frame, Structure, UnsupportedError
from engine.fusion.program import Deviation
from engine.fusion.reductions import reduced
from engine.fusion.runs import Run, collect
from engine.fusion.walks import Walk
from engine.memory.buffers import buffers, strides_of
from engine.memory.layout import Shape, Strides
from handles.cell import Cell, pending_cell

Array = np.ndarray[Any, Any]

NOTED = {"divide", "over", "invalid"}
"""The errors that NumPy warns of by default."""
LONGEST_NS = 300_000
"""Nanoseconds that a chain may take in place."""
PATIENCE = 4
"""Calls in a row that had to be done again, after which the chain is computed in another way for good."""
WATCHED_NS = 20_000
"""Estimated nanoseconds from which a call is timed: below, the clock would cost more than it tells."""
_FORMATS = {"f4": "f4x", "f8": "d", "u8": "Q"}
"""How a scalar is written to a frame; integers up to 64 bits begin with their lowest byte."""


class Chain:
    """A chain of ops on operands of certain dtypes, shapes and strides."""

    def __init__(self, key: ChainKey, scalars: Sequence[Any], natives: Natives, *, careful: bool = False) -> None:
        """Plan a chain. Raises `UnsupportedError` where it is not one that can be computed by one call."""
        if not data_offset():
            raise UnsupportedError("the objects of arrays are not as NumPy says")
        self.key = key
        self._natives = natives
        steps = steps_of(key)
        self._run, self._inputs = _grouped(steps, kinds_of(key), scalars)
        self._walk, self._outputs = _walked(self._run)
        self._description = described(self._run, self._walk)
        structure = self._description.structure
        if careful:
            structure = structure._replace(careful=True)
        self._scalars, self._pack = _packing(steps, self._description, scalars)
        entry = natives.entry(structure)
        if entry is None:
            raise BusyError
        self.entry: Entry = entry
        self.structure = structure
        self._tail = b""
        self._slot_bytes = 0
        self._keep: list[Array] = []
        self._outcomes: list[Any] = [ShapeDtype(self._run.shape, step.dtype) for step in self._run.steps]
        self.match: Matcher = matcher(key)
        """Recognizes the chain in the records at the front of a queue."""
        self.failures = 0
        """Calls in a row that had to be done again."""
        self.ns = _estimated(self._run, structure)
        """Nanoseconds of a core that a call takes."""

    def compute(self, arrays: Sequence[Array], scalars: Sequence[Any]) -> list[Any] | None:
        """The result of each step, its shape and dtype where it is not kept; None to have it computed op by op."""
        code = self.entry.code
        if code is None:
            return None
        timed = self.ns > WATCHED_NS
        began = thread_time_ns() if timed else 0
        if not self._tail:
            self._prepare(code)
        outcomes = self._outcomes.copy()
        objects = [arrays[number] for number in self._inputs]
        for step, shape, dtype, order in self._outputs:
            result = np.empty(shape, dtype) if order is None else buffers.array(shape, dtype, order)
            outcomes[step] = result
            objects.append(result)
        partials = [np.empty(len(self._walk), np.int64) for _ in self.structure.reductions]
        frame = self._pack(*map(id, objects), *map(id, partials), *[scalars[number] for number in self._scalars])
        scratch = _scratch_of(self._slot_bytes)  # held: another thread may come and take a larger one
        if code.direct(frame + self._tail, scratch.address, None):
            self.failures += 1
            return None
        if partials and not self._reduce(outcomes, partials):
            self.failures += 1
            return None
        self.failures = 0
        self.entry.used = True
        self._natives.hits += 1
        if timed:
            self.ns += (thread_time_ns() - began - self.ns) / 4
        return outcomes

    @property
    def is_hopeless(self) -> bool:
        """True if its calls have to be done again, time after time."""
        return self.failures >= PATIENCE

    def _prepare(self, code: Code) -> None:
        """Cut the walk into blocks, and make what is the same in the frame of each call."""
        run, walk = self._run, self._walk
        one_pass = len(code.stages.stages) == 1 and not code.stages.slots
        block_bytes = ONE_PASS_BYTES if one_pass else NATIVE_BLOCK_BYTES
        elements = max(64, block_bytes // max(step.dtype.itemsize for step in run.steps))
        if self.structure.reductions:
            walk.cut_for_sums(elements)
        else:
            walk.cut(elements)
        table, redo = np.ascontiguousarray(walk.table), np.zeros(len(walk), np.uint8)
        self._keep = [table, redo]
        noted = NOTED  # "invalid" is among them, which compiled code needs to know where two NaNs may meet
        slot_bytes = slot_bytes_of(walk, self._description)
        self._slot_bytes = slot_bytes * code.stages.slots
        frame = constant_frame(code, self._description, redo, table, flags(noted), slot_bytes)
        frame[code.frame.header(Frame.OBJECTS)] = data_offset()
        self._tail = frame[code.frame.changing :].tobytes()

    def _reduce(self, outcomes: list[Any], partials: list[Array]) -> bool:
        """Make the results of reductions; False where NumPy would have warned, or another order might matter."""
        steps = [(index, step) for index, step in enumerate(self._run.steps) if step.reduction is not None]
        try:
            with np.errstate(divide="raise", over="raise", invalid="raise", under="ignore"):
                for (index, step), each, its in zip(steps, partials, self.structure.reductions, strict=True):
                    blocks = each.view(its.code)[:: 8 // np.dtype(its.code).itemsize]
                    outcomes[index] = reduced(step, self._run.shape, self._walk.splits, blocks)
        except (Deviation, FloatingPointError):
            return False
        return True


class BusyError(Exception):
    """Too much waits to be compiled: the chain is planned another time."""


class _Scratch:
    """Memory for what lies between the passes over a block."""

    def __init__(self, nbytes: int) -> None:
        self.memory = np.empty(nbytes, np.uint8)
        self.address = address_of(self.memory)


_latest = _Scratch(0)


def _scratch_of(nbytes: int) -> _Scratch:
    """So much scratch memory, the same for all threads: it is used under the interpreter lock only."""
    global _latest
    scratch = _latest
    if scratch.memory.nbytes < nbytes:
        scratch = _latest = _Scratch(nbytes)
    return scratch


# Planning


def _grouped(steps: Sequence[Step], kinds: Sequence[Kind], scalars: Sequence[Any]) -> tuple[Run, list[int]]:
    """The chain as a fusion group of stand-ins; and for each of its inputs, which array of the key it is."""
    arrays = [_stand_in(*kind) for kind in kinds]
    values = iter(scalars)
    cells: list[Cell] = []
    for op, params, operands, _ in steps:
        args = tuple(_operand(each, cells, arrays, values) for each in operands)
        given: Any = None if params is None else dict(params)
        cells.append(pending_cell(op, args, given, None, None, 0))  # type: ignore[arg-type]
    run = collect(cells[0], cells[1:])
    if run is None or len(run.steps) != len(cells) or run.whole:
        raise UnsupportedError
    for step, planned in zip(run.steps, steps, strict=True):
        step.keep = planned.keep or step.reduction is not None
    numbers = {id(array): number for number, array in enumerate(arrays)}
    return run, [numbers[id(array)] for array in run.inputs]


def _operand(operand: Any, cells: Sequence[Cell], arrays: Sequence[Array], scalars: Any) -> Any:
    if operand.__class__ is int:
        return cells[operand] if operand >= 0 else arrays[~operand]
    return next(scalars)


def _stand_in(dtype: np.dtype[Any], shape: Shape, strides: Strides) -> Array:
    """An array that looks like another one and takes no memory; its elements are never read."""
    return np.lib.stride_tricks.as_strided(np.zeros(1, dtype), shape, strides)


Output = tuple[int, Shape, np.dtype[Any], tuple[int, ...] | None]
"""A step, with the shape, dtype and order of axes of its result; None where a plain new array is the same."""


def _walked(run: Run) -> tuple[Walk, list[Output]]:
    outputs: list[Array | None] = [None] * len(run.steps)
    made: list[Output] = []
    for index, step in enumerate(run.steps):
        if step.keep and step.reduction is None:
            outputs[index] = _stand_in(step.dtype, run.shape, strides_of(run.shape, step.dtype.itemsize, step.order))
            plain = step.order == tuple(range(len(run.shape))) and not buffers.leases(run.shape, step.dtype)
            made.append((index, run.shape, step.dtype, None if plain else step.order))
    walk = Walk(run.shape, run.inputs, outputs)
    if len(walk.shape) > 1 and any(step.reduction is not None for step in run.steps):
        raise UnsupportedError
    return walk, made


def _packing(steps: Sequence[Step], description: Description, scalars: Sequence[Any]) -> tuple[list[int], Any]:
    """Which scalars a frame has, and what writes all that changes in it."""
    places = [
        (index, place)
        for index, step in enumerate(steps)
        for place, operand in enumerate(step.operands)
        if operand.__class__ is not int
    ]
    numbers = [places.index(origin) for origin in description.origins]
    addresses = len(description.arrays) + len(description.structure.reductions)
    layout = "<" + "Q" * addresses
    for number, value in zip(numbers, description.scalars, strict=True):
        form = _FORMATS.get(value.dtype.str[1:], "q")
        try:
            same = struct.pack("<" + form, scalars[number])[: value.dtype.itemsize] == value.tobytes()
        except (struct.error, OverflowError) as error:
            raise UnsupportedError from error
        if not same:
            raise UnsupportedError
        layout += form
    return numbers, struct.Struct(layout).pack


def _estimated(run: Run, structure: Structure) -> float:
    """Nanoseconds of a call, before the first one: about what arithmetic in cache takes."""
    elements, width = math.prod(run.shape), structure.widest / 8
    inline = sum(_is_arithmetic(step.op) for step in run.steps)
    called = len(run.steps) - inline
    return 2_000 + elements * (width * (0.03 * inline + 0.1 * len(structure.arrays)) + 4.0 * called)


def _is_arithmetic(op: Op) -> bool:
    return op.fusion.facts.exact or op.fusion.block is not None or op.fusion.facts.reduction is not None
