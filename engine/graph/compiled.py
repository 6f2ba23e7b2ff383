"""Replays that are computed by one compiled call, where their steps are a chain of elementwise ops.

The chain is planned and compiled in the background as soon as the function has been traced. Until it is there, and
where it cannot be computed by one call (a warning, other strides, an error state of the program), the steps are called
one after the other, as `codegen` has written them.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from engine.base.op import SMALL_NS, Kernel, ShapeDtype
from engine.devices.cpu import lock
from engine.fusion.chains.chain import LONGEST_NS, Chain
from engine.fusion.chains.chains import chains
from engine.fusion.chains.key import ChainKey, Kind, Operands, params_key
from engine.graph.inference import UNKNOWN, is_complete
from engine.graph.optimize import Plan
from engine.graph.steps import Step
from engine.memory.buffers import strides_of
from engine.settings.scope import DEFAULT_ERRSTATE, errstate
from handles.base import Handle
from handles.cell import Cell

Array = np.ndarray[Any, Any]


class CompiledReplay:
    """The chain that the steps of a plan are, for arguments that lie row by row in memory."""

    def __init__(self, plan: Plan, captured: Sequence[int]) -> None:
        draft = _Draft(plan, (*range(plan.inputs), *captured))
        self._key = draft.key()
        self._kinds = draft.kinds
        self._constants = draft.constants
        self._scalars = draft.operands.scalars
        self._results = draft.results
        self.is_direct = len(draft.results) == 1 and not any(step.op.fusion.facts.reduction for step in plan.steps)
        """True if a call is little more than that of the compiled code: one result, no reduction."""
        self._chain: Chain | None = None
        if self._key is not None:
            chains.plan_once(self._key, self._scalars)

    def chain(self) -> Chain | None:
        """The chain; None where there is none, or none yet."""
        chain = self._chain
        if chain is not None and chain.is_ready and chains.active:
            return chain
        if self._key is not None:
            self._chain = chain = chains.find(self._key, self._scalars)
            return chain
        return None

    def is_quick(self, arrays: Sequence[object]) -> bool:
        """Tell whether there is a chain for these arguments, all of which are there, that may be computed in place."""
        chain = self.chain()
        if chain is None or not chain.may_hold_loop():
            return False
        for array, kind in zip(arrays, self._kinds, strict=False):  # what is captured comes after the arguments
            value = array._cell.value if isinstance(array, Handle) else array
            if value.__class__ is not np.ndarray or value.strides != kind[2]:
                return False
        return len(arrays) == len(self._kinds)

    def ready_chain(self) -> Chain | None:
        """The chain, where it was met and a call of it may be computed in place now."""
        chain = self._chain
        return chain if chain is not None and chain.is_ready and chain.ns <= LONGEST_NS and chains.active else None

    @property
    def is_out_of_question(self) -> bool:
        """True if there is no chain, and none is to come: the steps are none, or nothing can be compiled here."""
        return self._key is None or not chains.active or chains.refuses(self._key)

    @property
    def takes(self) -> Sequence[Kind]:
        """The dtype, shape and strides of each argument that the chain is for; none where the steps are no chain."""
        return () if self._key is None else self._kinds

    def cost(self, otherwise: float) -> float:
        """Estimated nanoseconds, as they are compared with what an op may take in place; a chain may take longer."""
        chain = self._chain
        return otherwise if chain is None else chain.ns * SMALL_NS / LONGEST_NS

    def kernel_for_known(self, chain: Chain, one_by_one: Kernel) -> Kernel:
        """As `kernel`, for arguments that were compared with `takes` before, in the default error state."""
        constants, results, scalars = tuple(self._constants), self._results, self._scalars

        def kernel(*arrays: Any) -> Any:
            outcomes = chain.compute((*arrays, *constants) if constants else arrays, scalars)
            if outcomes is None:
                return one_by_one(*arrays)
            return outcomes[results[0]] if len(results) == 1 else tuple([outcomes[each] for each in results])

        return chain.call(len(self._kinds), constants, scalars, one_by_one) or kernel

    def kernel(self, one_by_one: Kernel) -> Kernel:
        """The kernel that computes the chain where it can, and calls the steps one by one where it cannot."""
        if self._key is None:
            return one_by_one
        kinds, constants, results, scalars = self._kinds, self._constants, self._results, self._scalars

        def kernel(*arrays: Any) -> Any:
            chain = self.chain()
            if chain is not None and errstate() is DEFAULT_ERRSTATE and all(map(_is_of, arrays, kinds)):
                outcomes = chain.compute((*arrays, *constants), scalars)
                if outcomes is not None:
                    if len(results) == 1:
                        return outcomes[results[0]]
                    return tuple([outcomes[each] for each in results])
            return one_by_one(*arrays)

        return kernel


def _is_of(array: Any, kind: Kind) -> bool:
    return (
        array.__class__ is np.ndarray
        and (array.dtype, array.shape, array.strides) == kind
        and bool(array.flags.aligned)
    )


class _Draft:
    """The key of a plan's chain, as it is made step by step."""

    def __init__(self, plan: Plan, given: Sequence[int]) -> None:
        self._plan = plan
        self.operands = Operands()
        self.constants: list[Array] = []
        self._given = {slot: number for number, slot in enumerate(given)}
        self.kinds: list[Kind] = []
        for slot in given:
            its = plan.described.get(slot, UNKNOWN)
            if is_complete(its):
                self.kinds.append(_kind(its))
        self._complete = len(self.kinds) == len(given)
        self._made = {step.slot: number for number, step in enumerate(plan.steps)}
        self.results = [self._made.get(slot, -1) for slot in plan.outputs]
        """The steps whose results are the plan's."""

    def key(self) -> ChainKey | None:
        """The key; None where the steps are no chain."""
        if not self._complete or len(self._plan.steps) < 2 or -1 in self.results or not self.results:
            return None
        row: list[Hashable] = []
        for step in self._plan.steps:
            if not self._add(step, row):
                return None
        kinds = [*self.kinds, *((each.dtype, each.shape, each.strides) for each in self.constants)]
        return (*row, *(fact for kind in kinds for fact in kind))

    def _add(self, step: Step, row: list[Hashable]) -> bool:
        op = step.op
        if not op.known or op.outputs != 1 or not (op.fusion.fusable or op.fusion.facts.reduction is not None):
            return False
        params = None if not step.params else params_key(step.params)
        operands = [self._operand(slot, step) for slot in step.inputs]
        if None in operands or (step.params and params is None):
            return False
        row += (op, params, *operands, step.slot in self._plan.outputs)
        return True

    def _operand(self, slot: int, step: Step) -> Hashable:
        if slot in self._made:
            return self._made[slot]
        if slot in self._given:
            return ~self._given[slot]
        value = self._plan.initial[slot]
        if isinstance(value, np.ndarray) and value.flags.aligned:
            lock(value)
            return self._constant(value)
        return None if isinstance(value, Cell | np.ndarray) else self.operands.scalar(value, step.op.fusion)

    def _constant(self, value: Array) -> int:
        for number, known in enumerate(self.constants):
            if known is value:
                return ~(len(self._given) + number)
        self.constants.append(value)
        return ~(len(self._given) + len(self.constants) - 1)


def kinds_of(plan: Plan) -> list[Kind] | None:
    """The dtype and shape of each argument, as if it lay row by row in memory; None where they are not known."""
    described = [plan.described.get(slot, UNKNOWN) for slot in range(plan.inputs)]
    return [_kind(its) for its in described] if all(map(is_complete, described)) else None


def _kind(its: ShapeDtype) -> Kind:
    shape: Any = its.shape
    return its.dtype, shape, _contiguous(shape, its.dtype)


def _contiguous(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, ...]:
    return strides_of(shape, dtype.itemsize)
