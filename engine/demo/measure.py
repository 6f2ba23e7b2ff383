"""One way in a process of its own, so that its peak memory is its own: `python -m engine.demo.measure WAY ...`.

Writes one JSON object per line to stdout: `{"done": n}` for progress, a `Report` at the end.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import math
import sys
from asyncio import get_running_loop
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

import engine
from engine.demo.relief import Job, plan
from engine.demo.terrain import Array, load
from engine.demo.ways import WAYS, Tiny, Way

try:
    import resource as _resource
except ImportError:  # Windows
    resource: Any = None
else:
    resource = _resource

BEAT = 0.001
"""Seconds between two beats of the heartbeat."""
VISIT = 0.02
"""Seconds between two tiny requests."""
NUMBERS = np.arange(16.0)
"""The numbers of a tiny request."""
PARTS = 240
"""Parts of a run, of each of which the worst lag is reported."""
SHOWN_STEP = 4
"""The step in which the PNG shows every so many pixels."""


@dataclass(frozen=True)
class Report:
    """The figures of one way."""

    seconds: float
    lag_p50: float
    """Seconds that a beat of the heartbeat came late; as all lags here, over every millisecond of the run."""
    lag_p99: float
    lag_max: float
    peak_bytes: int | None
    """The most memory that the process ever had, interpreter and NumPy included; None if unknown."""
    digests: list[str]
    """SHA-256 of shape, dtype and bytes of each picture."""
    visit_p50: float
    """Seconds from when a tiny request was due until it was answered."""
    visit_p99: float
    visit_max: float
    lags: list[float] = field(default_factory=list)
    """The worst lag of each of some equal parts of the run."""
    visits: list[tuple[float, float]] = field(default_factory=list)
    """When each tiny request was due, in seconds since the start, and how long it waited."""


@dataclass(frozen=True)
class Measured:
    """The results of one run of a way."""

    pictures: list[Array]
    seconds: float
    lags: list[float]
    """One figure for each millisecond of the run."""
    visits: list[tuple[float, float]]


def lateness(due: float, now: float) -> list[float]:
    """How late, in seconds, each beat is that was due from `due` until `now`."""
    return [now - due - BEAT * missed for missed in range(math.floor((now - due) / BEAT) + 1)]


async def heartbeat(lags: list[float]) -> None:
    """Beat every millisecond; a beat that is late is late for each millisecond that it missed."""
    due = perf_counter() + BEAT
    while True:
        await asyncio.sleep(due - perf_counter())
        late = lateness(due, perf_counter())
        lags.extend(late)
        due += BEAT * len(late)


async def visiting(tiny: Tiny, start: float, visits: list[tuple[float, float]]) -> None:
    """Send a tiny request every so often, whether or not those before it were answered; note how long each waited."""

    async def ask(due: float) -> None:
        try:
            await tiny(NUMBERS)
        finally:  # at the end of the run too, where it has waited for that long at least
            visits.append((due - start, perf_counter() - due))

    due = perf_counter() + VISIT
    async with asyncio.TaskGroup() as group:
        while True:
            await asyncio.sleep(due - perf_counter())
            while due <= perf_counter():  # all of them, where the loop stood still
                group.create_task(ask(due))
                due += VISIT


async def timed(way: Way, job: Job) -> Measured:
    """Run one way beside a heartbeat and tiny requests."""
    lags: list[float] = []
    visits: list[tuple[float, float]] = []
    done = 0

    @asynccontextmanager
    async def visitors(tiny: Tiny) -> AsyncIterator[None]:
        task = get_running_loop().create_task(visiting(tiny, start, visits))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def step() -> None:
        nonlocal done
        done += 1
        tell({"done": done})

    gc.collect()  # of what the imports have left: it would come in the midst of a run, and stop all threads
    pulse = get_running_loop().create_task(heartbeat(lags))
    await asyncio.sleep(10 * BEAT)
    lags.clear()
    start = perf_counter()
    pictures = await way(job, step, visitors)
    seconds = perf_counter() - start
    await asyncio.sleep(2 * BEAT)  # the beats that were due meanwhile
    pulse.cancel()
    return Measured(pictures, seconds, lags, visits)


def worst(lags: list[float], parts: int = PARTS) -> list[float]:
    """The worst of each of some equal parts; of fewer parts where there are fewer values."""
    parts = min(parts, len(lags))
    edges = [index * len(lags) // parts for index in range(parts + 1)] if parts else []
    return [max(lags[low:high]) for low, high in pairwise(edges)]


def peak_bytes() -> int | None:
    """The most memory that this process ever had resident."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux's ru_maxrss begins with that of the process that started this one
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if resource is None:
        return None
    peak = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return peak if sys.platform == "darwin" else peak * 1024


def digest(picture: Array) -> str:
    """SHA-256 of shape, dtype and bytes."""
    found = hashlib.sha256(f"{picture.shape} {picture.dtype.str}".encode())
    found.update(np.ascontiguousarray(picture).data)
    return found.hexdigest()


def tell(message: object) -> None:
    """Write one line for the process that started this one."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main(name: str, path: str, cell: str, factor: str, results: str, trace: str = "", timeline: str = "") -> None:
    """Run the way `name` on the file `path`; write its pictures to the file `results` unless that is empty.

    With the name of a file in `trace`, write what the engine did there, and a picture of that to `timeline`.
    """
    job = plan(load(Path(path), float(cell)), int(factor))
    with engine.profile() if trace else nullcontext() as profile:
        measured = asyncio.run(timed(WAYS[name][1], job))
    if profile is not None:
        profile.save(trace)
        profile.plot().figure.figure.savefig(timeline, dpi=150)
    peak = peak_bytes()
    digests = [digest(picture) for picture in measured.pictures]
    if results:
        *shades, blended, high = measured.pictures
        small = np.stack([shade[::SHOWN_STEP, ::SHOWN_STEP] for shade in shades])
        np.savez(results, shades=small, blend=blended, elevation=high)
    tell(asdict(report(measured, peak, digests)))


def report(measured: Measured, peak: int | None, digests: list[str]) -> Report:
    """Sum one run up."""
    waits = [wait for _, wait in measured.visits] or [0.0]  # a run may end before the first request is due
    lag_p50, lag_p99, lag_max = np.percentile(measured.lags, [50, 99, 100])
    visit_p50, visit_p99, visit_max = np.percentile(waits, [50, 99, 100])
    return Report(
        seconds=measured.seconds,
        lag_p50=float(lag_p50),
        lag_p99=float(lag_p99),
        lag_max=float(lag_max),
        peak_bytes=peak,
        digests=digests,
        visit_p50=float(visit_p50),
        visit_p99=float(visit_p99),
        visit_max=float(visit_max),
        lags=worst(measured.lags),
        visits=sorted(measured.visits),
    )


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)  # a terminal interrupts the demo too, which says so
