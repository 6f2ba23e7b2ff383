"""Liveness: results that something else refers to, and operands that nothing else refers to. Pure.

A result that nothing refers to is never written to memory. An operand that nothing refers to but the group itself may
become a result: each block is read before it is written over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Set as AbstractSet
from typing import Any
from weakref import getweakrefcount

from engine.fusion.groups import Array, FusionGroup, Input, Step
from engine.memory.buffers import Lease, strides_of
from engine.memory.references import HELD_BY_CELL, HELD_BY_GROUP, HELD_BY_INPUTS, others
from handles.cell import Cell


def mark_kept(group: FusionGroup, queued: AbstractSet[int]) -> None:
    """Decide which results are referred to from outside: from a handle, or from a record that is not in the group.

    `queued` has the identities of the records that were set aside and stand on the device's queue nevertheless.
    """
    inside = Counter(id(arg) for step in group.steps for arg in step.cell.args if arg.__class__ is Cell)
    for step in group.steps:
        cell = step.cell
        known = HELD_BY_GROUP + inside[id(cell)] + (id(cell) in queued)
        step.keep = step.reduction is not None or others(cell, known)


def give_up_operands(group: FusionGroup, queued: AbstractSet[int]) -> None:
    """Decide which results are written over an operand that dies with the group.

    Such a group cannot be done again: so none of its steps may need that, or raise because of what elements are.
    """
    if any(map(_may_have_to_be_repeated, group.steps)):
        return
    last_uses = {
        operand.index: number
        for number, step in enumerate(group.steps)
        for operand in step.operands
        if isinstance(operand, Input)
    }
    mentions = Counter(id(arg) for step in group.steps for arg in step.cell.args)
    mentions.update(queued & mentions.keys())
    for index, last_use in last_uses.items():
        step = _successor(group, index, last_use)
        if step is not None and _dies(group, index, mentions):
            step.over = index


def _may_have_to_be_repeated(step: Step) -> bool:
    kind = step.dtype.kind
    if step.reduction is not None:
        return kind == "f" and step.reduction != "count"  # where it is not a number, the whole array is reduced
    return kind in "mM" or kind in step.op.fusion.facts.refuses


def _successor(group: FusionGroup, index: int, last_use: int) -> Step | None:
    """The first step whose result may take the place of an operand: of the same layout, and not read before written."""
    array = group.inputs[index]
    if array.shape != group.shape:
        return None
    for number, step in enumerate(group.steps[last_use:]):
        reads = number == 0 and step.op.fusion.block is not None  # it may write before it has read all
        if step.keep and step.reduction is None and step.over is None and not reads and step.dtype == array.dtype:
            return step if array.strides == strides_of(group.shape, array.itemsize, step.order) else None
    return None


def _dies(group: FusionGroup, index: int, mentions: Counter[int]) -> bool:
    """Tell whether nothing refers to an operand but the records of the group, and it is the whole of its memory."""
    holder: Any = _holder(group, index)
    array = group.inputs[index]
    if not is_whole(array):
        return False
    if holder is array:
        return not others(array, mentions[id(array)] + HELD_BY_INPUTS + 1)  # a snapshot, which has another name here
    return not others(holder, mentions[id(holder)]) and not others(array, HELD_BY_CELL + HELD_BY_INPUTS)


def is_whole(array: Array) -> bool:
    """Tell whether an array is all that refers to its memory, and no weak reference leads to the array."""
    lease = array.base
    alone = array.flags.owndata if lease is None else isinstance(lease, Lease) and not others(lease, 1)
    return alone and not getweakrefcount(array)


def _holder(group: FusionGroup, index: int) -> Any:
    """The cell, or the array, that is an operand of a record."""
    return next(
        step.cell.args[number]
        for step in group.steps
        for number, operand in enumerate(step.operands)
        if isinstance(operand, Input) and operand.index == index
    )
