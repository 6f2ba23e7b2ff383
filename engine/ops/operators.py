"""What operators of handles do that no function of the namespace does: NumPy's power, and in-place operators."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.context import current
from engine.kernels.layout import forwards
from engine.ops.infer import elementwise
from engine.planning.op import Op, ShapeDtype
from handles.base import Handle

_SQUARED_BOOL = (np.ones(1, bool) ** 2).dtype


def _called(base: float, exponent: Any) -> np.ufunc:
    """The ufunc that NumPy calls for an exponent, as its error says."""
    try:
        with np.errstate(all="raise"):
            np.array([base]) ** exponent
    except FloatingPointError as error:
        return next(ufunc for ufunc in (np.square, np.sqrt, np.power) if str(error).endswith(ufunc.__name__))
    raise AssertionError("no number has such a power")


_SCALAR_POWERS = {
    (int, 2): _called(1e300, 2),
    (float, 2.0): _called(1e300, 2.0),
    (float, 0.5): _called(-1.0, 0.5),
}
"""Which ufunc it is, differs between versions of NumPy."""


def _fused_power(types: Sequence[Any], operands: Sequence[Any], params: dict[str, Any]) -> np.ufunc | None:
    """The ufunc that NumPy's operator calls. Of some scalar exponents it makes other functions in each version."""
    base, exponent = types
    if isinstance(exponent, np.dtype):
        return None if getattr(operands[1], "ndim", 1) == 0 else np.power
    if not isinstance(base, np.dtype) or base.kind not in "iuf" or exponent not in (int, float):
        return None
    value = operands[1]
    if value in (-1, 0, 1) or (base.kind != "f" and (exponent is float or value < 2)):
        return None
    return _SCALAR_POWERS.get((exponent, value), np.power)


def _infer_power(x1: Any, x2: Any) -> Any:
    inferred = elementwise(np.power)(x1, x2)
    squared = isinstance(x1, ShapeDtype) and x1.dtype == bool and x2.__class__ is int and x2 == 2
    return inferred._replace(dtype=_SQUARED_BOOL) if squared else inferred


# `x ** 0.5` is a square root in NumPy; `power(x, 0.5)` is not, in some versions: they differ in the last bit.
_POWER = Op("pow", operator.pow, infer=_infer_power, ns=20, variant=_fused_power)


def power(x1: Any, x2: Any) -> Handle:
    """`x1 ** x2`."""
    return current().dispatch(_POWER, x1, x2)


def updated(ufunc: str, handle: Handle, other: Any) -> Handle:
    """What `handle op= other` makes of the handle: its dtype and shape stay. Raises what NumPy raises, when it runs."""
    return current().dispatch(_POWERED if ufunc == "power" else _in_place(ufunc), handle, other)


@functools.cache
def _in_place(name: str) -> Op:
    ufunc: np.ufunc = getattr(np, name)

    def into(x1: Any, x2: Any, *, out: Any) -> Any:
        return ufunc(x1, x2, out=out)

    def kernel(x1: Any, x2: Any) -> Any:
        result = _laid_out_as(x1)
        if x1.size != 1:
            return ufunc(x1, x2, out=result)
        result[...] = x1  # NumPy takes one element that becomes the result for a reduction: NaNs get another sign
        return ufunc(result, x2, out=result)

    if ufunc.signature:
        return Op(name, kernel, infer=lambda x1, x2: x1, ns=None)
    return Op(
        name,
        kernel,
        infer=lambda x1, x2: x1,
        ns=1.5,
        into=into,
        variant=lambda types, operands, params: ufunc,
        updates=True,
    )


def _laid_out_as(x: Any) -> Any:
    """Memory for what an array becomes, which is walked in the directions in which the array is."""
    if min(x.strides, default=0) >= 0:
        return np.empty_like(x)
    turned = forwards(x.strides)
    return np.empty_like(x[turned])[turned]


def _powered(x1: Any, x2: Any) -> Any:
    result = _laid_out_as(x1)
    result[...] = x1
    result **= x2
    return result


_POWERED = Op("power", _powered, infer=lambda x1, x2: x1, ns=20, variant=_fused_power, updates=True)
