"""How a group is walked: arrays in one order of axes, neighbouring axes joined, and the walk cut into blocks. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.fusion.pairwise import Splits, splits
from engine.memory.layout import (
    Shape,
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
        self.block: Shape = ()
        """The shape of the largest block."""
        self.table: Array = np.empty((0, 0), np.int64)
        """The beginning of each block along each axis, then its length along each."""
        self.splits: Splits | None = None

    def __len__(self) -> int:
        return len(self.table)

    def where(self, number: int) -> tuple[slice, ...]:
        """The slices of a block."""
        row = self.table[number].tolist()
        ndim = len(row) // 2
        return tuple(slice(start, start + length) for start, length in zip(row[:ndim], row[ndim:], strict=True))

    def cut(self, elements: int) -> None:
        """Cut into blocks of about so many elements."""
        self.block = tile(self.shape, self._strides, elements)
        counts = [-(-length // size) for length, size in zip(self.shape, self.block, strict=True)]
        starts = np.indices(counts).reshape(len(counts), -1).T * self.block
        self.table = np.hstack([starts, np.minimum(self.block, np.array(self.shape) - starts)])

    def cut_for_sums(self, elements: int) -> None:
        """Cut a walk of one axis where NumPy's summation cuts it."""
        self.splits = splits(self.shape[0], elements)
        spans = self.splits.spans
        self.table = np.column_stack([spans[:, 0], spans[:, 1] - spans[:, 0]])
        self.block = (int(self.table[:, 1].max()),)


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
        self.splits = None

    def cut(self, elements: int) -> None:
        """Cut into strips of about so many elements."""
        axis = self.across
        parts = strips(self.shape, axis, elements)
        rows = [[*(part.start for part in where), *(part.stop - part.start for part in where)] for where in parts]
        self.table = np.array(rows, np.int64)
        self.block = tuple(self.table[:, len(self.shape) :].max(axis=0).tolist())
