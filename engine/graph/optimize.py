"""Optimization of a trace: dead nodes go, equal ones become one, constants are folded. What is left is a `Plan`.

Kernels that are folded are called in this module, whose globals refuse warnings (`engine.base.warned`): what is
going to warn is left for the replay, and no filter of the program is looked at or changed for it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from engine.base.exact import bits_of
from engine.base.inference import size_of
from engine.base.op import ShapeDtype
from engine.base.warned import REFUSES, says_warn
from engine.devices.cpu import lock
from engine.dispatch.records import cells_of
from engine.graph.graph import Graph
from engine.graph.inference import is_complete
from engine.graph.node import known_of
from engine.graph.schedule import prune
from engine.graph.steps import Slots, Step
from handles.cell import Cell

__warningregistry__ = REFUSES

FOLDED_BYTES = 65_536
"""Bytes up to which a result that depends on constants only is computed once and kept."""
COMPARED_ELEMENTS = 64
"""Elements up to which constants are the same when their values are."""


@dataclass(frozen=True)
class Plan:
    """The steps of a replay, in order, over slots numbered without gaps: inputs, then constants, then results."""

    inputs: int
    """The number of inputs, which have the first slots."""
    initial: Slots
    """The slots before a replay: None, constants, and cells of captured handles."""
    steps: list[Step]
    outputs: tuple[int, ...]
    described: dict[int, ShapeDtype]
    """Shape and dtype of each slot that is not a constant, as far as they are known."""
    traced: int
    """Nodes before optimization."""


def optimize(graph: Graph, inputs: Sequence[int], outputs: Sequence[int]) -> Plan:
    """The plan that computes the slots `outputs` of a traced graph from the slots `inputs`.

    Ops that are not pure (those of `@engine.op`, random draws) do more than return a result: each is kept, in order.
    """
    records = [record for record in graph.records if record is not None]
    opaque = [record for record in records if not record.op.pure]
    schedule, _ = prune(graph.records, outputs, opaque, frozenset(inputs))
    reducer = _Reducer(graph, inputs)
    kept = [step for step in schedule.steps if reducer.keeps(step)]
    return _numbered(graph, inputs, [reducer.same(slot) for slot in outputs], kept, reducer)


class _Reducer:
    """Decides, step by step, what need not be done."""

    def __init__(self, graph: Graph, inputs: Iterable[int]) -> None:
        self._graph = graph
        self._inputs = frozenset(inputs)
        self._aliases: dict[int, int] = {}
        self._folded: dict[int, object] = {}
        self._seen: dict[Hashable, Step] = {}

    def same(self, slot: int) -> int:
        """The slot that has this one's value."""
        return self._aliases.get(slot, slot)

    def constant(self, slot: int) -> object:
        """The constant in a slot, or the cell of a captured handle, maybe pending; None where it is neither."""
        value = self._folded.get(slot)
        return self._graph.initial[slot] if value is None else value

    def keeps(self, step: Step) -> bool:
        """Decide if a step is left to do at each replay; if not, remember what its result is equal to."""
        inputs = [self.same(slot) for slot in step.inputs]
        if not step.op.pure:
            return True
        if step.device is None and step.op.outputs == 1 and self._fold(step, inputs):
            return False
        key = self._key(step, inputs)
        first = self._seen.setdefault(key, step) if key is not None else step
        if first is step:
            return True
        self._aliases.update(zip(step.outputs(), first.outputs(), strict=True))
        return False

    def _fold(self, step: Step, inputs: list[int]) -> bool:
        if says_warn(step.op.kernel):
            return False
        operands = [self.constant(slot) for slot in inputs]
        if any(each is None or each.__class__ is Cell for each in operands):
            return False
        record = self._graph.records[step.slot]
        assert record is not None
        its = known_of(record)
        if not is_complete(its) or size_of(its) > FOLDED_BYTES:
            return False
        try:
            with np.errstate(all="raise"):
                value = np.asarray(step.op.guarded(*operands, **step.params or {}))
        except Exception:  # noqa: BLE001 - what goes wrong, or warns, does so at each replay
            return False
        lock(value)
        self._folded[step.slot] = value
        return True

    def _key(self, step: Step, inputs: list[int]) -> Hashable:
        """A key that is equal for steps with the same results; None where that is not known."""
        try:
            key = (step.op, step.device, tuple(map(self._operand_key, inputs)), _frozen(step.params))
            hash(key)
        except TypeError:
            return None
        return key

    def _operand_key(self, slot: int) -> Hashable:
        value = self.constant(slot)
        if value is None:
            return slot
        if isinstance(value, np.ndarray):
            if value.size > COMPARED_ELEMENTS:
                return id(value)
            return value.dtype, value.shape, value.strides, value.tobytes()
        return id(value) if value.__class__ is Cell else _frozen(value)


def _frozen(value: object) -> Hashable:
    """A key that is equal for equal parameters only: 1, 1.0 and True differ, and so do 0.0 and -0.0, and NaNs."""
    if isinstance(value, dict):
        return tuple((name, _frozen(each)) for name, each in value.items())
    if isinstance(value, list | tuple):
        return (type(value), *map(_frozen, value))
    if isinstance(value, slice):
        return (slice, _frozen(value.start), _frozen(value.stop), _frozen(value.step))
    if isinstance(value, np.generic):
        return (type(value), value.dtype, bits_of(value))
    if isinstance(value, float | complex):
        return (type(value), bits_of(value))
    return (type(value), value)  # a parameter that cannot be hashed is found out by the caller


def _numbered(
    graph: Graph, inputs: Sequence[int], outputs: Sequence[int], kept: Iterable[Step], reducer: _Reducer
) -> Plan:
    numbers = {slot: index for index, slot in enumerate(inputs)}
    initial: Slots = [None] * len(inputs)
    described = {index: _described(graph, slot) for slot, index in numbers.items()}

    def number(slot: int) -> int:
        slot = reducer.same(slot)
        known = numbers.get(slot)
        if known is None:
            known = numbers[slot] = len(initial)
            initial.append(reducer.constant(slot))
        return known

    steps = []
    for step in kept:
        read = tuple([number(slot) for slot in step.inputs])
        first = len(initial)
        for slot in step.outputs():
            described[len(initial)] = _described(graph, slot)
            numbers[slot] = len(initial)
            initial.append(None)
        steps.append(step.reading(read, first))
    traced = sum(record is not None for record in graph.records) - len(inputs)
    return Plan(len(inputs), initial, steps, tuple(map(number, outputs)), described, traced)


def _described(graph: Graph, slot: int) -> ShapeDtype:
    """Shape and dtype of the result in a slot: of the record there, or of one before it that has several results."""
    first = slot
    while (record := graph.records[first]) is None:
        first -= 1
    return known_of(cells_of(record)[slot - first])
