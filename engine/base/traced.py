"""Traced functions as kernels: what `engine.function` traced, for backends that take a call of it as one record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from engine.base.op import Kernel, Params


class TracedStep(NamedTuple):
    """One op of a traced function, between numbered slots."""

    name: str
    """The op's name."""
    kernel: Kernel
    params: Params
    inputs: tuple[int, ...]
    """The slots of its operands."""
    outputs: tuple[int, ...]
    """The slots of its results."""
    frees: tuple[int, ...]
    """The slots that nothing reads after it."""
    explain: Callable[[], str]
    """Says which op it is, and where the user wrote it."""


class Traced:
    """A traced function: steps in order. Called with ndarrays it computes them with NumPy, one after the other.

    A backend with `takes_functions` finds one of these as the kernel of a record, and may compute the steps as it
    likes. It never changes.
    """

    __slots__ = ("__weakref__", "constants", "inputs", "name", "outputs", "steps")

    def __init__(
        self,
        name: str,
        steps: Sequence[TracedStep],
        inputs: Sequence[int],
        outputs: Sequence[int],
        constants: Mapping[int, Any],
    ) -> None:
        self.name = name
        self.steps = tuple(steps)
        """Its ops, each after those that it reads."""
        self.inputs = tuple(inputs)
        """The slots of the operands of the record."""
        self.outputs = tuple(outputs)
        """The slots of its results."""
        self.constants = dict(constants)
        """The values of further slots: arrays that are not written to, and scalars."""

    def __call__(self, *arrays: Any) -> Any:
        return self.compute(arrays, _call_kernel)

    def compute(self, arrays: Sequence[Any], call: Callable[[TracedStep, list[Any]], Any]) -> Any:
        """Compute the steps: `call(step, operands)` gives the result of one, or a tuple of results.

        Returns the result, or a tuple of them. An error says which step raised it.
        """
        slots: dict[int, Any] = {**self.constants, **dict(zip(self.inputs, arrays, strict=True))}
        for step in self.steps:
            operands = [slots[slot] for slot in step.inputs]
            try:
                result = call(step, operands)
            except Exception as error:
                error.add_note(step.explain())
                raise
            del operands
            slots.update(zip(step.outputs, result if len(step.outputs) > 1 else (result,), strict=True))
            for slot in step.frees:
                slots.pop(slot, None)
        results = tuple(slots[slot] for slot in self.outputs)
        return results[0] if len(results) == 1 else results


def _call_kernel(step: TracedStep, operands: list[Any]) -> Any:
    result = step.kernel(*operands, **step.params)
    return tuple(map(np.asarray, result)) if isinstance(result, tuple) else np.asarray(result)
