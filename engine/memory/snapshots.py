"""Snapshots of large arrays that pending ops share: one copy for all ops that are given the same bytes.

Purpose: one array that is given to many ops, before these have run, is held in memory once. It cannot be known that an
array was not written to since it was copied: so it is compared with the copy, byte by byte, which takes a fraction of
the time of another copy.

Invariants: a snapshot has the bytes that its array had when it was taken or compared. The table of snapshots refers to
them weakly: they live as long as records or values refer to them. A snapshot in the table has a weak reference as long
as it can be found there, so `liveness.is_whole` denies it, and no op writes its result over it.

An array is in the table from its second snapshot on: of what is copied once, or was let go before it came again,
results may be written over the copy. Entries are tuples put into a dict, so threads need no lock: at worst two make a
copy each.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any
from weakref import getweakrefcount, ref

import numpy as np

Array = np.ndarray[Any, Any]

SHARED = 1 << 19
"""Bytes from which snapshots are shared: smaller ones are copied as fast as they are compared."""
_BLOCK = 1 << 18
"""Bytes that are compared at a time, in cache: an array that was written to mostly differs in the first block."""
_MOST = 512
"""Arrays that are remembered."""
_UNITS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


class Snapshots:
    """Copies of arrays by where those lie in memory, as long as ops refer to the copies."""

    def __init__(self) -> None:
        self._copies: dict[Hashable, ref[Array] | None] = {}

    def take(self, array: Array, copy: Callable[[Array], Array]) -> Array:
        """The copy that pending ops have of an array, where its bytes are the same; else a new one."""
        if array.nbytes < SHARED or array.dtype.hasobject or 0 in array.strides:
            return copy(array)
        place = (array.__array_interface__["data"][0], array.shape, array.strides, array.dtype)
        seen = place in self._copies
        found = self._copies.get(place)
        before = None if found is None else found()
        if before is not None and have_same_bytes(array, before):
            return before
        taken = copy(array)
        if len(self._copies) >= _MOST and not seen:
            self._copies.clear()
        pending = seen and (found is None or before is not None)
        self._copies[place] = ref(taken) if pending else None
        return taken


snapshots = Snapshots()
"""Those of this process."""


def is_shared(array: Array) -> bool:
    """Tell whether a snapshot may be that of other ops, too."""
    return getweakrefcount(array) > 0


def have_same_bytes(array: Array, other: Array) -> bool:
    """Tell whether two arrays of one shape and dtype have the same bytes: a NaN is equal to itself, 0.0 is not -0.0.

    Where they are not contiguous, each in the same order, and elements are not of 1, 2, 4 or 8 bytes, the answer is
    False without a look.
    """
    if array.flags.forc and other.flags.forc:
        unit = np.uint64 if array.nbytes % 8 == 0 else np.uint8
        array, other = (each.ravel(order="K").view(np.uint8).view(unit) for each in (array, other))
    elif array.itemsize in _UNITS:
        array, other = (each.view(_UNITS[array.itemsize]) for each in (array, other))
    else:
        return False
    rows = max(1, _BLOCK // max(1, array.nbytes // max(1, len(array))))
    return all(
        np.array_equal(array[begin : begin + rows], other[begin : begin + rows]) for begin in range(0, len(array), rows)
    )
