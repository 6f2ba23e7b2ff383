"""NumPy's pairwise summation of a row, as code: down to leaves of at most 128 elements, and up again.

A stack has, for each half that is being summed, how long the other one is: nought once that is being summed as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from engine.fusion.native.blueprint import Blueprint
from engine.fusion.native.rows import Rows
from engine.fusion.pairwise import SERIAL

DEEPEST = 64
"""Halvings of a row, at most: each at least halves its length, rounded to eight elements."""


class Steps(NamedTuple):
    """The text that is written at each turn of the walk."""

    leaf: Callable[[str, str], None]
    """Sums the elements from a position to another one."""
    left: Callable[[str], None]
    """Keeps that sum, at a depth, as that of the left half."""
    both: Callable[[str], None]
    """Adds that sum, of the right half, to the one that was kept at a depth."""


class Leaves:
    """Writes the walk from leaf to leaf."""

    def __init__(self, made: Blueprint) -> None:
        self._made = made
        let = made.source.let
        self._depth, self._start, self._length = (let("alloca i64") for _ in range(3))
        self._others = let(f"alloca [{DEEPEST} x i64]")

    def walk(self, rows: Rows, steps: Steps) -> None:
        """Write the walk over a row."""
        source = self._made.source
        down, up, done = rows.label("down", "up", "done")
        for place, value in ((self._depth, "0"), (self._start, "0"), (self._length, rows.inner)):
            source.line(f"store i64 {value}, ptr {place}")
        source.line(f"br label %{down}")
        self._go_down(rows, steps, down, up)
        self._go_up(rows, steps, down, up, done)
        source.label(done)

    def _go_down(self, rows: Rows, steps: Steps, down: str, up: str) -> None:
        """Split what is too long, and put the other half on the stack; sum what is not."""
        source, single = self._made.source, self._made.single
        split, leaf = rows.label("split", "leaf")
        source.label(down)
        count = source.let(f"load i64, ptr {self._length}")
        self._branch(single.compare("sgt", "i64", count, str(SERIAL)), split, leaf)
        source.label(split)
        half = single.binary("and", "i64", single.binary("lshr", "i64", count, "1"), "-8")
        depth = source.let(f"load i64, ptr {self._depth}")
        source.line(f"store i64 {single.binary('sub', 'i64', count, half)}, ptr {self._other(depth)}")
        source.line(f"store i64 {single.binary('add', 'i64', depth, '1')}, ptr {self._depth}")
        source.line(f"store i64 {half}, ptr {self._length}")
        source.line(f"br label %{down}")
        source.label(leaf)
        start = source.let(f"load i64, ptr {self._start}")
        stop = single.binary("add", "i64", start, count)
        steps.leaf(start, stop)
        source.line(f"store i64 {stop}, ptr {self._start}")
        source.line(f"br label %{up}")

    def _go_up(self, rows: Rows, steps: Steps, down: str, up: str, done: str) -> None:
        """Turn to the other half where it is still to be summed; else the sums of both are added up."""
        source, single = self._made.source, self._made.single
        above, turn, join = rows.label("above", "turn", "join")
        source.label(up)
        depth = source.let(f"load i64, ptr {self._depth}")
        self._branch(single.compare("sgt", "i64", depth, "0"), above, done)
        source.label(above)
        upper = single.binary("sub", "i64", depth, "1")
        other = source.let(f"load i64, ptr {self._other(upper)}")
        self._branch(single.compare("ne", "i64", other, "0"), turn, join)
        source.label(turn)
        steps.left(upper)
        source.line(f"store i64 0, ptr {self._other(upper)}")
        source.line(f"store i64 {other}, ptr {self._length}")
        source.line(f"br label %{down}")
        source.label(join)
        steps.both(upper)
        source.line(f"store i64 {upper}, ptr {self._depth}")
        source.line(f"br label %{up}")

    def _other(self, depth: str) -> str:
        return self._made.at(self._others, self._made.times(depth, 8))

    def _branch(self, condition: str, yes: str, no: str) -> None:
        self._made.source.line(f"br i1 {condition}, label %{yes}, label %{no}")
