"""The rows of a block: where the block begins, loops over its axes, and along a row vector by vector."""

from __future__ import annotations

from collections.abc import Callable

from engine.fusion.native.arguments import Arguments
from engine.fusion.native.blueprint import Blueprint
from engine.fusion.native.emit import Lanes

Element = Callable[[Lanes, str], None]
"""Writes what is done with the elements at a position of the row."""


class Rows:
    """Writes loops. `pointers` and `linear` say where the row is: in each array, and in the slots."""

    def __init__(self, made: Blueprint, given: Arguments) -> None:
        self._made, self._given = made, given
        self._counters = [made.source.let("alloca i64") for _ in range(made.structure.ndim)]
        self._labels = 0
        self._sizes: list[str] = []
        self.blocks: list[str] = []
        """Where the block begins in each array."""
        self.pointers: list[str] = []
        self.linear = "0"
        self.total = "0"
        """Elements of the block."""

    @property
    def inner(self) -> str:
        """Elements of a row."""
        return self._sizes[-1]

    def begin(self, number: str) -> None:
        """Find the block of a number, in the table."""
        made, given, axes = self._made, self._given, range(self._made.structure.ndim)
        row = made.at(given.table, made.times(number, 16 * len(axes)))
        starts = [made.source.let(f"load i64, ptr {made.at(row, 8 * axis)}") for axis in axes]
        self._sizes = [made.source.let(f"load i64, ptr {made.at(row, 8 * (len(axes) + axis))}") for axis in axes]
        self.total = self.inner
        for size in self._sizes[:-1]:
            self.total = made.times(self.total, size)
        self.blocks = list(given.bases)
        for index, strides in enumerate(given.strides):
            for start, stride in zip(starts, strides, strict=True):
                self.blocks[index] = made.at(self.blocks[index], made.times(start, stride))

    def as_one(self) -> None:
        """Take the block as one row."""
        self.pointers, self.linear = list(self.blocks), "0"

    def each(self, row: Callable[[], None]) -> None:
        """Do something for each row of the block."""
        self.as_one()
        self._nest(0, row)

    def _nest(self, axis: int, row: Callable[[], None]) -> None:
        made = self._made
        if axis == made.structure.ndim - 1:
            self.linear = made.times(self.linear, self.inner) if axis else "0"
            row()
            return
        pointers, linear = self.pointers, self.linear

        def inside(index: str) -> None:
            self.pointers = [
                made.at(pointer, made.times(index, strides[axis]))
                for pointer, strides in zip(pointers, self._given.strides, strict=True)
            ]
            before = made.times(linear, self._sizes[axis]) if axis else "0"
            self.linear = made.source.let(f"add i64 {before}, {index}")
            self._nest(axis + 1, row)

        self._loop(self._counters[axis], "0", self._sizes[axis], 1, inside)

    def along(self, element: Element, head: str = "0") -> None:
        """Walk along a row, vector by vector, then element by element; the head of the row too, where it has one."""
        made, counter = self._made, self._counters[-1]
        start = "0"
        if made.lanes > 1:
            if head != "0":
                self._loop(counter, "0", head, 1, lambda index: element(made.single, index))
            whole = made.source.let(f"and i64 {made.source.let(f'sub i64 {self.inner}, {head}')}, {-made.lanes}")
            start = made.source.let(f"add i64 {head}, {whole}")
            self._loop(counter, head, start, made.lanes, lambda index: element(made.vector, index))
        self._loop(counter, start, self.inner, 1, lambda index: element(made.single, index))

    def count(self, start: str, stop: str, step: int, body: Callable[[str], None]) -> None:
        """Count from a number to another one."""
        self._loop(self._counters[-1], start, stop, step, body)

    def label(self, *names: str) -> list[str]:
        """Names of places in the function, made unique."""
        self._labels += 1
        return [f"{name}{self._labels}" for name in names]

    def _loop(self, counter: str, start: str, stop: str, step: int, body: Callable[[str], None]) -> None:
        source = self._made.source
        head, inside, after = self.label("head", "inside", "after")
        source.line(f"store i64 {start}, ptr {counter}")
        source.line(f"br label %{head}")
        source.label(head)
        index = source.let(f"load i64, ptr {counter}")
        source.line(f"br i1 {source.let(f'icmp slt i64 {index}, {stop}')}, label %{inside}, label %{after}")
        source.label(inside)
        body(index)
        source.line(f"store i64 {source.let(f'add i64 {index}, {step}')}, ptr {counter}")
        source.line(f"br label %{head}")
        source.label(after)
