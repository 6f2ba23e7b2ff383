"""What the engine knows of an op: its kernel, what it costs, and how its result looks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np

SMALL_NS = 100_000
"""Estimated nanoseconds up to which an op runs in place; a slice of the loop is five times as long."""

WATCHED = 1 << 12
"""Elements from which an op that runs in place is timed, so that a wrong estimate is made once."""

Infer = Callable[..., Any]
Cost = Callable[[Sequence[Any], dict[str, Any]], float]
Parallel = Callable[["Op", Sequence[Any], dict[str, Any], int], Any]
Variant = Callable[[Sequence[Any], Sequence[Any], dict[str, Any]], np.ufunc | None]


class ShapeDtype(NamedTuple):
    """Shape and dtype of a result that may not exist yet; unknown dimensions are None."""

    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]


class Op:
    """A row of the op tables. An op without `infer` has a shape that only running it can tell."""

    __slots__ = (
        "_elements",
        "blas",
        "block",
        "brief",
        "coroutine",
        "cost",
        "external",
        "factor",
        "fusable",
        "infer",
        "into",
        "kernel",
        "known",
        "name",
        "outputs",
        "overwrite",
        "parallel",
        "plain",
        "pure",
        "simple",
        "small",
        "updates",
        "variant",
        "view",
    )

    def __init__(
        self,
        name: str,
        kernel: Callable[..., Any],
        *,
        infer: Infer | None = None,
        ns: float | None = 1.0,
        cost: Cost | None = None,
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
    ) -> None:
        self.name = name
        self.kernel = kernel
        self.infer = infer
        self.known = ns is not None
        """Whether the cost is known, and so is the code: the library's own, which never calls back."""
        if ns is None:
            small = -1 if cost is None else small  # unknown code always needs one
        elif cost is None:
            small = int(SMALL_NS / ns)
        self._elements = self.small = small
        """Elements (the product over the operands) up to which no estimate is needed to run the op in place."""
        self.cost: Cost = cost or (broadcast_cost(ns) if ns is not None else _unknown_cost)
        """Estimated nanoseconds, from the operands and the parameters."""
        self.view = view
        """Whether the result may share memory with an operand."""
        self.blas = blas
        """Whether BLAS threads of its own take part."""
        self.outputs = outputs
        self.plain = self.known and outputs == 1
        """Whether a record of the op needs nothing but its operands, and has one result."""
        self.pure = pure and self.known
        """Whether equal operands give equal results and nothing else happens: it may be done once, or not at all."""
        self.coroutine = coroutine
        """Whether the kernel is an async function, which runs on the event loop."""
        self.external = external or coroutine
        """Whether the end of the kernel depends on something that dispatching thread may have to do."""
        self.block = block
        """For an elementwise op that is not a ufunc: returns the result of one block, written to `out` if it likes."""
        is_ufunc = isinstance(kernel, np.ufunc) and kernel.nout == 1 and kernel.signature is None
        self.fusable = (is_ufunc and self.known) or block is not None or variant is not None
        """Whether each element of the result depends on one element of each operand."""
        self.variant = variant
        """Which ufunc does the same, with so many of the first operands as it takes: asked with the operands' types
        (dtypes, and classes of scalars), the operands and the parameters; None where there is no such ufunc."""
        self.updates = updates
        """Whether the result has the shape, the dtype and the layout of the first operand, whatever the others have."""

        self.overwrite = overwrite
        """The kernel where the first operand is nobody else's any more, and its memory may become the result's."""
        self.into = into
        """The kernel with a parameter `out`, where the result is written to: row-major, as the operands are."""
        self.parallel = parallel
        """The op on several threads: called with the op, the operands, the parameters and the number of threads, it
        returns the result, or None where the op has to be run as a whole."""
        self.simple = outputs == 1 and overwrite is None
        """Whether running the kernel on the operands is all there is to do."""
        self.factor = 1.0
        """How much slower than estimated the op has turned out to be."""
        self.brief = min(small, WATCHED) if self.simple else -1
        """Elements up to which nothing needs to be looked at to run the op: small, and not timed."""

    def took(self, nanoseconds: float) -> None:
        """Learn from an op that ran in place and took much longer than it may: next time it is a worker's."""
        if nanoseconds > 2 * SMALL_NS:
            self._expect(self.factor * min(nanoseconds / SMALL_NS, 16.0))

    def took_elsewhere(self, nanoseconds: float) -> None:
        """Learn from a worker, which ran what could have run in place: something else had made the op slow once."""
        if self.factor > 1.0 and nanoseconds < SMALL_NS:
            self._expect(max(1.0, self.factor * max(nanoseconds / SMALL_NS, 0.25)))

    def _expect(self, factor: float) -> None:
        self.factor = factor
        self.small = int(self._elements / factor)
        self.brief = min(self.small, WATCHED) if self.simple else -1

    def fused_as(self, types: Sequence[Any], operands: Sequence[Any], params: dict[str, Any] | None) -> Op | None:
        """The op that computes this one block by block, for such operands; None where none does."""
        if self.variant is not None:
            ufunc = self.variant(types, operands, params or {})
            return None if ufunc is None else op_of(ufunc)
        return None if params and self.block is None else self

    def result_dtype(self, types: Sequence[Any], params: dict[str, Any] | None) -> np.dtype[Any] | None:
        """The dtype of the result of a fusable op, from dtypes and Python scalar types; None where nobody can tell."""
        try:
            if self.block is None:
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


def broadcast_cost(ns: float) -> Cost:
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
