"""The blueprint that each part of the writer works on: structure, passes, frame, and the text that is there so far."""

from __future__ import annotations

from collections.abc import Sequence

from engine.fusion.native.emit import BYTES, Lanes, Source
from engine.fusion.native.structure import Frame, Home, Ref, Stages, Structure

PAIRWISE_LANES = 8
"""Elements that NumPy adds up side by side where it sums floats."""


class Blueprint:
    """One function that is being written."""

    def __init__(self, structure: Structure, stages: Stages, frame: Frame, silent: Sequence[bool]) -> None:
        self.structure, self.stages, self.frame = structure, stages, frame
        self.silent = silent
        """For each loop of NumPy's that is called, whether NumPy ignores the flags that it raises."""
        self.source = Source()
        pairwise = any(structure.reductions[number].is_pairwise for each in stages.stages for number in each.reductions)
        self.lanes = PAIRWISE_LANES if pairwise else BYTES // structure.widest
        """Elements of a vector."""
        self.doubt_type = f"i{8 * structure.widest}"
        self.vector = Lanes(self.source, self.lanes, "%doubts", self.doubt_type)
        self.single = Lanes(self.source, 1, "%doubt", self.doubt_type)
        self.both = [self.single, *([self.vector] if self.lanes > 1 else [])]

    def at(self, pointer: str, offset: str | int) -> str:
        """A pointer so many bytes further on."""
        return self.source.let(f"getelementptr i8, ptr {pointer}, i64 {offset}")

    def times(self, left: str, right: str | int) -> str:
        return self.source.let(f"mul i64 {left}, {right}")

    def home(self, ref: Ref) -> Home:
        """Where an operand lies between two passes."""
        return self.stages.homes[ref.number] if ref.kind == "step" else Home(ref.kind, ref.number)
