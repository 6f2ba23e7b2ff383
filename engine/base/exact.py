"""Keys of values: equal for what no operation can tell apart, and for nothing else.

Python takes 1, 1.0 and True for equal, and 0.0 and -0.0, between which a division tells. A NaN is not equal to itself,
and has a sign. So numbers are compared by their class and their bits.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from struct import pack
from typing import Any

import numpy as np

from engine.base.pytree import Slot


def bits_of(number: complex | np.generic) -> bytes:
    """Return the bits of a number of a class."""
    if isinstance(number, np.generic):
        return number.tobytes()
    if isinstance(number, float):
        return pack("d", number)
    return pack("dd", number.real, number.imag)


def by_value(value: Any) -> Hashable:
    """Return the key of an argument, in which lists, tuples and dicts may be nested; one of an object is the object."""
    cls = type(value)
    convert = _CONTAINERS.get(cls)
    if convert is not None:
        return cls, convert(value)
    if isinstance(value, float | complex):
        return cls, bits_of(value)
    if isinstance(value, np.generic):
        return cls, value.dtype, bits_of(value)
    return cls, value


_CONTAINERS: dict[type, Callable[[Any], Hashable]] = {
    list: lambda value: tuple(map(by_value, value)),
    tuple: lambda value: tuple(map(by_value, value)),
    dict: lambda value: frozenset((name, by_value(each)) for name, each in value.items()),
    Slot: lambda value: value.number,
}
