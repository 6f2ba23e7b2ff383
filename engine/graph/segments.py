"""Segments: the steps of a session's run that one device takes together, as the steps of a traced function.

Purpose: a backend that takes functions is sent a graph once, and told to run it from then on; step by step it would be
sent each op of each run anew.

A segment has steps of one device, each of which the backend computes itself, and is run where its last step stood. It
ends before anything else reads one of its results. Pure, but for asking the backends.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from engine.devices.base import ANY, Backend, Device
from engine.dispatch.copies import TRANSFER
from engine.failures import site
from engine.graph.codegen import traced
from engine.graph.optimize import Plan
from engine.graph.schedule import Schedule, schedule
from engine.graph.steps import Slots, Step

NAME = "session.run"
"""The name of the op that a segment is."""


class Segmented(NamedTuple):
    """A schedule whose segments are one step each."""

    schedule: Schedule
    slots: int
    """Slots that a run needs."""
    moved: Mapping[int, int]
    """Where the results of segments stand, by the slots that they have in the graph."""


def takers(steps: Iterable[Step], serving: Any) -> dict[Device, Backend[Any]]:
    """The devices that steps ask for by number and whose backends take functions; `serving` finds a backend."""
    found = {}
    for device in dict.fromkeys(step.device for step in steps):
        if device is not None and device.index != ANY:
            backend = serving(device)
            if backend is not None and backend.takes_functions:
                found[device] = backend
    return found


def segmented(
    plain: Schedule, initial: Slots, fed: Collection[int], kept: Iterable[int], takes: Mapping[Device, Backend[Any]]
) -> Segmented:
    """Make one step of each segment; `kept` are the slots that are read after the run."""
    joiner = _Joiner(initial, frozenset(fed), frozenset(kept), takes, plain.steps)
    for step in plain.steps:
        joiner.add(step)
    return joiner.finish()


class _Joiner:
    """Collects steps, one open segment for each device."""

    def __init__(
        self,
        initial: Slots,
        fed: frozenset[int],
        kept: frozenset[int],
        takes: Mapping[Device, Backend[Any]],
        steps: Sequence[Step],
    ) -> None:
        self._initial = initial
        self._fed = fed
        self._kept = kept
        self._takes = takes
        self._slots = len(initial)
        self._moved: dict[int, int] = {}
        self._done: list[Step] = []
        self._open: dict[Device, list[Step]] = {}
        self._makers: dict[int, Device] = {}
        """The open segments that results are made by."""
        self._readers: dict[int, list[Step]] = {}
        for step in steps:
            for slot in step.inputs:
                self._readers.setdefault(slot, []).append(step)

    def add(self, step: Step) -> None:
        """Take the next step of the schedule."""
        device = self._device_of(step)
        for slot in step.inputs:
            maker = self._makers.get(slot)
            if maker is not None and maker is not device:
                self._close(maker)
        if device is None:
            self._done.append(self._relocated(step))
            return
        self._open.setdefault(device, []).append(step)
        self._makers.update(dict.fromkeys(step.outputs(), device))

    def finish(self) -> Segmented:
        """End all segments."""
        for device in list(self._open):
            self._close(device)
        kept = [self._moved.get(slot, slot) for slot in self._kept]
        return Segmented(
            schedule(self._done, kept), self._slots, {k: v for k, v in self._moved.items() if k in self._kept}
        )

    def _device_of(self, step: Step) -> Device | None:
        """The device whose segment a step belongs to: what names no device follows its operands."""
        op = step.op
        if not op.known or not op.pure or op is TRANSFER:
            return None
        device = step.device
        if device is None:
            makers = {self._makers.get(slot) for slot in step.inputs if not self._is_constant(slot)}
            device = makers.pop() if len(makers) == 1 else None
        backend = None if device is None else self._takes.get(device)
        return device if backend is not None and backend.runs(op.name, op.kernel) else None

    def _is_constant(self, slot: int) -> bool:
        if slot in self._fed or slot in self._makers or slot in self._moved:
            return False
        return isinstance(self._initial[slot], np.ndarray | np.generic | complex | float | int)

    def _relocated(self, step: Step) -> Step:
        if not any(slot in self._moved for slot in step.inputs):
            return step
        return step.reading(tuple(self._moved.get(slot, slot) for slot in step.inputs), step.slot)

    def _close(self, device: Device) -> None:
        """Put the step of a segment behind what it reads."""
        steps = self._open.pop(device)
        made = [slot for step in steps for slot in step.outputs()]
        for slot in made:
            del self._makers[slot]
        if len(steps) == 1:
            self._done.append(self._relocated(steps[0]))
            return
        own = set(map(id, steps))
        outputs = [slot for slot in made if self._is_read(slot, own)]
        inside = set(made)
        read = [slot for slot in dict.fromkeys(slot for step in steps for slot in step.inputs) if slot not in inside]
        inputs = [slot for slot in read if not self._is_constant(slot)]
        constants = [slot for slot in read if self._is_constant(slot)]
        numbers = {slot: number for number, slot in enumerate([*inputs, *constants, *made])}
        plan = Plan(
            inputs=len(inputs),
            initial=[None] * len(inputs) + [self._initial[slot] for slot in constants] + [None] * len(made),
            steps=[step.reading(tuple(numbers[each] for each in step.inputs), numbers[step.slot]) for step in steps],
            outputs=tuple(numbers[slot] for slot in outputs),
            described={},
            traced=len(steps),
        )
        op = traced(plan, range(len(inputs)), NAME, explain_node)
        sources, head = tuple(self._moved.get(slot, slot) for slot in inputs), steps[0]
        self._done.append(Step(op, sources, None, self._slots, head.code, head.lasti, device, ""))
        self._moved.update((slot, self._slots + index) for index, slot in enumerate(outputs))
        self._slots += len(outputs)

    def _is_read(self, slot: int, own: set[int]) -> bool:
        return slot in self._kept or any(id(step) not in own for step in self._readers.get(slot, ()))


def explain_node(step: Step) -> str:
    """Which node of the graph a step is, and where it was made."""
    return f"node {step.name!r} of the graph, made at {site(step.code, step.lasti)}"
