"""Calls of NumPy's own inner loops: of a ufunc on the rows of a block, and of a reduction on the block."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.fusion.native.arguments import Arguments
from engine.fusion.native.blueprint import Blueprint
from engine.fusion.native.elements import Elements
from engine.fusion.native.emit import FLOATS, bytes_of, integer_type_of, sign_bit, stored_type_of
from engine.fusion.native.flagging import Flagging
from engine.fusion.native.primitives import truth
from engine.fusion.native.rows import Rows
from engine.fusion.native.structure import Home, Instruction, Reduction, Ref


class LoopCalls:
    """Writes calls, each with the number that its loop has in the frame: in the order in which they are written."""

    def __init__(self, made: Blueprint, given: Arguments, rows: Rows, elements: Elements, flags: Flagging) -> None:
        self._made, self._given, self._rows, self._elements, self._flags = made, given, rows, elements, flags
        self._written = 0

    def call(self, instruction: Instruction, index: int) -> None:
        """A ufunc on the block: row by row where an operand is an array, whose rows lie apart; else at once."""
        made, rows, elements, output = self._made, self._rows, self._elements, instruction.output
        number = self._next()
        if instruction.over and output is not None:
            rows.each(lambda: rows.along(lambda lanes, position: elements.keep_old(lanes, output, position)))
        homes = [made.home(ref) for ref in (*instruction.refs, Ref("step", index))]
        operands = list(zip(homes, instruction.loop, strict=True))
        self._flags.note()
        self._flags.clear()
        if made.structure.ndim > 1 and any(home.kind == "array" for home in homes):
            rows.each(lambda: self._on_row(operands, number, rows.inner))
        else:
            rows.as_one()
            self._on_row(operands, number, rows.total)
        if made.silent[number]:
            self._flags.clear()

    def _next(self) -> int:
        self._written += 1
        return self._written - 1

    def _on_row(self, operands: Sequence[tuple[Home, str]], number: int, length: str) -> None:
        made = self._made
        pointers, strides = [], []
        for home, code in operands:
            if home.kind == "scalar":
                pointers.append(made.at("%frame", 8 * made.frame.scalar(home.number)))
                strides.append("0")
            elif home.kind == "slot":
                pointers.append(self._elements.in_slot(home.number, code, "0"))
                strides.append(str(bytes_of(code)))
            else:
                pointers.append(self._rows.pointers[home.number])
                strides.append(self._given.strides[home.number][-1])
        self._invoke(pointers, strides, number, length)

    def _invoke(self, pointers: Sequence[str], strides: Sequence[str], number: int, length: str) -> None:
        made, source = self._made, self._made.source
        for place, (pointer, stride) in enumerate(zip(pointers, strides, strict=True)):
            source.line(f"store ptr {pointer}, ptr {made.at('%data', 8 * place)}")
            source.line(f"store i64 {stride}, ptr {made.at('%steps', 8 * place)}")
        source.line(f"store i64 {length}, ptr %length")
        loop, context, data = (self._given.load("ptr", made.frame.loop(number) + part) for part in range(3))
        status = source.let(f"call i32 {loop}(ptr {context}, ptr %data, ptr %length, ptr %steps, ptr {data})")
        made.single.doubt(source.let(f"icmp ne i32 {status}, 0"))

    def reduce(self, reduction: Reduction, which: int, block: str) -> None:
        """The result of the block, from NumPy's loop: called as NumPy calls it, with the result as first operand."""
        made, source, code, number = self._made, self._made.source, reduction.code, self._next()
        size, kind = bytes_of(code), stored_type_of(code)
        home = made.home(reduction.ref)
        values = self._given.slots[home.number] if home.kind == "slot" else self._rows.blocks[home.number]
        result = made.at(self._given.results[which], made.times(block, 8))
        length = self._rows.total
        is_extreme = reduction.ufunc in (np.maximum, np.minimum)
        if is_extreme:
            first = source.let(f"load {kind}, ptr {values}, align 1")
            rest, fewer = made.at(values, size), source.let(f"sub i64 {length}, 1")
        else:
            first, rest, fewer = self._given.load(kind, made.frame.initial(which)), values, length
        source.line(f"store {kind} {first}, ptr {result}")
        self._flags.note()
        self._flags.clear()
        self._invoke([result, rest, result], ["0", str(size), "0"], number, fewer)
        if made.silent[number]:
            self._flags.clear()
        if is_extreme and code in FLOATS:
            self._doubt_zeros(code, source.let(f"load {kind}, ptr {result}"), values, length)

    def _doubt_zeros(self, code: str, extreme: str, values: str, length: str) -> None:
        """Where zeros of both signs are the extreme, the order of instructions decides which one it is."""
        made, source, single, bits = self._made, self._made.source, self._made.single, integer_type_of(code)
        scan, scanned = self._rows.label("scan", "scanned")
        zero = single.negated(truth(single, code, extreme))
        source.line(f"br i1 {zero}, label %{scan}, label %{scanned}")
        source.label(scan)
        other = single.binary("xor", bits, single.bits(code, extreme), str(sign_bit(code)))

        def compare(index: str) -> None:
            value = source.let(f"load {bits}, ptr {made.at(values, made.times(index, bytes_of(code)))}, align 1")
            single.doubt(single.compare("eq", bits, value, other))

        self._rows.count("0", length, 1, compare)
        source.line(f"br label %{scanned}")
        source.label(scanned)
