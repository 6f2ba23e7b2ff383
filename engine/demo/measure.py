"""One way in a process of its own, so that its peak memory is its own: `python -m engine.demo.measure WAY ...`.

Writes one JSON object per line to stdout: `{"done": n}` for progress, a `Report` at the end.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import sys
from asyncio import get_running_loop
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

import engine
from engine.demo.relief import Job, plan
from engine.demo.terrain import Array, load
from engine.demo.ways import WAYS, Way

try:
    import resource as _resource
except ImportError:  # Windows
    resource: Any = None
else:
    resource = _resource

BEAT = 0.001
"""Seconds between two beats of the heartbeat."""
SHOWN_STEP = 4
"""Of the eight pictures the PNG shows every so many pixels."""


@dataclass(frozen=True)
class Report:
    """What one way took."""

    seconds: float
    lag_p50: float
    """Seconds that a beat of the heartbeat came late; as all lags here, over every millisecond of the run."""
    lag_p99: float
    lag_max: float
    peak_bytes: int | None
    """The most memory that the process ever had, interpreter and NumPy included; None where nobody tells."""
    digests: list[str]
    """SHA-256 of shape, dtype and bytes of each picture."""


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


async def timed(way: Way, job: Job) -> tuple[list[Array], float, list[float]]:
    """Run one way beside a heartbeat: the pictures, the seconds, and the lags in seconds."""
    lags: list[float] = []
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        tell({"done": done})

    pulse = get_running_loop().create_task(heartbeat(lags))
    await asyncio.sleep(10 * BEAT)
    lags.clear()
    start = perf_counter()
    pictures = await way(job, step)
    seconds = perf_counter() - start
    await asyncio.sleep(2 * BEAT)  # the beats that were due meanwhile
    pulse.cancel()
    return pictures, seconds, lags


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
        pictures, seconds, lags = asyncio.run(timed(WAYS[name][1], job))
    if profile is not None:
        profile.save(trace)
        profile.plot().figure.figure.savefig(timeline, dpi=150)
    peak = peak_bytes()
    p50, p99 = np.percentile(lags, [50, 99])
    digests = [digest(picture) for picture in pictures]
    if results:
        *shades, blended, high = pictures
        small = np.stack([shade[::SHOWN_STEP, ::SHOWN_STEP] for shade in shades])
        np.savez(results, shades=small, blend=blended, elevation=high)
    tell(asdict(Report(seconds, float(p50), float(p99), max(lags), peak, digests)))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)  # a terminal interrupts the demo too, which says so
