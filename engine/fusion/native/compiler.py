"""From a structure to its code: what is written as instructions, what is called, and the function in memory."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from engine.base.facts import facts_of
from engine.fusion.native.casts import castable
from engine.fusion.native.emit import bytes_of
from engine.fusion.native.kept import kept
from engine.fusion.native.llvm import Function, compiled, converts_halves, loaded
from engine.fusion.native.loops import StridedLoop, strided_loop
from engine.fusion.native.primitives import primitive
from engine.fusion.native.structure import (
    CAST,
    CONTIGUOUS,
    REPEATED,
    STREAMED,
    WHERE,
    Frame,
    Instruction,
    Reduction,
    Ref,
    Stages,
    Structure,
    UnsupportedError,
    staged,
)
from engine.fusion.native.writer import NAME, written

Usable = Callable[[Instruction | Reduction], bool]
"""True if the compiled form of an instruction, or of a reduction, gives NumPy's bits on this machine."""


_ARGUMENTS = (ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
_WALK = ctypes.CFUNCTYPE(*_ARGUMENTS)
_DIRECT = ctypes.PYFUNCTYPE(*_ARGUMENTS)


@dataclass(frozen=True)
class Code:
    """A compiled function, and what has to live as long as it does."""

    walk: Callable[[int | bytes, int, int], int]
    """Takes blocks until none is left, without the interpreter lock, and returns how many have to be repeated.

    It is given a frame or its address, and the addresses of scratch memory and of the counter that threads take blocks
    from.
    """
    direct: Callable[[bytes, int, None], int]
    """The same, with the interpreter lock held: for so little work that giving it up would take longer."""
    frame: Frame
    stages: Stages
    loops: tuple[StridedLoop, ...]
    owner: object
    from_disk: bool = False
    """True if it was compiled by an earlier process, and kept."""


def compile_structure(structure: Structure, usable: Usable, minds_nans: bool | None = None) -> Code:
    """Compile a structure. Raises `UnsupportedError` where that is not possible, and what LLVM raises."""

    def inline(each: Instruction | Reduction) -> bool:
        return _is_written(each) and usable(each)

    stages = staged(structure, inline)
    called = [stage.instructions[0] for stage in stages.stages if stage.called]
    loops = [_loop_of(structure, stages, index) for index in called]
    loops += [_reducer(structure.reductions[number]) for number in stages.called_reductions]
    frame = Frame(structure, len(loops))
    text = written(structure, stages, frame, [loop.silent for loop in loops], minds_nans)
    function, from_disk = _function_of(text)
    walk, direct = _WALK(function.address), _DIRECT(function.address)
    return Code(walk, direct, frame, stages, tuple(loops), function.owner, from_disk)


def _function_of(text: str) -> tuple[Function, bool]:
    """The function of a module, and whether it was compiled by an earlier process."""
    store = kept()
    image = store.image(text)
    if image is not None:
        with suppress(RuntimeError):  # whole, but no object file: it is compiled, and takes its place
            return loaded(image, NAME), True
    image = compiled(text, NAME)
    function = loaded(image, NAME)
    store.keep_image(text, image)
    return function, False


def _is_written(each: Instruction | Reduction) -> bool:
    """Tell whether an instruction, or a reduction, is compiled on this machine if it is found to have NumPy's bits."""
    if isinstance(each, Reduction):
        return each.code != "f2" or converts_halves()
    op, loop = each.op, each.loop
    if op == WHERE:
        return True
    if "f2" in loop and not converts_halves():
        return False
    return castable(*loop) if op == CAST else primitive(op, loop) is not None


def _loop_of(structure: Structure, stages: Stages, index: int) -> StridedLoop:
    instruction = structure.instructions[index]
    if not isinstance(instruction.op, np.ufunc):
        raise UnsupportedError(f"{instruction.op} has to be left to NumPy")
    strides = [_stride(structure, stages, ref) for ref in (*instruction.refs, Ref("step", index))]
    rounded = not facts_of(instruction.op).exact
    for ref in instruction.refs:
        # Of what does not lie side by side, some functions are computed with other instructions.
        if rounded and ref.kind == "array" and not structure.arrays[ref.number].is_contiguous:
            raise UnsupportedError(f"{instruction.op} is called with strides")
    loop = strided_loop(instruction.op, instruction.loop, strides)
    if loop is None:
        raise UnsupportedError(f"{instruction.op} has no loop for {instruction.loop}")
    return loop


def _stride(structure: Structure, stages: Stages, ref: Ref) -> int | None:
    """How far apart the elements of an operand are; None where that differs."""
    if ref.kind == "scalar":
        return 0
    size = bytes_of(structure.code(ref))
    place = ref.number
    if ref.kind == "step":
        home = stages.homes[ref.number]
        if home.kind == "slot":
            return size
        place = home.number
    return {CONTIGUOUS: size, STREAMED: size, REPEATED: 0}.get(structure.arrays[place].inner)


def _reducer(reduction: Reduction) -> StridedLoop:
    if reduction.kept is not None:
        raise UnsupportedError(f"{reduction.ufunc} along axes has to be left to NumPy")
    size = bytes_of(reduction.code)
    loop = strided_loop(reduction.ufunc, (reduction.code,) * 3, (0, size, 0))
    if loop is None:
        raise UnsupportedError(f"{reduction.ufunc} has no loop for {reduction.code}")
    return loop
