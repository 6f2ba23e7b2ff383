"""What the engine knows of an op: its kernel, what it costs, and how its result looks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np

from engine.base.warned import guarded
from engine.threads.slots import Slots

SMALL_NS = 100_000
"""Estimated nanoseconds up to which an op runs in place; a slice of the loop is five times as long."""

WATCHED = 1 << 12
"""Elements from which an op that runs in place is timed, so that a wrong estimate is made once."""

Infer = Callable[..., Any]
Estimate = Callable[[Sequence[Any], dict[str, Any]], float]
Parallel = Callable[["Op", Sequence[Any], dict[str, Any], int], Any]
Variant = Callable[[Sequence[Any], Sequence[Any], dict[str, Any]], np.ufunc | None]


class ShapeDtype(NamedTuple):
    """Shape and dtype of a result that may not exist yet; unknown dimensions are None."""

    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True, slots=True)
class Cost:
    """What an op costs, and what it wants to run with."""

    estimate: Estimate
    """Nanoseconds, from the operands and the parameters."""
    small: int
    """Elements (the product over the operands) up to which no estimate is needed to run the op in place."""
    blas: bool = False
    """Whether BLAS threads of its own take part."""
    parallel: Parallel | None = None
    """The op on several threads: called with the op, the operands, the parameters and the number of threads, it returns
    the result, or None where the op has to be run as a whole."""


@dataclass(frozen=True, slots=True)
class Fusion:
    """How an op takes part in a fusion group."""

    fusable: bool = False
    """Whether each element of the result depends on one element of each operand."""
    block: Callable[..., Any] | None = None
    """For an elementwise op that is not a ufunc: returns the result of one block, written to `out` if it likes."""
    variant: Variant | None = None
    """Which ufunc does the same, with so many of the first operands as it takes: asked with the operands' types
    (dtypes, and classes of scalars), the operands and the parameters; None where there is no such ufunc."""
    updates: bool = False
    """Whether the result has the shape, the dtype and the layout of the first operand, whatever the others have."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Where the result of an op is."""

    view: bool = False
    """Whether it may share memory with an operand."""
    overwrite: Callable[..., Any] | None = None
    """The kernel where the first operand is of no use to others any more, and its memory may become the result's."""
    into: Callable[..., Any] | None = None
    """The kernel with a parameter `out`, where the result is written to: row-major, as the operands are."""


class Op:
    """A row of the op tables: what is known of an op, and never changes.

    An op without `infer` has a shape that only running it can tell. `ns` is the estimate for one element, None where
    the cost is unknown: then the code is not the library's own.
    """

    __slots__ = (
        *(
            "brief",
            "computes",
            "coroutine",
            "cost",
            "external",
            "fusion",
            "guarded",
            "infer",
            "kernel",
            "known",
            "limit",
            "memory",
            "name",
        ),
        *("outputs", "plain", "pure", "simple"),
    )

    name: str
    kernel: Callable[..., Any]
    guarded: Callable[..., Any]
    """The kernel for callers that call it again at the place of dispatch if it is to warn (`engine.base.warned`)."""
    infer: Infer | None
    """Shape and dtype of the result, from those of the operands."""
    cost: Cost
    fusion: Fusion
    memory: Memory
    known: bool
    """Whether the cost is known, and so is the code: the library's own, which never calls back."""
    computes: bool
    """Whether it keeps a core busy from its beginning to its end: it never waits, and runs no code of users."""
    outputs: int
    plain: bool
    """Whether a record of the op needs nothing but its operands, and has one result."""
    pure: bool
    """Whether equal operands give equal results and nothing else happens: it may be done once, or not at all."""
    coroutine: bool
    """Whether the kernel is an async function, which runs on the event loop."""
    external: bool
    """Whether the end of the kernel depends on something that the dispatching thread may have to do."""
    simple: bool
    """Whether running the kernel on the operands is all there is to do."""
    brief: int
    """Elements up to which nothing needs to be looked at to run the op: small, and not timed."""
    limit: Slots | None
    """Slots of the op's own, where only so many calls of it may run at once."""

    def __init__(
        self,
        name: str,
        kernel: Callable[..., Any],
        *,
        infer: Infer | None = None,
        ns: float | None = 1.0,
        cost: Estimate | None = None,
        small: int = 0,
        view: bool = False,
        blas: bool = False,
        outputs: int = 1,
        coroutine: bool = False,
        external: bool = False,
        pure: bool = True,
        block: Callable[..., Any] | None = None,
        overwrite: Callable[..., Any] | None = None,
        into: Callable[..., Any] | None = None,
        parallel: Parallel | None = None,
        variant: Variant | None = None,
        updates: bool = False,
        limit: Slots | None = None,
        computes: bool = False,
    ) -> None:
        known, simple = ns is not None, outputs == 1 and overwrite is None
        if ns is None:
            small = -1 if cost is None else small  # unknown code always needs an estimate
        elif cost is None:
            small = int(SMALL_NS / ns)
        estimate = cost or (broadcast_cost(ns) if ns is not None else _unknown_cost)
        is_ufunc = isinstance(kernel, np.ufunc) and kernel.nout == 1 and kernel.signature is None
        fusable = (is_ufunc and known) or block is not None or variant is not None
        values = {
            "name": name,
            "kernel": kernel,
            "guarded": guarded(kernel),
            "infer": infer,
            "cost": Cost(estimate, small, blas, parallel),
            "fusion": Fusion(fusable, block, variant, updates),
            "memory": Memory(view, overwrite, into),
            "known": known,
            "computes": known or computes,
            "outputs": outputs,
            "plain": known and outputs == 1,
            "pure": pure and known,
            "coroutine": coroutine,
            "external": external or coroutine,
            "simple": simple,
            "brief": min(small, WATCHED) if simple else -1,
            "limit": limit,
        }
        for slot, value in values.items():
            object.__setattr__(self, slot, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a row never changes, but {name!r} of {self!r} was to be set")

    def fused_as(self, types: Sequence[Any], operands: Sequence[Any], params: dict[str, Any] | None) -> Op | None:
        """The op that computes this one block by block, for such operands; None where none does."""
        if self.fusion.variant is not None:
            ufunc = self.fusion.variant(types, operands, params or {})
            return None if ufunc is None else op_of(ufunc)
        return None if params and self.fusion.block is None else self

    def result_dtype(self, types: Sequence[Any], params: dict[str, Any] | None) -> np.dtype[Any] | None:
        """The dtype of the result of a fusable op, from dtypes and Python scalar types; None where nobody can tell."""
        try:
            if self.fusion.block is None:
                return loop_dtypes(self.kernel, tuple(types))[-1]
            assert self.infer is not None
            operands = [ShapeDtype((), each) if isinstance(each, np.dtype) else each(1) for each in types]
            return self.infer(*operands, **params or {}).dtype  # type: ignore[no-any-return]
        except TypeError:
            return None

    def __repr__(self) -> str:
        return f"<op {self.name}>"


@cache
def op_of(ufunc: np.ufunc) -> Op:
    """The op that a step of a run has: nothing but a ufunc."""
    return Op(ufunc.__name__, ufunc)


@lru_cache(maxsize=4096)
def loop_dtypes(ufunc: np.ufunc, types: tuple[Any, ...]) -> tuple[np.dtype[Any], ...]:
    """What a ufunc of one result computes with, and the result's dtype, for dtypes and Python scalar types."""
    return ufunc.resolve_dtypes((*types, None))


def broadcast_cost(ns: float) -> Estimate:
    """The cost of an op that does `ns` nanoseconds of work for each element of the broadcast operands."""

    def cost(values: Sequence[Any], params: dict[str, Any]) -> float:
        shapes = [value.shape for value in values if isinstance(value, np.ndarray)]
        try:
            shape = np.broadcast_shapes(*shapes)
        except ValueError:
            return 0.0  # the kernel will say so, at once
        return ns * math.prod(shape)

    return cost


def _unknown_cost(values: Sequence[Any], params: dict[str, Any]) -> float:
    return math.inf
