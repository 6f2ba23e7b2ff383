"""The key of a chain: all that decides how it is computed, and none of what changes from call to call. Pure.

Ops, parameters, which results are kept, and dtype, shape and strides of each operand belong to it. The elements do not,
nor do the values of scalars, those apart which decide what is computed.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np

from engine.base.op import Fusion, Op, Params
from engine.memory.layout import Shape, Strides

Array = np.ndarray[Any, Any]

Operand = Hashable
"""A step by its number; an array as `~number`; or the key of a scalar."""
Kind = tuple[np.dtype[Any], Shape, Strides]
"""The facts about an array."""
ChainKey = tuple[Hashable, ...]
"""One flat tuple, as making and comparing it has to be fast: for each step its op, its parameters, its operands, and
whether the result is kept; then the facts about each array, in the order in which they are first read."""


class Step(NamedTuple):
    """One step of a chain, as its key says."""

    op: Op
    params: Any
    operands: tuple[Operand, ...]
    keep: bool


def steps_of(key: ChainKey) -> list[Step]:
    """The steps that a key was made of."""
    begins = [index for index, each in enumerate(key) if isinstance(each, Op)]
    ends = [*begins[1:], next(index for index, each in enumerate(key) if isinstance(each, np.dtype))]
    return [
        Step(key[begin], key[begin + 1], key[begin + 2 : end - 1], bool(key[end - 1]))  # type: ignore[arg-type]
        for begin, end in zip(begins, ends, strict=True)
    ]


def kinds_of(key: ChainKey) -> list[Kind]:
    """The facts about the arrays that a key was made of."""
    begins = [index for index, each in enumerate(key) if isinstance(each, np.dtype)]
    return [key[begin : begin + 3] for begin in begins]  # type: ignore[misc]


ORDINARY_INTEGER = 127
"""The largest integer that each dtype of numbers has."""
ORDINARY_FLOATS = 65_504.0
"""The largest number of float16: up to there, a float is one in each dtype of floats."""


class Operands:
    """The arrays and scalars of a chain, as its steps are looked at one after the other."""

    __slots__ = ("_numbers", "arrays", "kinds", "scalars")

    def __init__(self) -> None:
        self.arrays: list[Array] = []
        self.scalars: list[Any] = []
        self.kinds: list[Hashable] = []
        """Of each array the dtype, the shape and the strides."""
        self._numbers: dict[int, int] = {}

    def array(self, array: Array) -> int | None:
        """The key of an array; None for one that compiled code does not take."""
        number = self._numbers.get(id(array))
        if number is None:
            if not array.flags.aligned:
                return None
            number = self._numbers[id(array)] = ~len(self.arrays)
            self.arrays.append(array)
            self.kinds += (array.dtype, array.shape, array.strides)
        return number

    def scalar(self, value: Any, fusion: Fusion) -> Hashable:
        """The key of a scalar: its class, and its value where that decides more than the result; None for others."""
        kind = value.__class__
        if kind is float:
            ordinary = -ORDINARY_FLOATS <= value <= ORDINARY_FLOATS
        elif kind is int:
            ordinary = 0 <= value <= ORDINARY_INTEGER
        elif kind is bool:
            ordinary = False
        else:
            return None
        self.scalars.append(value)
        return kind if ordinary and fusion.variant is None else (kind, repr(value))

    def mark(self) -> tuple[int, int]:
        """Where to go back to."""
        return len(self.arrays), len(self.scalars)

    def back_to(self, mark: tuple[int, int]) -> None:
        """Forget what came since."""
        arrays, scalars = mark
        for array in self.arrays[arrays:]:
            del self._numbers[id(array)]
        del self.arrays[arrays:], self.kinds[3 * arrays :], self.scalars[scalars:]


def params_key(params: Params) -> Hashable:
    """The key of the parameters of an op; None where there are none, or one cannot be hashed."""
    key = tuple(params.items())
    try:
        hash(key)
    except TypeError:
        return None
    return key or None
