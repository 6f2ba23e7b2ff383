"""Bounds: values that NumPy refuses, looked for before they are used: indices out of bounds, negative exponents.

CuPy has indices wrap around, and gives integers for negative powers of them. A check waits for the values, as a mask
does for how many of its elements are true: on the thread that launches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from engine.devices.cuda.runtime import Namespace, Term

_eagerloop_internal = True  # its frames are not the user's


def check_indices(xp: Namespace, indices: Term, length: int, axis: int) -> None:
    """Raise `IndexError` as NumPy does for integers that are no indices of an axis of this length."""
    if isinstance(indices, int | np.integer) and not isinstance(indices, bool):
        low = high = int(indices)
    elif getattr(indices, "dtype", None) is None or indices.dtype.kind not in "iu" or not indices.size:
        return
    else:
        low, high = int(xp.min(indices)), int(xp.max(indices))
    for index in (low, high):
        if not -length <= index < length:
            raise IndexError(f"index {index} is out of bounds for axis {axis} with size {length}")


def check_key(xp: Namespace, shape: Sequence[int], key: Term) -> None:
    """Raise `IndexError` for a key of an array of this shape that has indices out of bounds."""
    for indices, axis in _indices_of(key if isinstance(key, tuple) else (key,), len(shape)):
        if axis < len(shape):  # else there are too many, which CuPy says
            check_indices(xp, indices, shape[axis], axis)


def check_exponents(xp: Namespace, result: np.dtype[Term], exponents: Term) -> None:
    """Raise `ValueError` as NumPy does for negative exponents of integers; `result` is the dtype of the power."""
    if result.kind not in "iu":
        return
    if _is_array(exponents) and exponents.ndim:
        negative = exponents.dtype.kind == "i" and bool(exponents.size) and int(xp.min(exponents)) < 0
    else:
        negative = int(exponents) < 0
    if negative:
        raise ValueError("Integers to negative integer powers are not allowed.")


def _indices_of(key: tuple[Term, ...], ndim: int) -> Iterator[tuple[Term, int]]:
    """The arrays of integers in a key, each with the axis that it stands for."""
    rest = ndim - sum(map(_axes_of, key))
    axis = 0
    for part in key:
        if part is Ellipsis:
            axis += max(rest, 0)
        elif _is_array(part) and part.dtype.kind in "iu":
            yield part, axis
            axis += 1
        else:
            axis += _axes_of(part)


def _axes_of(part: Term) -> int:
    """How many axes a part of a key stands for."""
    if part is None or part is Ellipsis or isinstance(part, bool | np.bool_):
        return 0
    if _is_array(part) and part.dtype.kind == "b":
        return int(part.ndim)
    return 1


def _is_array(part: Term) -> bool:
    return hasattr(part, "dtype") and hasattr(part, "ndim")
