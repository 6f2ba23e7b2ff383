"""From a planned group to its structure, and to the scalars that its code is called with. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.base.op import loop_dtypes
from engine.fusion.blocks import cast, select
from engine.fusion.groups import FusionGroup, Input, Register, Step, promoted_as
from engine.fusion.native.emit import code_of
from engine.fusion.native.structure import (
    CAST,
    CONTIGUOUS,
    REPEATED,
    STREAMED,
    STRIDED,
    WHERE,
    ArrayKind,
    Computed,
    Instruction,
    Reduction,
    Ref,
    Structure,
    UnsupportedError,
)
from engine.fusion.program import as_array
from engine.fusion.walks import Walk

Array = np.ndarray[Any, Any]

STREAMED_BYTES = 12 << 20
"""Bytes of a new result from which it is written past the caches: with its operands it would not stay there until it is
read, and memory need not be read before it is written."""


@dataclass(frozen=True, slots=True)
class Description:
    """A group as the compiler sees it."""

    structure: Structure
    scalars: Sequence[Array]
    arrays: Sequence[Array]
    """Inputs and outputs as they are walked."""
    origins: Sequence[tuple[int, int]] = ()
    """For each scalar, the step that it is an operand of, and which one it is."""
    totals: dict[int, Array] = field(default_factory=dict)
    """The results of reductions along axes, all axes kept, for the numbers of their steps."""


def described(group: FusionGroup, walk: Walk) -> Description:
    """Describe a group. Raises `UnsupportedError` where it has something that is not compiled."""
    description = _Describer(group, walk)
    for index, step in enumerate(group.steps):
        description.add(index, step)
    return description.result()


class _Describer:
    def __init__(self, group: FusionGroup, walk: Walk) -> None:
        self._group = group
        self._arrays = list(walk.inputs)
        self._outputs: dict[int, int] = {}
        for index, output in enumerate(walk.outputs):
            if output is not None:
                self._outputs[index] = len(self._arrays)
                self._arrays.append(output)
        self._kinds = [_kind(array) for array in self._arrays]
        for index, number in self._outputs.items():
            if group.steps[index].over is None and self._arrays[number].nbytes >= STREAMED_BYTES:
                self._kinds[number] = streamed(self._kinds[number])
        self._scalars: list[Array] = []
        self._origins: list[tuple[int, int]] = []
        self._instructions: list[Instruction] = []
        self._results: dict[int, Ref] = {}
        self._casts: dict[tuple[Ref, str], Ref] = {}
        self._reductions: list[Reduction] = []
        self._totals: dict[int, Array] = {}

    def add(self, index: int, step: Step) -> None:
        if step.reduction is not None:
            self._reduce(index, step, step.reduction)
        elif step.op.fusion.block is None:
            self._add_ufunc(index, step)
        elif step.op.fusion.block is select:
            code = _code(step.dtype)
            refs = self._operands(index, step, [np.dtype(bool), step.dtype, step.dtype])
            if refs[0].kind == "scalar":
                raise UnsupportedError
            self._emit(WHERE, refs, ("b1", code, code, code), index)
        elif step.op.fusion.block is cast:
            ref, code = self._plain(step.operands[0])
            self._emit(CAST, [ref], (code, _code(step.dtype)), index)
        else:
            raise UnsupportedError

    def _add_ufunc(self, index: int, step: Step) -> None:
        types = tuple(map(self._type, step.operands))
        dtypes = loop_dtypes(step.op.kernel, types)
        refs = self._operands(index, step, dtypes[:-1])
        assert isinstance(step.op.kernel, np.ufunc)
        self._emit(step.op.kernel, refs, tuple(map(_code, dtypes)), index)

    def _type(self, operand: Any) -> Any:
        if isinstance(operand, Register):
            return self._group.steps[operand.step].dtype
        return promoted_as(self._group.inputs[operand.index] if isinstance(operand, Input) else operand)

    def _plain(self, operand: Any) -> tuple[Ref, str]:
        """An operand that is no scalar, and its dtype."""
        if isinstance(operand, Register):
            return self._results[operand.step], _code(self._group.steps[operand.step].dtype)
        if isinstance(operand, Input):
            return Ref("array", operand.index), self._kinds[operand.index].code
        raise UnsupportedError

    def _operands(self, index: int, step: Step, dtypes: Sequence[np.dtype[Any]]) -> list[Ref]:
        """The operands of a step in the dtypes that they are computed with."""
        refs = []
        for place, (operand, dtype) in enumerate(zip(step.operands, dtypes, strict=True)):
            if isinstance(operand, Register | Input):
                refs.append(self._cast(*self._plain(operand), _code(dtype)))
            else:
                refs.append(self._scalar(operand, dtype))
                self._origins.append((index, place))
        return refs

    def _cast(self, ref: Ref, source: str, target: str) -> Ref:
        if source == target:
            return ref
        known = self._casts.get((ref, target))
        if known is None:
            known = self._casts[ref, target] = self._emit(CAST, [ref], (source, target))
        return known

    def _scalar(self, operand: Any, dtype: np.dtype[Any]) -> Ref:
        _code(dtype)
        if operand.__class__ in (int, float):
            value = as_array(operand, dtype)
        else:
            try:
                with np.errstate(all="raise"):
                    value = np.asarray(operand).astype(dtype)
            except (FloatingPointError, TypeError, ValueError) as error:
                raise UnsupportedError from error
        if not isinstance(value, np.ndarray) or value.ndim or (value.dtype.char == "e" and np.isnan(value)):
            raise UnsupportedError
        self._scalars.append(value)
        return Ref("scalar", len(self._scalars) - 1)

    def _emit(self, op: Computed, refs: Sequence[Ref], loop: tuple[str, ...], step: int | None = None) -> Ref:
        output = None if step is None else self._outputs.get(step)
        over = step is not None and self._group.steps[step].over is not None
        ref = Ref("step", len(self._instructions))
        self._instructions.append(Instruction(op, tuple(refs), loop, output, over))
        if step is not None:
            self._results[step] = ref
        return ref

    # Reductions

    def _reduce(self, index: int, step: Step, kind: str) -> None:
        ref, code = self._plain(step.operands[0])
        if kind == "count":
            ref, code = self._cast(self._cast(ref, code, "b1"), "b1", "i8"), "i8"
        ufunc: np.ufunc = np.add if kind in ("count", "mean") else getattr(np, kind)
        if ufunc is np.add:
            total = _code(ufunc.reduce(np.empty(0, code)).dtype)
            ref, code = self._cast(ref, code, total), total
        if step.axes is not None:
            self._reductions.append(self._reduced_along(index, step.axes, Reduction(ufunc, ref, code)))
            return
        array = ref.number if ref.kind == "array" else self._instructions[ref.number].output
        if array is not None and not self._kinds[array].is_contiguous:
            raise UnsupportedError
        self._reductions.append(Reduction(ufunc, ref, code))

    def _reduced_along(self, index: int, axes: tuple[int, ...], reduction: Reduction) -> Reduction:
        shape = self._group.shape
        if len(axes) > 1 and len(shape) - 1 in axes:
            raise UnsupportedError  # rows of rows
        kept = [1 if axis in axes else length for axis, length in enumerate(shape)]
        total = self._totals[index] = np.full(kept, reduction.first, reduction.code)
        self._arrays.append(np.broadcast_to(total, shape))
        self._kinds.append(_kind(self._arrays[-1]))
        return reduction._replace(kept=len(self._arrays) - 1)

    def result(self) -> Description:
        structure = Structure(
            self._arrays[0].ndim,
            tuple(self._kinds),
            tuple(_code(each.dtype) for each in self._scalars),
            tuple(self._instructions),
            tuple(self._reductions),
            any(each.dtype.kind == "f" and bool(np.isnan(each)) for each in self._scalars),
        )
        return Description(structure, self._scalars, self._arrays, self._origins, self._totals)


def _code(dtype: np.dtype[Any]) -> str:
    code = code_of(dtype)
    if code is None:
        raise UnsupportedError
    return code


def _kind(array: Array) -> ArrayKind:
    if not array.flags.aligned:
        raise UnsupportedError
    stride = array.strides[-1]
    if stride == array.itemsize or array.shape[-1] == 1:
        return ArrayKind(_code(array.dtype), CONTIGUOUS)
    return ArrayKind(_code(array.dtype), STRIDED if stride else REPEATED)


def streamed(kind: ArrayKind) -> ArrayKind:
    """The kind of an array that is written past the caches, if it can be."""
    return kind._replace(inner=STREAMED) if kind.inner == CONTIGUOUS else kind
