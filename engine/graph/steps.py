"""Steps: what running a node takes, with values in numbered slots; a graph and a plan are both lists of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from types import CodeType
from typing import Any, NoReturn, TypeAlias

from engine.base.op import Op, Params
from engine.devices.base import Device
from handles.cell import Cell

Slots: TypeAlias = list[Any]
"""Values of a run by number: arrays and scalars, cells of what is being computed, None where nothing is yet."""

Getter: TypeAlias = Callable[[Slots], tuple[Any, ...]]


def _unfed() -> NoReturn:
    raise AssertionError("a placeholder is fed, not run")


PLACEHOLDER = Op("placeholder", _unfed)
"""The op of a node whose value each run is fed."""


class Step:
    """One op: the slots that it reads, and the first of those that its results go to."""

    __slots__ = ("code", "device", "getter", "inputs", "lasti", "name", "op", "params", "slot")

    def __init__(
        self,
        op: Op,
        inputs: tuple[int, ...],
        params: Params | None,
        slot: int,
        code: CodeType | None,
        lasti: int,
        device: Device | None,
        name: str,
    ) -> None:
        self.op = op
        self.inputs = inputs
        self.params = params
        self.slot = slot
        self.code = code
        self.lasti = lasti
        self.device = device
        """The device that a scope asked for, if one did."""
        self.name = name
        self.getter = getter_of(inputs)
        """Takes the operands from the slots."""

    def outputs(self) -> range:
        """The slots of the results."""
        return range(self.slot, self.slot + self.op.outputs)

    def reading(self, inputs: tuple[int, ...], slot: int) -> Step:
        """The same step on other slots."""
        return Step(self.op, inputs, self.params, slot, self.code, self.lasti, self.device, self.name)


def getter_of(indices: Sequence[int]) -> Getter:
    """Make a function that takes these slots as a tuple."""
    if len(indices) > 1:
        return itemgetter(*indices)
    if indices:
        (index,) = indices
        return lambda slots: (slots[index],)
    return lambda slots: ()


def step_of(record: Cell) -> Step:
    """The step of a node."""
    return record.rare.node  # type: ignore[union-attr, no-any-return]
