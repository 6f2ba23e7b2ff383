"""Writing the code of a block: every step as a call of NumPy's own ufunc on the block, while it is in cache.

Each element is computed by the same code as in one call; only what NumPy does between the calls (fresh memory, a pass
over it for each op) is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, Protocol

import numpy as np

from engine.base.op import loop_dtypes
from engine.fusion.groups import FusionGroup, Input, Register, Step, promoted_as
from engine.fusion.walks import Walk
from engine.memory.layout import Shape
from engine.threads.pool import give_way

Array = np.ndarray[Any, Any]


class Deviation(Exception):
    """Something that only running the ops one by one gets right: an error, or a warning that became one."""


class Work(Protocol):
    """The state that the threads that execute one group share."""

    error: BaseException | None
    """The error that ends the work of all threads."""
    partials: dict[int, list[Any]]
    """The results of reductions, for each block."""

    @property
    def walk(self) -> Walk: ...


class Program:
    """The steps as straight-line Python, with a place for each result: an output, or scratch that is used again.

    Between two ufunc calls the interpreter lock is held, and the other threads of the group wait for it: so the code of
    a block is compiled, once for each form of group, instead of interpreted.
    """

    def __init__(self, group: FusionGroup) -> None:
        self._steps, self._inputs = group.steps, group.inputs
        self._last_use = {
            operand.step: index
            for index, step in enumerate(group.steps)
            for operand in step.operands
            if isinstance(operand, Register)
        }
        self._slots: list[int | None] = []
        self._count = 0
        self._assign()
        self._constants: list[Any] = []
        self._code = _made(self._source(len(group.inputs)))

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
            reduce = reducer(step.reduction)
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
            as_array(operand, dtype) if kind.__class__ is type else operand
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

    def try_out(self, walk: Walk) -> None:
        """Compute one element and drop it: an op that cannot do this for one element cannot do it for any."""
        first = (slice(0, 1),) * len(walk.block)
        places = [np.empty((1,) * len(first), step.dtype) for step in self._steps]
        self._code([0], [view[first] for view in walk.inputs], places, self._constants)

    def run(self, work: Work, todo: Iterator[int], mark: list[int]) -> None:
        """Work off blocks until none is left."""
        code, constants, walk = self._code, self._constants, work.walk
        widest = max(each.dtype.itemsize for each in self._steps)
        memory = [np.empty(math.prod(work.walk.block) * widest, np.uint8) for _ in range(self._count)]
        shape: Shape = ()
        scratch: list[Any] = []
        for number in todo:
            if work.error is not None:
                return
            give_way()
            where = walk.where(number)
            size = tuple(part.stop - part.start for part in where)
            if size != shape:
                shape, scratch = size, self._scratch(memory, size)
            places = [
                output[where] if output is not None else place
                for output, place in zip(walk.outputs, scratch, strict=True)
            ]
            reduced = code(mark, [view[where] for view in walk.inputs], places, constants)
            if reduced:
                work.partials[number] = reduced

    def _scratch(self, memory: list[Array], shape: Shape) -> list[Any]:
        size = math.prod(shape)
        return [
            None if slot is None else memory[slot][: size * step.dtype.itemsize].view(step.dtype).reshape(shape)
            for slot, step in zip(self._slots, self._steps, strict=True)
        ]


def _extreme(reduce: Callable[..., Any], block: Array, axis: Any = None) -> Any:
    """The maximum or minimum of a block of floats, where it is clear."""
    result = reduce(block, axis=axis)
    if axis is None and result == 0:
        signs = np.signbit(block[block == 0])
        if signs.any() and not signs.all():
            raise Deviation
    return result


def as_array(scalar: Any, dtype: np.dtype[Any]) -> Any:
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


def reducer(kind: str) -> Callable[..., Any]:
    """The function that reduces one block."""
    if kind == "count":
        return np.count_nonzero
    return (np.add if kind == "mean" else getattr(np, kind)).reduce


def _names(letter: str, count: int) -> str:
    return "[" + ", ".join(f"{letter}{index}" for index in range(count)) + "]"


@lru_cache(maxsize=256)
def _made(source: str) -> Callable[..., list[Any]]:
    namespace: dict[str, Any] = {}
    exec(compile(source, "<fusion group>", "exec"), namespace)
    return namespace["block"]  # type: ignore[no-any-return]
