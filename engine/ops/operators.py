"""What operators of handles do that no function of the namespace does: NumPy's power, and in-place operators."""

from __future__ import annotations

import functools
import operator
from typing import Any

import numpy as np

from engine.context import current
from engine.ops.infer import elementwise
from engine.planning.op import Op
from handles.base import Handle

# `x ** 0.5` is a square root in NumPy, `power(x, 0.5)` is not: they differ in the last bit, and for -inf.
_POWER = Op("pow", operator.pow, infer=elementwise(np.power), ns=20)


def power(x1: Any, x2: Any) -> Handle:
    """`x1 ** x2`."""
    return current().dispatch(_POWER, (x1, x2))


def updated(ufunc: str, handle: Handle, other: Any) -> Handle:
    """What `handle op= other` makes of the handle: its dtype and shape stay. Raises what NumPy raises, when it runs."""
    return current().dispatch(_in_place(ufunc), (handle, other))


@functools.cache
def _in_place(name: str) -> Op:
    ufunc: np.ufunc = getattr(np, name)

    def kernel(x1: Any, x2: Any) -> Any:
        return ufunc(x1, x2, out=np.empty_like(x1))

    return Op(name, kernel, infer=lambda x1, x2: x1, ns=None if ufunc.signature else 20.0 if name == "power" else 1.5)
