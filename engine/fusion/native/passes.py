"""One pass over a row: loads what its instructions need, computes, and stores what outlives them."""

from __future__ import annotations

from engine.fusion.native.arguments import Arguments, loaded, spread
from engine.fusion.native.blueprint import Blueprint
from engine.fusion.native.casts import cast
from engine.fusion.native.elements import Elements
from engine.fusion.native.emit import Lanes, integer_type_of, stored_type_of
from engine.fusion.native.llvm import breathe
from engine.fusion.native.primitives import of_numbers, primitive
from engine.fusion.native.reducing import Reducing
from engine.fusion.native.rows import Rows
from engine.fusion.native.structure import CAST, REPEATED, WHERE, Instruction, Ref, Stage


class Pass:
    """Writes one pass."""

    def __init__(
        self, made: Blueprint, given: Arguments, rows: Rows, elements: Elements, reducing: Reducing, stage: Stage
    ) -> None:
        self._made, self._given, self._rows, self._elements, self._stage = made, given, rows, elements, stage
        self._reducing = reducing
        self._called = {index for each in made.stages.stages if each.called for index in each.instructions}
        self._once: dict[int, dict[int, str]] = {}
        """Elements that are repeated along the row."""
        self._values: dict[Ref, str] = {}
        self._streamed = self._written_past_the_caches()

    def write(self) -> None:
        """Write it for the row that the loops have come to."""
        structure = self._made.structure
        for index in self._stage.instructions:
            for kind, place in structure.instructions[index].refs:
                if kind == "array" and structure.arrays[place].inner == REPEATED and place not in self._once:
                    value = self._elements.read(self._made.single, place, "0")
                    self._once[place] = spread(self._made, structure.arrays[place].code, value)
        self._elements.check_all()
        if self._stage.reductions:
            self._reducing.row(self._compute)
            return
        streamed = sorted(self._streamed)
        self._rows.along(self._compute, self._elements.aligned(streamed) if streamed else "0")

    def _written_past_the_caches(self) -> set[int]:
        """The arrays that this pass streams."""
        stages = self._made.stages
        if self._stage.reductions:
            return set()  # where vectors begin, is decided by what they are added up with
        passing = stages.passing.intersection(stages.homes, self._stage.instructions)
        homes = [stages.homes[index] for index in passing]
        return {home.number for home in homes if home.kind == "array" and self._elements.streams(home.number)}

    def _compute(self, lanes: Lanes, position: str) -> None:
        self._values = {}
        structure = self._made.structure
        for index in self._stage.instructions:
            breathe()
            instruction = structure.instructions[index]
            operands = [self._value(lanes, ref, position) for ref in instruction.refs]
            if structure.careful and structure.meets(instruction):
                doubt_nans(lanes, instruction.code, *operands)
            result = compute(lanes, instruction, operands, numbers=self._elements.excludes_nans)
            self._values[Ref("step", index)] = result
            self._keep(lanes, index, instruction, position, result)
        for number in self._stage.reductions:
            value = self._value(lanes, structure.reductions[number].ref, position)
            self._reducing.add(lanes, number, value, position)
        self._elements.check_all()

    def _keep(self, lanes: Lanes, index: int, instruction: Instruction, position: str, result: str) -> None:
        home = self._made.stages.homes.get(index)
        if home is None:
            return
        stored = lanes.convert("zext", result, "i1", "i8") if instruction.code == "b1" else result
        if home.kind == "slot":
            target = self._elements.in_slot(home.number, instruction.code, position)
            lanes.source.line(f"store {lanes.vector(stored_type_of(instruction.code))} {stored}, ptr {target}, align 1")
            return
        if instruction.over:
            self._elements.keep_old(lanes, home.number, position)
        self._elements.write(lanes, home.number, position, stored, streamed=home.number in self._streamed)

    def _value(self, lanes: Lanes, ref: Ref, position: str) -> str:
        if ref not in self._values:
            self._values[ref] = self._fetched(lanes, ref, position)
        return self._values[ref]

    def _fetched(self, lanes: Lanes, ref: Ref, position: str) -> str:
        if ref.kind == "scalar":
            return self._given.scalars[ref.number][lanes.lanes]
        if ref.kind == "array" and ref.number in self._once:
            return self._once[ref.number][lanes.lanes]
        home = self._made.home(ref)
        if home.kind == "array":
            return self._elements.read(lanes, home.number, position)
        code = self._made.structure.instructions[ref.number].code
        value = loaded(lanes, code, self._elements.in_slot(home.number, code, position))
        if ref.number in self._called:
            self._elements.check(lanes, code, value)
        return value


def doubt_nans(lanes: Lanes, code: str, left: str, right: str) -> None:
    """Which of two NaNs is the result, NumPy's instructions decide."""
    both = lanes.binary("and", "i1", lanes.is_nan(code, left), lanes.is_nan(code, right))
    differ = lanes.compare("ne", integer_type_of(code), lanes.bits(code, left), lanes.bits(code, right))
    lanes.doubt(lanes.binary("and", "i1", both, differ))


def compute(lanes: Lanes, instruction: Instruction, operands: list[str], *, numbers: bool) -> str:
    """Write one instruction; with `numbers`, no operand is a NaN."""
    op, loop = instruction.op, instruction.loop
    if op == CAST:
        return cast(lanes, loop[0], loop[1], operands[0])
    if op == WHERE:
        return lanes.select(loop[-1], *operands)
    emit = (of_numbers(op, loop) if numbers else None) or primitive(op, loop)
    assert emit is not None
    return emit(lanes, loop[0], operands)
