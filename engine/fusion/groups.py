"""Fusion groups: chains of elementwise records over one shape, planned to be executed together, block by block. Pure.

A group is collected from what is pending on a device when its first op is about to start. It takes along every later
record that is elementwise over the same broadcast shape and whose operands are ready or computed within the group;
what it leaves out does not depend on it, so each result is as if ops ran one by one. A result that nothing outside
the group refers to is never written to memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from engine.base.op import Op
from engine.fusion.blocks import cast
from engine.memory.layout import Shape, broadcast_strides, coalesce, copy_order, iteration_order, strip_axis
from handles.cell import PENDING, Cell

LOOKAHEAD = 256
"""Records that are looked at for one group."""
LONGEST = 64
"""Steps that one group has at most: planning holds the interpreter, and results come when the whole group has ended."""
LEFT_OUT = 64
"""Records that do not fit, after which the group is closed: looking at them is not free."""
TOGETHER = 1 << 19
"""Elements from which what does not belong together is computed together: it may read the same operands, which come
from memory then. Below, they are in cache, and each combination of chains would be a structure of its own."""
_KINDS = "biufcmM"
"""The kinds of dtypes that groups compute with: fixed-size numbers, which uninitialized memory is a valid value of."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Register:
    """An operand that an earlier step of the group computes."""

    step: int


@dataclass(frozen=True, slots=True)
class Input:
    """An operand that is there when the group begins."""

    index: int


@dataclass(slots=True)
class Step:
    """One op of a group. `operands` are registers, inputs, and scalars as they are."""

    cell: Cell
    op: Op
    operands: tuple[Any, ...]
    dtype: np.dtype[Any]
    order: tuple[int, ...]
    """The axes of the result, from the slowest to the fastest in memory."""
    reduction: str | None = None
    axes: tuple[int, ...] | None = None
    """The axes that are reduced, None for all of them."""
    keep: bool = True
    """True if anything outside the group refers to the result."""
    over: int | None = None
    """The input whose memory becomes the result's."""


@dataclass(slots=True)
class FusionGroup:
    """Steps in dispatch order, over one shape."""

    shape: Shape
    context: Context | None
    """The context of the dispatch, where NumPy's error state was another than the default one."""
    steps: list[Step] = field(default_factory=list)
    inputs: list[Array] = field(default_factory=list)
    entry: Any = None
    """The backlog's entry of the record that begins the group."""
    whole: frozenset[int] = frozenset()
    """The axes that some step reduces, apart from others: blocks are not cut across them."""

    @property
    def overwrites(self) -> bool:
        """Tell whether results are written over operands: such a group cannot be done again."""
        return any(step.over is not None for step in self.steps)

    @property
    def cells(self) -> list[Cell]:
        return [step.cell for step in self.steps]


def can_begin(op: Op) -> bool:
    """Tell whether a group can begin with this op."""
    return op.fusion.fusable or (op.known and op.fusion.facts.reduction is not None)


class Chooser(Protocol):
    """Which records may be offered to a group."""

    def allows(self, cell: Cell) -> bool: ...

    def joined(self, cell: Cell) -> None: ...


def collect(head: Cell, later: Iterable[Cell], chooser: Chooser | None = None) -> FusionGroup | None:
    """The group that begins with `head`, whose operands are ready; None when it has to run by itself."""
    group = _collected(head, later, chooser)
    if group is None or len(group.steps) < 2 or math.prod(group.shape) >= TOGETHER:
        return group
    related = _related(group)
    return group if len(related) == len(group.steps) else _collected(head, related[1:], None)


def _related(group: FusionGroup) -> list[Cell]:
    """The records of the steps that belong together with the first one: one reads another, or both are read by one."""
    parts = list(range(len(group.steps)))
    for index, step in enumerate(group.steps):
        for operand in step.operands:
            if isinstance(operand, Register) and parts[operand.step] != parts[index]:
                low, high = sorted((parts[operand.step], parts[index]))
                parts = [low if part == high else part for part in parts]
    return [step.cell for step, part in zip(group.steps, parts, strict=True) if part == 0]


def _collected(head: Cell, later: Iterable[Cell], chooser: Chooser | None) -> FusionGroup | None:
    collector = Collector()
    if not collector.add(head, head=True):
        return None
    assert collector.group is not None
    left_out = 0
    for cell in later:
        added = (chooser is None or chooser.allows(cell)) and collector.add(cell)
        left_out += not added
        if added and chooser is not None:
            chooser.joined(cell)
        if left_out == LEFT_OUT or len(collector.group.steps) == LONGEST:
            break
    return collector.group


class Collector:
    """A group that grows while records are offered to it in dispatch order."""

    def __init__(self) -> None:
        self.group: FusionGroup | None = None
        self._steps: dict[Cell, int] = {}
        self._inputs: dict[int, int] = {}
        self._reduces = False
        """True if the group has a reduction: it is cut where NumPy's summation cuts it."""
        self._complex = False
        """True if the group has complex numbers: then every operand is one long row, cut between vectors."""
        self._one_row = False
        """True if every operand has to be one long row."""
        self._context: Context | None = None

    def add(self, cell: Cell, *, head: bool = False) -> bool:
        """Take the record along if it fits."""
        op = cell.op
        if cell.value is not PENDING or not can_begin(op):
            return False
        rare = cell.rare
        if rare is not None and (rare.outputs or (rare.running and not head)):
            return False
        context = None if rare is None else rare.context
        if head:
            self._context = context
        elif _errstate(context) is not _errstate(self._context):
            return False
        operands = [self._operand(value) for value in cell.args]
        if any(each is None for each in operands):
            return False
        if not op.fusion.fusable:
            return self._add_reduction(cell, operands[0])
        return self._add_elementwise(cell, operands)

    def _operand(self, value: Any) -> Any:
        """A register, an array, or a scalar; None where it is not there yet."""
        if value.__class__ is Cell:
            step = self._steps.get(value)
            if step is not None:
                return Register(step)
            value = value.value
            if value.__class__ is not np.ndarray:
                return None
        return value

    def _add_elementwise(self, cell: Cell, operands: list[Any]) -> bool:
        shape, described = self._described(operands)
        if shape is None or math.prod(shape) <= 1 or (self.group is not None and shape != self.group.shape):
            return False
        op = cell.op.fused_as(described, operands, cell.params)
        if op is None:
            return False
        if op.fusion.block is None:
            operands, described = operands[: op.kernel.nin], described[: op.kernel.nin]  # a root needs no exponent
        dtype = op.result_dtype(described, cell.params)
        if dtype is None or not _computable(op, dtype, described, operands):
            return False
        if self.group is None:
            self.group = FusionGroup(shape, self._context)
        strides = [self._strides(each, shape) for each in operands if _is_array(each)]
        likewise = copy_order(strides[0], len(shape)) if strides else ()
        order = likewise if op.fusion.block is cast else iteration_order(strides, len(shape))
        arrays = [each for each in operands if isinstance(each, np.ndarray)]
        if cell.op.fusion.updates:
            like = (self._shape_of(operands[0]), described[0], likewise) == (shape, dtype, order)
            if not like or min(strides[0], default=0) < 0:
                return False  # it would be cast, or laid out in another way
        if not self._walks_like(order) or not self._keeps_loops(op, [dtype, *described], arrays):
            return False
        self._append(Step(cell, op, tuple(map(self._stored, operands)), dtype, order))
        return True

    def _walks_like(self, order: tuple[int, ...]) -> bool:
        """Tell whether the result is laid out as the others of the group: NumPy walks all of them in one order."""
        assert self.group is not None
        shape, steps = self.group.shape, self.group.steps
        return not steps or strides_of(shape, order) == strides_of(shape, steps[0].order)

    def _keeps_loops(self, op: Op, types: list[Any], arrays: list[Array]) -> bool:
        """Tell whether each element is computed by the loop that computes it in one call.

        NumPy multiplies complex numbers with other instructions at the end of a row than within it, and the bits
        differ. In one long row blocks end where whole vectors end; otherwise such an op has to run by itself. Some
        functions have other instructions for operands that are not contiguous, or are one element repeated; most have
        others for operands that are walked backwards, which NumPy decides for the whole.
        """
        is_complex = any(each is complex or getattr(each, "kind", "") == "c" for each in types)
        if is_complex and self._reduces:
            return False
        rounded = op.fusion.block is None and not op.fusion.facts.exact
        if rounded and any(stride < 0 for array in arrays for stride in array.strides):
            return False
        is_half = any(isinstance(each, np.dtype) and each.char == "e" for each in types)
        minds_layout = op.fusion.facts.minds_layout or (rounded and is_half)
        if minds_layout and any(_is_repeated(each) and each.dtype != types[0] for each in arrays):
            return False  # to be cast, it would be written out, and not be one element repeated any more
        one_row = self._one_row or is_complex or minds_layout
        if one_row and ((self.group is not None and self.group.whole) or not self._is_flat(arrays)):
            return False
        self._one_row, self._complex = one_row, self._complex or is_complex
        return True

    def _add_reduction(self, cell: Cell, operand: Any) -> bool:
        kind, params = cell.op.fusion.facts.reduction, cell.params or {}
        if kind is None or params.get("dtype") is not None or not _PLAIN.issuperset(params):
            return False
        if params.get("axis") is not None:
            return isinstance(operand, Register) and self._add_along(cell, kind, operand, params["axis"])
        if self.group is not None and self.group.whole:
            return False
        if isinstance(operand, Register):
            assert self.group is not None
            dtype, order = self.group.steps[operand.step].dtype, self.group.steps[operand.step].order
            if self.group.steps[operand.step].reduction is not None:
                return False
        elif isinstance(operand, np.ndarray) and self.group is None and operand.size > 1 and operand.flags.aligned:
            self.group = FusionGroup(operand.shape, self._context)
            strides = broadcast_strides(operand, operand.shape)
            dtype, order = operand.dtype, iteration_order([strides], operand.ndim)
        else:
            return False
        arrays = [operand] if isinstance(operand, np.ndarray) else []
        fits = reduces_exactly(kind, dtype) and not self._complex and self._is_flat(arrays)
        if fits:
            self._append(Step(cell, cell.op, (self._stored(operand),), dtype, order, reduction=kind))
            self._reduces = self._one_row = True
        return fits

    def _add_along(self, cell: Cell, kind: str, operand: Register, axis: Any) -> bool:
        """A reduction along some axes: each block has all elements along them."""
        assert self.group is not None
        group, source = self.group, self.group.steps[operand.step]
        ndim = len(group.shape)
        if self._one_row or source.reduction is not None or source.order != tuple(range(ndim)):
            return False
        try:
            axes = np.lib.array_utils.normalize_axis_tuple(axis, ndim)
        except ValueError:
            return False
        whole = group.whole.union(axes)
        if not reduces_exactly(kind, source.dtype) or strip_axis(group.shape, whole) is None:
            return False
        self._append(Step(cell, cell.op, (operand,), source.dtype, source.order, reduction=kind, axes=axes))
        group.whole = whole
        return True

    def _is_flat(self, more: list[Array]) -> bool:
        """Tell whether all operands can be walked as one long row: then NumPy adds them up as one."""
        assert self.group is not None
        shape = self.group.shape
        strides = [broadcast_strides(array, shape) for array in (*self.group.inputs, *more)]
        strides += [strides_of(shape, step.order) for step in self.group.steps[:1]]  # the others are laid out likewise
        order = iteration_order(strides, len(shape))
        walked = [tuple(each[axis] for axis in order) for each in strides]
        return len(coalesce(tuple(shape[axis] for axis in order), walked)[0]) == 1

    def _append(self, step: Step) -> None:
        assert self.group is not None
        self._steps[step.cell] = len(self.group.steps)
        self.group.steps.append(step)

    def _stored(self, operand: Any) -> Any:
        if not isinstance(operand, np.ndarray):
            return operand
        assert self.group is not None
        index = self._inputs.get(id(operand))
        if index is None:
            index = self._inputs[id(operand)] = len(self.group.inputs)
            self.group.inputs.append(operand)
        return Input(index)

    def _described(self, operands: list[Any]) -> tuple[Shape | None, list[Any]]:
        """The broadcast shape, and for each operand what its dtype is promoted by."""
        shapes, types = [], []
        for operand in operands:
            if isinstance(operand, Register):
                assert self.group is not None
                source = self.group.steps[operand.step]
                if source.reduction is not None:
                    return None, []
                shapes.append(self.group.shape)
                types.append(source.dtype)
            else:
                types.append(promoted_as(operand))
                if isinstance(operand, np.ndarray | np.generic):
                    shapes.append(operand.shape)
        try:
            return np.broadcast_shapes(*shapes), types
        except ValueError:
            return None, []

    def _shape_of(self, operand: Any) -> Shape | None:
        if isinstance(operand, Register):
            assert self.group is not None
            return self.group.shape
        return getattr(operand, "shape", None)

    def _strides(self, operand: Any, shape: Shape) -> tuple[int, ...]:
        if isinstance(operand, Register):
            assert self.group is not None
            return strides_of(shape, self.group.steps[operand.step].order)
        return broadcast_strides(operand, shape)


def promoted_as(value: Any) -> Any:
    """The type that decides a result's dtype: a dtype, or the class of a Python scalar, which has none of its own."""
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype
    return np.dtype(bool) if value.__class__ is bool else value.__class__


def _is_repeated(array: Array) -> bool:
    """Tell whether an array is, or may be walked as, one element again and again."""
    return array.size == 1 or 0 in array.strides


_PLAIN = frozenset({"axis", "dtype", "keepdims"})
"""The parameters of a reduction that a group knows of."""
_HALF_MAX = 65_504
"""The largest number of float16, the narrowest dtype that a Python scalar may overflow."""


def _computable(op: Op, dtype: np.dtype[Any], types: list[Any], operands: list[Any]) -> bool:
    """Tell whether blocks give what NumPy gives for the whole, its warnings too.

    What NumPy warns of apart from the op's own arithmetic, it would warn of for each block: that a Python scalar
    overflows in becoming an operand, that a cast drops imaginary parts.
    """
    dtypes = [each for each in types if isinstance(each, np.dtype)]
    if any(each.kind not in _KINDS for each in (dtype, *dtypes)):
        return False
    if op.fusion.block is not None and dtype.kind != "c" and any(each.kind == "c" for each in dtypes):
        return False
    scalars = [each for each in operands if each.__class__ in (int, float, complex)]
    narrow = any(each.char in "efF" for each in (dtype, *dtypes))
    return not narrow or all(abs(each) <= _HALF_MAX or each - each != 0 for each in scalars)


def _is_array(operand: Any) -> bool:
    return isinstance(operand, np.ndarray | Register)


def strides_of(shape: Shape, order: Sequence[int]) -> tuple[int, ...]:
    """The strides, in elements, of a contiguous array with this order of axes; 0 for axes of length 1."""
    strides = [0] * len(shape)
    stride = 1
    for axis in reversed(order):
        strides[axis] = 0 if shape[axis] == 1 else stride
        stride *= shape[axis]
    return tuple(strides)


_ERRSTATE = np._core.umath._extobj_contextvar  # type: ignore[attr-defined]


def _errstate(context: Context | None) -> object:
    """The error state that `numpy.errstate` set; None for the default."""
    return None if context is None else context.get(_ERRSTATE)


def reduces_exactly(kind: str, dtype: np.dtype[Any]) -> bool:
    """Tell whether reducing block by block gives NumPy's bits: it adds some in another dtype, in chunks of its own."""
    if not dtype.isnative:
        return False  # swapped bytes are cast, too
    if kind == "mean":
        return dtype.char in "fd"
    if kind == "add":
        return dtype.char in "fd?bBhHiIlLqQ"
    if kind == "count":
        return dtype.kind in "biufc"
    if kind in ("logical_or", "logical_and"):
        return dtype.char == "?"
    return dtype.char in "bBhHiIlLqQfd"
