"""What the engine knows of an op: its kernel, what it costs, and how its result looks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

SMALL_NS = 100_000
"""Estimated nanoseconds up to which an op runs in place; a slice of the loop is five times as long."""

Infer = Callable[..., Any]
Cost = Callable[[Sequence[Any], dict[str, Any]], float]


class ShapeDtype(NamedTuple):
    """Shape and dtype of a result that may not exist yet; unknown dimensions are None."""

    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]


class Op:
    """A row of the op tables. An op without `infer` has a shape that only running it can tell."""

    __slots__ = (
        "blas",
        "coroutine",
        "cost",
        "external",
        "infer",
        "kernel",
        "known",
        "name",
        "outputs",
        "small",
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
        view: bool = False,
        blas: bool = False,
        outputs: int = 1,
        coroutine: bool = False,
        external: bool = False,
    ) -> None:
        self.name = name
        self.kernel = kernel
        self.infer = infer
        self.known = ns is not None
        """Whether the cost is known, and so is the code: the library's own, which never calls back."""
        self.small = 0 if cost is not None or ns is None else int(SMALL_NS / ns)
        """Elements (the product over the operands) up to which no estimate is needed to run the op in place."""
        self.cost: Cost = cost or (broadcast_cost(ns) if ns is not None else _unknown_cost)
        """Estimated nanoseconds, from the operands and the parameters."""
        self.view = view
        """Whether the result may share memory with an operand."""
        self.blas = blas
        """Whether BLAS threads of its own take part."""
        self.outputs = outputs
        self.coroutine = coroutine
        """Whether the kernel is an async function, which runs on the event loop."""
        self.external = external or coroutine
        """Whether the end of the kernel depends on something that dispatching thread may have to do."""

    def __repr__(self) -> str:
        return f"<op {self.name}>"


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
