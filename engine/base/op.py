"""Ops: one row for each, with its kernel, what it costs, how it is fused, and how its result looks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from engine.base.facts import NOTHING, Facts, facts_of
from engine.base.warned import guarded
from engine.threads.slots import Slots

SMALL_NS = 100_000
"""Estimated nanoseconds up to which an op runs in place; a slice of the loop is five times as long."""

WATCHED = 1 << 12
"""Elements from which an op that runs in place is timed, so that a wrong estimate is made once."""

Params: TypeAlias = dict[str, Any]
"""The keyword arguments of a kernel."""

Kernel: TypeAlias = Callable[..., object]
"""`kernel(*arrays, **params)` gives the result, or a tuple of them."""

Infer: TypeAlias = "Callable[..., ShapeDtype | tuple[ShapeDtype, ...]]"
"""A shape rule: called as the kernel, with a `ShapeDtype` in place of each array."""

Estimate: TypeAlias = Callable[[Sequence[Any], Params], float]
"""Nanoseconds that the kernel takes for these operands and parameters."""

Parallel: TypeAlias = "Callable[[Op, Sequence[object], Params, int], object]"
"""Runs an op for operands and parameters on so many threads; None where it has to be run as a whole."""

Type: TypeAlias = np.dtype[Any] | type[complex]
"""A dtype, or the class of a Python scalar (bool, int, float or complex), which NumPy promotes in a way of its own."""

Variant: TypeAlias = Callable[[Sequence[Type], Sequence[object], Params], np.ufunc | None]
"""The ufunc that does the same for operands of these types, with so many of the first operands as it takes."""


class ShapeDtype(NamedTuple):
    """Shape and dtype of a result that may not exist yet; unknown dimensions are None.

    >>> engine.ShapeDtype((None, 3), np.dtype("float64"))
    ShapeDtype(shape=(None, 3), dtype=dtype('float64'))
    """

    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of an op, and the threads it wants to run with."""

    estimate: Estimate
    """Nanoseconds, from the operands and the parameters."""
    small: int
    """Elements (the product over the operands) up to which no estimate is needed to run the op in place."""
    blas: bool = False
    """True if it computes on the threads of BLAS."""
    parallel: Parallel | None = None
    """Runs the op on several threads; None if there is no way to."""


@dataclass(frozen=True, slots=True)
class Fusion:
    """How an op takes part in a fusion group."""

    fusable: bool = False
    """True if each element of the result depends on one element of each operand."""
    block: Kernel | None = None
    """For an elementwise op that is not a ufunc: returns the result of one block, which it may write to `out`."""
    variant: Variant | None = None
    """Finds a ufunc that does the same for given operands; None if no ufunc ever does."""
    updates: bool = False
    """True if the result has the shape, the dtype and the layout of the first operand, for any others."""
    facts: Facts = NOTHING
    """The facts known of the kernel itself."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Where the result of an op is."""

    view: bool = False
    """True if it may share memory with an operand."""
    overwrite: Kernel | None = None
    """The kernel to call when the first operand is not needed any more: it may write the result over it."""
    into: Kernel | None = None
    """The kernel with a parameter `out` that the result is written to: row-major, as the operands are."""


class Op:
    """A row of the op tables: what is known of an op. It never changes.

    An op without `infer` has a shape that only running it can tell. `ns` is the estimate for one element, None if the
    cost is unknown: then the code is not the library's own.
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
        *("outputs", "plain", "pure", "recognized", "simple"),
    )

    name: str
    kernel: Kernel
    guarded: Kernel
    """The kernel for callers that call it again at the place of dispatch if it is to warn (`engine.base.warned`)."""
    infer: Infer | None
    """Gives shape and dtype of the result from those of the operands."""
    cost: Cost
    fusion: Fusion
    memory: Memory
    known: bool
    """True if the cost is known. Then the code is the library's own, which never calls back."""
    computes: bool
    """True if it keeps a core busy from beginning to end: it never waits, and runs no code of users."""
    outputs: int
    """Number of results."""
    plain: bool
    """True if a record of the op needs nothing but its operands, and has one result."""
    pure: bool
    """True if equal operands give equal results and nothing else happens: it may be run once, or not at all."""
    coroutine: bool
    """True if the kernel is an async function, which runs on the event loop."""
    external: bool
    """True if the kernel ends only after something that the dispatching thread may have to do."""
    simple: bool
    """True if there is nothing to do but to call the kernel on the operands."""
    brief: int
    """Elements up to which the op is run without a look at it: it is small, and need not be timed."""
    recognized: bool
    """True if its caller has looked at the operands: they are there, and all that the kernel was made for."""
    limit: Slots | None
    """Slots of the op's own, where only so many calls of it may run at once."""

    def __init__(
        self,
        name: str,
        kernel: Kernel,
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
        block: Kernel | None = None,
        overwrite: Kernel | None = None,
        into: Kernel | None = None,
        parallel: Parallel | None = None,
        variant: Variant | None = None,
        updates: bool = False,
        limit: Slots | None = None,
        computes: bool = False,
        brief: int | None = None,
        recognized: bool = False,
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
            "fusion": Fusion(fusable, block, variant, updates, facts_of(kernel)),
            "memory": Memory(view, overwrite, into),
            "known": known,
            "computes": known or computes,
            "outputs": outputs,
            "plain": known and outputs == 1,
            "pure": pure and known,
            "coroutine": coroutine,
            "external": external or coroutine,
            "recognized": recognized,
            "simple": simple,
            "brief": -1 if not simple else min(small, WATCHED) if brief is None else brief,
            "limit": limit,
        }
        for slot, value in values.items():
            object.__setattr__(self, slot, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a row never changes, but {name!r} of {self!r} was to be set")

    def fused_as(self, types: Sequence[Type], operands: Sequence[object], params: Params | None) -> Op | None:
        """The op that computes this one block by block for such operands; None if none does."""
        if self.fusion.variant is not None:
            ufunc = self.fusion.variant(types, operands, params or {})
            return None if ufunc is None else op_of(ufunc)
        return None if params and self.fusion.block is None else self

    def result_dtype(self, types: Sequence[Type], params: Params | None) -> np.dtype[Any] | None:
        """The dtype of the result of a fusable op for operands of these types; None if NumPy has no loop for them."""
        try:
            if self.fusion.block is None:
                assert isinstance(self.kernel, np.ufunc)
                return loop_dtypes(self.kernel, tuple(types))[-1]
            assert self.infer is not None
            operands = [ShapeDtype((), each) if isinstance(each, np.dtype) else each(1) for each in types]
            its = self.infer(*operands, **params or {})
            return its.dtype if isinstance(its, ShapeDtype) else None
        except TypeError:
            return None

    def __repr__(self) -> str:
        return f"<op {self.name}>"


@cache
def op_of(ufunc: np.ufunc) -> Op:
    """The op of a ufunc that stands alone in a fusion group."""
    return Op(ufunc.__name__, ufunc)


@lru_cache(maxsize=4096)
def loop_dtypes(ufunc: np.ufunc, types: tuple[Type, ...]) -> tuple[np.dtype[Any], ...]:
    """The dtypes that a ufunc of one result converts operands of these types to, and the result's dtype."""
    return ufunc.resolve_dtypes((*types, None))


def broadcast_cost(ns: float) -> Estimate:
    """Estimate an op that does `ns` nanoseconds of work for each element of the broadcast operands."""

    def cost(values: Sequence[object], params: Params) -> float:
        shapes = [value.shape for value in values if isinstance(value, np.ndarray)]
        try:
            shape = np.broadcast_shapes(*shapes)
        except ValueError:
            return 0.0  # the kernel will say so, at once
        return ns * math.prod(shape)

    return cost


def _unknown_cost(values: Sequence[object], params: Params) -> float:
    return math.inf
