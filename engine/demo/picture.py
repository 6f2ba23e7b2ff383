"""The picture that the demo writes: the relief, the eight that it was blended from, and how each way computed them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
SHADES = ("#b4552d", "#8a7a3c", "#2f6f5e")
"""Colours of the ways, from the first to the last."""
WIDTH = 13.0
"""Inches."""
PANEL = 1.05
"""Inches, the height of what is shown of one way."""


@dataclass(frozen=True)
class Panel:
    """The part of the picture that shows one way."""

    label: str
    seconds: float
    lags: Sequence[float]
    """The worst lag of the event loop, in seconds, in each of some equal parts of the run."""
    visits: Sequence[tuple[float, float]]
    """When each tiny request was due, and how long it waited, in seconds."""


def available() -> bool:
    """Tell whether matplotlib is installed."""
    return cbook is not None


def sample() -> Path:
    """The path of matplotlib's elevation model."""
    return Path(str(cbook.get_sample_data(SAMPLE, asfileobj=False)))


def write(path: Path, title: str, results: Path, panels: Sequence[Panel]) -> None:
    """Write the PNG from the pictures that a way left in the file `results`. Raises `OSError`."""
    with np.load(results) as pictures:
        shades, blended, elevation = (pictures[name] for name in ("shades", "blend", "elevation"))
    figure(title, colour(blended, elevation), shades, panels).savefig(path, format="png", dpi=150, facecolor=PAPER)


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


def figure(title: str, picture: Array, shades: Array, panels: Sequence[Panel]) -> Any:
    """Lay it out: the large picture, a row of small ones, and a strip for each way."""
    aspect = picture.shape[0] / picture.shape[1]
    margin, gap, caption = 0.45, 0.12, 0.3
    inner = WIDTH - 2 * margin
    small = (inner - gap * (len(AZIMUTHS) - 1)) / len(AZIMUTHS)
    strips = (0.95 + PANEL * len(panels)) if panels else 0.0
    height = 2 * margin + 2 * caption + inner * aspect + gap + small * aspect - 0.15 + strips
    page: Any = Figure(figsize=(WIDTH, height))
    FigureCanvasAgg(page)

    def axes_at(left: float, bottom: float, width: float, tall: float) -> Any:
        return page.add_axes((left / WIDTH, bottom / height, width / WIDTH, tall / height))

    def place(image: Array, left: float, bottom: float, width: float, **options: Any) -> Any:
        axes = axes_at(left, bottom, width, width * aspect)
        axes.imshow(image, interpolation="antialiased", aspect="auto", **options)
        axes.set_axis_off()
        return axes

    bottom = margin + caption - 0.15 + strips
    place(picture, margin, bottom + small * aspect + gap, inner)
    for index, (azimuth, shade) in enumerate(zip(AZIMUTHS, shades, strict=True)):
        axes = place(shade, margin + index * (small + gap), bottom, small, cmap="gray", vmin=0, vmax=1)
        axes.set_title(f"sun at {azimuth}°", y=-0.2, fontsize=9, color=INK)
    page.text(margin / WIDTH, 1 - (margin + 0.12) / height, title, fontsize=13, color=INK, va="baseline")
    for index, panel in enumerate(panels):
        left = margin + 0.6
        axes = axes_at(left, margin + 0.2 + PANEL * (len(panels) - 1 - index), inner - 0.6, PANEL - 0.35)
        strip(axes, panel, SHADES[index % len(SHADES)], max(each.seconds for each in panels))
        axes.tick_params(labelbottom=index == len(panels) - 1)
    if panels:
        page.text(margin / WIDTH, (strips + margin - 0.5) / height, EXPLAINED, fontsize=9.5, color=INK, va="baseline")
    return page


EXPLAINED = (
    "Three ways to compute these pictures in one asyncio program, and what else got done meanwhile, in milliseconds\n"
    "over the seconds of each run.  Area: how late the event loop was.  Dots: how long a tiny request waited."
)


def strip(axes: Any, panel: Panel, shade: str, seconds: float) -> None:
    """Draw one way over time, on a logarithmic scale that all ways share."""
    lags = np.maximum(1e3 * np.asarray(panel.lags, dtype=float), 0.1)
    at = (np.arange(lags.size) + 0.5) * panel.seconds / max(lags.size, 1)
    axes.fill_between(at, 0.1, lags, color=shade, alpha=0.35, linewidth=0)
    if panel.visits:
        due, waits = np.asarray(panel.visits).T
        axes.plot(due, np.maximum(1e3 * waits, 0.1), ".", color=shade, markersize=3.5, clip_on=False)
        median = f", a tiny request {1e3 * float(np.median(waits)):.1f} ms (median)"
    else:
        median = ""
    axes.axvline(panel.seconds, color=shade, linewidth=1.2)
    axes.set(xlim=(0, seconds * 1.001), ylim=(0.1, 1e4), yscale="log", yticks=[0.1, 10, 1000], facecolor="white")
    axes.set_yticklabels(["0.1", "10", "1000"])
    axes.minorticks_off()
    axes.tick_params(labelsize=8, colors=INK, length=2)
    axes.grid(visible=True, axis="y", color="#e3ded3", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_title(f"{panel.label}: {panel.seconds:.2f} s{median}", fontsize=9.5, color=INK, loc="left", pad=3)
