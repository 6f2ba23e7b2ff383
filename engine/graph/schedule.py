"""Schedules: which steps a run needs, in which order, and after which of them a value is not needed any more. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from engine.graph.steps import PLACEHOLDER, Step, step_of
from handles.cell import Cell


class Schedule(NamedTuple):
    """Steps in the order of a run."""

    steps: list[Step]
    frees: list[tuple[int, ...]]
    """For each step the slots to empty once it is dispatched, as no later step reads them.

    A list of its own: tuples of numbers are nothing to the garbage collector, pairs with a step would be.
    """


def schedule(steps: Sequence[Step], kept: Iterable[int]) -> Schedule:
    """Find the last use of each slot that is not `kept`, in one sweep from the last step to the first."""
    used = set(kept)
    frees: list[tuple[int, ...]] = []
    for step in reversed(steps):
        unread = [slot for slot in step.outputs() if slot not in used]
        for slot in step.inputs:
            if slot not in used:
                used.add(slot)
                unread.append(slot)
        frees.append(tuple(unread))
    frees.reverse()
    return Schedule(list(steps), frees)


def prune(
    records: Sequence[Cell | None], fetches: Iterable[int], roots: Iterable[Cell], fed: Collection[int]
) -> tuple[Schedule, list[Step]]:
    """Schedule the steps of a graph that lead to the fetched slots and to the root records.

    What is fed is not computed. Returns the placeholders, too, that would have to be fed. One sweep from the last
    needed node back to the first, so that a graph may be of any depth.
    """
    needed = bytearray(len(records))
    kept = {*fetches, *(step_of(root).slot for root in roots)}
    for slot in kept:
        needed[slot] = 1
    steps: list[Step] = []
    missing: list[Step] = []
    further = 0
    for slot in range(max(needed.rfind(1), 0 if records else -1), -1, -1):
        record = records[slot]
        if record is None:
            further |= needed[slot]  # maybe a further result of the node whose first one is to come
            continue
        step = step_of(record)
        wanted = needed[slot] or (further and step.op.outputs > 1 and any(needed[each] for each in step.outputs()))
        further = 0
        if not wanted or slot in fed:
            continue
        if step.op is PLACEHOLDER:
            missing.append(step)
            continue
        for source in step.inputs:
            needed[source] = 1
        steps.append(step)
    steps.reverse()
    missing.reverse()
    return schedule(steps, kept), missing
