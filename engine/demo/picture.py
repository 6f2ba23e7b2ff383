"""The picture that the demo writes: the relief in colour, and below it the eight that it was blended from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engine.demo.relief import AZIMUTHS
from engine.demo.terrain import Array

try:
    from matplotlib import cbook
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure
except ImportError:
    cbook = None  # type: ignore[assignment]

SAMPLE = "jacksboro_fault_dem.npz"
"""The elevation model that matplotlib ships."""

# Colours from the valleys to the ridges: damp greens, dry slopes, pale stone.
COLOURS = ["#47664f", "#6d8a5c", "#a3ac76", "#cdbf8f", "#c9a87c", "#b08a6c", "#c6b8ab", "#e6dfd7"]
PAPER, INK = "#f7f5f0", "#3a3732"
WIDTH = 13.0
"""Inches."""


def available() -> bool:
    """Whether matplotlib is installed."""
    return cbook is not None


def sample() -> Path:
    """The path of matplotlib's elevation model."""
    return Path(str(cbook.get_sample_data(SAMPLE, asfileobj=False)))


def write(path: Path, title: str, results: Path) -> None:
    """Write the PNG from the pictures that a way left in the file `results`. Raises `OSError`."""
    with np.load(results) as pictures:
        shades, blended, elevation = (pictures[name] for name in ("shades", "blend", "elevation"))
    figure(title, colour(blended, elevation), shades).savefig(path, format="png", dpi=150, facecolor=PAPER)


def colour(shade: Array, elevation: Array) -> Array:
    """Tint by height, times light."""
    palette: Any = LinearSegmentedColormap.from_list("relief", COLOURS)
    low, high = np.percentile(elevation[::4, ::4], [1, 99.5])
    tint = palette(_spread(elevation, low, high) ** 0.8)[..., :3]
    dark, bright = np.percentile(shade[::4, ::4], [0.5, 99.5])
    light = _spread(shade, dark, bright)[..., None]
    lit: Array = tint * (0.22 + 0.93 * light) + 0.10 * light**4  # the sunniest slopes fade to white
    return np.clip(lit, 0, 1)


def _spread(values: Array, low: float, high: float) -> Array:
    spread: Array = np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    return spread


def figure(title: str, picture: Array, shades: Array) -> Any:
    """Lay it out: the large picture, then a row of small ones."""
    aspect = picture.shape[0] / picture.shape[1]
    margin, gap, caption = 0.45, 0.12, 0.3
    inner = WIDTH - 2 * margin
    small = (inner - gap * (len(AZIMUTHS) - 1)) / len(AZIMUTHS)
    height = 2 * margin + 2 * caption + inner * aspect + gap + small * aspect - 0.15
    page: Any = Figure(figsize=(WIDTH, height))
    FigureCanvasAgg(page)

    def place(image: Array, left: float, bottom: float, width: float, **options: Any) -> Any:
        axes = page.add_axes((left / WIDTH, bottom / height, width / WIDTH, width * aspect / height))
        axes.imshow(image, interpolation="antialiased", aspect="auto", **options)
        axes.set_axis_off()
        return axes

    bottom = margin + caption - 0.15
    place(picture, margin, bottom + small * aspect + gap, inner)
    for index, (azimuth, shade) in enumerate(zip(AZIMUTHS, shades, strict=True)):
        axes = place(shade, margin + index * (small + gap), bottom, small, cmap="gray", vmin=0, vmax=1)
        axes.set_title(f"sun at {azimuth}°", y=-0.2, fontsize=9, color=INK)
    page.text(margin / WIDTH, 1 - (margin + 0.12) / height, title, fontsize=13, color=INK, va="baseline")
    return page
