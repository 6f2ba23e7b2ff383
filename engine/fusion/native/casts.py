"""Casts: the instructions that give NumPy's bits, for each pair of dtypes that there are some for.

NumPy's own casts are not there to be called, as ufuncs' loops are. A group with a cast that is not here is computed
without compiled code.
"""

from __future__ import annotations

from engine.fusion.native.emit import CODES, FLOATS, Lanes, bytes_of, infinity, integer_type_of, magnitude_bits, type_of
from engine.fusion.native.primitives import truth

PARTS = {"c8": "f4", "c16": "f8"}
"""The floats that complex numbers consist of: the real part, then the imaginary one."""


def castable(source: str, target: str) -> bool:
    """Tell whether there are instructions for a cast."""
    if source == target:
        return True
    if target in PARTS:
        return source in CODES or source in PARTS
    if source[0] in "mM" or target[0] in "mM":  # the bits are those of an integer
        return "i8" in (source, target)
    return source in CODES and target in CODES


def cast(lanes: Lanes, source: str, target: str, value: str) -> str:
    """A value of one dtype as another, as NumPy casts it; what does not fit into an integer is in doubt."""
    if source == target or source[0] in "mM" or target[0] in "mM":
        return value
    if target in PARTS:
        return _to_complex(lanes, source, target, value)
    if target == "b1":
        return truth(lanes, source, value)
    if target in FLOATS:
        return _to_float(lanes, source, target, value)
    if source == "f2":
        return _to_integer(lanes, "f4", target, lanes.resize(value, "f2", "f4"))
    if source in FLOATS:
        return _to_integer(lanes, source, target, value)
    if source == "b1" or bytes_of(source) < bytes_of(target):
        return lanes.convert("sext" if source[0] == "i" else "zext", value, type_of(source), type_of(target))
    if bytes_of(source) == bytes_of(target):
        return value
    return lanes.convert("trunc", value, type_of(source), type_of(target))


def _to_float(lanes: Lanes, source: str, target: str, value: str) -> str:
    if source not in FLOATS:
        wide = "f4" if target == "f2" else target
        value = lanes.convert("sitofp" if source[0] == "i" else "uitofp", value, type_of(source), type_of(wide))
        return lanes.resize(value, wide, target) if wide != target else value
    if target == "f2":
        doubt_signalling(lanes, source, value)
        return lanes.resize(_odd(lanes, value) if source == "f8" else value, "f4", target)
    if (source, target) == ("f2", "f8"):
        source, value = "f4", lanes.resize(value, source, "f4")
    return lanes.resize(value, source, target)


def _odd(lanes: Lanes, value: str) -> str:
    """A double as a float which, rounded to 16 bits, is what the double is, rounded to 16 bits.

    It is the one of its two neighbours whose last bit is set, where it is none itself: then rounding twice does not
    make a tie of what was none.
    """
    near = lanes.resize(value, "f8", "f4")
    back = lanes.resize(near, "f4", "f8")
    bits, one = lanes.bits("f4", near), lanes.constant("i32", 1)
    mask = lanes.constant("i64", magnitude_bits("f8"))
    sizes = [lanes.binary("and", "i64", lanes.bits("f8", each), mask) for each in (back, value)]
    away = lanes.compare("ugt", "i64", *sizes)
    nearer = lanes.binary("sub", "i32", bits, lanes.convert("zext", away, "i1", "i32"))
    odd = lanes.binary("or", "i32", nearer, one)
    same = lanes.compare("eq", "i64", *sizes)
    same = lanes.binary("or", "i1", same, lanes.is_nan("f8", value))
    kind = lanes.vector("i32")
    chosen = lanes.op(f"select {lanes.vector('i1')} {same}, {kind} {bits}, {kind} {odd}")
    return lanes.from_bits("f4", chosen)


def doubt_signalling(lanes: Lanes, code: str, value: str) -> None:
    """Doubt NaNs that signal: converting one gives a quiet one, but NumPy moves bits for floats of 16 bits."""
    scalar, quiet = integer_type_of(code), {"f2": 9, "f4": 22, "f8": 51}[code]
    size = lanes.binary("and", scalar, lanes.bits(code, value), lanes.constant(scalar, magnitude_bits(code)))
    beyond = lanes.binary("sub", scalar, size, lanes.constant(scalar, infinity(code) + 1))
    lanes.doubt(lanes.compare("ult", scalar, beyond, lanes.constant(scalar, (1 << quiet) - 1)))


def _to_complex(lanes: Lanes, source: str, target: str, value: str) -> str:
    part = PARTS[target]
    if source in PARTS:
        both = lanes.of(2 * lanes.lanes)
        parts = lanes.op(f"bitcast {lanes.type(source)} {value} to {both.type(PARTS[source])}")
        parts = both.resize(parts, PARTS[source], part)
        return lanes.op(f"bitcast {both.type(part)} {parts} to {lanes.type(target)}")
    real = lanes.bits(part, cast(lanes, source, part, value))
    return lanes.convert("zext", real, integer_type_of(part), integer_type_of(target))


def _to_integer(lanes: Lanes, source: str, target: str, value: str) -> str:
    """C leaves open what becomes of what does not fit; NumPy's own loop decides then."""
    width, signed = 8 * bytes_of(target), target[0] == "i"
    least = -(1 << (width - 1)) if signed else 0
    exact = width < (53 if source == "f8" else 24)
    kind = FLOATS[source]
    low = lanes.constant(kind, least - 1) if exact or not signed else lanes.constant(kind, least)
    above = lanes.float_compare("ogt" if exact or not signed else "oge", source, value, low)
    high = lanes.constant(kind, 1 << (width - 1 if signed else width))
    below = lanes.float_compare("olt", source, value, high)
    fits = lanes.binary("and", "i1", above, below)
    lanes.doubt(lanes.negated(fits))
    return lanes.convert("fptosi" if signed else "fptoui", value, kind, type_of(target))
