"""The input of the demo: an elevation model from a file, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

METRES_PER_DEGREE = 111_200.0
"""Metres per degree of latitude; of longitude, times the cosine of the latitude."""


class InputError(Exception):
    """The input cannot be used; the message fits one line."""


@dataclass(frozen=True)
class Terrain:
    """An elevation model, its first row in the north and its first column in the west."""

    elevation: Array
    """Metres, float32, two-dimensional."""
    dx: float
    """Metres from one column to the next."""
    dy: float
    """Metres from one row to the next."""


def load(path: Path, cell: float) -> Terrain:
    """Read an elevation model from an .npy or .npz file; `cell` metres lie between cells that say nothing themselves.

    An .npz holds it as `elevation` or as its only array, and may hold `dx` and `dy`: in metres, or, where it has
    `ymin` and `ymax` (latitudes) too, in degrees. Raises `InputError` for any other file.
    """
    if path.suffix not in {".npy", ".npz"}:
        raise InputError(f"{path}: expected an .npy or .npz file")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            arrays = {"elevation": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except Exception as error:  # noqa: BLE001 - a corrupt file can make the parsers raise nearly anything
        why = _one_line(error)
        if "allow_pickle" in why:  # NumPy's advice to load it nevertheless is none for a file of others
            why = "expected arrays of numbers as numpy.save and numpy.savez write them, but it holds something else"
        raise InputError(f"{path}: cannot be read as NumPy data: {why}") from None
    try:
        return _terrain(arrays, cell)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _terrain(arrays: dict[str, Array], cell: float) -> Terrain:
    elevation = arrays["elevation"] if "elevation" in arrays else _only(arrays)
    if elevation.ndim != 2 or min(elevation.shape) < 2:
        raise InputError(f"elevation must be two-dimensional, at least 2 x 2, but its shape is {elevation.shape}")
    if elevation.dtype.kind not in "iuf":
        raise InputError(f"elevation must be of integers or floats, but its dtype is {elevation.dtype}")
    if not np.isfinite(elevation).all():
        raise InputError("elevation has values that are not finite")
    dx, dy = _length(arrays, "dx"), _length(arrays, "dy")
    if dx is not None and dy is not None and "ymin" in arrays and "ymax" in arrays:
        latitude = math.radians(float(np.mean([arrays["ymin"], arrays["ymax"]])))
        dx, dy = dx * METRES_PER_DEGREE * math.cos(latitude), dy * METRES_PER_DEGREE
    return Terrain(elevation.astype(np.float32), dx or cell, dy or cell)


def _only(arrays: dict[str, Array]) -> Array:
    if len(arrays) != 1:
        raise InputError(f"expected an array named 'elevation', or one array, but it holds {sorted(arrays)}")
    return next(iter(arrays.values()))


def _length(arrays: dict[str, Array], name: str) -> float | None:
    if name not in arrays:
        return None
    value = arrays[name]
    if value.size != 1 or value.dtype.kind not in "iuf" or not 0 < float(value.reshape(())) < math.inf:
        raise InputError(f"{name} must be one positive number")
    return float(value.reshape(()))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
