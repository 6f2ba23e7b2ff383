"""Clocks, heartbeats and memory."""

from __future__ import annotations

import asyncio
import gc
import resource
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from time import perf_counter

TICK = 0.001
"""Seconds between two beats of a heartbeat."""
LONG_ENOUGH = 0.2
"""Seconds that lags are taken for, at least."""
MEGABYTE = 1_000_000


async def seconds_of(work: Callable[[], Awaitable[object]]) -> float:
    """Wall time of one run."""
    start = perf_counter()
    await work()
    return perf_counter() - start


async def repeated(work: Callable[[], Awaitable[object]]) -> float:
    """Median wall time of three runs in a row: between rounds others have had the caches."""
    return median([await seconds_of(work) for _ in range(3)])


def percentile(values: list[float], share: float) -> float:
    """The value below which this share of the values lies; 0 where there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def in_digits(figure: float, digits: int = 3) -> str:
    """Write a figure with so many digits, or with all before its point, and never with an exponent."""
    return f"{figure:,.0f}" if round(abs(figure)) >= 10**digits else f"{figure:.{digits}g}"


@asynccontextmanager
async def heartbeat() -> AsyncIterator[list[float]]:
    """Ticks every millisecond while the block runs; yields the lags, in seconds, as they come."""
    lags: list[float] = []

    async def beat() -> None:
        while True:
            due = perf_counter() + TICK
            await asyncio.sleep(TICK)
            lags.append(max(0.0, perf_counter() - due))

    task = asyncio.create_task(beat())
    await asyncio.sleep(10 * TICK)
    lags.clear()
    try:
        yield lags
        await asyncio.sleep(0)
    finally:
        task.cancel()


async def lags_of(work: Callable[[], Awaitable[object]]) -> list[float]:
    """The lags, in seconds, while the work is done once, and again until there are enough of them for a percentile."""
    async with heartbeat() as lags:
        await work()
        ends = perf_counter() + LONG_ENOUGH
        while perf_counter() < ends:
            await work()
            await asyncio.sleep(0)
    return lags


async def lag_of(work: Callable[[], Awaitable[object]]) -> float:
    """The 99th percentile of the lags, in seconds."""
    return percentile(await lags_of(work), 0.99)


def resident() -> float:
    """Megabytes of memory in use now (where the system does not tell, the most ever used)."""
    gc.collect()
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return peak()
    return pages * resource.getpagesize() / MEGABYTE


def peak() -> float:
    """Most megabytes in use since the last `forget_peak`."""
    try:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / MEGABYTE
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MEGABYTE


def forget_peak() -> None:
    """Have `peak` begin anew, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass
