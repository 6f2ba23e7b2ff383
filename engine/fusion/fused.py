"""Executing a run: every step on one block while it is in cache, then the next block, on several threads.

Each step is NumPy's own ufunc on a block, so each element is computed by the same code as in one call; only what
NumPy does between the calls (fresh memory, a pass over it for each op) is left out.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextvars import Context
from functools import lru_cache, partial
from typing import Any

import numpy as np

from engine.base.op import ShapeDtype, loop_dtypes
from engine.base.warned import call_at
from engine.fusion.pairwise import combine, leaves
from engine.fusion.runs import Input, Register, Run, Step, promoted_as
from engine.memory.buffers import buffers, unlocked
from engine.memory.layout import (
    Shape,
    blocks,
    broadcast_strides,
    coalesce,
    iteration_order,
    strip_axis,
    strips,
    tile,
)
from engine.threads.pool import give_way, together

Array = np.ndarray[Any, Any]

BLOCK_BYTES = 768 << 10
"""Bytes of one operand's block. Smaller ones would stay in a core's second-level cache, but between two ufunc calls a
thread needs the interpreter lock, and where the other has it, waiting costs more than the cache saves."""

_PLAIN_STATES = frozenset({"warn", "ignore"})
_WARNED_OF = ("divide by zero", "overflow", "underflow", "invalid value")
"""The kinds of warnings, in the order in which NumPy gives them."""


class Deviation(Exception):
    """Something that only running the ops one by one gets right: an error, or a warning that became one."""


def execute_run(run: Run, threads: int, block_bytes: int = BLOCK_BYTES) -> list[Any]:
    """The result of each step: only its shape and dtype where nobody refers to it, its error where it has one.

    Raises `Deviation` where the run has to be done again, op by op; nothing has happened then.
    """
    once = False
    try:
        execution = Execution(run, block_bytes)
        once = run.overwrites
        execution.work_with(threads)
        return execution.results()
    except BaseException as error:  # a worker calls this, which nobody interrupts
        if once:  # its operands may be written over already; memory for scratch ran out, for example
            return [error] * len(run.steps)
        raise Deviation from error


class Execution:
    """The outputs and the walk of one run, shared by the threads that work on it."""

    def __init__(self, run: Run, block_bytes: int) -> None:
        self.run = run
        self._outputs: list[Any] = [None] * len(run.steps)
        self._warned: dict[tuple[int, str], None] = {}
        self.error: BaseException | None = None
        self._noted = _noted_states(run.context)
        self._program = Program(run)
        if len(run.steps) == 1:
            block_bytes *= 4  # nothing is read twice, so nothing has to stay in cache
        elements = max(64, block_bytes // max(step.dtype.itemsize for step in run.steps))
        self._allocate()
        self._lay_out(elements)
        if run.overwrites:
            with np.errstate(all="ignore"):
                self._program.try_out(self)

    def _allocate(self) -> None:
        for index, step in enumerate(self.run.steps):
            if step.over is not None:
                self._outputs[index] = unlocked(self.run.inputs[step.over])
            elif step.keep and step.reduction is None:
                self._outputs[index] = buffers.array(self.run.shape, step.dtype, step.order)

    def _lay_out(self, elements: int) -> None:
        """Bring all arrays into one order of axes, join axes, and cut the walk into blocks."""
        run = self.run
        if run.whole:
            self._lay_out_strips(elements)
            return
        shape = run.shape
        arrays = [*run.inputs, *(array for array in self._outputs if array is not None)]
        strides = [broadcast_strides(array, shape) for array in arrays]
        order = iteration_order(strides, len(shape))
        walked = tuple(shape[axis] for axis in order)
        joined, strides = coalesce(walked, [tuple(each[axis] for axis in order) for each in strides])
        views = [np.lib.stride_tricks.as_strided(a, joined, s) for a, s in zip(arrays, strides, strict=True)]
        self.inputs = views[: len(run.inputs)]
        kept = iter(views[len(run.inputs) :])
        self.outputs = [None if output is None else next(kept) for output in self._outputs]
        self.block = tile(joined, strides, elements)
        if any(step.reduction is not None for step in run.steps):
            if len(joined) != 1:
                raise Deviation
            spans = leaves(joined[0], elements)
            self.block = (max(stop - start for start, stop in spans),)
            self.blocks: list[tuple[slice, ...]] = [(slice(start, stop),) for start, stop in spans]
        else:
            self.blocks = list(blocks(joined, self.block))
        self.partials: list[list[Any]] = [[] for _ in self.blocks]

    def _lay_out_strips(self, elements: int) -> None:
        """Cut across one axis only, where steps reduce others: all results are row-major."""
        run = self.run
        axis = strip_axis(run.shape, run.whole)
        if axis is None:
            raise Deviation
        self._across = axis
        self.inputs = [np.broadcast_to(array, run.shape) for array in run.inputs]
        self.outputs = self._outputs
        self.blocks = strips(run.shape, axis, elements)
        widest = max(where[axis].stop - where[axis].start for where in self.blocks)
        self.block = (*run.shape[:axis], widest, *run.shape[axis + 1 :])
        self.partials = [[] for _ in self.blocks]

    # Working it off

    def work_with(self, threads: int) -> None:
        """Work off all blocks on this thread and on up to `threads - 1` others."""
        todo = iter(range(len(self.blocks)))
        together(lambda: self._work(todo), min(threads, len(self.blocks)))
        if self.error is not None:
            raise self.error

    def _work(self, todo: Iterator[int]) -> None:
        try:
            self._noting(partial(self._program.run, self, todo))
        except BaseException as error:  # noqa: BLE001 - handed to the thread that began the run
            self.error = error

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
            raised.get(index, ShapeDtype(self.run.shape, step.dtype) if output is None else output)
            for index, (output, step) in enumerate(zip(self._outputs, self.run.steps, strict=True))
        ]

    def _warn(self) -> dict[int, BaseException]:
        """Warn as NumPy does, once for each op and kind; the errors of steps whose warning is one.

        A step that depends on such a one would not have been run, and does not warn.
        """
        raised: dict[int, BaseException] = {}
        for index, step in enumerate(self.run.steps):
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
        columns = zip(*self.partials, strict=True)
        for index, step in enumerate(self.run.steps):
            if step.reduction is not None:
                mark[0] = index
                self._outputs[index] = self._reduced(step, next(columns))

    def _reduced(self, step: Step, partials: Sequence[Any]) -> Array:
        assert step.reduction is not None
        if step.axes is not None:
            return self._reduced_along(step, step.axes, partials)
        size = math.prod(self.run.shape)
        if step.reduction in ("add", "mean") and step.dtype.kind == "f":
            total = combine(partials, size, [s[0].stop - s[0].start for s in self.blocks])
            if step.reduction == "mean":
                total = total.dtype.type(total / np.intp(size))
        else:
            total = _reducer("add" if step.reduction == "count" else step.reduction)(np.array(partials))
        if not _is_clear(step, total, partials):
            raise Deviation
        params = step.cell.params or {}
        shape: Shape = (1,) * len(self.run.shape) if params.get("keepdims") else ()
        return np.asarray(total).reshape(shape)

    def _reduced_along(self, step: Step, axes: tuple[int, ...], partials: Sequence[Any]) -> Array:
        result: Array = np.concatenate(partials, axis=self._across - sum(axis < self._across for axis in axes))
        shape = self.run.shape
        if step.reduction == "mean":
            count = np.intp(math.prod(shape[axis] for axis in axes))
            np.true_divide(result, count, out=result, casting="unsafe")
        if result.dtype.kind == "f" and np.isnan(result).any():
            raise Deviation
        if (step.cell.params or {}).get("keepdims"):
            result = result.reshape([1 if axis in axes else n for axis, n in enumerate(shape)])
        return result


def _noted_states(context: Context | None) -> dict[str, str]:
    """What is to be noted and what ignored, in the error state of the dispatch."""
    states: Any = np.geterr() if context is None else context.copy().run(np.geterr)
    if not _PLAIN_STATES.issuperset(states.values()):
        raise Deviation
    return {kind: "call" if state == "warn" else "ignore" for kind, state in states.items()}


def _said_of(step: Step) -> str:
    """What NumPy names in a warning of an op."""
    if step.reduction is not None:
        return "reduce"
    return "cast" if step.op.fusion.block is not None else str(step.op.kernel.__name__)


class Program:
    """The steps as straight-line Python, with a place for each result: an output, or scratch that is used again.

    Between two ufunc calls the interpreter lock is held, and the other threads of the run wait for it: so the code of
    a block is compiled, once for each form of run, instead of interpreted.
    """

    def __init__(self, run: Run) -> None:
        self._steps, self._inputs = run.steps, run.inputs
        self._last_use = {
            operand.step: index
            for index, step in enumerate(run.steps)
            for operand in step.operands
            if isinstance(operand, Register)
        }
        self._slots: list[int | None] = []
        self._count = 0
        self._assign()
        self._constants: list[Any] = []
        self._code = _compiled(self._source(len(run.inputs)))

    # Where results go

    def _assign(self) -> None:
        free: list[int] = []
        for index, step in enumerate(self._steps):
            slot = None
            dying = self._dying(index)
            if not step.keep:
                slot = self._in_place(step, dying) if step.op.fusion.block is None else None
                if slot is None:
                    slot = free.pop() if free else self._new()
            self._slots.append(slot)
            free += [released for other in dying if (released := self._slots[other]) is not None and released != slot]

    def _dying(self, index: int) -> list[int]:
        """Steps whose scratch is read here for the last time."""
        registers = {operand.step for operand in self._steps[index].operands if isinstance(operand, Register)}
        return [step for step in registers if self._last_use[step] == index and self._slots[step] is not None]

    def _in_place(self, step: Step, dying: list[int]) -> int | None:
        return next((self._slots[other] for other in dying if self._steps[other].dtype == step.dtype), None)

    def _new(self) -> int:
        self._count += 1
        return self._count - 1

    # The code of a block

    def _source(self, inputs: int) -> str:
        """`block(mark, views, places, constants)`: `places` has the output or the scratch of each step."""
        count = len(self._steps)
        lines = ["def block(mark, views, places, constants):"]
        lines += [f"    {_names('v', inputs)} = views"] if inputs else []
        lines += [f"    {_names('r', count)} = places"]
        body = [line for index in range(count) for line in (f"    mark[0] = {index}", f"    {self._line(index)}")]
        lines += [f"    {_names('c', len(self._constants))} = constants", *body]
        reduced = [f"r{index}" for index, step in enumerate(self._steps) if step.reduction is not None]
        return "\n".join([*lines, f"    return [{', '.join(reduced)}]", ""])

    def _line(self, index: int) -> str:
        step = self._steps[index]
        operands = ", ".join(map(self._name, self._prepared(step)))
        if step.reduction is not None:
            reduce = _reducer(step.reduction)
            if step.reduction in ("maximum", "minimum") and step.dtype.kind == "f":
                reduce = partial(_extreme, reduce)
            return f"r{index} = {self._constant(reduce)}({operands}, axis={step.axes})"
        if step.op.fusion.block is not None:
            block = partial(step.op.fusion.block, **step.cell.params) if step.cell.params else step.op.fusion.block
            return f"r{index} = {self._constant(block)}(r{index}, {operands})"
        out = "out=" if step.op.kernel in (np.maximum, np.minimum) else ""  # by position it is deprecated for these
        return f"{self._constant(step.op.kernel)}({operands}, {out}r{index})"

    def _prepared(self, step: Step) -> Sequence[Any]:
        """The operands, scalars of ufuncs as the arrays that each call would make of them."""
        if step.op.fusion.block is not None or step.reduction is not None:
            return step.operands
        types = tuple(map(self._type, step.operands))
        return [
            _as_array(operand, dtype) if kind.__class__ is type else operand
            for operand, kind, dtype in zip(step.operands, types, loop_dtypes(step.op.kernel, types), strict=False)
        ]

    def _type(self, operand: Any) -> Any:
        if isinstance(operand, Register):
            return self._steps[operand.step].dtype
        return promoted_as(self._inputs[operand.index] if isinstance(operand, Input) else operand)

    def _name(self, operand: Any) -> str:
        if isinstance(operand, Register):
            return f"r{operand.step}"
        return f"v{operand.index}" if isinstance(operand, Input) else self._constant(operand)

    def _constant(self, value: Any) -> str:
        self._constants.append(value)
        return f"c{len(self._constants) - 1}"

    # Working blocks off

    def try_out(self, execution: Execution) -> None:
        """Compute one element, for nobody: what an op cannot do for one, it cannot do for any."""
        first = (slice(0, 1),) * len(execution.block)
        places = [np.empty((1,) * len(first), step.dtype) for step in self._steps]
        self._code([0], [view[first] for view in execution.inputs], places, self._constants)

    def run(self, execution: Execution, todo: Iterator[int], mark: list[int]) -> None:
        """Work off blocks until none is left."""
        code, constants = self._code, self._constants
        widest = max(each.dtype.itemsize for each in self._steps)
        memory = [np.empty(math.prod(execution.block) * widest, np.uint8) for _ in range(self._count)]
        shape: Shape = ()
        scratch: list[Any] = []
        for number in todo:
            if execution.error is not None:
                return
            give_way()
            where = execution.blocks[number]
            size = tuple(part.stop - part.start for part in where)
            if size != shape:
                shape, scratch = size, self._scratch(memory, size)
            places = [
                output[where] if output is not None else place
                for output, place in zip(execution.outputs, scratch, strict=True)
            ]
            reduced = code(mark, [view[where] for view in execution.inputs], places, constants)
            if reduced:
                execution.partials[number] = reduced

    def _scratch(self, memory: list[Array], shape: Shape) -> list[Any]:
        size = math.prod(shape)
        return [
            None if slot is None else memory[slot][: size * step.dtype.itemsize].view(step.dtype).reshape(shape)
            for slot, step in zip(self._slots, self._steps, strict=True)
        ]


def _is_clear(step: Step, total: Any, partials: Sequence[Any]) -> bool:
    """Whether any walk over the whole gives these bits.

    Where NaNs meet, or zeros of both signs in a maximum, the order of instructions decides which one it is. That the
    sum of infinities is no number, does not depend on it.
    """
    if step.dtype.kind != "f" or step.reduction == "count":
        return True
    if step.reduction in ("add", "mean"):
        return bool(total == total or not np.isnan(partials).any())
    zeros = [each for each in partials if each == 0] if total == 0 else []
    return bool(total == total and len({bool(np.signbit(each)) for each in zeros}) <= 1)


def _extreme(reduce: Callable[..., Any], block: Array, axis: Any = None) -> Any:
    """The maximum or minimum of a block of floats, where it is clear."""
    result = reduce(block, axis=axis)
    if axis is None and result == 0:
        signs = np.signbit(block[block == 0])
        if signs.any() and not signs.all():
            raise Deviation
    return result


def _as_array(scalar: Any, dtype: np.dtype[Any]) -> Any:
    """A Python scalar as an array of the dtype that a ufunc computes with; itself where NumPy does it in another way:
    it compares with integers of any size, and refuses those too large whose truth it needs."""
    if dtype == np.bool_:
        return scalar
    try:
        with np.errstate(over="raise", invalid="raise", under="ignore"):
            return np.array(scalar, dtype)
    except FloatingPointError as error:
        raise Deviation from error  # NumPy warns of the cast, not of the op
    except (OverflowError, TypeError):
        return scalar


def _reducer(kind: str) -> Callable[..., Any]:
    """What reduces one block."""
    if kind == "count":
        return np.count_nonzero
    return (np.add if kind == "mean" else getattr(np, kind)).reduce


def _names(letter: str, count: int) -> str:
    return "[" + ", ".join(f"{letter}{index}" for index in range(count)) + "]"


@lru_cache(maxsize=256)
def _compiled(source: str) -> Callable[..., list[Any]]:
    namespace: dict[str, Any] = {}
    exec(compile(source, "<fused run>", "exec"), namespace)
    return namespace["block"]  # type: ignore[no-any-return]
