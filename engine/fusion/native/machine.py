"""The machine that code is compiled for: is it one, its floating-point flags, and functions of its C library."""

from __future__ import annotations

import ctypes
import platform
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_X86 = {"invalid": 1, "divide": 4, "over": 8, "under": 16}
_ARM = {"invalid": 1, "divide": 2, "over": 4, "under": 8}
_FLAGS = {"x86_64": _X86, "amd64": _X86, "aarch64": _ARM, "arm64": _ARM}


@cache
def is_available() -> bool:
    """Tell whether there is a compiler, and a machine that the code is written for."""
    return find_spec("llvmlite") is not None and platform.machine().lower() in _FLAGS and math_library() is not None


def flags(kinds: set[str]) -> int:
    """The floating-point flags of kinds of errors, as `numpy.errstate` names them."""
    known = _FLAGS[platform.machine().lower()]
    return sum(known[kind] for kind in kinds)


@dataclass(frozen=True, slots=True)
class MathLibrary:
    """Addresses of functions of C."""

    clear: int
    """feclearexcept"""
    test: int
    """fetestexcept"""
    give_way: int
    """sched_yield"""


@cache
def math_library() -> MathLibrary | None:
    """The functions of the C library that compiled code calls; None where it cannot be found."""
    for name in (None, "libm.so.6", "libm.dylib"):
        try:
            library = ctypes.CDLL(name)
            found = [
                ctypes.cast(getattr(library, function), ctypes.c_void_p).value or 0
                for function in ("feclearexcept", "fetestexcept", "sched_yield")
            ]
        except (OSError, AttributeError, TypeError):
            continue
        return MathLibrary(*found)
    return None


@cache
def data_offset() -> int:
    """Where in the object of an array the address of its elements stands, in bytes; 0 where that is not known.

    NumPy's C interface says that it is the first field after those of any object. It is looked at, not believed.
    """
    offset = object.__basicsize__
    arrays: list[Array] = [
        np.zeros(3),
        np.zeros((4, 5), np.float32)[1:, ::2],
        np.zeros(()),
        np.broadcast_to(np.ones(1), (2, 2)),
    ]
    found = {ctypes.c_size_t.from_address(id(each) + offset).value - address_of(each) for each in arrays}
    return offset if found == {0} else 0


def address_of(array: Array) -> int:
    """The address of the first element of an array."""
    return array.__array_interface__["data"][0]  # type: ignore[no-any-return]
