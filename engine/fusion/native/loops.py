"""NumPy's own inner loops, as addresses that compiled code calls: the very code that a call of the ufunc runs."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.base.facts import facts_of

_CAPSULE = b"numpy_1.24_ufunc_call_info"
_UNKNOWN = np.iinfo(np.intp).max
"""How NumPy's machinery says that a stride is not the same in each call."""


class _CallInfo(ctypes.Structure):
    """The struct that NumPy puts into the capsule, as its documentation of `_get_strided_loop` says."""

    _fields_ = [
        ("loop", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
        ("auxdata", ctypes.c_void_p),
        ("requires_pyapi", ctypes.c_bool),
        ("no_floatingpoint_errors", ctypes.c_bool),
    ]


_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype = ctypes.c_void_p
_pointer_of.argtypes = [ctypes.py_object, ctypes.c_char_p]


@dataclass(frozen=True, slots=True)
class StridedLoop:
    """A loop of a ufunc for given dtypes."""

    loop: int
    context: int
    auxdata: int
    silent: bool
    """True if NumPy ignores the floating-point flags that the loop leaves."""
    owner: object
    """The objects that the addresses belong to."""


def strided_loop(ufunc: np.ufunc, loop: Sequence[str], strides: Sequence[int | None]) -> StridedLoop | None:
    """The loop of a ufunc for codes of dtypes; None where it cannot be called without the interpreter.

    `strides` are in bytes, None for those that differ from call to call.
    """
    if not _may_be_called(ufunc, loop):
        return None
    try:
        dtypes = tuple(np.dtype(code) for code in loop)
        resolved, capsule = ufunc._resolve_dtypes_and_context((*dtypes[:-1], None))  # type: ignore[attr-defined]
        if tuple(resolved) != dtypes:
            return None
        fixed = tuple(_UNKNOWN if stride is None else stride for stride in strides)
        ufunc._get_strided_loop(capsule, fixed_strides=fixed)  # type: ignore[attr-defined]
        info = _CallInfo.from_address(_pointer_of(capsule, _CAPSULE))
    except (AttributeError, TypeError, ValueError):  # a NumPy that has no such thing, or another one
        return None
    if info.requires_pyapi or not info.loop:
        return None
    return StridedLoop(info.loop, info.context or 0, info.auxdata or 0, info.no_floatingpoint_errors, capsule)


def _may_be_called(ufunc: np.ufunc, loop: Sequence[str]) -> bool:
    """NumPy's own ufuncs may, those apart that raise because of what integers are: that takes the interpreter."""
    own = getattr(np, ufunc.__name__, None) is ufunc or ufunc is np._core.umath.clip  # type: ignore[attr-defined]
    return own and loop[0][0] not in facts_of(ufunc).refuses
