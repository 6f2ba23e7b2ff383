"""LLVM IR as text: the instructions of one element, or of one vector of elements, of a compiled walk.

Floating-point arithmetic is written with LLVM's *constrained* intrinsics: each instruction rounds to nearest, raises
its floating-point flags, and is neither folded, nor contracted, nor left out. So the flags after a block are those
that NumPy's loops would have raised on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from struct import pack

import numpy as np

BYTES = 64
"""Bytes of a vector of the widest dtype: one register of AVX-512, two of AVX2, four of NEON."""

FLOATS = {"f2": "half", "f4": "float", "f8": "double"}
"""The floats that are computed with. Those of 16 bits are in registers as integers: they are computed with as NumPy
does it, as wider ones, and each result is rounded."""
CODES = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", *FLOATS})
"""The dtypes that are computed with, as kind and bytes."""
MOVED = "fcmM"
"""The kinds of dtypes that are read, chosen and written as integers of their width, and computed by NumPy's loops."""

HALVES = 8
"""Floats of 16 bits that are converted at once: no vector of another length is certain to have an instruction."""


def code_of(dtype: np.dtype[np.generic]) -> str | None:
    """The kind and bytes of a dtype, and its unit where it has one; None where it is not compiled."""
    code = dtype.str[1:]
    return code if dtype.isnative and (code in CODES or dtype.kind in MOVED) else None


@cache
def bytes_of(code: str) -> int:
    return np.dtype(code).itemsize


def integer_type_of(code: str) -> str:
    """The integer type that has the bits of one element."""
    return f"i{8 * bytes_of(code)}"


def type_of(code: str) -> str:
    """The type that one element has in registers: a bool is one bit there, a float of 16 bits an integer."""
    if code == "b1":
        return "i1"
    return FLOATS[code] if code in ("f4", "f8") else integer_type_of(code)


def stored_type_of(code: str) -> str:
    """The type that one element has in memory."""
    return "i8" if code == "b1" else type_of(code)


class Source:
    """The lines of a function, and what it uses of LLVM."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.declared: dict[str, str] = {}
        self._names = 0

    def name(self, letter: str = "v") -> str:
        self._names += 1
        return f"%{letter}{self._names}"

    def line(self, text: str) -> None:
        self.lines.append(f"  {text}")

    def let(self, text: str) -> str:
        """A new value."""
        name = self.name()
        self.lines.append(f"  {name} = {text}")
        return name

    def label(self, name: str) -> None:
        self.lines.append(f"{name}:")

    def text(self, signature: str) -> str:
        declarations = sorted(self.declared.values())
        return "\n".join([*declarations, f"define {signature} strictfp {{", *self.lines, "}", "!0 = !{i32 1}", ""])


class Lanes:
    """Instructions on so many elements at once; one is the rest of a row."""

    def __init__(self, source: Source, lanes: int, doubt: str, doubt_bits: str) -> None:
        self.source = source
        self.lanes = lanes
        self._doubt = doubt
        """Where it is noted that a lane is not certain to have NumPy's bits."""
        self._doubt_type = self.vector(doubt_bits)

    def vector(self, scalar: str) -> str:
        """The type of a vector of a scalar type."""
        return f"<{self.lanes} x {scalar}>" if self.lanes > 1 else scalar

    def type(self, code: str) -> str:
        return self.vector(type_of(code))

    def of(self, lanes: int) -> Lanes:
        """So many lanes, that have no doubts."""
        return Lanes(self.source, lanes, "null", "i8")

    def constant(self, scalar: str, value: float) -> str:
        """A number in each lane: a whole one, or one that each float can be."""
        if scalar == "half":
            scalar, value = "i16", int.from_bytes(pack(">e", value))
        text = f"{value:d}" if scalar.startswith("i") else "0x" + pack(">d", value).hex()
        return f"<{', '.join([f'{scalar} {text}'] * self.lanes)}>" if self.lanes > 1 else text

    def op(self, text: str) -> str:
        return self.source.let(text)

    # Values of the dtypes

    def binary(self, name: str, scalar: str, left: str, right: str) -> str:
        """An instruction on integers."""
        return self.op(f"{name} {self.vector(scalar)} {left}, {right}")

    def compare(self, predicate: str, scalar: str, left: str, right: str) -> str:
        """A comparison of integers."""
        return self.op(f"icmp {predicate} {self.vector(scalar)} {left}, {right}")

    def negated(self, condition: str) -> str:
        return self.binary("xor", "i1", condition, self.constant("i1", 1))

    def select(self, code: str, condition: str, yes: str, no: str) -> str:
        kind = self.type(code)
        if bytes_of(code) > 8:
            return self._select_words(kind, bytes_of(code) // 8, condition, yes, no)
        return self.op(f"select {self.vector('i1')} {condition}, {kind} {yes}, {kind} {no}")

    def _select_words(self, kind: str, words: int, condition: str, yes: str, no: str) -> str:
        """Choose elements of several words: no register has one of those, but of their words."""
        parts = self.of(words * self.lanes)
        mask, places = parts.vector("i1"), [f"i32 {lane}" for lane in range(self.lanes) for _ in range(words)]
        if self.lanes == 1:
            condition = self.op(f"insertelement <1 x i1> poison, i1 {condition}, i64 0")
        each = f"<{self.lanes} x i1>"
        condition = self.op(
            f"shufflevector {each} {condition}, {each} poison, <{len(places)} x i32> <{', '.join(places)}>"
        )
        first, second = (self.op(f"bitcast {kind} {value} to {parts.vector('i64')}") for value in (yes, no))
        chosen = self.op(f"select {mask} {condition}, {parts.vector('i64')} {first}, {parts.vector('i64')} {second}")
        return self.op(f"bitcast {parts.vector('i64')} {chosen} to {kind}")

    def bits(self, code: str, value: str) -> str:
        """The bits of floats, as integers."""
        if code == "f2":
            return value
        return self.op(f"bitcast {self.type(code)} {value} to {self.vector(integer_type_of(code))}")

    def from_bits(self, code: str, value: str) -> str:
        if code == "f2":
            return value
        return self.op(f"bitcast {self.vector(integer_type_of(code))} {value} to {self.type(code)}")

    def convert(self, name: str, value: str, source: str, target: str) -> str:
        """An instruction that makes a value of one scalar type from another."""
        return self.op(f"{name} {self.vector(source)} {value} to {self.vector(target)}")

    # Floating point, strictly

    def strict(self, name: str, code: str, values: Sequence[str]) -> str:
        """Arithmetic that rounds."""
        if code == "f2":
            return self.resize(self.strict(name, "f4", [self.resize(each, "f2", "f4") for each in values]), "f4", "f2")
        kind, rounded = self.type(code), "" if name in ("floor", "ceil", "trunc") else ", metadata"
        arguments = ", ".join(f"{kind} {value}" for value in values)
        rounding = ', metadata !"round.tonearest"' if rounded else ""
        function = f"@llvm.experimental.constrained.{name}.{self._suffix(code)}"
        parameters = ", ".join([kind] * len(values)) + rounded
        self._declare(function, kind, parameters + ", metadata")
        return self.op(f'call {kind} {function}({arguments}{rounding}, metadata !"fpexcept.strict") strictfp')

    def float_compare(self, predicate: str, code: str, left: str, right: str) -> str:
        """A comparison that raises no flag for a quiet NaN, as NumPy's warns of none."""
        if code == "f2":
            left, right = (self.resize(each, "f2", "f4") for each in (left, right))
            code = "f4"
        kind, result = self.type(code), self.vector("i1")
        function = f"@llvm.experimental.constrained.fcmp.{self._suffix(code)}"
        self._declare(function, result, f"{kind}, {kind}, metadata, metadata")
        return self.op(
            f"call {result} {function}({kind} {left}, {kind} {right}, "
            f'metadata !"{predicate}", metadata !"fpexcept.strict") strictfp'
        )

    def resize(self, value: str, source: str, target: str) -> str:
        """A float of another width: from one of 16 bits, or to one, only by way of one of 32."""
        if "f2" in (source, target):
            return self._resized_half(value, source, target)
        return self._resized(value, source, target)

    def _resized_half(self, value: str, source: str, target: str) -> str:
        """Floats that become wider than 16 bits, or that wide: as many at once as there is an instruction for."""
        before, after = type_of(source), type_of(target)
        if self.lanes == 1:
            return self._resized(value, source, target)
        group, pieces = self.of(HALVES), []
        for first in range(0, self.lanes, HALVES):
            piece = self.op(f"shufflevector {self._pair(before, value)}, {_mask(first, HALVES, self.lanes)}")
            pieces.append(group._resized(piece, source, target))
        lanes, joined = HALVES, pieces
        while len(joined) > 1:
            two = self.of(lanes)
            joined = [
                self.op(f"shufflevector {two.vector(after)} {a}, {two.vector(after)} {b}, {_mask(0, 2 * lanes)}")
                for a, b in zip(joined[::2], joined[1::2], strict=True)
            ]
            lanes *= 2
        if self.lanes < HALVES:
            return self.op(f"shufflevector {group._pair(after, joined[0])}, {_mask(0, self.lanes)}")
        return joined[0]

    def _pair(self, scalar: str, value: str) -> str:
        """A vector and nothing, the operands of a shuffle."""
        return f"{self.vector(scalar)} {value}, {self.vector(scalar)} poison"

    def _resized(self, value: str, source: str, target: str) -> str:
        wider = bytes_of(target) > bytes_of(source)
        name, rounded = ("fpext", "") if wider else ("fptrunc", ", metadata")
        rounding = "" if wider else ', metadata !"round.tonearest"'
        kind, result = self.vector(FLOATS[source]), self.vector(FLOATS[target])
        if source == "f2":
            value = self.convert("bitcast", value, "i16", "half")
        function = f"@llvm.experimental.constrained.{name}.{self._suffix(target)}.{self._suffix(source)}"
        self._declare(function, result, f"{kind}{rounded}, metadata")
        value = self.op(f'call {result} {function}({kind} {value}{rounding}, metadata !"fpexcept.strict") strictfp')
        return self.convert("bitcast", value, "half", "i16") if target == "f2" else value

    def is_nan(self, code: str, value: str) -> str:
        scalar = integer_type_of(code)
        magnitude = self.binary("and", scalar, self.bits(code, value), self.constant(scalar, _magnitude(code)))
        return self.compare("sgt", scalar, magnitude, self.constant(scalar, infinity(code)))

    def unordered(self, code: str, left: str, right: str) -> str:
        """Tell whether one of two floats is a NaN, where no flag matters if one is."""
        if code == "f2":
            return self.binary("or", "i1", self.is_nan(code, left), self.is_nan(code, right))
        return self.plain_compare("uno", code, left, right)

    def plain_compare(self, predicate: str, code: str, left: str, right: str) -> str:
        """A comparison of `f4` or `f8` that may raise a flag for a NaN: LLVM finds better instructions for it."""
        return self.op(f"fcmp {predicate} {self.type(code)} {left}, {right}")

    def _suffix(self, code: str) -> str:
        name = f"f{8 * bytes_of(code)}"
        return f"v{self.lanes}{name}" if self.lanes > 1 else name

    def _declare(self, function: str, result: str, parameters: str) -> None:
        self.source.declared[function] = f"declare {result} {function}({parameters})"

    # What is not certain

    def doubt(self, condition: str) -> None:
        """Note that elements for which a condition holds have to be computed in NumPy's way."""
        kind = self._doubt_type
        mask = self.op(f"sext {self.vector('i1')} {condition} to {kind}")
        before = self.op(f"load {kind}, ptr {self._doubt}")
        after = self.op(f"or {kind} {before}, {mask}")
        self.source.line(f"store {kind} {after}, ptr {self._doubt}")


def _mask(first: int, count: int, of: int = 0) -> str:
    """So many lanes in a row; the last one again and again, where there are fewer."""
    places = (min(first + lane, of - 1) if of else first + lane for lane in range(count))
    return f"<{count} x i32> <{', '.join(f'i32 {lane}' for lane in places)}>"


def _magnitude(code: str) -> int:
    return (1 << (8 * bytes_of(code) - 1)) - 1


def infinity(code: str) -> int:
    """The bits of infinity."""
    return {"f2": 0x1F << 10, "f4": 0xFF << 23, "f8": 0x7FF << 52}[code]


def sign_bit(code: str) -> int:
    """The sign bit, as a signed integer."""
    return -(1 << (8 * bytes_of(code) - 1))


def magnitude_bits(code: str) -> int:
    """All bits but the sign."""
    return _magnitude(code)
