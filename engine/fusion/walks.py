"""How a group is walked: arrays in one order of axes, neighbouring axes joined, and the walk cut into blocks. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.fusion.pairwise import leaves
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

Array = np.ndarray[Any, Any]


class Walk:
    """The inputs and the outputs as they are walked, and the blocks."""

    def __init__(self, shape: Shape, inputs: Sequence[Array], outputs: Sequence[Array | None]) -> None:
        arrays = [*inputs, *(array for array in outputs if array is not None)]
        strides = [broadcast_strides(array, shape) for array in arrays]
        order = iteration_order(strides, len(shape))
        walked = tuple(shape[axis] for axis in order)
        self.shape, self._strides = coalesce(walked, [tuple(each[axis] for axis in order) for each in strides])
        views = [np.lib.stride_tricks.as_strided(a, self.shape, s) for a, s in zip(arrays, self._strides, strict=True)]
        self.inputs = views[: len(inputs)]
        kept = iter(views[len(inputs) :])
        self.outputs = [None if output is None else next(kept) for output in outputs]
        self.blocks: list[tuple[slice, ...]] = []
        self.block: Shape = ()

    def cut(self, elements: int) -> None:
        """Cut into blocks of about so many elements."""
        self.block = tile(self.shape, self._strides, elements)
        self.blocks = list(blocks(self.shape, self.block))

    def cut_for_sums(self, elements: int) -> None:
        """Cut a walk of one axis where NumPy's summation cuts it."""
        spans = leaves(self.shape[0], elements)
        self.block = (max(stop - start for start, stop in spans),)
        self.blocks = [(slice(start, stop),) for start, stop in spans]

    def table(self) -> Array:
        """The beginning and the length of each block along each axis."""
        rows = [[*(part.start for part in where), *(part.stop - part.start for part in where)] for where in self.blocks]
        return np.array(rows, np.int64)


class Strips(Walk):
    """A walk that is cut across one axis only, where steps reduce others: all results are row-major."""

    def __init__(
        self, shape: Shape, inputs: Sequence[Array], outputs: Sequence[Array | None], whole: frozenset[int]
    ) -> None:
        axis = strip_axis(shape, whole)
        assert axis is not None
        self.shape = shape
        self.across = axis
        self.inputs = [np.broadcast_to(array, shape) for array in inputs]
        self.outputs = list(outputs)
        self.blocks = []
        self.block = ()

    def cut(self, elements: int) -> None:
        """Cut into strips of about so many elements."""
        axis = self.across
        self.blocks = strips(self.shape, axis, elements)
        widest = max(where[axis].stop - where[axis].start for where in self.blocks)
        self.block = (*self.shape[:axis], widest, *self.shape[axis + 1 :])
