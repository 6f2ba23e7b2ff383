"""Arrays that a trace found in objects, such as weights: recorded at one call, compared at the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.devices.cpu import is_frozen, snapshot
from engine.memory.snapshots import have_same_bytes
from handles.cell import Cell

Array = np.ndarray[Any, Any]

SMALL_BYTES = 65_536
"""Bytes up to which arrays are compared by copies of their bytes, which is faster for them."""


def recorded(arrays: Sequence[Cell | Array]) -> list[Cell | Array]:
    """The arrays as they are now: what can be written to is copied."""
    return [each if isinstance(each, Cell) else snapshot(each) for each in arrays]


def are_unchanged(arrays: Sequence[Cell | Array], before: Sequence[Cell | Array]) -> bool:
    """True if arrays are as those that were recorded, which are as many."""
    for each, one in zip(arrays, before, strict=True):
        if each is one and (isinstance(each, Cell) or is_frozen(each)):
            continue
        if isinstance(each, Cell) or isinstance(one, Cell) or not _has_bits_of(each, one):
            return False
    return True


def _has_bits_of(array: Array, other: Array) -> bool:
    """True if two arrays have the same bits in the same layout, on which the last bit of a sum depends."""
    if array.dtype != other.dtype or array.shape != other.shape:
        return False
    if array.dtype.kind == "T":
        return bool(np.array_equal(array, other))
    if _layout(array) != _layout(other):
        return False
    if array.nbytes <= SMALL_BYTES or not array.flags.forc:
        return array.tobytes() == other.tobytes()
    return have_same_bytes(array, other)


def _layout(array: Array) -> object:
    """The part of an array's strides that a copy keeps: in which order, and which way, its axes are walked."""
    flags = array.flags
    if flags.forc:
        return flags.c_contiguous, flags.f_contiguous
    lengths = zip(array.strides, array.shape, strict=True)
    axes = [(abs(stride), -axis, stride > 0) for axis, (stride, length) in enumerate(lengths) if length > 1]
    return [(axis, forwards) for _, axis, forwards in sorted(axes)]
