"""Accumulators: one reduction while a pass goes over a block, in registers: in a vector, and of single elements.

A sum of floats is begun anew for each leaf of NumPy's pairwise summation. What else is reduced gives the same bits in
any order, but for NaNs and for zeros of both signs in an extreme: those are in doubt.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engine.fusion.native.blueprint import Blueprint
from engine.fusion.native.emit import FLOATS, Lanes, integer_type_of, sign_bit, stored_type_of
from engine.fusion.native.primitives import of_numbers, primitive, truth
from engine.fusion.native.structure import Reduction

Meet = Callable[[Lanes, str, str], str]
"""Writes what becomes of two values."""


class Accumulator:
    """Writes one reduction."""

    def __init__(self, made: Blueprint, reduction: Reduction, *, numbers: bool) -> None:
        """With `numbers`, no element is a NaN."""
        self._made, self.reduction, self.code, self._numbers = made, reduction, reduction.code, numbers
        self._kind = stored_type_of(reduction.code)
        self._places = reserved(made, self._kind)
        self._zeros: Zeros | None = None
        if reduction.ufunc is not np.add and self.code in FLOATS:
            self._zeros = Zeros(made, self.code, largest=reduction.ufunc is np.maximum)

    def begin(self) -> None:
        """Forget what was reduced before."""
        first = -0.0 if self.reduction.is_pairwise else self.reduction.first
        for lanes in self._made.both:
            self._store(lanes, self._constant(lanes, first))
        if self._zeros is not None:
            self._zeros.begin()

    def _constant(self, lanes: Lanes, value: float) -> str:
        return lanes.constant(FLOATS.get(self.code, self._kind), value)

    def add(self, lanes: Lanes, value: str) -> None:
        """Take elements along."""
        if self._zeros is not None:
            if not self._numbers:
                lanes.doubt(lanes.unordered(self.code, value, value))
            self._zeros.note(lanes, value)
        if self.code == "b1":
            value = lanes.convert("zext", value, "i1", "i8")
        self.meet(lanes, self.load(lanes), value)

    def meet(self, lanes: Lanes, left: str, right: str) -> None:
        """Go on with what becomes of two values."""
        self._store(lanes, self._met(lanes, left, right))

    def load(self, lanes: Lanes) -> str:
        return lanes.op(f"load {lanes.vector(self._kind)}, ptr {self._places[lanes.lanes]}")

    def _store(self, lanes: Lanes, value: str) -> None:
        lanes.source.line(f"store {lanes.vector(self._kind)} {value}, ptr {self._places[lanes.lanes]}")

    def _met(self, lanes: Lanes, left: str, right: str) -> str:
        ufunc, code = self.reduction.ufunc, self.code
        if code == "b1":
            return lanes.binary("or" if ufunc in (np.logical_or, np.maximum) else "and", "i8", left, right)
        if ufunc is not np.add and code in FLOATS:  # neither is a NaN, or it is in doubt
            emit = of_numbers(ufunc, (code,) * 3) or primitive(ufunc, (code,) * 3)
            assert emit is not None
            return emit(lanes, code, [right, left])
        emit = primitive(ufunc, (code,) * 3)
        assert emit is not None
        return emit(lanes, code, [left, right])

    def fold(self) -> None:
        """Take what the lanes have come to along with single elements: first of all, where the order matters."""
        single, vector = self._made.single, self._made.vector
        if vector.lanes > 1:
            value = folded(vector, self._kind, self.load(vector), self._met)
            self.meet(single, value, self.load(single))

    def end(self) -> str:
        """The result, as it is in memory; in doubt where it is zero and there were zeros of both signs."""
        single = self._made.single
        if self.reduction.is_pairwise:  # what NumPy adds the sum to
            self.meet(single, self._constant(single, self.reduction.first), self.load(single))
        result = self.load(single)
        if self._zeros is not None:
            zero = single.negated(truth(single, self.code, result))
            single.doubt(single.binary("and", "i1", zero, self._zeros.were_both()))
        return result


class Zeros:
    """Writes whether there were zeros of both signs, where an extreme turns out to be zero.

    A zero is the largest element of those that are all below or equal to it. So one with the sign bit clear was a zero,
    and all that is left to look for is a zero with it set. For the smallest, it is the other way round.
    """

    def __init__(self, made: Blueprint, code: str, *, largest: bool) -> None:
        self._made, self._code, self._bits = made, code, integer_type_of(code)
        self._rarer = sign_bit(code) if largest else 0
        """The bits of the zero that is looked for."""
        self._unit, self._meet = (-1, "and") if largest else (0, "or")
        """How sign bits are put together, so that the result has another one where any element has."""
        self._found, self._signs = reserved(made, self._bits), reserved(made, self._bits)

    def begin(self) -> None:
        """Forget what was noted before."""
        for lanes in self._made.both:
            kind = lanes.vector(self._bits)
            lanes.source.line(f"store {kind} zeroinitializer, ptr {self._found[lanes.lanes]}")
            unit = lanes.constant(self._bits, self._unit)
            lanes.source.line(f"store {kind} {unit}, ptr {self._signs[lanes.lanes]}")

    def note(self, lanes: Lanes, value: str) -> None:
        """Take elements along."""
        own = lanes.bits(self._code, value)
        is_rarer = lanes.compare("eq", self._bits, own, lanes.constant(self._bits, self._rarer))
        found = lanes.convert("sext", is_rarer, "i1", self._bits)
        for name, places, each in (("or", self._found, found), (self._meet, self._signs, own)):
            kind, place = lanes.vector(self._bits), places[lanes.lanes]
            met = lanes.binary(name, self._bits, lanes.op(f"load {kind}, ptr {place}"), each)
            lanes.source.line(f"store {kind} {met}, ptr {place}")

    def were_both(self) -> str:
        """Tell whether there were both, if the extreme is zero."""
        single = self._made.single
        found = single.compare("ne", self._bits, self._total("or", self._found), "0")
        other = "sge" if self._unit else "slt"
        return single.binary(
            "and", "i1", found, single.compare(other, self._bits, self._total(self._meet, self._signs), "0")
        )

    def _total(self, name: str, places: dict[int, str]) -> str:
        """What single elements and all lanes have come to."""
        single, vector, bits = self._made.single, self._made.vector, self._bits
        value = single.op(f"load {bits}, ptr {places[1]}")
        if vector.lanes == 1:
            return value
        every = vector.op(f"load {vector.vector(bits)}, ptr {places[vector.lanes]}")
        return single.binary(
            name, bits, value, folded(vector, bits, every, lambda lanes, *two: lanes.binary(name, bits, *two))
        )


def reserved(made: Blueprint, scalar: str) -> dict[int, str]:
    """A place for each number of lanes."""
    return {each.lanes: made.source.let(f"alloca {each.vector(scalar)}") for each in made.both}


def folded(lanes: Lanes, scalar: str, value: str, meet: Meet) -> str:
    """Combine the lanes of a vector: each with its neighbour, until one is left."""
    while lanes.lanes > 1:
        kind, count = lanes.vector(scalar), lanes.lanes // 2
        halves = []
        for first in range(2):
            mask = ", ".join(f"i32 {2 * lane + first}" for lane in range(count))
            half = lanes.op(f"shufflevector {kind} {value}, {kind} poison, <{count} x i32> <{mask}>")
            halves.append(half if count > 1 else lanes.op(f"extractelement <1 x {scalar}> {half}, i64 0"))
        lanes = lanes.of(count)
        value = meet(lanes, *halves)
    return value
