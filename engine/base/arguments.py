"""The arguments of a call of unknown form: arrays taken out as operands, and put back for the kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from handles.base import Handle


class Slot:
    """In the arguments of a call, or in a key: the place of the operand of that number."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


def take(value: Any, operands: list[Any]) -> Any:
    """The arguments with their arrays taken out: those are operands, snapshotted and placed as such."""
    if isinstance(value, Handle | np.ndarray):
        operands.append(value)
        return Slot(len(operands) - 1)
    cls = type(value)
    if cls is list or cls is tuple:
        return cls([take(each, operands) for each in value])
    if cls is dict:
        return {key: take(each, operands) for key, each in value.items()}
    return value


def fill(value: Any, operands: Sequence[Any]) -> Any:
    """The arguments with the operands in the slots."""
    cls = type(value)
    if cls is Slot:
        return operands[value.number]
    if cls is list or cls is tuple:
        return cls([fill(each, operands) for each in value])
    if cls is dict:
        return {key: fill(each, operands) for key, each in value.items()}
    return value
