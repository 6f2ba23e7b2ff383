"""Facts about NumPy's kernels that planning needs, each kernel's in one row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Kernel = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts about a kernel, beyond its result."""

    exact: bool = False
    """True if each element has one right result, by any instructions that compute it."""
    minds_layout: bool = False
    """True if the last bits depend on how operands lie in memory: some layouts only have vector instructions."""
    refuses: str = ""
    """The kinds of dtypes for which it may raise because of what elements are: a group with it may end half-way."""
    reduction: str | None = None
    """The reduction that may end a group: block by block it gives the very bits that NumPy gives for the whole."""


NOTHING = Facts()
_EXACT = Facts(exact=True)

_TABLE: dict[object, Facts] = {
    **dict.fromkeys((np.add, np.subtract, np.multiply, np.divide, np.floor_divide, np.remainder), _EXACT),
    **dict.fromkeys((np.absolute, np.negative, np.positive, np.conjugate, np.sign, np.reciprocal), _EXACT),
    **dict.fromkeys((np.sqrt, np.square, np.ceil, np.floor, np.rint, np.trunc, np.copysign), _EXACT),
    **dict.fromkeys((np.maximum, np.minimum, np._core.umath.clip), _EXACT),  # type: ignore[attr-defined]
    **dict.fromkeys((np.equal, np.greater, np.greater_equal, np.less, np.less_equal, np.not_equal), _EXACT),
    **dict.fromkeys((np.isfinite, np.isinf, np.isnan, np.signbit), _EXACT),
    **dict.fromkeys((np.bitwise_and, np.bitwise_or, np.bitwise_xor, np.invert), _EXACT),
    **dict.fromkeys((np.left_shift, np.right_shift), _EXACT),
    **dict.fromkeys((np.logical_and, np.logical_not, np.logical_or, np.logical_xor), _EXACT),
    np.power: Facts(minds_layout=True, refuses="iu"),
    np.arctan2: Facts(minds_layout=True),
    np.sum: Facts(reduction="add"),
    np.mean: Facts(reduction="mean"),
    np.max: Facts(reduction="maximum"),
    np.min: Facts(reduction="minimum"),
    np.any: Facts(reduction="logical_or"),
    np.all: Facts(reduction="logical_and"),
    np.count_nonzero: Facts(reduction="count"),
}


def facts_of(kernel: Kernel) -> Facts:
    """The row of a kernel."""
    try:
        return _TABLE.get(kernel, NOTHING)
    except TypeError:  # a callable object that is not hashable
        return NOTHING
