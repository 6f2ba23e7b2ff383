"""Checks of parameters at the call: what cannot be meant is refused there, with the function's and its argument's name.

Checks of what depends on shapes are left to the op, which runs later: they would cost an inference at each call.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import index
from typing import Any

import numpy as np

from engine.devices.cpu import holds_objects


def wrong(function: str, argument: str, wanted: str, got: object) -> TypeError:
    """The error for an argument of a wrong type."""
    shown = repr(got) if isinstance(got, str | int | float | bool | None) else type(got).__name__
    return TypeError(f"{function}: {argument} must be {wanted}, but got {shown}")


def integer(function: str, argument: str, value: Any) -> int:
    """An integer; bools are none. The value of a handle is waited for, as `operator.index` does."""
    if value.__class__ is int:
        return value
    if isinstance(value, bool | np.bool_) or getattr(value, "shape", ()) != ():
        raise wrong(function, argument, "an integer", value)
    try:
        return index(value)
    except TypeError:
        raise wrong(function, argument, "an integer", value) from None


def integers(function: str, argument: str, value: Any) -> tuple[int, ...]:
    """An integer, or several of them in any sequence or array; the value of a handle is waited for."""
    if _is_several(value):
        several = np.asarray(value) if hasattr(value, "_cell") else value
        return tuple(integer(function, argument, each) for each in several)
    try:
        return (integer(function, argument, value),)
    except TypeError:
        raise wrong(function, argument, "an integer or a tuple of integers", value) from None


def _is_several(value: object) -> bool:
    """Tell whether this is a sequence, or an array that has dimensions."""
    return isinstance(value, Iterable) and not isinstance(value, str | bytes) and getattr(value, "shape", None) != ()


def axes(function: str, value: Any, argument: str = "axis") -> Any:
    """An axis, a tuple of axes, or None: as NumPy's reductions take them, and no other sequence."""
    if value is None or value.__class__ is int:
        return value
    if isinstance(value, tuple):
        return tuple(integer(function, argument, each) for each in value)
    try:
        return integer(function, argument, value)
    except TypeError:
        raise wrong(function, argument, "an integer or a tuple of integers", value) from None


def tuple_of_list(value: object) -> Any:
    """A list as a tuple, for the functions that take either."""
    return tuple(value) if isinstance(value, list) else value


def sequence_of_axes(function: str, value: object, argument: str = "axis") -> object:
    """An axis, several of them in any sequence or array, or None."""
    if value is None or value.__class__ is int:
        return value
    several = integers(function, argument, value)
    return several if _is_several(value) else several[0]


def axis_or_none(function: str, value: object, argument: str = "axis") -> int | None:
    """One axis, or None."""
    return value if value is None or value.__class__ is int else integer(function, argument, value)


def flag(function: str, argument: str, value: Any) -> bool:
    """True or False."""
    if value is True or value is False:
        return value
    if isinstance(value, np.bool_ | int):
        return bool(value)
    raise wrong(function, argument, "True or False", value)


def dtype_or_none(function: str, value: object, argument: str = "dtype") -> np.dtype[Any] | None:
    """A dtype, or None; Python objects are refused."""
    return None if value is None else dtype(function, value, argument)


def dtype(function: str, value: Any, argument: str = "dtype") -> np.dtype[Any]:
    """A dtype that the engine computes with."""
    if value is None or hasattr(value, "_cell"):
        raise wrong(function, argument, "a dtype", value)
    try:
        found: np.dtype[Any] = np.dtype(value)
    except TypeError:
        raise wrong(function, argument, "a dtype", value) from None
    if holds_objects(found):
        raise TypeError(f"{function}: {argument} must not be one of Python objects, which are not supported")
    return found


def one_of(function: str, argument: str, value: Any, choices: tuple[Any, ...]) -> Any:
    """One of a few values."""
    if isinstance(value, str | int | float | None) and value in choices:
        return value
    raise ValueError(f"{function}: {argument} must be one of {', '.join(map(repr, choices))}, but got {value!r}")


def sequence(function: str, argument: str, value: Any) -> tuple[object, ...]:
    """A list or tuple of arrays that is not empty; an array counts as that of its rows."""
    if isinstance(value, list | tuple):
        if value:
            return tuple(value)
        raise ValueError(f"{function}: {argument} must have at least one array")
    if getattr(value, "ndim", 0):
        return tuple(value)
    raise wrong(function, argument, "a list or tuple of arrays", value)
