"""The ufuncs that are compiled: for each one, the instructions that give NumPy's bits for a loop of given dtypes.

What is not here is computed by NumPy's own loop. What is here is compared with NumPy before its first use
(`selfcheck`), and left to NumPy's loop where it differs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engine.fusion.native.emit import (
    CODES,
    FLOATS,
    Lanes,
    bytes_of,
    infinity,
    integer_type_of,
    magnitude_bits,
    sign_bit,
    type_of,
)

Loop = tuple[str, ...]
"""The codes of the operands and of the result of a ufunc's loop."""
Emit = Callable[[Lanes, str, list[str]], str]
"""Writes the instructions: from the code of the operands and their names to the name of the result."""


def primitive(ufunc: object, loop: Loop) -> Emit | None:
    """The instructions of a ufunc for a loop; None where it is left to NumPy's."""
    if not isinstance(ufunc, np.ufunc) or len(set(loop[:-1])) != 1:
        return None
    operand, result = loop[0], loop[-1]
    if result not in (operand, "b1"):
        return None
    kind = _kind(operand)
    if ufunc in _TRUTHS:
        return _TRUTHS[ufunc].get("f" if kind == "h" else kind) if result == "b1" else None
    if kind == "h":
        kind = "f"
        if ufunc in _EXTREMES_OF_HALVES:
            return _EXTREMES_OF_HALVES[ufunc]
    return _ARITHMETIC.get(ufunc, {}).get(kind) if result == operand else None


def of_numbers(ufunc: object, loop: Loop) -> Emit | None:
    """The instructions of an extreme, or of a comparison, of floats none of which is a NaN; None for all other ufuncs.

    They are fewer than those that know NaNs. They may raise a flag for one, as no flag matters then.
    """
    if not isinstance(ufunc, np.ufunc) or loop[0] not in ("f4", "f8"):
        return None
    if ufunc in _COMPARED and loop[-1] == "b1":
        return _plain(_COMPARED[ufunc])
    return _extreme_of_numbers(_BEYOND[ufunc]) if ufunc in _BEYOND else None


def _plain(predicate: str) -> Emit:
    return lambda lanes, code, args: lanes.plain_compare(predicate, code, *args)


def _extreme_of_numbers(predicate: str) -> Emit:
    """The first operand where it is beyond the second; the second where they are equal. One instruction on x86."""
    return lambda lanes, code, args: lanes.select(code, lanes.plain_compare(predicate, code, *args), *args)


def meets_nans(ufunc: object) -> bool:
    """Tell whether the order of instructions decides which NaN is the result of two of them."""
    return ufunc in _MEETING


def _kind(code: str) -> str:
    """The kind of a dtype that is computed with; `h` for floats of 16 bits."""
    return "" if code not in CODES else "h" if code == "f2" else code[0]


def _float(name: str) -> Emit:
    return lambda lanes, code, args: lanes.strict(name, code, args)


def _integer(name: str) -> Emit:
    return lambda lanes, code, args: lanes.binary(name, type_of(code), args[0], args[1])


def _same(lanes: Lanes, code: str, args: list[str]) -> str:
    return args[0]


# Floats


def _square(lanes: Lanes, code: str, args: list[str]) -> str:
    return lanes.strict("fmul", code, [args[0], args[0]])


def _reciprocal(lanes: Lanes, code: str, args: list[str]) -> str:
    return lanes.strict("fdiv", code, [lanes.constant(FLOATS[code], 1), args[0]])


def _on_bits(name: str, mask: Callable[[str], int]) -> Emit:
    """An operation on the bits of each float, with a constant."""

    def emit(lanes: Lanes, code: str, args: list[str]) -> str:
        scalar = integer_type_of(code)
        bits = lanes.bits(code, args[0])
        return lanes.from_bits(code, lanes.binary(name, scalar, bits, lanes.constant(scalar, mask(code))))

    return emit


def _copysign(lanes: Lanes, code: str, args: list[str]) -> str:
    scalar = integer_type_of(code)
    size, sign = (lanes.bits(code, each) for each in args)
    size = lanes.binary("and", scalar, size, lanes.constant(scalar, magnitude_bits(code)))
    sign = lanes.binary("and", scalar, sign, lanes.constant(scalar, sign_bit(code)))
    return lanes.from_bits(code, lanes.binary("or", scalar, size, sign))


def _extreme(predicate: str) -> Emit:
    """The first operand where it is beyond the second, or is no number; the second where they are equal."""

    def emit(lanes: Lanes, code: str, args: list[str]) -> str:
        beyond = lanes.float_compare(predicate, code, *args)
        first = lanes.binary("or", "i1", beyond, lanes.is_nan(code, args[0]))
        return lanes.select(code, first, *args)

    return emit


def _ordered(predicate: str) -> Emit:
    return lambda lanes, code, args: lanes.float_compare(predicate, code, *args)


def _is_nan(lanes: Lanes, code: str, args: list[str]) -> str:
    return lanes.is_nan(code, args[0])


def _against_infinity(predicate: str) -> Emit:
    def emit(lanes: Lanes, code: str, args: list[str]) -> str:
        scalar = integer_type_of(code)
        mask = lanes.constant(scalar, magnitude_bits(code))
        magnitude = lanes.binary("and", scalar, lanes.bits(code, args[0]), mask)
        return lanes.compare(predicate, scalar, magnitude, lanes.constant(scalar, infinity(code)))

    return emit


def _signbit(lanes: Lanes, code: str, args: list[str]) -> str:
    return lanes.compare(
        "slt", integer_type_of(code), lanes.bits(code, args[0]), lanes.constant(integer_type_of(code), 0)
    )


# Integers and booleans


def _negative(lanes: Lanes, code: str, args: list[str]) -> str:
    return lanes.binary("sub", type_of(code), lanes.constant(type_of(code), 0), args[0])


def _absolute(lanes: Lanes, code: str, args: list[str]) -> str:
    below = lanes.compare("slt", type_of(code), args[0], lanes.constant(type_of(code), 0))
    return lanes.select(code, below, _negative(lanes, code, args), args[0])


def _integer_square(lanes: Lanes, code: str, args: list[str]) -> str:
    return lanes.binary("mul", type_of(code), args[0], args[0])


def _invert(lanes: Lanes, code: str, args: list[str]) -> str:
    return lanes.binary("xor", type_of(code), args[0], lanes.constant(type_of(code), 1 if code == "b1" else -1))


def _shift(name: str) -> Emit:
    """A shift by less than the width; what is shifted out altogether leaves zeros, or the sign."""

    def emit(lanes: Lanes, code: str, args: list[str]) -> str:
        scalar, width = type_of(code), 8 * bytes_of(code)
        value, count = args
        short = lanes.compare("ult", scalar, count, lanes.constant(scalar, width))
        signed = name == "ashr"
        beyond = lanes.constant(scalar, width - 1 if signed else 0)
        shifted = lanes.binary(name, scalar, value, lanes.select(code, short, count, beyond))
        return shifted if signed else lanes.select(code, short, shifted, lanes.constant(scalar, 0))

    return emit


def _integer_extreme(predicate: str) -> Emit:
    def emit(lanes: Lanes, code: str, args: list[str]) -> str:
        return lanes.select(code, lanes.compare(predicate, type_of(code), *args), *args)

    return emit


def _integer_compare(predicate: str) -> Emit:
    return lambda lanes, code, args: lanes.compare(predicate, type_of(code), *args)


# Truth


def truth(lanes: Lanes, code: str, value: str) -> str:
    """Tell whether each element is not zero; a NaN is not."""
    if code == "b1":
        return value
    if code == "f2":
        magnitude = lanes.binary("and", "i16", value, lanes.constant("i16", magnitude_bits(code)))
        return lanes.compare("ne", "i16", magnitude, lanes.constant("i16", 0))
    if code in FLOATS:
        return lanes.float_compare("une", code, value, lanes.constant(FLOATS[code], 0))
    return lanes.compare("ne", type_of(code), value, lanes.constant(type_of(code), 0))


def _logical(name: str) -> Emit:
    def emit(lanes: Lanes, code: str, args: list[str]) -> str:
        first, second = (truth(lanes, code, each) for each in args)
        return lanes.binary(name, "i1", first, second)

    return emit


def _logical_not(lanes: Lanes, code: str, args: list[str]) -> str:
    return lanes.negated(truth(lanes, code, args[0]))


_BOTH = {"i": _integer("mul"), "u": _integer("mul"), "f": _float("fmul"), "b": _integer("and")}
_ARITHMETIC: dict[np.ufunc, dict[str, Emit]] = {
    np.add: {"i": _integer("add"), "u": _integer("add"), "f": _float("fadd"), "b": _integer("or")},
    np.subtract: {"i": _integer("sub"), "u": _integer("sub"), "f": _float("fsub")},
    np.multiply: _BOTH,
    np.divide: {"f": _float("fdiv")},
    np.sqrt: {"f": _float("sqrt")},
    np.square: {"f": _square, "i": _integer_square, "u": _integer_square},
    np.reciprocal: {"f": _reciprocal},
    np.negative: {"f": _on_bits("xor", sign_bit), "i": _negative, "u": _negative},
    np.absolute: {"f": _on_bits("and", magnitude_bits), "i": _absolute, "u": _same, "b": _same},
    np.fabs: {"f": _on_bits("and", magnitude_bits)},
    np.positive: {"f": _same, "i": _same, "u": _same},
    np.conjugate: {"f": _same, "i": _same, "u": _same},
    np.floor: {"f": _float("floor")},
    np.ceil: {"f": _float("ceil")},
    np.trunc: {"f": _float("trunc")},
    np.rint: {"f": _float("rint")},
    np.copysign: {"f": _copysign},
    np.maximum: {
        "f": _extreme("ogt"),
        "i": _integer_extreme("sgt"),
        "u": _integer_extreme("ugt"),
        "b": _integer("or"),
    },
    np.minimum: {
        "f": _extreme("olt"),
        "i": _integer_extreme("slt"),
        "u": _integer_extreme("ult"),
        "b": _integer("and"),
    },
    np.bitwise_and: dict.fromkeys("iub", _integer("and")),
    np.bitwise_or: dict.fromkeys("iub", _integer("or")),
    np.bitwise_xor: dict.fromkeys("iub", _integer("xor")),
    np.invert: dict.fromkeys("iub", _invert),
    np.left_shift: dict.fromkeys("iu", _shift("shl")),
    np.right_shift: {"i": _shift("ashr"), "u": _shift("lshr")},
}
_COMPARED: dict[np.ufunc, str] = {
    np.equal: "oeq",
    np.not_equal: "une",
    np.less: "olt",
    np.less_equal: "ole",
    np.greater: "ogt",
    np.greater_equal: "oge",
}
_ORDERS = {np.less: "lt", np.less_equal: "le", np.greater: "gt", np.greater_equal: "ge"}
_TRUTHS: dict[np.ufunc, dict[str, Emit]] = {
    np.equal: {"f": _ordered(_COMPARED[np.equal]), **dict.fromkeys("iub", _integer_compare("eq"))},
    np.not_equal: {"f": _ordered(_COMPARED[np.not_equal]), **dict.fromkeys("iub", _integer_compare("ne"))},
    **{
        ufunc: {
            "f": _ordered(_COMPARED[ufunc]),
            "i": _integer_compare(f"s{order}"),
            **dict.fromkeys("ub", _integer_compare(f"u{order}")),
        }
        for ufunc, order in _ORDERS.items()
    },
    np.logical_and: dict.fromkeys("fiub", _logical("and")),
    np.logical_or: dict.fromkeys("fiub", _logical("or")),
    np.logical_xor: dict.fromkeys("fiub", _logical("xor")),
    np.logical_not: dict.fromkeys("fiub", _logical_not),
    np.isnan: {"f": _is_nan},
    np.isinf: {"f": _against_infinity("eq")},
    np.isfinite: {"f": _against_infinity("slt")},
    np.signbit: {"f": _signbit},
}
_BEYOND: dict[np.ufunc, str] = {np.maximum: "ogt", np.minimum: "olt"}
_EXTREMES_OF_HALVES: dict[np.ufunc, Emit] = {np.maximum: _extreme("oge"), np.minimum: _extreme("ole")}
"""The first operand where both are equal: NumPy's loops for floats of 16 bits are others."""
_MEETING = frozenset({np.add, np.subtract, np.multiply, np.divide, np.maximum, np.minimum})
