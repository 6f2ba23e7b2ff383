"""Calling compiled code: the frame with addresses and sizes, scratch memory for each thread, and what comes back."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine.fusion.native.compiler import Code
from engine.fusion.native.describe import Description
from engine.fusion.native.emit import BYTES
from engine.fusion.native.machine import address_of, flags, math_library
from engine.fusion.native.structure import Frame, words_of
from engine.fusion.walks import Walk

Array = np.ndarray[Any, Any]


class NativeCall:
    """One execution of a compiled group, shared by the threads that work on it."""

    def __init__(self, code: Code, description: Description, walk: Walk, noted: set[str]) -> None:
        self._code, self.description, self._walk = code, description, walk
        count = len(walk)
        self._redo = np.zeros(count, np.uint8)
        self._counter = np.zeros(1, np.int64)
        self._results = [np.zeros(count, np.int64) for _ in description.structure.reductions]
        self._slot_bytes = slot_bytes_of(walk, description)
        self._keep: list[Array] = []
        if description.structure.minds_nans and not description.structure.careful:
            noted = noted | {"invalid"}  # a NaN that was not there before may meet another one
        self._frame = self._filled(flags(noted))

    def _filled(self, mask: int) -> Array:
        code, description = self._code, self.description
        table = np.ascontiguousarray(self._walk.table)
        self._keep.append(table)
        frame = constant_frame(code, description, self._redo, table, mask, self._slot_bytes)
        layout = code.frame
        library = math_library()
        assert library is not None
        frame[layout.header(Frame.YIELD)] = library.give_way
        for index, array in enumerate(description.arrays):
            frame[layout.array(index)] = address_of(array)
        for index, scalar in enumerate(description.scalars):
            place = layout.scalar(index)
            frame[place : place + words_of(description.structure.scalars[index])].view(scalar.dtype)[0] = scalar
        for number, results in enumerate(self._results):
            frame[layout.reduction(number)] = address_of(results)
        return frame

    def work(self) -> None:
        """Take blocks until none is left; for each thread."""
        scratch = self._scratch()
        self._code.walk(address_of(self._frame), address_of(scratch), address_of(self._counter))

    def _scratch(self) -> Array:
        return np.empty(max(1, self._code.stages.slots) * self._slot_bytes, np.uint8)

    # What comes back

    def to_repeat(self) -> list[int]:
        """The blocks that have to be computed in NumPy's way."""
        return [int(number) for number in np.flatnonzero(self._redo)]

    def columns(self) -> list[Array]:
        """The results of each reduction, block by block."""
        reductions = self.description.structure.reductions
        return [
            results.view(reduction.code)[:: 8 // np.dtype(reduction.code).itemsize]
            for reduction, results in zip(reductions, self._results, strict=True)
        ]


def constant_frame(
    code: Code, description: Description, redo: Array, table: Array, mask: int, slot_bytes: int
) -> Array:
    """A frame with all that is the same for walks of these shapes and strides; the addresses refer to its arguments."""
    frame, layout = np.zeros(code.frame.size, np.int64), code.frame
    library = math_library()
    assert library is not None
    numbers = {
        Frame.STOP: len(redo),
        Frame.REDO: address_of(redo),
        Frame.MASK: mask,
        Frame.TABLE: address_of(table),
        Frame.CLEAR: library.clear,
        Frame.TEST: library.test,
        Frame.SLOT_BYTES: slot_bytes,
    }
    for number, value in numbers.items():
        frame[layout.header(number)] = value
    for index, array in enumerate(description.arrays):
        place = layout.strides(index)
        frame[place : place + array.ndim] = array.strides
    for number, loop in enumerate(code.loops):
        place = layout.loop(number)
        frame[place : place + 3] = loop.loop, loop.context, loop.auxdata
    for number, reduction in enumerate(description.structure.reductions):
        frame[layout.initial(number) :].view(reduction.code)[0] = reduction.first
    return frame


def slot_bytes_of(walk: Walk, description: Description) -> int:
    """Bytes of scratch memory for one value of a block."""
    return -(-math.prod(walk.block) * description.structure.widest // BYTES) * BYTES + BYTES
