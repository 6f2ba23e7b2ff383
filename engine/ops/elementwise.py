"""Elementwise functions and operators: all of NumPy's ufuncs that the array API standard names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.base.op import Op, ShapeDtype
from engine.ops.infer import broadcast, sample, shape_of, typed
from engine.ops.rows import Operand, binary, dispatch_view, unary
from engine.queues.operands import SCALARS
from engine.runtime.current import current
from handles.base import Handle

Array = np.ndarray[Any, Any]

abs = unary("abs", np.absolute, "Absolute value of each element.")
acos = unary("acos", np.arccos, "Inverse cosine of each element, in radians.", ns=12)
acosh = unary("acosh", np.arccosh, "Inverse hyperbolic cosine of each element.", ns=15)
asin = unary("asin", np.arcsin, "Inverse sine of each element, in radians.", ns=12)
asinh = unary("asinh", np.arcsinh, "Inverse hyperbolic sine of each element.", ns=15)
atan = unary("atan", np.arctan, "Inverse tangent of each element, in radians.", ns=12)
atanh = unary("atanh", np.arctanh, "Inverse hyperbolic tangent of each element.", ns=15)
bitwise_invert = unary("bitwise_invert", np.invert, "Each bit of each element inverted; `not` for booleans.")
ceil = unary("ceil", np.ceil, "Each element rounded up to an integer.")
conj = unary("conj", np.conjugate, "Complex conjugate of each element.")
cos = unary("cos", np.cos, "Cosine of each element, given in radians.", ns=12)
cosh = unary("cosh", np.cosh, "Hyperbolic cosine of each element.", ns=12)
exp = unary("exp", np.exp, "e to the power of each element.", ns=6)
expm1 = unary("expm1", np.expm1, "exp(x) - 1 of each element, exact for small x.", ns=12)
floor = unary("floor", np.floor, "Each element rounded down to an integer.")
isfinite = unary("isfinite", np.isfinite, "True where an element is finite.")
isinf = unary("isinf", np.isinf, "True where an element is infinite.")
isnan = unary("isnan", np.isnan, "True where an element is not a number (NaN).")
log = unary("log", np.log, "Natural logarithm of each element.", ns=8)
log1p = unary("log1p", np.log1p, "log(1 + x) of each element, exact for small x.", ns=12)
log2 = unary("log2", np.log2, "Logarithm to base 2 of each element.", ns=8)
log10 = unary("log10", np.log10, "Logarithm to base 10 of each element.", ns=12)
logical_not = unary("logical_not", np.logical_not, "`not` of each element.")
negative = unary("negative", np.negative, "Each element negated.")
positive = unary("positive", np.positive, "Each element as it is.")
reciprocal = unary("reciprocal", np.reciprocal, "1 / x of each element.", ns=1.5)
sign = unary("sign", np.sign, "-1, 0 or 1 by the sign of each element.")
signbit = unary("signbit", np.signbit, "True where the sign bit of an element is set.")
sin = unary("sin", np.sin, "Sine of each element, given in radians.", ns=12)
sinh = unary("sinh", np.sinh, "Hyperbolic sine of each element.", ns=15)
square = unary("square", np.square, "Square of each element.")
sqrt = unary("sqrt", np.sqrt, "Square root of each element.", ns=2)
tan = unary("tan", np.tan, "Tangent of each element, given in radians.", ns=15)
tanh = unary("tanh", np.tanh, "Hyperbolic tangent of each element.", ns=8)
trunc = unary("trunc", np.trunc, "Each element rounded towards zero.")

add = binary("add", np.add, "Sum of each pair of elements.")
atan2 = binary("atan2", np.arctan2, "Angle of each point (x2, x1), in radians.", ns=25)
bitwise_and = binary("bitwise_and", np.bitwise_and, "Bitwise `and` of each pair of elements.")
bitwise_left_shift = binary("bitwise_left_shift", np.left_shift, "The bits of x1 shifted left by x2.")
bitwise_or = binary("bitwise_or", np.bitwise_or, "Bitwise `or` of each pair of elements.")
bitwise_right_shift = binary("bitwise_right_shift", np.right_shift, "The bits of x1 shifted right by x2.")
bitwise_xor = binary("bitwise_xor", np.bitwise_xor, "Bitwise exclusive `or` of each pair of elements.")
copysign = binary("copysign", np.copysign, "x1 with the sign of x2.", ns=2)
divide = binary("divide", np.divide, "Quotient of each pair of elements.", ns=1.5)
equal = binary("equal", np.equal, "True where the elements of a pair are equal.")
floor_divide = binary("floor_divide", np.floor_divide, "Quotient of each pair of elements, rounded down.", ns=8)
greater = binary("greater", np.greater, "True where x1 > x2, for each pair of elements.")
greater_equal = binary("greater_equal", np.greater_equal, "True where x1 >= x2, for each pair of elements.")
hypot = binary("hypot", np.hypot, "sqrt(x1**2 + x2**2) of each pair of elements.", ns=8)
less = binary("less", np.less, "True where x1 < x2, for each pair of elements.")
less_equal = binary("less_equal", np.less_equal, "True where x1 <= x2, for each pair of elements.")
logaddexp = binary("logaddexp", np.logaddexp, "log(exp(x1) + exp(x2)) of each pair of elements.", ns=25)
logical_and = binary("logical_and", np.logical_and, "`and` of each pair of elements.")
logical_or = binary("logical_or", np.logical_or, "`or` of each pair of elements.")
logical_xor = binary("logical_xor", np.logical_xor, "Exclusive `or` of each pair of elements.")
maximum = binary("maximum", np.maximum, "The larger of each pair of elements; NaN where one is.")
minimum = binary("minimum", np.minimum, "The smaller of each pair of elements; NaN where one is.")
multiply = binary("multiply", np.multiply, "Product of each pair of elements.")
nextafter = binary("nextafter", np.nextafter, "The next number after x1 towards x2.", ns=5)
not_equal = binary("not_equal", np.not_equal, "True where the elements of a pair differ.")
pow = binary("pow", np.power, "x1 to the power of x2, for each pair of elements.", ns=20)
remainder = binary("remainder", np.remainder, "Remainder of each pair of elements, with the sign of x2.", ns=10)
subtract = binary("subtract", np.subtract, "Difference of each pair of elements.")


# ---------------------------------------------------------------------------------------------------------------------
# What is not a ufunc in NumPy


def _clip(x: Array, *bounds: Array, given: tuple[bool, bool]) -> object:
    return np.clip(x, *_bounds(bounds, given))


def _bounds(bounds: tuple[Any, ...], given: tuple[bool, bool]) -> list[Any]:
    rest = iter(bounds)
    return [next(rest) if there else None for there in given]


def _infer_clip(x: Any, *bounds: Any, given: tuple[bool, bool]) -> ShapeDtype:
    dtype = np.clip(sample(x), *_bounds(tuple(map(sample, bounds)), given)).dtype
    return ShapeDtype(broadcast(shape_of(x), *map(shape_of, bounds)), dtype)


def _round(x: Array) -> object:
    return np.round(x)


_LIMIT: np.ufunc = np._core.umath.clip  # type: ignore[attr-defined]


def _fused_clip(types: Sequence[Any], operands: Sequence[Any], params: dict[str, Any]) -> np.ufunc | None:
    """The ufunc that `numpy.clip` calls. Limits of integers it looks at first; with two limits that are one number each
    the ufunc treats zeros in another way than with arrays, one element of which it would take for such a number."""
    if not isinstance(types[0], np.dtype) or (types[0].kind in "iu" and any(each is int for each in types)):
        return None
    if params["given"] == (True, True):
        constant = all(each.__class__ in SCALARS or getattr(each, "size", 0) == 1 for each in operands[1:])
        cast = any(isinstance(each, np.dtype) and each != types[0] for each in types)
        return _LIMIT if constant and not cast else None
    return {(True, False): np.maximum, (False, True): np.minimum}.get(params["given"])


def _fused_round(types: Sequence[object], operands: Sequence[object], params: dict[str, object]) -> np.ufunc | None:
    """The ufunc that `numpy.round` calls for real numbers."""
    return np.rint if isinstance(types[0], np.dtype) and types[0].kind == "f" else None


_CLIP = Op("clip", _clip, infer=_infer_clip, ns=2, variant=_fused_clip)
_ROUND = Op("round", _round, infer=typed(_round), ns=1, variant=_fused_round)
_REAL = Op("real", np.real, infer=typed(np.real), ns=0.001, view=True)
_IMAG = Op("imag", np.imag, infer=typed(np.imag), ns=1, view=True)


def clip(x: Operand, /, min: Operand | None = None, max: Operand | None = None) -> Handle:
    """Each element limited to the interval from `min` to `max`, each of which may be missing; the three broadcast."""
    given = (min is not None, max is not None)
    bounds = [bound for bound in (min, max) if bound is not None]
    return current().dispatch_any(_CLIP, (x, *bounds), {"given": given})


def round(x: Operand, /) -> Handle:
    """Each element rounded to the nearest integer, halves to the even one; the dtype stays."""
    return current().dispatch(_ROUND, x)


def real(x: Operand, /) -> Handle:
    """The real part of each element."""
    return dispatch_view(_REAL, x)


def imag(x: Operand, /) -> Handle:
    """The imaginary part of each element."""
    return dispatch_view(_IMAG, x)
