"""Data types: their objects, their limits, and how they are promoted. Nothing here is an op: nothing is dispatched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.base.op import ShapeDtype
from engine.ops.infer import type_of
from handles.base import Handle

bool_ = np.bool_
int8 = np.int8
int16 = np.int16
int32 = np.int32
int64 = np.int64
uint8 = np.uint8
uint16 = np.uint16
uint32 = np.uint32
uint64 = np.uint64
float32 = np.float32
float64 = np.float64
complex64 = np.complex64
complex128 = np.complex128

DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(name)
    for name in (
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float32",
        "float64",
        "complex64",
        "complex128",
    )
}
"""The dtypes of the standard, by name."""


@dataclass(frozen=True)
class FloatInfo:
    """The limits of a floating-point dtype, as Python floats."""

    bits: int
    """How many bits an element has (a real one, of a complex dtype)."""
    eps: float
    """The distance from 1.0 to the next larger number."""
    max: float
    """The largest number."""
    min: float
    """The smallest number: the largest one, negative."""
    smallest_normal: float
    """The smallest positive number of full precision."""
    tiny: float
    """The same, by the name that NumPy users know."""
    resolution: float
    """The decimal resolution."""
    dtype: np.dtype[Any]
    """The dtype (the real one, of a complex dtype)."""


def _dtype(value: Any) -> np.dtype[Any]:
    return value.dtype if isinstance(value, Handle | np.ndarray | np.generic) else np.dtype(value)


def finfo(type: object, /) -> FloatInfo:
    """The limits of a floating-point dtype, or of the dtype of an array. Raises `ValueError` for other dtypes."""
    info = np.finfo(_dtype(type))
    return FloatInfo(
        bits=int(info.bits),
        eps=float(info.eps),
        max=float(info.max),
        min=float(info.min),
        smallest_normal=float(info.smallest_normal),
        tiny=float(info.tiny),
        resolution=float(info.resolution),
        dtype=np.dtype(info.dtype),
    )


def iinfo(type: Any, /) -> np.iinfo[Any]:
    """The limits of an integer dtype, or of the dtype of an array. Raises `ValueError` for other dtypes."""
    return np.iinfo(_dtype(type))


def isdtype(dtype: Any, kind: Any) -> bool:
    """Tell whether a dtype is of a kind ("bool", "integral", "real floating", ...), a dtype, or one of a tuple of them.

    Raises `TypeError` for what is not a dtype, `ValueError` for a kind that does not exist.
    """
    return np.isdtype(np.dtype(dtype), kind)


def _promoted(value: Any) -> Any:
    if isinstance(value, Handle):
        return value.dtype
    if isinstance(value, bool | int | float | complex) and not isinstance(value, np.generic):
        return value
    return type_of(ShapeDtype((), value.dtype)) if isinstance(value, np.ndarray | np.generic) else np.dtype(value)


def result_type(*arrays_and_dtypes: Any) -> np.dtype[Any]:
    """The dtype that these arrays, dtypes and Python scalars are promoted to; never waits."""
    if not arrays_and_dtypes:
        raise ValueError("result_type: at least one array or dtype is needed")
    return np.result_type(*map(_promoted, arrays_and_dtypes))


def can_cast(from_: Any, to: Any, /) -> bool:
    """Tell whether a dtype, or that of an array, can become another by the rules of promotion; never waits."""
    return np.can_cast(_dtype(from_), np.dtype(to))
