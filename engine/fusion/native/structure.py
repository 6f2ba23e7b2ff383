"""The structure of a fusion group: what decides its compiled code, and none of what changes from call to call. Pure.

Ops, dtypes, which results are kept, and how each array lies along the innermost axis belong to it; sizes, strides and
the values of scalars do not. A structure is a key, and what the code is written from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from engine.fusion.native.emit import CODES, FLOATS, bytes_of
from engine.fusion.native.primitives import Loop, meets_nans

CONTIGUOUS, STREAMED, REPEATED, STRIDED = "contiguous", "streamed", "repeated", "strided"
WHERE, CAST = "where", "cast"
Computed = np.ufunc | str
"""The operation of an instruction: a ufunc, a choice, or a cast."""


class UnsupportedError(Exception):
    """A group, or a structure, that no code is written for."""


class Ref(NamedTuple):
    """An operand of an instruction."""

    kind: str
    """`step`, `array` or `scalar`."""
    number: int


class Instruction(NamedTuple):
    """One op on operands that have the dtypes of its loop already."""

    op: Computed
    refs: tuple[Ref, ...]
    loop: Loop
    output: int | None = None
    """The array that the result is written to, where it is kept."""
    over: bool = False
    """True if that array has values that may still be needed."""

    @property
    def code(self) -> str:
        return self.loop[-1]


def is_computed(instruction: Instruction) -> bool:
    """Tell whether the dtypes of an instruction are such that it may be compiled, and not only called."""
    return instruction.op in (WHERE, CAST) or CODES.issuperset(instruction.loop)


class Reduction(NamedTuple):
    """A reduction of what an instruction, or an array, gives: of each block as a whole, or along axes."""

    ufunc: np.ufunc
    ref: Ref
    code: str
    kept: int | None = None
    """The array of the results, repeated along the axes that are reduced; None where a block is reduced as a whole."""

    @property
    def is_pairwise(self) -> bool:
        """Tell whether the order of elements along a row decides the bits."""
        return self.ufunc is np.add and self.code in FLOATS

    @property
    def first(self) -> float:
        """The value that NumPy begins with, or one that gives any other one together with it."""
        if self.ufunc is np.add:
            return 0
        if self.ufunc in (np.logical_and, np.logical_or) or self.code == "b1":
            return int(self.ufunc in (np.logical_and, np.minimum))
        highest = self.ufunc is np.minimum
        if self.code in FLOATS:
            return np.inf if highest else -np.inf
        info = np.iinfo(self.code)
        return info.max if highest else info.min


class ArrayKind(NamedTuple):
    """The facts about an array that code depends on."""

    code: str
    inner: str
    """How neighbours along the innermost axis lie: contiguous, one element repeated, or strided. An array that is
    streamed is contiguous, and written past the caches."""

    @property
    def is_contiguous(self) -> bool:
        return self.inner in (CONTIGUOUS, STREAMED)


class Structure(NamedTuple):
    """The structure of one compiled function."""

    ndim: int
    arrays: tuple[ArrayKind, ...]
    scalars: tuple[str, ...]
    instructions: tuple[Instruction, ...]
    reductions: tuple[Reduction, ...] = ()
    has_nan: bool = False
    """True if a scalar is not a number."""
    careful: bool = False
    """True if operands are expected to have NaNs: then it is looked at where two of them meet."""

    def code(self, ref: Ref) -> str:
        """The dtype of an operand."""
        if ref.kind == "step":
            return self.instructions[ref.number].code
        return self.arrays[ref.number].code if ref.kind == "array" else self.scalars[ref.number]

    @property
    def widest(self) -> int:
        """Bytes of an element of the widest dtype."""
        codes = [each.code for each in self.arrays] + [code for each in self.instructions for code in each.loop]
        return max(map(bytes_of, codes))

    @property
    def minds_nans(self) -> bool:
        """Tell whether two different NaNs may meet, where the order of instructions decides which one it becomes."""
        return any(map(self.meets, self.instructions))

    def meets(self, instruction: Instruction) -> bool:
        """Tell whether two different NaNs may be the operands of an instruction that gives one of them."""
        if instruction.code not in FLOATS or not meets_nans(instruction.op):
            return False
        may = {ref for ref in instruction.refs if ref.kind != "scalar" or self.has_nan}
        return len(may) > 1


class Home(NamedTuple):
    """Where the result of an instruction lies between two stages."""

    kind: str
    """`array` or `slot`."""
    number: int


class Stage(NamedTuple):
    """Instructions that are computed in one pass over a block; a call of NumPy's loop is a stage of its own."""

    instructions: tuple[int, ...]
    called: bool
    reductions: tuple[int, ...] = ()
    """Reductions that are part of the pass, the last one."""


class Stages(NamedTuple):
    """The passes over a block, and where values are in between."""

    stages: tuple[Stage, ...]
    homes: dict[int, Home]
    backups: dict[int, int]
    """The slot that keeps what an array had, for each array that is written over."""
    slots: int
    passing: frozenset[int]
    """Instructions whose results no later pass over the block reads."""
    called_reductions: tuple[int, ...]
    """Reductions that are left to NumPy's loops, after the last pass."""


def staged(structure: Structure, inline: Callable[[Instruction | Reduction], bool]) -> Stages:
    """Cut the instructions into passes: those in a row that are compiled are one; so are reductions, in the last."""
    stages: list[Stage] = []
    current: list[int] = []
    for index, instruction in enumerate(structure.instructions):
        if inline(instruction):
            current.append(index)
            continue
        if current:
            stages.append(Stage(tuple(current), called=False))
            current = []
        stages.append(Stage((index,), called=True))
    if current:
        stages.append(Stage(tuple(current), called=False))
    reductions = tuple(number for number, each in enumerate(structure.reductions) if inline(each))
    if reductions:
        last = stages.pop() if current else Stage((), called=False)
        stages.append(last._replace(reductions=reductions))
    return _housed(structure, stages)


def _housed(structure: Structure, stages: list[Stage]) -> Stages:
    """Give each value that outlives its stage a place; a slot is used again once it was read for the last time."""
    born = {index: number for number, stage in enumerate(stages) for index in stage.instructions}
    dies = _last_reads(structure, born, stages)
    homes: dict[int, Home] = {}
    free: list[int] = []
    slots = 0
    for number, stage in enumerate(stages):
        for index in stage.instructions:
            output = structure.instructions[index].output
            if output is not None:
                homes[index] = Home("array", output)
            elif dies[index] > number or stage.called:
                if not free:
                    free, slots = [slots], slots + 1
                homes[index] = Home("slot", free.pop())
        free += [home.number for index, home in homes.items() if home.kind == "slot" and dies[index] == number]
    over = [each.output for each in structure.instructions if each.over and each.output is not None]
    backups = {output: slots + number for number, output in enumerate(over)}
    passing = frozenset(index for index, number in born.items() if dies[index] == number)
    inside = stages[-1].reductions if stages else ()
    called = tuple(number for number in range(len(structure.reductions)) if number not in inside)
    return Stages(tuple(stages), homes, backups, slots + len(over), passing, called)


def _last_reads(structure: Structure, born: dict[int, int], stages: Sequence[Stage]) -> dict[int, int]:
    """The stage in which each instruction's result is read for the last time."""
    dies = dict(born)
    for index, instruction in enumerate(structure.instructions):
        for ref in instruction.refs:
            if ref.kind == "step":
                dies[ref.number] = max(dies[ref.number], born[index])
    inside = stages[-1].reductions if stages else ()
    for number, reduction in enumerate(structure.reductions):
        if reduction.ref.kind == "step":
            reads = len(stages) - 1 if number in inside else len(stages)
            dies[reduction.ref.number] = max(dies[reduction.ref.number], reads)
    return dies


def words_of(code: str) -> int:
    """The numbers of a frame that one element takes."""
    return -(-bytes_of(code) // 8)


class Frame:
    """Where the numbers and addresses of a call stand in the memory that the compiled function is given.

    First what changes from call to call: the addresses of arrays and of results of reductions, then scalars. The rest
    is the same for all calls that walk arrays of the same shapes and strides.
    """

    HEADER = ("STOP", "REDO", "MASK", "TABLE", "CLEAR", "TEST", "YIELD", "SLOT_BYTES", "OBJECTS")
    STOP, REDO, MASK, TABLE, CLEAR, TEST, YIELD, SLOT_BYTES, OBJECTS = range(9)
    """The numbers that each frame has. OBJECTS is 0 where addresses are those of elements; else they are those of
    objects, which have the address of their elements that far from their beginning."""

    def __init__(self, structure: Structure, calls: int) -> None:
        self._ndim, self._arrays = structure.ndim, len(structure.arrays)
        words = (words_of(code) for code in structure.scalars)
        self._scalars = list(accumulate(words, initial=self._arrays + len(structure.reductions)))
        self._header = self._scalars[-1]
        self._strides = self._header + len(self.HEADER)
        self._loops = self._strides + self._arrays * self._ndim
        self._initials = self._loops + 3 * calls
        self.size = self._initials + len(structure.reductions)

    @property
    def changing(self) -> int:
        """How many of the numbers change from call to call."""
        return self._header

    def array(self, index: int) -> int:
        """The address of an array."""
        return index

    def strides(self, index: int) -> int:
        """The strides of an array, in bytes."""
        return self._strides + index * self._ndim

    def reduction(self, number: int) -> int:
        """The address of the results of blocks."""
        return self._arrays + number

    def initial(self, number: int) -> int:
        """The value that a reduction begins with."""
        return self._initials + number

    def scalar(self, index: int) -> int:
        return self._scalars[index]

    def header(self, number: int) -> int:
        """One of the numbers that each frame has."""
        return self._header + number

    def loop(self, number: int) -> int:
        """The address of a loop; its context and its data follow."""
        return self._loops + 3 * number
