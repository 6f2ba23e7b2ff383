"""The plan of a chain: a fusion group of stand-ins, how it is walked, and how a call is written down. Pure.

It is made from the key of the chain, so none of it depends on the elements of arrays, nor on where they are.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engine.base.op import Op, ShapeDtype
from engine.fusion.chains.key import ChainKey, Kind, Step, kinds_of, steps_of
from engine.fusion.groups import FusionGroup, collect
from engine.fusion.native.describe import Description, described
from engine.fusion.native.structure import UnsupportedError, is_computed
from engine.fusion.walks import Walk
from engine.memory.buffers import buffers, strides_of
from engine.memory.layout import Shape, Strides
from handles.cell import Cell, pending_cell

Array = np.ndarray[Any, Any]

_FORMATS = {"f2": "e6x", "f4": "f4x", "f8": "d", "u8": "Q", "c8": "f4x", "c16": "d8x"}
"""How a scalar is written to a frame; integers up to 64 bits begin with their lowest byte."""

Output = tuple[int, Shape, np.dtype[Any], tuple[int, ...] | None]
"""A step, with the shape, dtype and order of axes of its result; None where a plain new array is the same."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The plan of a chain."""

    group: FusionGroup
    walk: Walk
    description: Description
    inputs: Sequence[int]
    """For each array that is walked, which one of the key it is."""
    outputs: Sequence[Output]
    scalars: Sequence[int]
    """For each scalar of a frame, which one of the key it is."""
    pack: Callable[..., bytes]
    """Writes down what changes in a frame: addresses, then scalars."""
    outcomes: Sequence[Any]
    """The shape and dtype of each step."""
    ns: float
    """Estimated nanoseconds of a core, before the first call."""
    successors: Sequence[int]
    """The arrays of the key that a result could be written over, if nothing else referred to them."""


def laid_out(key: ChainKey, scalars: Sequence[Any], *, careful: bool) -> Layout:
    """Plan a chain. Raises `UnsupportedError` where it is not one that can be computed by one call."""
    steps = steps_of(key)
    group, inputs = _grouped(steps, kinds_of(key), scalars)
    walk, outputs = _walked(group)
    description = described(group, walk)
    if careful:
        description = replace(description, structure=description.structure._replace(careful=True))
    numbers, pack = _packing(steps, description, scalars)
    outcomes = [ShapeDtype(group.shape, step.dtype) for step in group.steps]
    ns = _estimated(steps, group, description)
    return Layout(group, walk, description, inputs, outputs, numbers, pack, outcomes, ns, _successors(group, inputs))


def _estimated(steps: Sequence[Step], group: FusionGroup, description: Description) -> float:
    """Estimate a call: about what arithmetic in cache takes; for each other op what it takes by itself."""
    elements, width = math.prod(group.shape), description.structure.widest / 8
    whole = _stand_in(np.dtype(np.float64), group.shape, (0,) * len(group.shape))
    others = [step.op for step in steps if not _is_arithmetic(step.op)]
    inline = width * (0.03 * (len(steps) - len(others)) + 0.1 * len(description.arrays))
    instructions = description.structure.instructions
    inline += width * 0.6 * sum(not is_computed(each) for each in instructions)
    inline += 0.3 * sum("f2" in each.loop for each in instructions)  # converted to 32 bits, and back
    return 2_000 + elements * inline + sum(op.cost.estimate([whole], {}) for op in others)


def _successors(group: FusionGroup, inputs: Sequence[int]) -> list[int]:
    """The arrays that are of the shape, dtype and layout of a result."""
    kept = {(step.dtype, strides_of(group.shape, step.dtype.itemsize, step.order)) for step in group.steps if step.keep}
    return [
        inputs[number]
        for number, array in enumerate(group.inputs)
        if array.shape == group.shape and (array.dtype, array.strides) in kept
    ]


def _grouped(steps: Sequence[Step], kinds: Sequence[Kind], scalars: Sequence[Any]) -> tuple[FusionGroup, list[int]]:
    """The chain as a fusion group of stand-ins; and for each of its inputs, which array of the key it is."""
    arrays = [_stand_in(*kind) for kind in kinds]
    values: Iterator[Any] = iter(scalars)
    cells: list[Cell] = []
    for op, params, operands, _ in steps:
        args = tuple(_operand(each, cells, arrays, values) for each in operands)
        given: Any = None if params is None else dict(params)
        cells.append(pending_cell(op, args, given, None, None, 0))  # type: ignore[arg-type]
    group = collect(cells[0], cells[1:])
    if group is None or len(group.steps) != len(cells) or group.whole:
        raise UnsupportedError
    for step, planned in zip(group.steps, steps, strict=True):
        step.keep = planned.keep or step.reduction is not None
    numbers = {id(array): number for number, array in enumerate(arrays)}
    return group, [numbers[id(array)] for array in group.inputs]


def _operand(operand: Any, cells: Sequence[Cell], arrays: Sequence[Array], scalars: Any) -> Any:
    if operand.__class__ is int:
        return cells[operand] if operand >= 0 else arrays[~operand]
    return next(scalars)


def _stand_in(dtype: np.dtype[Any], shape: Shape, strides: Strides) -> Array:
    """An array that looks like another one and takes no memory; its elements are never read."""
    return np.lib.stride_tricks.as_strided(np.zeros(1, dtype), shape, strides)


def _walked(group: FusionGroup) -> tuple[Walk, list[Output]]:
    outputs: list[Array | None] = [None] * len(group.steps)
    made: list[Output] = []
    for index, step in enumerate(group.steps):
        if step.keep and step.reduction is None:
            outputs[index] = _stand_in(
                step.dtype, group.shape, strides_of(group.shape, step.dtype.itemsize, step.order)
            )
            plain = step.order == tuple(range(len(group.shape))) and not buffers.leases(group.shape, step.dtype)
            made.append((index, group.shape, step.dtype, None if plain else step.order))
    walk = Walk(group.shape, group.inputs, outputs)
    if len(walk.shape) > 1 and any(step.reduction is not None for step in group.steps):
        raise UnsupportedError
    return walk, made


def _packing(
    steps: Sequence[Step], description: Description, scalars: Sequence[Any]
) -> tuple[list[int], Callable[..., bytes]]:
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


def _is_arithmetic(op: Op) -> bool:
    return op.fusion.facts.exact or op.fusion.block is not None or op.fusion.facts.reduction is not None
