"""Replays: a plan made ready to run, as one op where it is small, else as a few ops.

Purpose: a small function costs one dispatch; in a large one each large op runs as it does eagerly, with all that a
queue does for it (fusion, threads, turns with others), and only the small ones between are merged.

Invariants: each form computes what the steps of the plan compute, in their order, and raises what they raise. A step
that runs code of users, is on a device of its own, or copies to one, is never merged.

A `Replay` belongs to a trace and is never changed once it is made; its forms are made by the first thread that needs
one, and a second thread that comes meanwhile makes an equal one, so no lock is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from engine.base.op import SMALL_NS, Op
from engine.devices.base import Backend
from engine.dispatch.copies import TRANSFER
from engine.graph.codegen import cost_of, known_call, merge, traced
from engine.graph.compiled import CompiledReplay, kinds_of
from engine.graph.optimize import Plan
from engine.graph.schedule import Schedule, schedule
from engine.graph.shortcut import Shortcut
from engine.graph.steps import Slots, Step
from handles.cell import Cell

SEGMENT_NS = SMALL_NS / 2
"""Estimated nanoseconds of small steps that are made one op, where there are too many for one."""
SEGMENT_STEPS = 500
LARGE_NS = 10 * SMALL_NS
STEPWISE_NS = 25_000
"""Estimated nanoseconds below which steps with reductions, or several results, are called one by one."""
MERGED_NS = SMALL_NS / 5
"""Estimated nanoseconds up to which a step is worth merging; larger ones gain nothing."""


@dataclass(frozen=True)
class Ready:
    """The steps of a replay, merged where they are small, and the slots of its outputs."""

    initial: Slots
    schedule: Schedule
    outputs: tuple[int, ...]


class Replay:
    """A plan made ready to run, in the form that the size of its arrays asks for."""

    def __init__(self, plan: Plan, name: str) -> None:
        self.plan = plan
        self._name = name
        self.captured = tuple(slot for slot, value in enumerate(plan.initial) if value.__class__ is Cell)
        """Slots of handles from outside: operands of each replay, because their values may not be there yet."""
        self._costs = [cost_of(plan, step) for step in plan.steps]
        self._mergeable = [step.op.known and step.device is None and step.op is not TRANSFER for step in plan.steps]
        self.follows_inputs = all(self._mergeable)
        """True if all steps run on the device of the first input, so that they may be merged."""
        self._taken: dict[type, bool] = {}
        """True if all steps are computed by backends of a class."""
        self.is_large = sum(filter(None, self._costs)) > LARGE_NS
        """True if running it on the queues, where chains of large ops are fused, is worth the way there and back."""
        total = sum(filter(None, self._costs)) if None not in self._costs else math.inf
        self.is_small = total <= SMALL_NS
        self.compiled = CompiledReplay(plan, self.captured) if self.follows_inputs else None
        """The steps as one compiled call, where they are a chain of elementwise ops."""
        if self.compiled is not None and total < STEPWISE_NS and not self.compiled.is_direct:
            self.compiled = None
        self._may_be_recognized = total <= SMALL_NS / 2 and not self.captured
        self._shortcut: Shortcut | None = None

    @cached_property
    def whole(self) -> Op | None:
        """All steps as one op; None where they are too many, or none."""
        return self._merged_whole()

    @cached_property
    def _quick(self) -> Op | None:
        return self._merged_whole(quick=True)

    def quick(self, arrays: Sequence[object]) -> Op | None:
        """All steps as one op that is computed in place by one compiled call; None where it cannot be, or not yet."""
        return self._quick if self.compiled is not None and self.compiled.is_quick(arrays) else None

    def shortcut(self, outline: object, results: Sequence[int]) -> Shortcut | None:
        """The recognizer of calls that are one op in place, of arrays of one queue; None where there is none, yet.

        Such a call gives these outputs of the plan in a pytree of this outline.
        """
        compiled, known = self.compiled, self._shortcut
        if compiled is None or compiled.is_out_of_question:
            if known is None and self._may_be_recognized and (op := self._merged_whole(recognized=True)) is not None:
                kinds = kinds_of(self.plan)
                self._shortcut = None if kinds is None else Shortcut(None, kinds, op, outline, results)
            return self._shortcut
        chain = compiled.ready_chain()
        if chain is not None and not self.captured and (known is None or known.chain is not chain):
            op = known_call(self.plan, compiled, chain, self._name)
            self._shortcut = Shortcut(chain, compiled.takes, op, outline, results)
        return self._shortcut

    def _merged_whole(self, *, quick: bool = False, recognized: bool = False) -> Op | None:
        plan = self.plan
        if not plan.steps or not plan.outputs or len(plan.steps) > SEGMENT_STEPS:
            return None
        inputs = (*range(plan.inputs), *self.captured)
        compiled = None if recognized else self.compiled  # which is out of question then
        return merge(
            *(plan, plan.steps, self._costs, inputs, plan.outputs, self._name, compiled),
            quick=quick,
            recognized=recognized,
        )

    @cached_property
    def traced(self) -> Op | None:
        """All steps as one op for a backend that takes functions; None where there are none, or devices are named."""
        plan = self.plan
        if not plan.steps or not plan.outputs or not self.follows_inputs:
            return None
        return traced(plan, (*range(plan.inputs), *self.captured), self._name)

    def is_taken_by(self, backend: Backend[Any]) -> bool:
        """Tell whether a backend takes a call as one record, and computes each of its steps."""
        if not backend.takes_functions:
            return False
        cls = type(backend)
        known = self._taken.get(cls)
        if known is None:
            known = self._taken[cls] = all(backend.runs(step.op.name, step.op.kernel) for step in self.plan.steps)
        return known

    @cached_property
    def merged(self) -> Ready:
        """The steps one by one, consecutive small ones merged."""
        builder = _Segments(self.plan, self._name)
        for step, cost, mergeable in zip(self.plan.steps, self._costs, self._mergeable, strict=True):
            builder.add(step, cost if mergeable else None)
        return builder.finish()

    @cached_property
    def unmerged(self) -> Ready:
        """The steps one by one, for devices that run each op in a way of their own, and for several devices."""
        plan = self.plan
        return Ready(plan.initial, schedule(plan.steps, plan.outputs), plan.outputs)


class _Segments:
    """Collects consecutive small steps, and makes one op of them when there are enough."""

    def __init__(self, plan: Plan, name: str) -> None:
        self._plan = plan
        self._name = name
        self._initial = list(plan.initial)
        self._moved: dict[int, int] = {}
        self._steps: list[Step] = []
        self._segment: list[Step] = []
        self._costs: list[float | None] = []
        self._total = 0.0
        self._frees = iter(schedule(plan.steps, plan.outputs).frees)
        self._freed: set[int] = set()
        self._given = {slot for slot, value in enumerate(plan.initial) if value is None or value.__class__ is Cell}

    def add(self, step: Step, cost: float | None) -> None:
        """The next step of the plan; a cost of None says that it stands alone."""
        alone = cost is None or cost > MERGED_NS
        if alone or self._total + (cost or 0.0) > SEGMENT_NS or len(self._segment) >= SEGMENT_STEPS:
            self._end_segment()
        if alone:
            next(self._frees)
            self._steps.append(self._relocated(step))
        else:
            self._freed.update(next(self._frees))
            self._segment.append(step)
            self._costs.append(cost)
            self._total += cost or 0.0

    def finish(self) -> Ready:
        self._end_segment()
        outputs = tuple(self._moved.get(slot, slot) for slot in self._plan.outputs)
        return Ready(self._initial, schedule(self._steps, outputs), outputs)

    def _relocated(self, step: Step) -> Step:
        if not any(slot in self._moved for slot in step.inputs):
            return step
        inputs = tuple(self._moved.get(slot, slot) for slot in step.inputs)
        return step.reading(inputs, step.slot)

    def _end_segment(self) -> None:
        steps, costs, freed = self._segment, self._costs, self._freed
        self._segment, self._costs, self._freed, self._total = [], [], set(), 0.0
        if len(steps) < 2:
            self._steps.extend(map(self._relocated, steps))
            return
        made = {slot for step in steps for slot in step.outputs()}
        read = dict.fromkeys(slot for step in steps for slot in step.inputs if slot not in made)
        inputs = [slot for slot in read if slot in self._given]
        outputs = sorted(made - freed)
        if not outputs:
            return
        op = merge(self._plan, steps, costs, inputs, outputs, self._name)
        first = len(self._initial)
        self._initial.extend([None] * len(outputs))
        sources = tuple(self._moved.get(slot, slot) for slot in inputs)
        self._moved.update((slot, first + index) for index, slot in enumerate(outputs))
        head = steps[0]
        self._steps.append(Step(op, sources, None, first, head.code, head.lasti, None, self._name))
