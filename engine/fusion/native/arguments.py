"""The arguments of a function: numbers, addresses and scalars of its frame, loaded once at its beginning."""

from __future__ import annotations

from engine.fusion.native.blueprint import Blueprint
from engine.fusion.native.emit import Lanes, stored_type_of


class Arguments:
    """The names of the values that the function finds in its frame."""

    def __init__(self, made: Blueprint) -> None:
        self._made = made
        structure, frame = made.structure, made.frame
        count, axes = len(structure.arrays), range(structure.ndim)
        self.stop = self._header("i64", frame.STOP)
        self.redo = self._header("ptr", frame.REDO)
        self.mask = self._header("i32", frame.MASK)
        self.table = self._header("ptr", frame.TABLE)
        self.give_way = self._header("ptr", frame.YIELD)
        objects = self._header("i64", frame.OBJECTS)
        self.bases = [self._address(frame.array(index), objects) for index in range(count)]
        self.results = [self._address(frame.reduction(index), objects) for index in range(len(structure.reductions))]
        """Where the results of reductions go, for each block."""
        self.strides = [[self.load("i64", frame.strides(index) + axis) for axis in axes] for index in range(count)]
        self.lane_steps = [self._steps_of(index) for index in range(count)]
        """How far each lane of a vector is from the first, in bytes, in an array whose neighbours lie apart."""
        slot_bytes = self._header("i64", frame.SLOT_BYTES)
        self.slots = [made.at("%scratch", made.times(slot_bytes, number)) for number in range(made.stages.slots)]
        self.scalars = [self._scalar(index, code) for index, code in enumerate(structure.scalars)]
        """Each scalar, by the number of lanes."""

    def load(self, kind: str, slot: int) -> str:
        """One of the numbers of the frame."""
        return self._made.source.let(f"load {kind}, ptr {self._made.at('%frame', 8 * slot)}")

    def _header(self, kind: str, number: int) -> str:
        return self.load(kind, self._made.frame.header(number))

    def _address(self, slot: int, objects: str) -> str:
        """The address of elements: in the frame itself, or in the object whose address is there."""
        let, place = self._made.source.let, self._made.at("%frame", 8 * slot)
        within = self._made.at(let(f"load ptr, ptr {place}"), objects)
        is_object = let(f"icmp ne i64 {objects}, 0")
        holder = let(f"select i1 {is_object}, ptr {within}, ptr {place}")
        return let(f"load ptr, ptr {holder}")

    def _steps_of(self, index: int) -> list[str]:
        if self._made.structure.arrays[index].is_contiguous:
            return []
        return [self._made.times(self.strides[index][-1], lane) for lane in range(self._made.lanes)]

    def _scalar(self, index: int, code: str) -> dict[int, str]:
        made = self._made
        return spread(made, code, loaded(made.single, code, made.at("%frame", 8 * made.frame.scalar(index))))


def spread(made: Blueprint, code: str, value: str) -> dict[int, str]:
    """One element for single lanes and for vectors."""
    if made.lanes == 1:
        return {1: value}
    kind = made.vector.type(code)
    first = made.source.let(f"insertelement {kind} poison, {made.single.type(code)} {value}, i64 0")
    every = f"shufflevector {kind} {first}, {kind} poison, <{made.lanes} x i32> zeroinitializer"
    return {1: value, made.lanes: made.source.let(every)}


def loaded(lanes: Lanes, code: str, pointer: str) -> str:
    """Elements that lie side by side; a bool is true if its byte is not zero."""
    return as_register(lanes, code, lanes.op(f"load {lanes.vector(stored_type_of(code))}, ptr {pointer}, align 1"))


def as_register(lanes: Lanes, code: str, value: str) -> str:
    """Elements in the form that they have in registers."""
    return lanes.compare("ne", "i8", value, lanes.constant("i8", 0)) if code == "b1" else value
