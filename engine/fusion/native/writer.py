"""Writing the compiled function of a structure: a walk that takes blocks until none is left.

For each block it clears the floating-point flags, makes its passes over the block, and looks at the flags. Where NumPy
would have warned, or where a result might have other bits than NumPy's, the block is marked to be computed again in
NumPy's way; what it wrote over is put back before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import sleep

import numpy as np

from engine.fusion.native.emit import BYTES, FLOATS, Lanes, Source, bits_of, bytes_of, sign_bit, stored_type_of
from engine.fusion.native.primitives import cast, primitive
from engine.fusion.native.structure import (
    CAST,
    CONTIGUOUS,
    REPEATED,
    WHERE,
    Frame,
    Home,
    Instruction,
    Reduction,
    Ref,
    Stage,
    Stages,
    Structure,
)

NAME = "walk"
FLAGS = 61
"""All floating-point flags that NumPy looks at: of x86 and of AArch64 alike, more bits do no harm."""

Rows = Callable[[], None]


class Writer:
    """Writes one function."""

    def __init__(
        self, structure: Structure, stages: Stages, frame: Frame, silent: Sequence[bool], minds_nans: bool | None = None
    ) -> None:
        self._structure, self._stages, self._frame = structure, stages, frame
        self._silent = silent
        """For each loop of NumPy's that is called, whether NumPy ignores the flags that it raises."""
        self._source = Source()
        self._lanes = BYTES // structure.widest
        doubt = f"i{8 * structure.widest}"
        self._doubt_type = doubt
        self._vector = Lanes(self._source, self._lanes, "%doubts", doubt)
        self._single = Lanes(self._source, 1, "%doubt", doubt)
        self._minds_nans = structure.minds_nans if minds_nans is None else minds_nans
        self._called = {index for stage in stages.stages if stage.called for index in stage.instructions}
        self._labels = 0

    def text(self) -> str:
        """The module."""
        self._entry()
        self._block()
        return self._source.text(f"i64 @{NAME}(ptr noalias %frame, ptr noalias %scratch, ptr %shared)")

    # Memory

    def _load(self, kind: str, slot: int) -> str:
        return self._source.let(f"load {kind}, ptr {self._at('%frame', 8 * slot)}")

    def _address(self, slot: int) -> str:
        """The address of elements: in the frame itself, or in the object whose address is there."""
        place = self._at("%frame", 8 * slot)
        within = self._at(self._source.let(f"load ptr, ptr {place}"), self._objects)
        is_object = self._source.let(f"icmp ne i64 {self._objects}, 0")
        return self._source.let(
            f"load ptr, ptr {self._source.let(f'select i1 {is_object}, ptr {within}, ptr {place}')}"
        )

    def _at(self, pointer: str, offset: str | int) -> str:
        return self._source.let(f"getelementptr i8, ptr {pointer}, i64 {offset}")

    def _times(self, left: str, right: str | int) -> str:
        return self._source.let(f"mul i64 {left}, {right}")

    def _entry(self) -> None:
        source, frame, ndim = self._source, self._frame, self._structure.ndim
        source.label("entry")
        arguments = max([3, *(len(each.loop) for each in self._structure.instructions)])
        source.line(f"%doubts = alloca {self._vector.vector(self._doubt_type)}")
        source.line(f"%doubt = alloca {self._doubt_type}")
        source.line("%flags = alloca i32")
        source.line(f"%data = alloca [{arguments} x ptr]")
        source.line(f"%steps = alloca [{arguments} x i64]")
        source.line("%length = alloca i64")
        self._counters = [source.let("alloca i64") for _ in range(ndim)]
        source.line("%repeated = alloca i64")
        source.line("store i64 0, ptr %repeated")
        source.line("%own = alloca i64")  # a counter for the thread that has all blocks to itself
        source.line("store i64 0, ptr %own")
        source.line("%alone = icmp eq ptr %shared, null")
        source.line("%counter = select i1 %alone, ptr %own, ptr %shared")
        self._stop = self._load("i64", frame.header(frame.STOP))
        self._redo = self._load("ptr", frame.header(frame.REDO))
        self._mask = self._load("i32", frame.header(frame.MASK))
        self._table = self._load("ptr", frame.header(frame.TABLE))
        self._clear, self._test, self._yield = (
            self._load("ptr", frame.header(slot)) for slot in (frame.CLEAR, frame.TEST, frame.YIELD)
        )
        self._slot_bytes = self._load("i64", frame.header(frame.SLOT_BYTES))
        self._objects = self._load("i64", frame.header(frame.OBJECTS))
        count = len(self._structure.arrays)
        self._bases = [self._address(frame.array(index)) for index in range(count)]
        self._results = [self._address(frame.reduction(number)) for number in range(len(self._structure.reductions))]
        self._strides = [
            [self._load("i64", frame.strides(index) + axis) for axis in range(ndim)] for index in range(count)
        ]
        self._lane_steps = [self._steps_of(index) for index in range(count)]
        self._slots = [self._at("%scratch", self._times(self._slot_bytes, n)) for n in range(self._stages.slots)]
        self._scalars = [
            self._spread(code, self._loaded(self._single, code, self._at("%frame", 8 * frame.scalar(index))))
            for index, code in enumerate(self._structure.scalars)
        ]
        source.line("br label %next")

    def _steps_of(self, index: int) -> list[str]:
        """How far each lane of a vector is from the first, in bytes, in an array whose neighbours lie apart."""
        if self._structure.arrays[index].inner == CONTIGUOUS:
            return []
        return [self._times(self._strides[index][-1], lane) for lane in range(self._lanes)]

    def _spread(self, code: str, value: str) -> dict[int, str]:
        """One element for single lanes and for vectors."""
        if self._lanes == 1:
            return {1: value}
        kind = self._vector.type(code)
        first = self._source.let(f"insertelement {kind} poison, {self._single.type(code)} {value}, i64 0")
        every = f"shufflevector {kind} {first}, {kind} poison, <{self._lanes} x i32> zeroinitializer"
        return {1: value, self._lanes: self._source.let(every)}

    # A block

    def _block(self) -> None:
        source, structure = self._source, self._structure
        source.label("next")
        self._number = source.let("atomicrmw add ptr %counter, i64 1 monotonic, align 8")
        more = source.let(f"icmp slt i64 {self._number}, {self._stop}")
        source.line(f"br i1 {more}, label %begin, label %end")
        source.label("begin")
        source.line(f"br i1 {source.let(f'icmp eq ptr {self._yield}, null')}, label %go, label %give")
        source.label("give")
        source.line(f"call i32 {self._yield}()")
        source.line("br label %go")
        source.label("go")
        source.line(f"store {self._vector.vector(self._doubt_type)} zeroinitializer, ptr %doubts")
        source.line(f"store {self._doubt_type} 0, ptr %doubt")
        source.line("store i32 0, ptr %flags")
        row = self._at(self._table, self._times(self._number, 16 * structure.ndim))
        axes = range(structure.ndim)
        starts = [source.let(f"load i64, ptr {self._at(row, 8 * axis)}") for axis in axes]
        self._sizes = [source.let(f"load i64, ptr {self._at(row, 8 * (structure.ndim + axis))}") for axis in axes]
        self._inner = self._sizes[-1]
        self._whole = source.let(f"and i64 {self._inner}, {-self._lanes}")
        self._total = self._inner
        for size in self._sizes[:-1]:
            self._total = self._times(self._total, size)
        self._blocks = list(self._bases)
        for index, strides in enumerate(self._strides):
            for start, stride in zip(starts, strides, strict=True):
                self._blocks[index] = self._at(self._blocks[index], self._times(start, stride))
        source.line(f"call i32 {self._clear}(i32 {FLAGS})")
        calls = 0
        for stage in self._stages.stages:
            if stage.called:
                self._call(structure.instructions[stage.instructions[0]], stage.instructions[0], calls)
                calls += 1
            else:
                self._over_block(lambda stage=stage: Pass(self, stage).write())  # type: ignore[misc]
        for number, reduction in enumerate(structure.reductions):
            self._reduce(reduction, number, calls)
            calls += 1
        self._judge()

    def _judge(self) -> None:
        """Mark the block where it has to be computed again."""
        source, kind, doubt = self._source, self._vector.vector(self._doubt_type), self._doubt_type
        self._note_flags()
        flags = source.let("load i32, ptr %flags")
        raised = source.let(f"icmp ne i32 {source.let(f'and i32 {flags}, {self._mask}')}, 0")
        unsure = source.let(f"load {doubt}, ptr %doubt")
        if self._lanes > 1:
            function = f"@llvm.vector.reduce.or.v{self._lanes}{doubt}"
            source.declared[function] = f"declare {doubt} {function}({kind})"
            every = source.let(f"load {kind}, ptr %doubts")
            unsure = source.let(f"or {doubt} {unsure}, {source.let(f'call {doubt} {function}({kind} {every})')}")
        unsure = source.let(f"icmp ne {doubt} {unsure}, 0")
        again = source.let(f"or i1 {raised}, {unsure}")
        source.line(f"br i1 {again}, label %again, label %next")
        source.label("again")
        source.line(f"store i8 1, ptr {self._at(self._redo, self._number)}")
        before = source.let("load i64, ptr %repeated")
        source.line(f"store i64 {source.let(f'add i64 {before}, 1')}, ptr %repeated")
        if self._stages.backups:
            self._over_block(self._restore)
        source.line("br label %next")
        source.label("end")
        source.line(f"call i32 {self._clear}(i32 {FLAGS})")
        source.line(f"ret i64 {source.let('load i64, ptr %repeated')}")

    def _note_flags(self) -> None:
        source = self._source
        raised = source.let(f"call i32 {self._test}(i32 {FLAGS})")
        before = source.let("load i32, ptr %flags")
        source.line(f"store i32 {source.let(f'or i32 {before}, {raised}')}, ptr %flags")

    # Rows

    def _over_block(self, row: Rows) -> None:
        """Do something for each row of the block: `self._rows` and `self._linear` say where that is."""
        self._rows, self._linear = list(self._blocks), "0"
        self._nest(0, row)

    def _nest(self, axis: int, row: Rows) -> None:
        if axis == self._structure.ndim - 1:
            self._linear = self._times(self._linear, self._inner) if axis else "0"
            row()
            return
        rows, linear = self._rows, self._linear

        def inside(index: str) -> None:
            self._rows = [
                self._at(row, self._times(index, strides[axis]))
                for row, strides in zip(rows, self._strides, strict=True)
            ]
            before = self._times(linear, self._sizes[axis]) if axis else "0"
            self._linear = self._source.let(f"add i64 {before}, {index}")
            self._nest(axis + 1, row)

        self._loop(self._counters[axis], "0", self._sizes[axis], 1, inside)

    def _loop(self, counter: str, start: str, stop: str, step: int, body: Callable[[str], None]) -> None:
        source = self._source
        self._labels += 1
        head, inside, after = (f"{name}{self._labels}" for name in ("head", "inside", "after"))
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

    def _along(self, body: Callable[[Lanes, str], None]) -> None:
        """Walk along a row, vector by vector, then element by element."""
        counter = self._counters[-1]
        if self._lanes > 1:
            self._loop(counter, "0", self._whole, self._lanes, lambda index: body(self._vector, index))
            self._loop(counter, self._whole, self._inner, 1, lambda index: body(self._single, index))
        else:
            self._loop(counter, "0", self._inner, 1, lambda index: body(self._single, index))

    # Elements

    def _loaded(self, lanes: Lanes, code: str, pointer: str) -> str:
        """Elements that lie side by side; a bool is true whatever its byte, which should be one."""
        value = lanes.op(f"load {lanes.vector(stored_type_of(code))}, ptr {pointer}, align 1")
        return self._as_register(lanes, code, value)

    def _as_register(self, lanes: Lanes, code: str, value: str) -> str:
        return lanes.compare("ne", "i8", value, lanes.constant("i8", 0)) if code == "b1" else value

    def _read(self, lanes: Lanes, index: int, position: str) -> str:
        """Elements of an array, which may be checked."""
        code, inner = self._structure.arrays[index]
        stored = lanes.vector(stored_type_of(code))
        if inner == CONTIGUOUS:
            pointer = self._at(self._rows[index], self._times(position, bytes_of(code)))
            value = lanes.op(f"load {stored}, ptr {pointer}, align 1")
        else:
            value = self._gathered(lanes, index, position)
        if code == "b1":
            lanes.doubt(lanes.compare("ugt", "i8", value, lanes.constant("i8", 1)))
        value = self._as_register(lanes, code, value)
        self._check(lanes, code, value)
        return value

    def _gathered(self, lanes: Lanes, index: int, position: str) -> str:
        code = self._structure.arrays[index].code
        scalar = stored_type_of(code)
        value = "poison"
        for lane, pointer in enumerate(self._elements(lanes, index, position)):
            element = lanes.op(f"load {scalar}, ptr {pointer}, align 1")
            if lanes.lanes == 1:
                return element
            value = lanes.op(f"insertelement {lanes.vector(scalar)} {value}, {scalar} {element}, i64 {lane}")
        return value

    def _elements(self, lanes: Lanes, index: int, position: str) -> list[str]:
        """The addresses of elements that do not lie side by side."""
        first = self._at(self._rows[index], self._times(position, self._strides[index][-1]))
        return [first, *(self._at(first, step) for step in self._lane_steps[index][1 : lanes.lanes])]

    def _check(self, lanes: Lanes, code: str, value: str) -> None:
        if self._minds_nans and not self._structure.careful and code in FLOATS:
            lanes.doubt(lanes.is_nan(code, value))

    def _write(self, lanes: Lanes, index: int, position: str, value: str) -> None:
        """Elements into an array, in the form that they have in memory."""
        code, inner = self._structure.arrays[index]
        scalar = stored_type_of(code)
        stored = lanes.vector(scalar)
        if inner == CONTIGUOUS:
            pointer = self._at(self._rows[index], self._times(position, bytes_of(code)))
            lanes.source.line(f"store {stored} {value}, ptr {pointer}, align 1")
            return
        for lane, pointer in enumerate(self._elements(lanes, index, position)):
            element = value if lanes.lanes == 1 else lanes.op(f"extractelement {stored} {value}, i64 {lane}")
            lanes.source.line(f"store {scalar} {element}, ptr {pointer}, align 1")

    def _in_slot(self, slot: int, code: str, position: str) -> str:
        place = self._source.let(f"add i64 {self._linear}, {position}")
        return self._at(self._slots[slot], self._times(place, bytes_of(code)))

    def _as_stored(self, lanes: Lanes, code: str, value: str) -> str:
        return lanes.convert("zext", value, "i1", "i8") if code == "b1" else value

    def _keep_old(self, lanes: Lanes, index: int, position: str) -> None:
        """Keep what an array has before it is written over."""
        code, inner = self._structure.arrays[index]
        stored = lanes.vector(stored_type_of(code))
        if inner == CONTIGUOUS:
            pointer = self._at(self._rows[index], self._times(position, bytes_of(code)))
            old = lanes.op(f"load {stored}, ptr {pointer}, align 1")
        else:
            old = self._gathered(lanes, index, position)
        target = self._in_slot(self._stages.backups[index], code, position)
        lanes.source.line(f"store {stored} {old}, ptr {target}, align 1")

    def _restore(self) -> None:
        def element(lanes: Lanes, position: str) -> None:
            for index, slot in self._stages.backups.items():
                code = self._structure.arrays[index].code
                stored = lanes.vector(stored_type_of(code))
                old = lanes.op(f"load {stored}, ptr {self._in_slot(slot, code, position)}, align 1")
                self._write(lanes, index, position, old)

        self._along(element)

    # NumPy's loops

    def _call(self, instruction: Instruction, index: int, number: int) -> None:
        if instruction.over and instruction.output is not None:
            output = instruction.output
            self._over_block(lambda: self._along(lambda lanes, position: self._keep_old(lanes, output, position)))
        homes = [self._home(ref) for ref in (*instruction.refs, Ref("step", index))]
        operands = list(zip(homes, instruction.loop, strict=True))
        self._note_flags()
        self._source.line(f"call i32 {self._clear}(i32 {FLAGS})")
        if self._structure.ndim > 1 and any(home.kind == "array" for home in homes):
            self._over_block(lambda: self._call_loop(operands, number, self._inner))
        else:
            self._rows, self._linear = list(self._blocks), "0"
            self._call_loop(operands, number, self._total)
        if self._silent[number]:
            self._source.line(f"call i32 {self._clear}(i32 {FLAGS})")

    def _home(self, ref: Ref) -> Home:
        return self._stages.homes[ref.number] if ref.kind == "step" else Home(ref.kind, ref.number)

    def _call_loop(self, operands: Sequence[tuple[Home, str]], number: int, length: str) -> None:
        pointers, strides = [], []
        for home, code in operands:
            size = bytes_of(code)
            if home.kind == "scalar":
                pointers.append(self._at("%frame", 8 * self._frame.scalar(home.number)))
                strides.append("0")
            elif home.kind == "slot":
                pointers.append(self._in_slot(home.number, code, "0"))
                strides.append(str(size))
            else:
                pointers.append(self._rows[home.number])
                strides.append(self._strides[home.number][-1])
        self._invoke(pointers, strides, number, length)

    def _invoke(self, pointers: Sequence[str], strides: Sequence[str], number: int, length: str) -> None:
        source = self._source
        for place, (pointer, stride) in enumerate(zip(pointers, strides, strict=True)):
            source.line(f"store ptr {pointer}, ptr {self._at('%data', 8 * place)}")
            source.line(f"store i64 {stride}, ptr {self._at('%steps', 8 * place)}")
        source.line(f"store i64 {length}, ptr %length")
        loop, context, data = (self._load("ptr", self._frame.loop(number) + part) for part in range(3))
        status = source.let(f"call i32 {loop}(ptr {context}, ptr %data, ptr %length, ptr %steps, ptr {data})")
        failed = source.let(f"icmp ne i32 {status}, 0")
        self._single.doubt(failed)

    def _reduce(self, reduction: Reduction, number: int, loop: int) -> None:
        """The result of the block, from NumPy's loop: called as NumPy calls it, with the result as first operand."""
        source, code, size = self._source, reduction.code, bytes_of(reduction.code)
        home = self._home(reduction.ref)
        value = self._slots[home.number] if home.kind == "slot" else self._blocks[home.number]
        result = self._at(self._results[number], self._times(self._number, 8))
        kind = stored_type_of(code)
        length = self._total
        if reduction.ufunc in (np.maximum, np.minimum):
            first = source.let(f"load {kind}, ptr {value}, align 1")
            rest, fewer = self._at(value, size), source.let(f"sub i64 {length}, 1")
        else:
            first, rest, fewer = self._load(kind, self._frame.initial(number)), value, length
        source.line(f"store {kind} {first}, ptr {result}")
        self._note_flags()
        source.line(f"call i32 {self._clear}(i32 {FLAGS})")
        self._invoke([result, rest, result], ["0", str(size), "0"], loop, fewer)
        if self._silent[loop]:
            source.line(f"call i32 {self._clear}(i32 {FLAGS})")
        if reduction.ufunc in (np.maximum, np.minimum) and code in FLOATS:
            self._doubt_zeros(code, source.let(f"load {kind}, ptr {result}"), value, length)

    def _doubt_zeros(self, code: str, extreme: str, values: str, length: str) -> None:
        """Where zeros of both signs are the extreme, the order of instructions decides which one it is."""
        source, bits = self._source, bits_of(code)
        self._labels += 1
        scan, scanned = f"scan{self._labels}", f"scanned{self._labels}"
        zero = self._single.float_compare("oeq", code, extreme, self._single.constant(FLOATS[code], 0))
        source.line(f"br i1 {zero}, label %{scan}, label %{scanned}")
        source.label(scan)
        first = self._single.bits(code, extreme)
        other = self._single.binary("xor", bits, first, str(sign_bit(code)))

        def compare(index: str) -> None:
            value = source.let(f"load {bits}, ptr {self._at(values, self._times(index, bytes_of(code)))}, align 1")
            self._single.doubt(self._single.compare("eq", bits, value, other))

        self._loop(self._counters[-1], "0", length, 1, compare)
        source.line(f"br label %{scanned}")
        source.label(scanned)


class Pass:
    """One pass over a row: loads what its instructions need, and stores what outlives them."""

    def __init__(self, writer: Writer, stage: Stage) -> None:
        self._writer, self._stage = writer, stage
        self._structure = writer._structure
        self._once: dict[int, dict[int, str]] = {}
        """Elements that are repeated along the row."""
        self._values: dict[Ref, str] = {}

    def write(self) -> None:
        writer = self._writer
        for index in self._stage.instructions:
            for kind, place in self._structure.instructions[index].refs:
                if kind == "array" and self._structure.arrays[place].inner == REPEATED and place not in self._once:
                    value = writer._read(writer._single, place, "0")
                    self._once[place] = writer._spread(self._structure.arrays[place].code, value)
        writer._along(self._elements)

    def _elements(self, lanes: Lanes, position: str) -> None:
        self._values = {}
        for index in self._stage.instructions:
            sleep(0)  # the loop's thread may want the interpreter
            instruction = self._structure.instructions[index]
            operands = [self._value(lanes, ref, position) for ref in instruction.refs]
            if self._structure.careful and self._structure.meets(instruction):
                self._doubt_nans(lanes, instruction.code, *operands)
            result = compute(lanes, instruction, operands)
            self._values[Ref("step", index)] = result
            self._keep(lanes, index, instruction, position, result)

    def _doubt_nans(self, lanes: Lanes, code: str, left: str, right: str) -> None:
        """Which of two NaNs is the result, NumPy's instructions decide."""
        both = lanes.binary("and", "i1", lanes.is_nan(code, left), lanes.is_nan(code, right))
        differ = lanes.compare("ne", bits_of(code), lanes.bits(code, left), lanes.bits(code, right))
        lanes.doubt(lanes.binary("and", "i1", both, differ))

    def _keep(self, lanes: Lanes, index: int, instruction: Instruction, position: str, result: str) -> None:
        writer = self._writer
        home = writer._stages.homes.get(index)
        if home is None:
            return
        stored = writer._as_stored(lanes, instruction.code, result)
        if home.kind == "slot":
            target = writer._in_slot(home.number, instruction.code, position)
            kind = lanes.vector(stored_type_of(instruction.code))
            lanes.source.line(f"store {kind} {stored}, ptr {target}, align 1")
            return
        if instruction.over:
            writer._keep_old(lanes, home.number, position)
        writer._write(lanes, home.number, position, stored)

    def _value(self, lanes: Lanes, ref: Ref, position: str) -> str:
        if ref not in self._values:
            self._values[ref] = self._fetched(lanes, ref, position)
        return self._values[ref]

    def _fetched(self, lanes: Lanes, ref: Ref, position: str) -> str:
        writer = self._writer
        if ref.kind == "scalar":
            return writer._scalars[ref.number][lanes.lanes]
        if ref.kind == "array":
            repeated = self._once.get(ref.number)
            return repeated[lanes.lanes] if repeated is not None else writer._read(lanes, ref.number, position)
        home = writer._stages.homes[ref.number]
        if home.kind == "array":
            return writer._read(lanes, home.number, position)
        code = self._structure.instructions[ref.number].code
        value = writer._loaded(lanes, code, writer._in_slot(home.number, code, position))
        if ref.number in writer._called:
            writer._check(lanes, code, value)
        return value


def compute(lanes: Lanes, instruction: Instruction, operands: list[str]) -> str:
    """Write one instruction."""
    op, loop = instruction.op, instruction.loop
    if op == CAST:
        return cast(lanes, loop[0], loop[1], operands[0])
    if op == WHERE:
        return lanes.select(loop[-1], *operands)
    emit = primitive(op, loop)
    assert emit is not None
    return emit(lanes, loop[0], operands)
