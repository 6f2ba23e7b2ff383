"""The demo's course: check the input, run each way in its own process, compare, print the table, write the picture."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from engine.demo import picture
from engine.demo.measure import Report
from engine.demo.terrain import InputError, Terrain, load
from engine.demo.ways import PICTURES, STEPS, WAYS

MOST_PIXELS = 64_000_000
"""Bytes of one picture; a way holds some fifteen of them, four bytes a pixel."""


@dataclass(frozen=True)
class Settings:
    """The options of the command line."""

    input: Path | None
    output: Path
    factor: int
    cell: float
    trace: Path | None = None

    @property
    def timeline(self) -> Path | None:
        """The picture that is drawn beside the trace."""
        return None if self.trace is None else self.trace.with_suffix(".png")


class WayFailedError(Exception):
    """A way ended without a report; it has said why on stderr."""


def run(settings: Settings, out: TextIO, err: TextIO) -> int:
    """Run the demo and return the exit status: 0, 1 when something went wrong, 2 when the input cannot be used."""
    if not picture.available():
        err.write("eagerloop demo: matplotlib is missing: pip install 'eagerloop[demo]'\n")
        return 2
    try:
        path, terrain = check(settings)
    except InputError as error:
        err.write(f"eagerloop demo: {error}\n")
        return 2
    rows, columns = (length * settings.factor for length in terrain.elevation.shape)
    err.write(f"{path.name}: {terrain.elevation.shape[0]} x {terrain.elevation.shape[1]} heights, ")
    err.write(f"resampled to {rows} x {columns}, lit from eight sides, three ways\n")
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "pictures.npz"
        try:
            reports = {name: measure(name, path, settings, results, err) for name in WAYS}
            if settings.trace is not None:  # once more, so that the figures are those of a run that is not observed
                measure("engine", path, settings, None, err)
        except WayFailedError as error:
            err.write(f"eagerloop demo: {error}\n")
            return 1
        out.write(table(reports))
        different = compare(reports)
        out.write(different or f"\nAll {len(PICTURES)} pictures are equal bit for bit in the three ways.\n")
        try:
            panels = [
                picture.Panel(WAYS[name][0], each.seconds, each.lags, each.visits) for name, each in reports.items()
            ]
            picture.write(settings.output, title(path, terrain), results, panels)
        except OSError as error:
            err.write(f"eagerloop demo: {settings.output}: {error.strerror or error}\n")
            return 1
    out.write(f"The shaded relief is in {settings.output}\n")
    if settings.trace is not None:
        out.write(f"The timeline of the engine's run is in {settings.timeline}, and as a trace for ")
        out.write(f"https://ui.perfetto.dev in {settings.trace}\n")
    return 1 if different else 0


def check(settings: Settings) -> tuple[Path, Terrain]:
    """Read the input, and see that the rest can be done. Raises `InputError`."""
    path = picture.sample() if settings.input is None else settings.input
    terrain = load(path, settings.cell)
    size = terrain.elevation.size
    if size * settings.factor**2 > MOST_PIXELS:
        raise InputError(f"{path}: too large to be made {settings.factor} times finer: try --factor with less")
    if settings.output in (settings.trace, settings.timeline):
        raise InputError(f"{settings.trace}: the picture beside it would be that of the relief: choose another name")
    for file in (settings.output, settings.trace, settings.timeline):
        if file is not None and (not file.parent.is_dir() or file.is_dir() or not os.access(file.parent, os.W_OK)):
            raise InputError(f"{file}: cannot be written: expected a file name in a folder that can be written")
    return path, terrain


def title(path: Path, terrain: Terrain) -> str:
    """The title of the picture."""
    name = "The Jacksboro fault, Tennessee" if path.name == picture.SAMPLE else path.stem
    height, width = terrain.elevation.shape
    return f"{name}: {width * terrain.dx / 1000:.0f} by {height * terrain.dy / 1000:.0f} km"


def measure(name: str, path: Path, settings: Settings, results: Path | None, err: TextIO) -> Report:
    """Run one way in its own process, showing its progress; without `results`, to write its trace.

    Raises `WayFailedError`.
    """
    kept = str(results) if results is not None and name == "engine" else ""
    traced = [str(settings.trace), str(settings.timeline)] if results is None else []
    arguments = [name, str(path), str(settings.cell), str(settings.factor), kept, *traced]
    command = [sys.executable, "-m", "engine.demo.measure", *arguments]
    show = progress(WAYS[name][0] + (", traced" if traced else ""), err)
    report: Report | None = None
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:
        assert process.stdout is not None
        try:
            show(0)
            for line in process.stdout:
                message = json.loads(line)
                if "done" in message:
                    show(message["done"])
                else:
                    report = Report(**message)
        except BaseException:
            process.kill()  # an interrupt must not leave it behind
            raise
    if report is None:
        raise WayFailedError(f"{WAYS[name][0]} failed (exit status {process.returncode})")
    return report


def progress(label: str, err: TextIO) -> Callable[[int], None]:
    """Show how far a way is: one line that is rewritten on a terminal, plain lines elsewhere."""
    width = 24

    def on_terminal(done: int) -> None:
        bar = "#" * (done * width // STEPS)
        err.write(f"\r  {label:<24} [{bar:<{width}}] {done:2} of {STEPS}" + ("\n" if done == STEPS else ""))
        err.flush()

    def elsewhere(done: int) -> None:
        if done in {0, STEPS // 2, STEPS}:
            err.write(f"  {label}: {done} of {STEPS} pictures done\n")
            err.flush()

    return on_terminal if err.isatty() else elsewhere


def table(reports: dict[str, Report]) -> str:
    """The figures of all ways, and what they come to."""
    lines = [
        f"\n{'':<24}{'wall':>7}{'event loop late, ms':>24}{'tiny request, ms':>24}{'peak':>10}",
        f"{'':<24}{'s':>7}" + f"{'p50':>8}{'p99':>8}{'max':>8}" * 2 + f"{'memory, MB':>12}",
    ]
    for name, report in reports.items():
        lags = (report.lag_p50, report.lag_p99, report.lag_max)
        waits = (report.visit_p50, report.visit_p99, report.visit_max)
        times = "".join(f"{1000 * seconds:8.1f}" for seconds in (*lags, *waits))
        peak = "unknown" if report.peak_bytes is None else f"{report.peak_bytes / 1e6:.0f}"
        lines.append(f"{WAYS[name][0]:<24}{report.seconds:7.2f}{times}{peak:>12}")
    lines += ["", *verdict(reports), "", *EXPLAINED]
    return "\n".join(lines) + "\n"


EXPLAINED = (
    "The same pictures, each way in a process of its own. Beside them a heartbeat is due every millisecond: how late",
    "it comes is how late the event loop is for everything else. Every 20 ms a tiny request comes (the square roots of",
    "16 numbers, and their sum), computed as the pictures are; it waits from when it is due until it is answered.",
    "Peak memory is the most that the process had resident: some 80 MB of Python and its modules included, and of",
    "eagerloop's, where llvmlite is installed, some 70 MB of the compiler's own code.",
)


def verdict(reports: dict[str, Report]) -> list[str]:
    """Divide the engine's figures by those of each other way, whichever did better."""
    own = reports.get("engine")
    if own is None:
        return []
    columns = ("wall", "loop max", "request p50", "request max", "memory")
    lines = [
        "eagerloop's figures divided by those of the others; below 1, eagerloop is better:",
        f"{'':<32}" + "".join(f"{column:>13}" for column in columns),
    ]
    for name, other in reports.items():
        if other is not own:
            ratios = map(ratio, figures(own), figures(other))
            lines.append(f"{'beside ' + WAYS[name][0]:<32}" + "".join(f"{text:>13}" for text in ratios))
    return lines


def figures(report: Report) -> tuple[float, ...]:
    """The figures that ways are compared by; 0 where a figure is unknown."""
    return (report.seconds, report.lag_max, report.visit_p50, report.visit_max, float(report.peak_bytes or 0))


def ratio(mine: float, theirs: float) -> str:
    """One figure divided by another, as text."""
    return f"{mine / theirs:.2f}" if mine > 0 and theirs > 0 else "unknown"


def compare(reports: dict[str, Report]) -> str:
    """Say which pictures differ between the ways; nothing when none does."""
    digests = [report.digests for report in reports.values()]
    different = [name for name, *found in zip(PICTURES, *digests, strict=True) if len(set(found)) > 1]
    return f"\nDIFFERENT between the ways: {', '.join(different)}\n" if different else ""
