"""Figures as text, as a table in docs/performance.md, and as a plot."""

from __future__ import annotations

import importlib.util
import os
import platform
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

from benchmarks.measure import in_digits
from benchmarks.workloads import WORKLOADS, Workload

BASELINES = ("NumPy", "asyncio.to_thread", "eagerloop ASYNC")
"""What ratios are taken to: the first of these that ran."""
BEGIN, END = "<!-- figures: written by `make bench` -->", "<!-- end of figures -->"
Found = dict[str, dict[str, float] | str]


@dataclass
class Results:
    """What was measured, where, and with which versions."""

    machine: dict[str, str]
    versions: dict[str, str]
    command: str
    """With the options that it was given."""
    figures: dict[str, Found] = field(default_factory=dict)
    """Medians by workload, system and metric; a text says why there are none."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def machine() -> dict[str, str]:
    """What the figures depend on, and nothing that tells one machine from another of its kind."""
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {
        "processor": processor,
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
    }


def baseline(found: Found) -> tuple[str, dict[str, float]] | None:
    for name in BASELINES:
        figures = found.get(name)
        if isinstance(figures, dict):
            return name, figures
    return None


def rows(results: Results, name: str) -> list[tuple[str, str, str, str]]:
    """System, figure, ratio to the baseline, and the other figures; fastest first."""
    row = next(row for row in WORKLOADS if row.name == name)
    found = results.figures[name]
    base = baseline(found)
    ordered = sorted(found.items(), key=lambda item: _leading(item[1]))
    lines = []
    for system, figures in ordered:
        if isinstance(figures, str):
            lines.append((system, "-", "", figures.partition("\n")[0][:80]))
            continue
        metric, value = next(iter(figures.items()))
        ratio = "" if base is None or system == base[0] else f"{value / base[1][metric]:.2f} x {base[0]}"
        rest = ", ".join(f"{other} {in_digits(figures[other])} {_unit(row, other)}" for other in list(figures)[1:])
        lines.append((system, f"{in_digits(value, 4)} {row.unit}", ratio, rest))
    return lines


def _leading(figures: dict[str, float] | str) -> float:
    return float("inf") if isinstance(figures, str) else next(iter(figures.values()))


def _unit(row: Workload, metric: str) -> str:
    return {"growth": "MB", "seconds": "s"}.get(metric, "ms")


def as_text(results: Results, name: str) -> str:
    row = next(row for row in WORKLOADS if row.name == name)
    lines = [f"  {system:<28}{figure:>14}  {ratio:<28}{rest}" for system, figure, ratio, rest in rows(results, name)]
    return "\n".join([row.title, *lines])


def as_markdown(results: Results) -> str:
    facts = [f"* {key}: {value}" for key, value in results.machine.items()]
    versions = ", ".join(f"{name} {version}" for name, version in _versions(results).items())
    parts = [*facts, f"* versions: {versions}", f"* command: `{results.command}` (medians, rounds in turn)", ""]
    for name in results.figures:
        row = next(row for row in WORKLOADS if row.name == name)
        parts += [
            f"### {row.title[0].upper()}{row.title[1:]}",
            "",
            "| system | median | ratio | |",
            "|---|---:|---:|---|",
        ]
        parts += [f"| {' | '.join(cells)} |" for cells in rows(results, name)]
        parts.append("")
    return "\n".join(parts)


def _versions(results: Results) -> dict[str, str]:
    names = {name.partition(" ")[0]: version for name, version in results.versions.items() if version}
    names["NumPy"] = names.pop("NumPy", "")
    for other in ("asyncio.to_thread", "tf.function"):
        names.pop(other, None)
    return {name.partition(".")[0]: version for name, version in names.items()}


def write(results: Results, folder: Path) -> None:
    """Put the figures between the marks in performance.md, and the plot beside it where matplotlib is installed."""
    picture = "![Speed against NumPy](performance.png)\n\n" if _plot(results, folder / "performance.png") else ""
    put(folder / "performance.md", BEGIN, END, picture + as_markdown(results))


def put(page: Path, begin: str, end: str, text: str) -> None:
    """Replace what stands between two marks of a page; both are added at the end where they are missing."""
    before, mark, rest = (page.read_text() if page.exists() else "# Performance\n\n").partition(begin)
    after = rest.partition(end)[2] if mark else "\n"
    page.write_text(f"{before}{begin}\n\n{text}\n{end}{after}")


def _plot(results: Results, path: Path) -> bool:
    """How many times faster than NumPy, for each workload that both do."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure

    rows_shown = [row for row in WORKLOADS if row.kind in ("chain", "tasks") and row.name in results.figures]
    systems = [name for name in results.versions if any(_speed(results, row.name, name) for row in rows_shown)]
    if not rows_shown:
        return False
    figure = Figure(figsize=(9, 1 + 0.7 * len(rows_shown)), layout="constrained")
    axes = figure.subplots()
    height = 0.85 / len(systems)
    for system, colour, index in zip(systems, _colours(systems), range(len(systems)), strict=True):
        speeds = [_speed(results, row.name, system) for row in rows_shown]
        places = [y + (index + 0.5) * height for y in range(len(rows_shown))]
        axes.barh(places, speeds, height, color=colour, label=system)
    axes.set_yticks([y + 0.425 for y in range(len(rows_shown))], [row.title.replace("`", "") for row in rows_shown])
    axes.set_ylim(len(rows_shown), -0.15)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("times as fast as NumPy")
    axes.legend(fontsize="small")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=110)
    return True


def _colours(systems: list[str]) -> list[str]:
    """Greens for eagerloop, and for each other system a colour of its own, of which there are enough."""
    ours, others = iter(_GREENS), cycle(_OTHERS)
    return [next(ours, _GREENS[-1]) if system.startswith("eagerloop") else next(others) for system in systems]


_GREENS = ("#1b7a4b", "#5fb58a", "#a9d8bf")
_OTHERS = (
    *("#3a3732", "#8d8a84", "#bdbab4", "#b4552d", "#e39a5c", "#7b4fa3", "#b79ad1", "#2b6cb0"),
    *("#7fb2e5", "#c23b72", "#e58fb3", "#8a7a3c", "#d1bf6b"),
)


def _speed(results: Results, name: str, system: str) -> float:
    found = results.figures[name]
    figures, numpy = found.get(system), found.get("NumPy")
    if not isinstance(figures, dict) or not isinstance(numpy, dict):
        return 0.0
    return numpy["time"] / figures["time"]
