"""The elements of a row: read from arrays and written to them, kept before they are written over, and put back."""

from __future__ import annotations

from collections.abc import Sequence

from engine.fusion.native.arguments import Arguments, as_register
from engine.fusion.native.blueprint import Blueprint
from engine.fusion.native.casts import doubt_signalling
from engine.fusion.native.emit import FLOATS, Lanes, bytes_of, stored_type_of
from engine.fusion.native.rows import Rows
from engine.fusion.native.structure import STREAMED

NARROWEST = 16
"""Bytes of a vector that is written past the caches, at least."""

AHEAD = 2048
"""Bytes that are asked for ahead of what is read, where elements are only reduced: the processor alone asks too late.
Where as much is written, that is what takes the time, and it would not pay."""


class Elements:
    """Writes loads and stores at a position of the row."""

    def __init__(self, made: Blueprint, given: Arguments, rows: Rows, *, minds_nans: bool) -> None:
        self._made, self._given, self._rows = made, given, rows
        self._minds_nans = minds_nans and not made.structure.careful
        """True if a NaN among the operands may meet another one, so that it is not certain which one comes out."""
        structure = made.structure
        self.excludes_nans = self._minds_nans and not structure.has_nan
        """True if no lane without doubts has a NaN: those that come from outside are doubted, and the flags tell of
        those that arise."""
        self._unchecked: tuple[Lanes, str, str] | None = None
        """Floats that are still to be checked, with the next ones of the same kind."""
        self._only_reads = bool(structure.reductions) and all(each.output is None for each in structure.instructions)

    def read(self, lanes: Lanes, index: int, position: str) -> str:
        """Elements of an array, which may be checked."""
        code = self._made.structure.arrays[index].code
        value = self._stored(lanes, index, position)
        if code == "b1":
            lanes.doubt(lanes.compare("ugt", "i8", value, lanes.constant("i8", 1)))
        value = as_register(lanes, code, value)
        if code == "f2":
            doubt_signalling(lanes, code, value)
        self.check(lanes, code, value)
        return value

    def plain(self, lanes: Lanes, index: int, position: str) -> str:
        """Elements of an array that the function itself has written."""
        return as_register(lanes, self._made.structure.arrays[index].code, self._stored(lanes, index, position))

    def _stored(self, lanes: Lanes, index: int, position: str) -> str:
        """Elements of an array as they are in memory."""
        kind = self._made.structure.arrays[index]
        code = kind.code
        if kind.is_contiguous:
            pointer = self._side_by_side(index, position)
            if self._only_reads and lanes.lanes > 1:
                self._ask_for(lanes, pointer)
            return lanes.op(f"load {lanes.vector(stored_type_of(code))}, ptr {pointer}, align 1")
        scalar = stored_type_of(code)
        value = "poison"
        for lane, pointer in enumerate(self._apart(lanes, index, position)):
            element = lanes.op(f"load {scalar}, ptr {pointer}, align 1")
            if lanes.lanes == 1:
                return element
            value = lanes.op(f"insertelement {lanes.vector(scalar)} {value}, {scalar} {element}, i64 {lane}")
        return value

    def _ask_for(self, lanes: Lanes, pointer: str) -> None:
        """Have what comes some vectors later brought into the cache; beyond the end of memory nothing happens."""
        function = "@llvm.prefetch.p0"
        lanes.source.declared[function] = f"declare void {function}(ptr, i32, i32, i32)"
        lanes.source.line(f"call void {function}(ptr {self._made.at(pointer, AHEAD)}, i32 0, i32 3, i32 1)")

    def _side_by_side(self, index: int, position: str) -> str:
        made = self._made
        return made.at(self._rows.pointers[index], made.times(position, bytes_of(made.structure.arrays[index].code)))

    def _apart(self, lanes: Lanes, index: int, position: str) -> list[str]:
        """The addresses of elements that do not lie side by side."""
        made, given = self._made, self._given
        first = made.at(self._rows.pointers[index], made.times(position, given.strides[index][-1]))
        return [first, *(made.at(first, step) for step in given.lane_steps[index][1 : lanes.lanes])]

    def check(self, lanes: Lanes, code: str, value: str) -> None:
        """Doubt NaNs that come from outside of a pass, where they may meet others."""
        if not self._minds_nans or code not in FLOATS:
            return
        if self._unchecked is not None and self._unchecked[:2] == (lanes, code):
            lanes.doubt(lanes.unordered(code, self._unchecked[2], value))
            self._unchecked = None
            return
        self.check_all()
        self._unchecked = lanes, code, value

    def check_all(self) -> None:
        """Check what is left, before the values are out of reach."""
        if self._unchecked is not None:
            lanes, code, value = self._unchecked
            lanes.doubt(lanes.unordered(code, value, value))
            self._unchecked = None

    def write(self, lanes: Lanes, index: int, position: str, value: str, *, streamed: bool = False) -> None:
        """Elements into an array, in the form that they have in memory; past the caches, where vectors are aligned."""
        kind = self._made.structure.arrays[index]
        scalar = stored_type_of(kind.code)
        stored = lanes.vector(scalar)
        if kind.is_contiguous:
            past = streamed and lanes.lanes > 1
            how = f"align {lanes.lanes * bytes_of(kind.code)}, !nontemporal !0" if past else "align 1"
            lanes.source.line(f"store {stored} {value}, ptr {self._side_by_side(index, position)}, {how}")
            return
        for lane, pointer in enumerate(self._apart(lanes, index, position)):
            element = value if lanes.lanes == 1 else lanes.op(f"extractelement {stored} {value}, i64 {lane}")
            lanes.source.line(f"store {scalar} {element}, ptr {pointer}, align 1")

    def streams(self, index: int) -> bool:
        """Tell whether vectors may be written to an array past the caches; narrow ones would be written one by one."""
        code, inner = self._made.structure.arrays[index]
        return inner == STREAMED and self._made.lanes * bytes_of(code) >= NARROWEST

    def aligned(self, indices: Sequence[int]) -> str:
        """The elements of the row before its vectors are aligned in all of these arrays; all, where they never are."""
        made, single, inner = self._made, self._made.single, self._rows.inner
        head = ""
        for index in indices:
            size = bytes_of(made.structure.arrays[index].code)
            mask = made.lanes * size - 1
            place = made.source.let(f"ptrtoint ptr {self._rows.pointers[index]} to i64")
            if not head:
                beside = single.binary("and", "i64", single.binary("sub", "i64", "0", place), str(mask))
                head = single.binary("lshr", "i64", beside, str(size.bit_length() - 1))
            beside = single.binary("and", "i64", single.binary("add", "i64", place, made.times(head, size)), str(mask))
            head = single.select("i8", single.compare("eq", "i64", beside, "0"), head, inner)
        return single.select("i8", single.compare("ult", "i64", head, inner), head, inner)

    def in_slot(self, slot: int, code: str, position: str) -> str:
        """The address of an element in scratch memory, where the rows of the block lie one after the other."""
        made = self._made
        place = made.source.let(f"add i64 {self._rows.linear}, {position}")
        return made.at(self._given.slots[slot], made.times(place, bytes_of(code)))

    def keep_old(self, lanes: Lanes, index: int, position: str) -> None:
        """Keep what an array has before it is written over."""
        code = self._made.structure.arrays[index].code
        old = self._stored(lanes, index, position)
        target = self.in_slot(self._made.stages.backups[index], code, position)
        lanes.source.line(f"store {lanes.vector(stored_type_of(code))} {old}, ptr {target}, align 1")

    def restore(self, lanes: Lanes, position: str) -> None:
        """Put back what was written over."""
        for index, slot in self._made.stages.backups.items():
            code = self._made.structure.arrays[index].code
            pointer = self.in_slot(slot, code, position)
            old = lanes.op(f"load {lanes.vector(stored_type_of(code))}, ptr {pointer}, align 1")
            self.write(lanes, index, position, old)
