"""A traced function as the kernel of one op: ops in order, which read and write numbered slots.

For devices that take a traced function whole (`Backend.takes_functions`): what it does is sent there once, and each
call is one record. Such a device computes the steps itself; calling the kernel computes them here, one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from engine.base.op import Op, Params


class TracedStep(NamedTuple):
    """One op of a traced function."""

    op: Op
    inputs: tuple[int, ...]
    """The slots that it reads."""
    params: Params | None
    slot: int
    """The slot of its result; of several the first one's, the others follow."""


class Traced:
    """A function of arrays that is known as steps."""

    def __init__(
        self,
        steps: Sequence[TracedStep],
        initial: Sequence[Any],
        arguments: Sequence[int],
        outputs: Sequence[int],
        places: Callable[[], list[str]],
    ) -> None:
        self.steps = steps
        self.initial = initial
        """The slots before a call: constants, and None."""
        self.arguments = arguments
        """The slots of the operands."""
        self.outputs = outputs
        """The slots of the results."""
        self.places = places
        """Says for each step where the user called it."""

    def __call__(self, *arrays: Any) -> Any:
        slots = list(self.initial)
        for slot, array in zip(self.arguments, arrays, strict=True):
            slots[slot] = array
        for step in self.steps:
            found: Any = step.op.kernel(*[slots[each] for each in step.inputs], **step.params or {})
            results = found if step.op.outputs != 1 else (found,)
            slots[step.slot : step.slot + step.op.outputs] = map(np.asarray, results)
        values = tuple(slots[each] for each in self.outputs)
        return values[0] if len(values) == 1 else values
