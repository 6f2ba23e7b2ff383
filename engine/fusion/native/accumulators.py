"""Accumulators: one reduction while a pass goes over a block, in registers: in a vector, and of single elements.

A sum of floats is begun anew for each leaf of NumPy's pairwise summation. What else is reduced gives the same bits in
any order, but for NaNs and for zeros of both signs in an extreme: those are in doubt.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engine.fusion.native.blueprint import Blueprint
from engine.fusion.native.emit import FLOATS, Lanes, bits_of, stored_type_of
from engine.fusion.native.primitives import primitive
from engine.fusion.native.structure import Reduction

Meet = Callable[[Lanes, str, str], str]
"""Writes what becomes of two values."""


class Accumulator:
    """Writes one reduction."""

    def __init__(self, made: Blueprint, reduction: Reduction) -> None:
        self._made, self.reduction, self.code = made, reduction, reduction.code
        self._kind = stored_type_of(reduction.code)
        self._places = self._reserved(self._kind)
        self._zeros: list[dict[int, str]] = []
        """The sign bits of the zeros that were there: set for negative ones, then set for positive ones."""
        if reduction.ufunc is not np.add and self.code in FLOATS:
            self._zeros = [self._reserved(bits_of(self.code)) for _ in range(2)]

    def _reserved(self, scalar: str) -> dict[int, str]:
        """A place for each number of lanes."""
        made = self._made
        return {each.lanes: made.source.let(f"alloca {each.vector(scalar)}") for each in made.both}

    def begin(self) -> None:
        """Forget what was reduced before."""
        first = -0.0 if self.reduction.is_pairwise else self.reduction.first
        bits = bits_of(self.code)
        for lanes in self._made.both:
            self._store(lanes, self._constant(lanes, first))
            for places in self._zeros:
                lanes.source.line(f"store {lanes.vector(bits)} zeroinitializer, ptr {places[lanes.lanes]}")

    def _constant(self, lanes: Lanes, value: float) -> str:
        return lanes.constant(FLOATS.get(self.code, self._kind), value)

    def add(self, lanes: Lanes, value: str) -> None:
        """Take elements along."""
        if self._zeros:
            lanes.doubt(lanes.is_nan(self.code, value))
            self._note_zeros(lanes, value)
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
            beyond = lanes.float_compare("ogt" if ufunc is np.maximum else "olt", code, right, left)
            return lanes.select(code, beyond, right, left)
        emit = primitive(ufunc, (code,) * 3)
        assert emit is not None
        return emit(lanes, code, [left, right])

    def _note_zeros(self, lanes: Lanes, value: str) -> None:
        bits = bits_of(self.code)
        kind, own = lanes.vector(bits), lanes.bits(self.code, value)
        zero = lanes.float_compare("oeq", self.code, value, lanes.constant(FLOATS[self.code], 0))
        mask = lanes.convert("sext", zero, "i1", bits)
        other = lanes.binary("xor", bits, own, lanes.constant(bits, -1))
        for places, sign in zip(self._zeros, (own, other), strict=True):
            before = lanes.op(f"load {kind}, ptr {places[lanes.lanes]}")
            after = lanes.binary("or", bits, before, lanes.binary("and", bits, mask, sign))
            lanes.source.line(f"store {kind} {after}, ptr {places[lanes.lanes]}")

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
        if self._zeros:
            bits = bits_of(self.code)
            both = single.binary("and", bits, *(self._sign(places, bits) for places in self._zeros))
            zero = single.float_compare("oeq", self.code, result, single.constant(FLOATS[self.code], 0))
            negative = single.compare("slt", bits, both, single.constant(bits, 0))
            single.doubt(single.binary("and", "i1", zero, negative))
        return result

    def _sign(self, places: dict[int, str], bits: str) -> str:
        single, vector = self._made.single, self._made.vector
        value = single.op(f"load {bits}, ptr {places[1]}")
        if vector.lanes == 1:
            return value
        every = vector.op(f"load {vector.vector(bits)}, ptr {places[vector.lanes]}")
        return single.binary(
            "or", bits, value, folded(vector, bits, every, lambda lanes, *two: lanes.binary("or", bits, *two))
        )


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
