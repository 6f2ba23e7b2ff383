"""Costs of ops in estimated nanoseconds: rough, to tell what is small from what is large."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Values = Sequence[Any]
Params = dict[str, Any]
Cost = Callable[[Values, Params], float]


def elements(values: Values) -> int:
    """The elements of all operands."""
    return sum(value.size for value in values if isinstance(value, np.ndarray))


def each(ns: float) -> Cost:
    """`ns` for each element of all operands together."""

    def cost(values: Values, params: Params) -> float:
        return ns * elements(values)

    return cost


def sorting(ns: float) -> Cost:
    """`ns` for each element and for each doubling of their number."""

    def cost(values: Values, params: Params) -> float:
        size = elements(values)
        return ns * size * math.log2(size + 2)

    return cost


def cubic(ns: float, fixed: float = 10_000.0) -> Cost:
    """`ns` for each element of the first operand and each of its columns."""

    def cost(values: Values, params: Params) -> float:
        x = values[0]
        if not isinstance(x, np.ndarray) or x.ndim == 0:
            return fixed
        return float(fixed + ns * x.size * min(x.shape[-2:]))

    return cost


def product(values: Values, params: Params) -> float:
    """Estimate a matrix product."""
    x1, x2 = values
    columns = x2.shape[-1] if getattr(x2, "ndim", 0) > 1 else 1
    return 0.2 * float(getattr(x1, "size", 1)) * float(columns)


def outer(values: Values, params: Params) -> float:
    """Estimate an op whose result has an element for each pair of elements."""
    return 1.0 * math.prod(value.size for value in values if isinstance(value, np.ndarray))


def created(values: Values, params: Params) -> float:
    """Estimate the making of an array of the shape that a parameter says."""
    return 1.0 * float(np.prod(params["shape"], dtype=np.float64))
