"""What of a graph a run needs: pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from engine.graph.graph import PLACEHOLDER, Graph, step_of
from engine.graph.steps import Schedule, Step
from handles.cell import Cell


def prune(
    graph: Graph, fetches: Iterable[int], roots: Iterable[Cell], fed: Collection[int]
) -> tuple[Schedule, list[Step]]:
    """The steps that lead to the fetched slots and to the root records, in the order in which they were made.

    What is fed is not computed. With each step come the slots that can be emptied once it is dispatched: all that no
    later step reads, fetches apart. Second, the placeholders that would have to be fed. One sweep from the last needed
    node back to the first: no recursion, whatever the depth.
    """
    records = graph.records
    needed, used = bytearray(len(records)), bytearray(len(records))
    for slot in fetches:
        needed[slot] = used[slot] = 1
    for root in roots:
        slot = step_of(root).slot
        needed[slot] = used[slot] = 1
    schedule = Schedule([], [])
    missing: list[Step] = []
    further = 0
    for slot in range(max(needed.rfind(1), 0 if records else -1), -1, -1):
        record = records[slot]
        if record is None:
            further |= needed[slot]  # maybe a further result of the node whose first one is to come
            continue
        step = step_of(record)
        several = step.op.outputs > 1
        wanted = needed[slot] or (further and several and any(needed[output] for output in step.outputs()))
        further = 0
        if not wanted or slot in fed:
            continue
        if step.op is PLACEHOLDER:
            missing.append(step)
            continue
        frees = [output for output in step.outputs() if not used[output]] if several or not used[slot] else []
        for source in step.inputs:
            if not used[source]:
                used[source] = needed[source] = 1
                frees.append(source)
        schedule.steps.append(step)
        schedule.frees.append(tuple(frees))
    schedule.steps.reverse()
    schedule.frees.reverse()
    missing.reverse()
    return schedule, missing
