"""Reductions within a pass: elements are reduced while they are in registers, in an order that gives NumPy's bits.

A reduction is of the whole block, of each row, or of each column. A column is reduced in memory, row by row, as NumPy
does it; the array for the results has what a reduction begins with, then.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.fusion.native.accumulators import Accumulator
from engine.fusion.native.arguments import Arguments
from engine.fusion.native.blueprint import Blueprint
from engine.fusion.native.elements import Elements
from engine.fusion.native.emit import Lanes, bytes_of, stored_type_of
from engine.fusion.native.leaves import DEEPEST, Leaves, Steps
from engine.fusion.native.primitives import primitive
from engine.fusion.native.rows import Element, Rows
from engine.fusion.native.structure import REPEATED, Reduction


class Reducing:
    """Writes the reductions of the pass that has some."""

    def __init__(self, made: Blueprint, given: Arguments, rows: Rows, elements: Elements) -> None:
        self._made, self._given, self._rows, self._elements = made, given, rows, elements
        reductions = made.structure.reductions
        self._accumulators = {
            number: Accumulator(made, reductions[number], numbers=elements.excludes_nans)
            for stage in made.stages.stages
            for number in stage.reductions
            if not self._is_of_columns(reductions[number])
        }
        self._pairwise = [each for each in self._accumulators.values() if each.reduction.is_pairwise]
        self._lefts = [made.source.let(f"alloca [{DEEPEST} x {stored_type_of(each.code)}]") for each in self._pairwise]
        """For each sum of floats, those of halves that the other half is still to be added to."""
        self._leaves = Leaves(made)
        self.block = "0"
        """The number of the block."""

    def _is_of_columns(self, reduction: Reduction) -> bool:
        return reduction.kept is not None and self._made.structure.arrays[reduction.kept].inner != REPEATED

    def row(self, element: Element) -> None:
        """Write what is done with all elements of a row."""
        for each in self._accumulators.values():
            each.begin()
        if self._pairwise:
            self._leaf_by_leaf(element)
        else:
            self._rows.along(element)
        for number, each in self._accumulators.items():
            if each not in self._pairwise:
                each.fold()
            self._store(number, each.end())

    def _leaf_by_leaf(self, element: Element) -> None:
        made, rows = self._made, self._rows

        def leaf(start: str, stop: str) -> None:
            for each in self._pairwise:
                each.begin()
            whole = made.source.let(f"and i64 {made.source.let(f'sub i64 {stop}, {start}')}, {-made.lanes}")
            rest = made.source.let(f"add i64 {start}, {whole}")
            rows.count(start, rest, made.lanes, lambda index: element(made.vector, index))
            for each in self._pairwise:
                each.fold()
            rows.count(rest, stop, 1, lambda index: element(made.single, index))

        def left(depth: str) -> None:
            for each, place in self._places(depth):
                made.source.line(f"store {stored_type_of(each.code)} {each.load(made.single)}, ptr {place}")

        def both(depth: str) -> None:
            for each, place in self._places(depth):
                first = made.source.let(f"load {stored_type_of(each.code)}, ptr {place}")
                each.meet(made.single, first, each.load(made.single))

        self._leaves.walk(rows, Steps(leaf, left, both))

    def _places(self, depth: str) -> Sequence[tuple[Accumulator, str]]:
        """For each sum of floats, the place of that of a half."""
        made = self._made
        return [
            (each, made.at(place, made.times(depth, bytes_of(each.code))))
            for each, place in zip(self._pairwise, self._lefts, strict=True)
        ]

    def add(self, lanes: Lanes, number: int, value: str, position: str) -> None:
        """Take elements along, for one of the reductions."""
        if number in self._accumulators:
            self._accumulators[number].add(lanes, value)
            return
        reduction = self._made.structure.reductions[number]
        assert reduction.kept is not None
        emit = primitive(reduction.ufunc, (reduction.code,) * 3)
        assert emit is not None
        before = self._elements.plain(lanes, reduction.kept, position)
        after = emit(lanes, reduction.code, [before, value])
        if reduction.code == "b1":
            after = lanes.convert("zext", after, "i1", "i8")
        self._elements.write(lanes, reduction.kept, position, after)

    def _store(self, number: int, result: str) -> None:
        made, reduction = self._made, self._made.structure.reductions[number]
        if reduction.kept is not None:
            self._elements.write(made.single, reduction.kept, "0", result)
            return
        place = made.at(self._given.results[number], made.times(self.block, 8))
        made.source.line(f"store {stored_type_of(reduction.code)} {result}, ptr {place}")
