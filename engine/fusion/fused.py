"""Executing a group: every step on one block while it is in cache, then the next block, on several threads.

Where the group has been compiled (`native`), threads take blocks without the interpreter. Blocks on which NumPy would
have warned, or whose bits are not certain, are computed again in NumPy's way: by its ufuncs, called on the block. So is
every block of a group that has not been compiled.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextvars import Context
from functools import cached_property, partial
from typing import Any

import numpy as np

from engine.base.op import ShapeDtype
from engine.base.warned import call_at
from engine.fusion.groups import FusionGroup, Register, Step
from engine.fusion.native.calls import NativeCall
from engine.fusion.native.natives import Natives, natives
from engine.fusion.program import Deviation, Program
from engine.fusion.reductions import reduced
from engine.fusion.walks import Strips, Walk
from engine.memory.buffers import buffers, unlocked
from engine.memory.layout import strip_axis
from engine.threads.pool import hand_over, together

Array = np.ndarray[Any, Any]

BLOCK_BYTES = 768 << 10
"""Bytes of one operand's block. Smaller ones would stay in a core's second-level cache, but between two ufunc calls a
thread needs the interpreter lock, and where the other has it, waiting costs more than the cache saves."""

NATIVE_BLOCK_BYTES = 128 << 10
"""Bytes of one operand's block in compiled code, which needs no lock: what lies between two passes stays in cache."""
ONE_PASS_BYTES = 512 << 10
"""Bytes of one operand's block in compiled code of one pass, where nothing lies between."""

LONG = 1 << 23
"""Elements in all steps of a group that takes long."""

_PLAIN_STATES = frozenset({"warn", "ignore"})
_WARNED_OF = ("divide by zero", "overflow", "underflow", "invalid value")
"""The kinds of warnings, in the order in which NumPy gives them."""


def execute_group(
    group: FusionGroup, threads: int, block_bytes: int = BLOCK_BYTES, compiled: Natives = natives
) -> list[Any]:
    """The result of each step: only its shape and dtype where nothing refers to it, its error where it has one.

    Raises `Deviation` where the group has to be done again, op by op; nothing has happened then.
    """
    once = False
    try:
        execution = Execution(group, block_bytes, compiled)
        once = group.overwrites
        execution.work_with(threads)
        return execution.results()
    except BaseException as error:  # a worker calls this, which no signal interrupts
        if once:  # its operands may be written over already; memory for scratch ran out, for example
            return [error] * len(group.steps)
        raise Deviation from error


class Execution:
    """The outputs and the walk of one group, shared by the threads that work on it."""

    def __init__(self, group: FusionGroup, block_bytes: int, compiled: Natives) -> None:
        self.group = group
        self._outputs: list[Any] = [None] * len(group.steps)
        self._warned: dict[tuple[int, str], None] = {}
        self.error: BaseException | None = None
        self._noted = _noted_states(group.context)
        self._compiled = compiled
        self._native: NativeCall | None = None
        self._allocate()
        self.walk = self._walk()
        self._hand_over()
        self._cut(block_bytes)
        self._hand_over()
        self.partials: dict[int, list[Any]] = {}
        if group.overwrites:
            with np.errstate(all="ignore"):
                self._program.try_out(self.walk)

    @cached_property
    def _program(self) -> Program:
        """The group as calls of ufuncs: needed where it has not been compiled, or blocks are computed again."""
        return Program(self.group)

    def _allocate(self) -> None:
        for index, step in enumerate(self.group.steps):
            if step.over is not None:
                self._outputs[index] = unlocked(self.group.inputs[step.over])
            elif step.keep and step.reduction is None:
                self._outputs[index] = buffers.array(self.group.shape, step.dtype, step.order)

    def _hand_over(self) -> None:
        """Let other threads have the interpreter lock between two parts of the planning of what takes long."""
        if math.prod(self.group.shape) * len(self.group.steps) >= LONG:
            hand_over()

    def _walk(self) -> Walk:
        group = self.group
        if not group.whole:
            return Walk(group.shape, group.inputs, self._outputs)
        if strip_axis(group.shape, group.whole) is None:
            raise Deviation
        return Strips(group.shape, group.inputs, self._outputs, group.whole)

    def _cut(self, block_bytes: int) -> None:
        """Find the compiled code, and cut the walk into blocks of the size that is best for it, or without it."""
        group, walk = self.group, self.walk
        found = self._compiled.find(group, walk)
        if found is not None:
            one_pass = len(found[0].stages.stages) == 1 and not found[0].stages.slots
            block_bytes = min(block_bytes, ONE_PASS_BYTES if one_pass else NATIVE_BLOCK_BYTES)
        elif len(group.steps) == 1:
            block_bytes *= 4  # nothing is read twice, so nothing has to stay in cache
        elements = max(64, block_bytes // max(step.dtype.itemsize for step in group.steps))
        if group.whole or all(step.reduction is None for step in group.steps):
            walk.cut(elements)
        elif len(walk.shape) == 1:
            walk.cut_for_sums(elements)
        else:
            raise Deviation
        if found is not None:
            noted = {kind for kind, state in self._noted.items() if state == "call"}
            self._native = NativeCall(*found, walk, noted)

    # Working it off

    def work_with(self, threads: int) -> None:
        """Work off all blocks on this thread and on up to `threads - 1` others."""
        numbers: Sequence[int] = range(len(self.walk))
        native = self._native
        if native is not None:
            self._together(native.work, min(threads, len(numbers)))
            numbers = native.to_repeat()
            if numbers:
                self._compiled.repeated(native.description, len(numbers), len(self.walk))
        if numbers:
            run = partial(self._program.run, self, iter(numbers))
            self._together(lambda: self._noting(run), min(threads, len(numbers)))

    def _together(self, work: Callable[[], None], threads: int) -> None:
        def guarded() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - handed to the thread that began the group
                self.error = error

        together(guarded, threads)
        if self.error is not None:
            raise self.error

    def _noting(self, work: Callable[[list[int]], None]) -> None:
        """Call `work` in the error state of the dispatch; it marks the step, and what would warn is noted for that."""
        mark = [0]  # the step that is being computed

        def note(kind: str, _: int) -> None:
            self._warned[mark[0], kind] = None

        with np.errstate(call=note, **self._noted):  # type: ignore[arg-type]
            work(mark)

    # The end

    def results(self) -> list[Any]:
        """The results in step order, errors where warnings are errors."""
        self._noting(self._reduce)
        raised = self._warn() if self._warned else {}
        return [
            raised.get(index, ShapeDtype(self.group.shape, step.dtype) if output is None else output)
            for index, (output, step) in enumerate(zip(self._outputs, self.group.steps, strict=True))
        ]

    def _warn(self) -> dict[int, BaseException]:
        """Warn as NumPy does, once for each op and kind; the errors of steps whose warning is one.

        A step that depends on such a one would not have been run, and does not warn.
        """
        raised: dict[int, BaseException] = {}
        for index, step in enumerate(self.group.steps):
            sources = [each.step for each in step.operands if isinstance(each, Register) and each.step in raised]
            if sources:
                raised[index] = raised[sources[0]]
                continue
            try:
                for kind in _WARNED_OF:
                    if (index, kind) in self._warned:
                        said = f"{kind} encountered in {_said_of(step)}"
                        call_at(step.cell.code, step.cell.lasti, warnings.warn, (said, RuntimeWarning), {})
            except BaseException as error:  # noqa: BLE001 - a filter, or the program's own way to show warnings
                raised[index] = error
        return raised

    def _reduce(self, mark: list[int]) -> None:
        """Make the results of reductions from those of their blocks."""
        if all(step.reduction is None for step in self.group.steps):
            return
        columns = self._columns()
        for index, step in enumerate(self.group.steps):
            if step.reduction is not None:
                mark[0] = index
                if step.axes is not None:
                    self._outputs[index] = self._reduced_along(step, step.axes, self._total(index, step.axes, columns))
                else:
                    self._outputs[index] = reduced(step, self.group.shape, self.walk.splits, next(columns))

    def _columns(self) -> Iterator[Any]:
        """For each reduction, its results in each block: where it is along axes, in those not left to compiled code."""
        if self._native is None or self.group.whole:
            return zip(*(self.partials[number] for number in sorted(self.partials)), strict=True)
        columns = self._native.columns()
        for number, again in self.partials.items():
            for column, value in zip(columns, again, strict=True):
                column[number] = value
        return iter(columns)

    def _total(self, index: int, axes: tuple[int, ...], columns: Iterator[Any]) -> Array:
        """The shape that a step reduces to along axes, which are not there any more."""
        assert isinstance(self.walk, Strips)
        if self._native is None:
            across = self.walk.across
            result: Array = np.concatenate(next(columns), axis=across - sum(axis < across for axis in axes))
            return result
        total = self._native.description.totals[index].squeeze(axes)
        for number, again in zip(sorted(self.partials), next(columns, ()), strict=True):
            where = self.walk.where(number)
            total[tuple(part for axis, part in enumerate(where) if axis not in axes)] = again
        return total

    def _reduced_along(self, step: Step, axes: tuple[int, ...], result: Array) -> Array:
        shape = self.group.shape
        if step.reduction == "mean":
            count = np.intp(math.prod(shape[axis] for axis in axes))
            np.true_divide(result, count, out=result, casting="unsafe")
        if result.dtype.kind == "f" and np.isnan(result).any():
            raise Deviation
        if (step.cell.params or {}).get("keepdims"):
            result = result.reshape([1 if axis in axes else n for axis, n in enumerate(shape)])
        return result


def _noted_states(context: Context | None) -> dict[str, str]:
    """The errors to note and those to ignore, in the error state of the dispatch."""
    states: Any = np.geterr() if context is None else context.copy().run(np.geterr)
    if not _PLAIN_STATES.issuperset(states.values()):
        raise Deviation
    return {kind: "call" if state == "warn" else "ignore" for kind, state in states.items()}


def _said_of(step: Step) -> str:
    """The name that NumPy has for an op in a warning."""
    if step.reduction is not None:
        return "reduce"
    return "cast" if step.op.fusion.block is not None else str(step.op.kernel.__name__)
