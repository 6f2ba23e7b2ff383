"""LLVM, by way of llvmlite: from the text of a function to its address.

Only the compiling thread calls it. A function and all that was compiled for it go when nothing refers to it any more.
"""

from __future__ import annotations

import ctypes
import platform
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from engine.base.facts import facts_of
from engine.fusion.native.emit import bytes_of
from engine.fusion.native.loops import StridedLoop, strided_loop
from engine.fusion.native.primitives import primitive
from engine.fusion.native.structure import (
    CAST,
    CONTIGUOUS,
    REPEATED,
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
from engine.fusion.native.writer import NAME, Writer

Usable = Callable[[Instruction], bool]
"""True if the compiled form of an instruction gives NumPy's bits on this machine."""


@dataclass(frozen=True)
class Code:
    """A compiled function, and what has to live as long as it does."""

    walk: Callable[[int, int, int], None]
    frame: Frame
    stages: Stages
    loops: tuple[StridedLoop, ...]
    owner: object


def is_available() -> bool:
    """Tell whether there is a compiler, and a machine that the code is written for."""
    return find_spec("llvmlite") is not None and platform.machine().lower() in _FLAGS and math_library() is not None


_X86 = {"invalid": 1, "divide": 4, "over": 8, "under": 16}
_ARM = {"invalid": 1, "divide": 2, "over": 4, "under": 8}
_FLAGS = {"x86_64": _X86, "amd64": _X86, "aarch64": _ARM, "arm64": _ARM}


def flags(kinds: set[str]) -> int:
    """The floating-point flags of kinds of errors, as `numpy.errstate` names them."""
    known = _FLAGS[platform.machine().lower()]
    return sum(known[kind] for kind in kinds)


@dataclass(frozen=True, slots=True)
class MathLibrary:
    """Addresses of functions of C."""

    clear: int
    """feclearexcept"""
    test: int
    """fetestexcept"""
    give_way: int
    """sched_yield"""


@cache
def math_library() -> MathLibrary | None:
    """The functions of the C library that compiled code calls; None where it cannot be found."""
    for name in (None, "libm.so.6", "libm.dylib"):
        try:
            library = ctypes.CDLL(name)
            found = [
                ctypes.cast(getattr(library, function), ctypes.c_void_p).value or 0
                for function in ("feclearexcept", "fetestexcept", "sched_yield")
            ]
        except (OSError, AttributeError, TypeError):
            continue
        return MathLibrary(*found)
    return None


def compile_structure(structure: Structure, usable: Usable, minds_nans: bool | None = None) -> Code:
    """Compile a structure. Raises `UnsupportedError` where that is not possible, and what LLVM raises."""

    def inline(instruction: Instruction) -> bool:
        compiled = instruction.op in (CAST, WHERE) or primitive(instruction.op, instruction.loop) is not None
        return compiled and usable(instruction)

    stages = staged(structure, inline)
    called = [stage.instructions[0] for stage in stages.stages if stage.called]
    loops = [_loop_of(structure, stages, index) for index in called]
    loops += [_reducer(reduction) for reduction in structure.reductions]
    frame = Frame(structure, len(loops))
    text = Writer(structure, stages, frame, [loop.silent for loop in loops], minds_nans).text()
    walk, owner = assemble(text)
    return Code(walk, frame, stages, tuple(loops), owner)


def _loop_of(structure: Structure, stages: Stages, index: int) -> StridedLoop:
    instruction = structure.instructions[index]
    if not isinstance(instruction.op, np.ufunc):
        raise UnsupportedError(f"{instruction.op} has to be left to NumPy")
    strides = [_stride(structure, stages, ref) for ref in (*instruction.refs, Ref("step", index))]
    rounded = not facts_of(instruction.op).exact
    for ref in instruction.refs:
        # Of what does not lie side by side, some functions are computed with other instructions.
        if rounded and ref.kind == "array" and structure.arrays[ref.number].inner != CONTIGUOUS:
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
    return {CONTIGUOUS: size, REPEATED: 0}.get(structure.arrays[place].inner)


def _reducer(reduction: Reduction) -> StridedLoop:
    size = bytes_of(reduction.code)
    loop = strided_loop(reduction.ufunc, (reduction.code,) * 3, (0, size, 0))
    if loop is None:
        raise UnsupportedError(f"{reduction.ufunc} has no loop for {reduction.code}")
    return loop


# LLVM


def assemble(text: str) -> tuple[Callable[[int, int, int], None], object]:
    """The function of a module, and what it belongs to."""
    from llvmlite import binding as llvm

    target = _target()
    context = llvm.create_context()
    module = llvm.parse_assembly(text, context)
    builder = llvm.create_pass_builder(target, llvm.create_pipeline_tuning_options(speed_level=1))
    passes = llvm.create_new_function_pass_manager()
    passes.add_sroa_pass()
    passes.run(module.get_function(NAME), builder)
    engine = llvm.create_mcjit_compiler(module, target)
    engine.finalize_object()
    address = engine.get_function_address(NAME)
    walk = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(address)
    return walk, _Owner(engine, context)


class _Owner:
    """The memory of compiled code: given back when nothing refers to the code any more."""

    def __init__(self, engine: Any, context: Any) -> None:
        self._engine, self._context = engine, context

    def __del__(self) -> None:
        _unused.append((self._engine, self._context))


_unused: deque[tuple[Any, Any]] = deque()
"""Engines of code that is not referred to any more, by any thread; LLVM is called by the compiling thread."""


def dispose() -> None:
    """Give back the memory of code that is not referred to any more."""
    while _unused:
        engine, context = _unused.popleft()
        engine.close()
        context.close()


def _target() -> Any:
    """A target machine; each compiled module takes over one of its own."""
    from llvmlite import binding as llvm

    _initialize()
    triple = llvm.get_process_triple()
    features = llvm.get_host_cpu_features().flatten()
    return llvm.Target.from_triple(triple).create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features, opt=2, jit=True
    )


@cache
def _initialize() -> None:
    from llvmlite import binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
