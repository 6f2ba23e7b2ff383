"""NumPy's pairwise summation of a row, as code: down to leaves of at most 128 elements, and up again.

A stack has, for each half that is being summed, how long the other one is: nought once that is being summed as well.
"""

from __future__ import annotations

from collections.abc import Callable

from engine.fusion.native.blueprint import Blueprint
from engine.fusion.pairwise import SERIAL

DEEPEST = 64
"""Halvings of a row, at most: each at least halves its length, rounded to eight elements."""


class Leaves:
    """Writes the walk from leaf to leaf."""

    def __init__(self, made: Blueprint) -> None:
        self._made = made
        let = made.source.let
        self._depth, self._start, self._length = (let("alloca i64") for _ in range(3))
        self._others = let(f"alloca [{DEEPEST} x i64]")

    def walk(
        self,
        length: str,
        labels: Callable[..., list[str]],
        leaf: Callable[[str, str], None],
        left: Callable[[str], None],
        both: Callable[[str], None],
    ) -> None:
        """Write `leaf` for the elements from a position to another; `left` keeps a sum that the other half is still to
        be added to, at a depth, and `both` adds that one to it."""
        source, single = self._made.source, self._made.single
        down, split, at_leaf, up, above, turn, join, done = labels(
            "down", "split", "leaf", "up", "above", "turn", "join", "done"
        )
        for place, value in ((self._depth, "0"), (self._start, "0"), (self._length, length)):
            source.line(f"store i64 {value}, ptr {place}")
        source.line(f"br label %{down}")

        source.label(down)
        count = source.let(f"load i64, ptr {self._length}")
        self._branch(single.compare("sgt", "i64", count, str(SERIAL)), split, at_leaf)
        source.label(split)
        half = single.binary("and", "i64", single.binary("lshr", "i64", count, "1"), "-8")
        depth = source.let(f"load i64, ptr {self._depth}")
        source.line(f"store i64 {single.binary('sub', 'i64', count, half)}, ptr {self._other(depth)}")
        source.line(f"store i64 {single.binary('add', 'i64', depth, '1')}, ptr {self._depth}")
        source.line(f"store i64 {half}, ptr {self._length}")
        source.line(f"br label %{down}")

        source.label(at_leaf)
        start = source.let(f"load i64, ptr {self._start}")
        stop = single.binary("add", "i64", start, count)
        leaf(start, stop)
        source.line(f"store i64 {stop}, ptr {self._start}")
        source.line(f"br label %{up}")

        source.label(up)
        depth = source.let(f"load i64, ptr {self._depth}")
        self._branch(single.compare("sgt", "i64", depth, "0"), above, done)
        source.label(above)
        upper = single.binary("sub", "i64", depth, "1")
        other = source.let(f"load i64, ptr {self._other(upper)}")
        self._branch(single.compare("ne", "i64", other, "0"), turn, join)
        source.label(turn)
        left(upper)
        source.line(f"store i64 0, ptr {self._other(upper)}")
        source.line(f"store i64 {other}, ptr {self._length}")
        source.line(f"br label %{down}")
        source.label(join)
        both(upper)
        source.line(f"store i64 {upper}, ptr {self._depth}")
        source.line(f"br label %{up}")
        source.label(done)

    def _other(self, depth: str) -> str:
        return self._made.at(self._others, self._made.times(depth, 8))

    def _branch(self, condition: str, yes: str, no: str) -> None:
        self._made.source.line(f"br i1 {condition}, label %{yes}, label %{no}")
