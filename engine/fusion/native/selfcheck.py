"""Comparing compiled instructions and reductions with NumPy, on special values, before their first use on this machine.

Each instruction is compiled by itself and computes all pairs of values that may be treated in a special way: zeros of
both signs, denormals, the largest and the smallest numbers, infinities, NaNs of several payloads; as single elements
and in whole vectors. What it does not mark to be computed again has to have NumPy's bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.fusion.blocks import select
from engine.fusion.native.calls import NativeCall
from engine.fusion.native.compiler import Code, compile_structure
from engine.fusion.native.describe import Description
from engine.fusion.native.emit import FLOATS
from engine.fusion.native.kept import kept
from engine.fusion.native.structure import (
    CAST,
    CONTIGUOUS,
    WHERE,
    ArrayKind,
    Instruction,
    Reduction,
    Ref,
    Structure,
)
from engine.fusion.walks import Walk

Array = np.ndarray[Any, Any]

_TIMES = 128
"""Elements of each pair in the walk of whole vectors: two vectors of the narrowest dtype."""
_NUMBERS = (0.0, 1.0, 0.5, 1.5, 2.5, 3.0, 0.1, 127.5, 255.5, 32768.0, 65536.5, 2.0**31, 2.0**32, 2.0**63, 2.0**64, 1e30)


class SelfCheck:
    """Remembers which instructions agree with NumPy."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], bool] = {}

    def agrees(self, each: Instruction | Reduction) -> bool:
        """Tell whether the compiled form of an instruction, or of a reduction, has NumPy's bits; found out once."""
        key = (each.op, each.loop) if isinstance(each, Instruction) else (f"{each.ufunc.__name__}.reduce", (each.code,))
        if key not in self._known:
            self._known[key] = True  # its own code is compiled now
            try:
                self._known[key] = self._found(_said_of(*key), each)
            except BaseException:
                del self._known[key]
                raise
        return self._known[key]

    def _found(self, said: str, each: Instruction | Reduction) -> bool:
        """Return what an earlier process found, or this one does now."""
        store = kept()
        agrees = store.verdict(said)
        if agrees is None:
            agrees = has_numpys_bits(each) if isinstance(each, Instruction) else reduces_as_numpy(each)
            store.keep_verdict(said, agrees)
        return agrees

    @property
    def differing(self) -> tuple[str, ...]:
        """The instructions that do not agree."""
        differing = [key for key, agrees in list(self._known.items()) if not agrees]
        return tuple(_said_of(*key) for key in differing)


def _said_of(op: object, loop: Sequence[str]) -> str:
    return f"{getattr(op, '__name__', op)} {' '.join(loop)}"


def has_numpys_bits(instruction: Instruction) -> bool:
    """Compile an instruction by itself, and compare it with NumPy."""
    code = compile_structure(_structure(instruction), lambda _: True, minds_nans=False)
    return all(_equal(instruction, *computed(instruction, code, times)) for times in (1, _TIMES))


def reduces_as_numpy(reduction: Reduction) -> bool:
    """Compile a reduction by itself, and compare it with NumPy on rows of all lengths that matter."""
    alone = Reduction(reduction.ufunc, Ref("array", 0), reduction.code)
    structure = Structure(1, (ArrayKind(reduction.code, CONTIGUOUS),), (), (), (alone,))
    code = compile_structure(structure, lambda _: True, minds_nans=False)
    values = _summands(reduction.code)
    walk = Walk(values.shape, [values], [])
    walk.table = np.array([(start, length) for length in _LENGTHS for start in (0, 8, 40)], np.int64)
    walk.block = (max(_LENGTHS),)
    call = NativeCall(code, Description(structure, (), walk.inputs), walk, _ALL)
    call.work()
    unsure, (results,) = set(call.to_repeat()), call.columns()
    with np.errstate(all="ignore"):
        return all(
            number in unsure or result.tobytes() == reduction.ufunc.reduce(values[start : start + length]).tobytes()
            for number, (result, (start, length)) in enumerate(zip(results, walk.table.tolist(), strict=True))
        )


def _summands(code: str) -> Array:
    """Values whose sum depends on the order, with zeros of both signs at the beginning."""
    source = np.random.default_rng(0)
    count = 64 + max(_LENGTHS)
    if code == "b1":
        return np.arange(count) % 5 > 0
    if code not in FLOATS:
        return np.resize(special_values(code), count)
    with np.errstate(over="ignore"):  # of halves
        values: Array = (source.normal(size=count) * 10.0 ** source.integers(-6, 6, count)).astype(code)
    values[:40] = -np.abs(values[:40])
    values[:8] = -0.0
    values[16:24] = 0.0
    return values


_LENGTHS = (*range(1, 42), 63, 64, 65, 127, 128, 129, 135, 136, 137, 255, 256, 257, 263, 264, 265, 300, 511, 777, 2_051)


def computed(instruction: Instruction, code: Code, times: int) -> tuple[list[Array], Array, Array]:
    """All special values so many times, what compiled code makes of them, and where it is not sure."""
    operands = [np.repeat(column, times) for column in _columns(instruction.loop[:-1])]
    result = np.empty(len(operands[0]), instruction.code)
    walk = Walk(result.shape, operands, [result])
    starts = np.arange(0, len(result), times)
    walk.table = np.column_stack([starts, np.full_like(starts, times)])
    walk.block = (times,)
    arrays = [*walk.inputs, *(each for each in walk.outputs if each is not None)]
    call = NativeCall(code, Description(_structure(instruction), (), arrays), walk, _ALL)
    call.work()
    unsure = np.zeros(len(walk), bool)
    unsure[call.to_repeat()] = True
    return operands, result, np.repeat(unsure, times)


def _structure(instruction: Instruction) -> Structure:
    """An instruction by itself, on arrays."""
    operands = instruction.loop[:-1]
    arrays = tuple(ArrayKind(code, CONTIGUOUS) for code in instruction.loop)
    refs = tuple(Ref("array", number) for number in range(len(operands)))
    return Structure(1, arrays, (), (Instruction(instruction.op, refs, instruction.loop, output=len(operands)),))


_ALL = {"invalid", "divide", "over"}


def _equal(instruction: Instruction, operands: list[Array], result: Array, unsure: Array) -> bool:
    with np.errstate(all="ignore"):
        expected = _numpys(instruction, operands)
    if instruction.code in FLOATS and len(operands) == 2:
        unsure |= np.isnan(operands[0]) & np.isnan(operands[1])  # which one it is, is never left to compiled code
    differ = (result.view(np.uint8) != expected.view(np.uint8)).reshape(len(result), -1).any(axis=1)
    return not (differ & ~unsure).any()


def _numpys(instruction: Instruction, operands: list[Array]) -> Array:
    if instruction.op == CAST:
        return operands[0].astype(instruction.code)
    if instruction.op == WHERE:
        return select(np.empty(len(operands[1]), instruction.code), *operands)
    assert isinstance(instruction.op, np.ufunc)
    result: Array = instruction.op(*operands)
    assert result.dtype == np.dtype(instruction.code)
    return result


def _columns(codes: Sequence[str]) -> list[Array]:
    """All combinations of special values of the dtypes.

    As arrays throughout: with some thousand tuples, Python may look for garbage, and hold up all threads meanwhile.
    """
    values = [special_values(code) for code in codes]
    places = np.indices([len(each) for each in values]).reshape(len(values), -1)
    return [each[place] for each, place in zip(values, places, strict=True)]


def special_values(code: str) -> Array:
    """Values of a dtype that may be treated in a special way."""
    dtype = np.dtype(code)
    if code == "b1":
        return np.array([False, True])
    if dtype.kind == "f":
        return _special_floats(dtype)
    if dtype.kind == "c":
        parts = special_values(dtype.char.lower())
        return np.column_stack([parts, np.roll(parts, 7)]).ravel().view(dtype)
    if dtype.kind in "mM":
        return special_values("i8").view(dtype)
    info = np.iinfo(dtype)
    width = 8 * dtype.itemsize
    numbers = {0, 1, 2, 3, 7, 100, width - 1, width, info.max, info.max - 1, info.min, info.min + 1, info.max // 2}
    return np.array(sorted(numbers | {each for each in (-1, -2, -7, -width) if each >= info.min}), dtype)


def _special_floats(dtype: np.dtype[Any]) -> Array:
    info = np.finfo(dtype)
    ordinary = [each for each in _NUMBERS if each <= float(info.max)]
    positive = np.array([*ordinary, info.max, info.tiny, info.smallest_subnormal, info.eps, np.inf], dtype)
    payloads = np.array([np.nan, np.nan], dtype)
    payloads.view(np.uint8).reshape(2, -1)[1, 0] |= 5
    if dtype.itemsize == 2:
        payloads = np.append(payloads, np.array([0x7C01], np.uint16).view(dtype))  # one that signals
    values = np.concatenate([positive, payloads])
    return np.concatenate([values, np.negative(values)])
