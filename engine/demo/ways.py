"""Three ways to compute the same pictures in an asyncio program: in the coroutine, in threads, with the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import numpy as np

import engine
from engine import ops
from engine.demo import relief
from engine.demo.relief import AZIMUTHS, Job
from engine.demo.terrain import Array

Step = Callable[[], None]
"""Called when one more picture is done."""
Tiny = Callable[[Array], Awaitable[float]]
"""Answers a tiny request: the sum of the square roots of a few numbers."""
Visitors = Callable[[Tiny], AbstractAsyncContextManager[None]]
"""Lets tiny requests come while the block runs; they are answered as the way computes."""
Way = Callable[[Job, Step, Visitors], Awaitable[list[Array]]]
"""Gives the eight shaded reliefs, their blend, and the resampled elevation."""

PICTURES = (*(f"sun at {azimuth}°" for azimuth in AZIMUTHS), "blend", "elevation")
STEPS = len(PICTURES)


def tiny(numbers: Array) -> float:
    """Compute what a tiny request asks for, with plain NumPy."""
    return float(np.sum(np.sqrt(numbers)))


async def with_numpy(job: Job, step: Step, visitors: Visitors) -> list[Array]:
    """Plain NumPy in the coroutine, which at least lets the loop turn between two pictures."""

    async def run(function: Callable[..., Array], *args: Any) -> Array:
        result = function(np, *args)
        await asyncio.sleep(0)
        return result

    async def picture(function: Callable[..., Array], *args: Any) -> Array:
        result = await run(function, *args)
        step()
        return result

    async def answer(numbers: Array) -> float:
        return tiny(numbers)

    async with visitors(answer):
        east, north = await run(relief.slope_east, job), await run(relief.slope_north, job)
        high = await picture(relief.height, job)
        steep = await run(relief.steepness, east, north)
        shades = [await picture(relief.shade, east, north, steep, azimuth) for azimuth in AZIMUTHS]
        return [*shades, await picture(relief.blend, shades), high]


async def with_threads(job: Job, step: Step, visitors: Visitors) -> list[Array]:
    """Each part in `asyncio.to_thread`, all parts that can run at once at once."""

    async def run(function: Callable[..., Array], *args: Any) -> Array:
        return await asyncio.to_thread(function, np, *args)

    async def picture(function: Callable[..., Array], *args: Any) -> Array:
        result = await run(function, *args)
        step()
        return result

    async def answer(numbers: Array) -> float:
        return await asyncio.to_thread(tiny, numbers)

    async with visitors(answer):
        east, north, high = await asyncio.gather(
            run(relief.slope_east, job), run(relief.slope_north, job), picture(relief.height, job)
        )
        steep = await run(relief.steepness, east, north)
        shades = await asyncio.gather(*(picture(relief.shade, east, north, steep, azimuth) for azimuth in AZIMUTHS))
        return [*shades, await picture(relief.blend, shades), high]


async def with_engine(job: Job, step: Step, visitors: Visitors) -> list[Array]:
    """All pictures dispatched at once; the data flow says what waits for what, and what does not runs side by side."""

    async def answer(numbers: Array) -> float:
        return float(await ops.sum(ops.sqrt(numbers)))

    async with engine.Executor(execution_mode=engine.ASYNC), visitors(answer):
        shades, high = relief.shades(ops, job), relief.height(ops, job)
        async for _ in engine.as_completed([*shades, high]):
            step()
        blended = await relief.blend(ops, shades)
        step()
        return [*await engine.gather(*shades), blended, await high]


WAYS: dict[str, tuple[str, Way]] = {
    "numpy": ("NumPy in the coroutine", with_numpy),
    "threads": ("asyncio.to_thread", with_threads),
    "engine": ("eagerloop, ASYNC", with_engine),
}
