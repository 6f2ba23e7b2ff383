"""Finding chains among records: elementwise ops that read one another, as the rows of a key.

What is found is compared with the chains that were planned before, by the key. References decide which results are
kept; so no name but those counted here may refer to a record while the key is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from engine.base.op import Op
from engine.fusion.chains.key import ChainKey, Operand, Operands, params_key
from engine.memory.references import others
from engine.queues.operands import SCALARS
from handles.cell import PENDING, Cell, Rare

BESIDE = 8
"""Records in a row that are passed over, as they are not of the chain, before it ends."""
Joined = Callable[[Cell], None]
NOWHERE: Mapping[int, int] = MappingProxyType({})
_ARRAY = np.ndarray


class Found:
    """The records of a chain, in dispatch order, with the rows of its key, and their operands."""

    __slots__ = ("cells", "kept", "operands", "parts", "row", "used")

    def __init__(self) -> None:
        self.cells: list[Cell] = []
        self.row: list[Operand] = []
        """The beginning of the chain's key; whether a result is kept is not known yet."""
        self.kept: list[int] = []
        """For each record, where that is to stand in the key."""
        self.used: list[int] = []
        """For each record, how often it is an operand of the others."""
        self.parts: list[int] = []
        """For each record the number of the part that it belongs to: what reads one another is of one part."""
        self.operands = Operands()

    def is_whole(self) -> bool:
        """Tell whether all records are of one part."""
        return not any(self.parts)

    def first_part(self) -> list[Cell]:
        """The records that belong together with the first one."""
        return [cell for cell, part in zip(self.cells, self.parts, strict=True) if part == 0]

    def key(self, held: int, more: Mapping[int, int] = NOWHERE) -> ChainKey:
        """The key of the chain; a result is kept where anything else refers to it than `held` places and the chain.

        `more` says, by the identities of records, in how many places more some of them stand.
        """
        row, used, places = self.row, iter(self.used), iter(self.kept)
        for cell in self.cells:
            row[next(places)] = others(cell, held + next(used) + more.get(id(cell), 0))
        return (*row, *self.operands.kinds)

    def elements(self) -> int:
        """Elements of the largest array."""
        return max((array.size for array in self.operands.arrays), default=0)

    def let_go(self) -> None:
        """Let go of records and operands."""
        self.cells.clear()
        self.operands.arrays.clear()


def found_among(records: Iterable[Cell], *, running: bool = False, joined: Joined | None = None) -> Found:
    """Find a chain among records in dispatch order; what is not of one is passed over.

    Only those that stand on a queue are looked at; with `running` also those that were set aside, and the first one,
    which runs. `joined` is told of each record that was taken along.
    """
    found = Found()
    cells, row, kept, used, parts = found.cells, found.row, found.kept, found.used, found.parts
    numbers: dict[Cell, int] = {}
    beside = 0
    for cell in records:
        usable = cell.rare is None or (running and _is_plain(cell.rare, is_head=not cells))
        read = _added(cell, found.operands, numbers, row) if usable else None
        if read is not None:
            number = numbers[cell] = len(cells)
            cells.append(cell)
            if joined is not None and number:
                joined(cell)
            kept.append(len(row) - 1)
            used.append(0)
            parts.append(parts[read[0]] if read else number)
            for each in read:
                used[each] += 1
                if parts[each] != parts[number]:
                    join(parts, parts[each], parts[number])
        beside = 0 if read else beside + 1
        if beside > BESIDE or not cells:
            break
    return found


def _added(cell: Cell, operands: Operands, numbers: dict[Cell, int], row: list[Operand]) -> list[int] | None:
    """Add a record to the key, and return the numbers of those that it reads; None where it cannot be of a chain."""
    op = cell.op
    fusion = op.fusion
    if cell.value is not PENDING or not (fusion.fusable or is_reduction(op)):
        return None
    params = cell.params
    given = (op, None if params is None else params_key(params))
    read: list[int] = []
    length, mark = len(row), operands.mark()
    row += given
    for arg in cell.args:
        key: Operand = None
        if arg.__class__ is Cell:
            number = numbers.get(arg)
            if number is not None:
                row.append(number)
                read.append(number)
                continue
            arg = arg.value
        if arg.__class__ is _ARRAY:
            key = operands.array(arg)
        elif arg.__class__ in SCALARS:
            key = operands.scalar(arg, fusion)
        if key is None:
            break
        row.append(key)
    else:
        if not params or given[1] is not None:
            row.append(False)
            return read
    del row[length:]
    operands.back_to(mark)
    return None


def is_reduction(op: Op) -> bool:
    """Tell whether an op may end a chain."""
    return op.known and op.fusion.facts.reduction is not None


def join(parts: list[int], first: int, second: int) -> None:
    """Make one part of two; it has the lower number."""
    low, high = min(first, second), max(first, second)
    parts[:] = [low if part == high else part for part in parts]


def _is_plain(rare: Rare, *, is_head: bool) -> bool:
    """Tell whether a record has one result, the error state of others, and does not run unless it is the first."""
    return rare.context is None and not rare.outputs and (is_head or not rare.running)


def may_be_written_over(found: Found, numbers: Sequence[int]) -> bool:
    """Tell whether nothing but the chain refers to one of these arrays of it."""
    arrays = found.operands.arrays
    for number in numbers:
        holder, mentions = _holder(found.cells, arrays[number])
        if not others(holder, mentions + (holder is arrays[number])):
            return True
    return False


def _holder(cells: Sequence[Cell], array: Any) -> tuple[Any, int]:
    """The cell of an array, or the array itself, as records have it for an operand; and in how many places."""
    mentioned = [
        arg for cell in cells for arg in cell.args if arg is array or (arg.__class__ is Cell and arg.value is array)
    ]
    return mentioned[0], sum(arg is mentioned[0] for arg in mentioned)
