"""Recognizing a chain that was computed before, by straight-line code written for that chain.

Looking a chain up by its key costs as much as its ops in NumPy do on ten thousand elements. So code is written that
compares the records at the front of a queue with those of one chain: their ops, which of them reads what, the arrays,
and which results are kept. It reads some hundred attributes, and makes nothing but the lists of operands.

The code holds no text of users: ops, dtypes and the like are names that it finds in its namespace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from sys import getrefcount
from typing import Any

import numpy as np

from engine.fusion.chains.key import ORDINARY_FLOATS, ORDINARY_INTEGER, ChainKey, Kind, Step, kinds_of, steps_of
from engine.memory.references import HELD_BY_NAME
from handles.cell import PENDING, Cell

Match = tuple[Sequence[Cell], Sequence[Any], Sequence[Any]]
"""The records of a chain, its arrays, and its scalars."""
Matcher = Callable[[Sequence[Cell]], Match | None]
"""Compares the records at the front of a queue with a chain; None where they are others."""

_HELD = 1
"""Places that refer to a record while it is compared, the name in the code apart: the queue."""


def matcher(key: ChainKey) -> Matcher:
    """Write the code that recognizes a chain."""
    return _Writer(steps_of(key), kinds_of(key)).written()


def _guarded(match: Matcher) -> Matcher:
    """Match nothing where another thread has just added to the records.

    Not in the code itself: in a function with a handler of errors Python 3.14 counts a reference more to each name.
    """

    def guarded(records: Sequence[Cell]) -> Match | None:
        try:
            return match(records)
        except RuntimeError:
            return None

    return guarded


class _Writer:
    """Writes the code of one chain: for each record a condition under which it is another one."""

    def __init__(self, steps: Sequence[Step], kinds: Sequence[Kind]) -> None:
        self._steps = steps
        self._kinds = kinds
        self._names: dict[str, Any] = {
            "Cell": Cell, "array": np.ndarray, "PENDING": PENDING, "islice": islice, "count": getrefcount
        }  # fmt: skip
        self._lines: list[str] = []
        self._read: set[int] = set()
        self._scalars = 0
        self._used = [0] * len(steps)

    def written(self) -> Matcher:
        """The code, as a function."""
        for index, step in enumerate(self._steps):
            self._compare(index, step)
        for index, step in enumerate(self._steps):
            known = HELD_BY_NAME + _HELD + self._used[index]
            self._refuse(f"count(c{index}) {'<=' if step.keep else '>'} {known}")
        count = len(self._steps)
        cells = _tuple("c", count)
        lines = ["def match(records):", f"    if len(records) < {count}: return None"]
        lines += [f"    {cells} = islice(records, {count})"]
        lines += [f"    {line}" for line in self._lines]
        lines += [f"    return {cells}, {_tuple('x', len(self._kinds))}, {_tuple('s', self._scalars)}", ""]
        exec(compile("\n".join(lines), "<chain>", "exec"), self._names)
        return _guarded(self._names.pop("match"))

    def _refuse(self, condition: str) -> None:
        self._lines.append(f"if {condition}: return None")

    def _name(self, name: str, value: Any) -> str:
        self._names[name] = value
        return name

    def _compare(self, index: int, step: Step) -> None:
        cell = f"c{index}"
        op = self._name(f"op{index}", step.op)
        given = f"{cell}.params is not None" if step.params is None else self._other_params(index, step)
        self._refuse(f"{cell}.op is not {op} or {cell}.value is not PENDING or {cell}.rare is not None or {given}")
        count = len(step.operands)
        arguments = _tuple(f"a{index}_", count)
        self._lines.append(f"args = {cell}.args")
        self._refuse(f"len(args) != {count}")
        self._lines.append(f"{arguments} = args")
        for place, operand in enumerate(step.operands):
            self._operand(f"a{index}_{place}", operand)

    def _other_params(self, index: int, step: Step) -> str:
        params = self._name(f"p{index}", dict(step.params))
        return f"c{index}.params != {params}"

    def _operand(self, name: str, operand: Any) -> None:
        if operand.__class__ is not int:
            self._scalar(name, operand)
        elif operand >= 0:
            self._used[operand] += 2  # by the operands of that record, and by the name here
            self._refuse(f"{name} is not c{operand}")
        else:
            self._array(name, ~operand)

    def _array(self, name: str, number: int) -> None:
        value = f"x{number}"
        if number in self._read:
            self._refuse(f"{name} is not {value} and ({name}.__class__ is not Cell or {name}.value is not {value})")
            return
        self._read.add(number)
        dtype, shape, strides = self._kinds[number]
        names = (self._name(f"dtype{number}", dtype), self._name(f"shape{number}", shape))
        self._lines.append(f"{value} = {name}.value if {name}.__class__ is Cell else {name}")
        self._refuse(f"{value}.__class__ is not array")
        self._refuse(
            f"{value}.dtype is not {names[0]} or {value}.shape != {names[1]} "
            f"or {value}.strides != {self._name(f'strides{number}', strides)} or not {value}.flags.aligned"
        )

    def _scalar(self, name: str, operand: Any) -> None:
        value = f"s{self._scalars}"
        self._scalars += 1
        self._lines.append(f"{value} = {name}")
        if operand is float:
            ordinary = f"{-ORDINARY_FLOATS} <= {value} <= {ORDINARY_FLOATS}"
            self._refuse(f"{value}.__class__ is not {self._name('float', float)} or not ({ordinary})")
        elif operand is int:
            ordinary = f"0 <= {value} <= {ORDINARY_INTEGER}"
            self._refuse(f"{value}.__class__ is not {self._name('int', int)} or not ({ordinary})")
        else:
            kind = self._name(f"kind{value}", operand[0])
            text = self._name(f"text{value}", operand[1])
            self._refuse(f"{value}.__class__ is not {kind} or repr({value}) != {text}")


def _tuple(letter: str, count: int) -> str:
    return "(" + "".join(f"{letter}{index}, " for index in range(count)) + ")"
