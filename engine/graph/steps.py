"""Steps: what running a node takes, with values in numbered slots; a graph and a plan are both lists of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from types import CodeType
from typing import Any, NamedTuple

from engine.base.op import Op
from engine.devices.base import Device

Slots = list[Any]
Getter = Callable[[Slots], tuple[Any, ...]]


class Step:
    """One op: the slots that it reads, and the first of those that its results go to."""

    __slots__ = ("code", "device", "getter", "inputs", "lasti", "name", "op", "params", "slot")

    def __init__(
        self,
        op: Op,
        inputs: tuple[int, ...],
        params: dict[str, Any] | None,
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


class Schedule(NamedTuple):
    """Steps in the order of a run."""

    steps: list[Step]
    frees: list[tuple[int, ...]]
    """For each step the slots whose values nobody needs once it is dispatched.

    A list of its own: tuples of numbers are nothing to the garbage collector, pairs with a step would be.
    """


def getter_of(indices: Sequence[int]) -> Getter:
    """What takes these slots as a tuple."""
    if len(indices) > 1:
        return itemgetter(*indices)
    if indices:
        (index,) = indices
        return lambda slots: (slots[index],)
    return lambda slots: ()
