"""The arithmetic of the demo, written once for any array namespace: NumPy's, or the engine's."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from engine.demo.terrain import Array, Terrain

AZIMUTHS = tuple(range(0, 360, 45))
"""Where the sun stands, in degrees clockwise from north."""
ALTITUDE = math.radians(40)
KEY_LIGHT = 315
"""The azimuth of the strongest light in the blend; relief looks right when it comes from the upper left."""
EXAGGERATION = 2.5


@dataclass(frozen=True)
class Taps:
    """How to resample one axis with cubic B-splines: each new value is a weighted sum of four old ones."""

    indices: Array
    """(4, new length) int: which old values."""
    weights: Array
    """(4, new length) float32: how much of each."""
    slopes: Array
    """(4, new length) float32: the same for the derivative, per old cell."""


def taps(length: int, factor: int) -> Taps:
    """The taps of an axis of `length` values, `factor` times finer; beyond the edge, the edge goes on."""
    at = (np.arange(length * factor) + 0.5) / factor - 0.5
    cell = np.floor(at).astype(np.intp)
    t = at - cell
    s = 1 - t
    weights = [s**3, 4 - 6 * t**2 + 3 * t**3, 4 - 6 * s**2 + 3 * s**3, t**3]
    slopes = [-(s**2), 3 * t**2 - 4 * t, 4 * s - 3 * s**2, t**2]
    indices = np.clip(cell + np.arange(-1, 3)[:, None], 0, length - 1)
    return Taps(indices, (np.array(weights) / 6).astype(np.float32), (np.array(slopes) / 2).astype(np.float32))


@dataclass(frozen=True)
class Job:
    """All that the demo computes, as small arrays and numbers."""

    elevation: Array
    rows: Taps
    columns: Taps
    east: float
    """The weight of a slope of one metre per column, the exaggeration included."""
    north: float


def plan(terrain: Terrain, factor: int) -> Job:
    """Plan the relief of `terrain`, resampled `factor` times in each direction."""
    height, width = terrain.elevation.shape
    return Job(
        terrain.elevation,
        taps(height, factor),
        taps(width, factor),
        EXAGGERATION / terrain.dx,
        -EXAGGERATION / terrain.dy,  # rows go south
    )


def _resample(elevation: Any, rows: Taps, row_weights: Array, columns: Taps, column_weights: Array) -> Any:
    wide = _total(elevation[:, columns.indices[k]] * column_weights[k] for k in range(4))
    return _total(wide[rows.indices[k]] * row_weights[k][:, None] for k in range(4))


def _total(parts: Iterable[Any]) -> Any:
    return reduce(operator.add, parts)  # `sum` would begin by adding to 0


def height(xp: Any, job: Job) -> Any:
    """The resampled elevation, in metres."""
    rows, columns = job.rows, job.columns
    return _resample(xp.asarray(job.elevation), rows, rows.weights, columns, columns.weights)


def slope_east(xp: Any, job: Job) -> Any:
    """How much the surface rises towards the east."""
    rows, columns = job.rows, job.columns
    return _resample(xp.asarray(job.elevation), rows, rows.weights, columns, columns.slopes) * job.east


def slope_north(xp: Any, job: Job) -> Any:
    """How much the surface rises towards the north."""
    rows, columns = job.rows, job.columns
    return _resample(xp.asarray(job.elevation), rows, rows.slopes, columns, columns.weights) * job.north


def steepness(xp: Any, east: Any, north: Any) -> Any:
    """The length of the surface normal whose upward part is 1."""
    return xp.sqrt(east * east + north * north + 1.0)


def shade(xp: Any, east: Any, north: Any, steep: Any, azimuth: float) -> Any:
    """How brightly the sun lights each point: 0 in the shade, 1 where it shines straight down on the slope."""
    angle = math.radians(azimuth)
    up, flat = math.sin(ALTITUDE), math.cos(ALTITUDE)
    towards_sun = east * (-flat * math.sin(angle)) + north * (-flat * math.cos(angle)) + up
    return xp.maximum(towards_sun / steep, 0.0)


def shades(xp: Any, job: Job) -> list[Any]:
    """All eight shaded reliefs; nothing keeps what they were computed from."""
    east, north = slope_east(xp, job), slope_north(xp, job)
    steep = steepness(xp, east, north)
    return [shade(xp, east, north, steep, azimuth) for azimuth in AZIMUTHS]


def blend(xp: Any, pictures: list[Any]) -> Any:
    """One picture of all eight: mostly the key light, the others fill its shadows."""
    weights = [(1 + math.cos(math.radians(azimuth - KEY_LIGHT))) ** 2 for azimuth in AZIMUTHS]
    total = math.fsum(weights)
    return _total(picture * (weight / total) for picture, weight in zip(pictures, weights, strict=True))
