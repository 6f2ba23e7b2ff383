"""Speed: what the engine adds to the launches of CuPy, and what it saves.

Each figure is a ratio of two ways of doing the same, measured in turn in one process, so that a slow moment hits both.
The other way is `Raw`: the functions of CuPy on a stream, called by hand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from statistics import median
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from engine.base.modes import ExecutionMode
from engine.graph.function import function
from engine.queues.waiting import block_until
from engine.runtime.executor import Executor
from engine.settings.scope import device
from engine.testing.gpu.cases import op
from engine.testing.gpu.conformance import config
from handles.base import Handle

OPS = 2_000
"""Ops of a stream of small ones."""
STEPS = 60
"""Ops of a traced function."""
CHAIN = 10
LARGE = 10_000_000


class Raw(Protocol):
    """The library by hand, on a stream of its own."""

    def array(self, size: int) -> Any:
        """An array of ones, float64, on the GPU."""

    def add(self, x: Any, number: float) -> Any:
        """Launch `x + number`."""

    def sin(self, x: Any) -> Any:
        """Launch `sin(x)`."""

    def matmul(self, x: Any, y: Any) -> Any:
        """Launch `x @ y`."""

    def host(self, x: Any) -> np.ndarray[Any, Any]:
        """Copy to the host, which waits."""

    def synchronize(self) -> None:
        """Wait for what was launched."""


@dataclass(frozen=True)
class Figure:
    """One measurement: seconds of each way, and how they compare."""

    name: str
    engine: float
    raw: float
    aim: float
    """The ratio that is aimed at, or less; one that is missed is no failure."""
    unit: str = "s"

    @property
    def ratio(self) -> float:
        """How many times as long the engine takes."""
        return self.engine / self.raw if self.raw else float("nan")

    def as_row(self) -> dict[str, Any]:
        """The figure for JSON."""
        return {**asdict(self), "ratio": self.ratio, "is_met": self.ratio <= self.aim}


def in_turn(first: Callable[[], object], second: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Time two ways of doing the same in turn, after one round that does not count: the medians, in seconds."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for way, mine in zip((first, second), times, strict=True):
            begun = perf_counter()
            way()
            if number:
                mine.append(perf_counter() - begun)
    return median(times[0]), median(times[1])


def _ready(handle: Handle) -> None:
    """Block until a value is there, without copying it to the host."""
    block_until(handle._cell, None)


def measured(raw: Raw, *, rounds: int = 5, scale: float = 1.0, until: float = float("inf")) -> Iterator[Figure]:
    """Measure one figure after the other, as long as there is time; `scale` makes sizes smaller."""
    with Executor(config(), execution_mode=ExecutionMode.ASYNC), device("GPU:0"):
        for make in (_stream_of_small_ops, _traced, _chain_of_large_ops, _copy_beside_compute):
            if perf_counter() < until:
                yield from make(raw, rounds, scale)


def _stream_of_small_ops(raw: Raw, rounds: int, scale: float) -> Sequence[Figure]:
    """Small ops one after the other, each on the result of the last: the time for one."""
    count = max(20, int(OPS * scale))
    mine, theirs = op("ones")((1_000,)), raw.array(1_000)

    def engine() -> None:
        x = mine
        for _ in range(count):
            x = x + 1.0
        _ready(x)

    def by_hand() -> None:
        x = theirs
        for _ in range(count):
            x = raw.add(x, 1.0)
        raw.synchronize()

    first, second = in_turn(engine, by_hand, rounds)
    return [Figure("a small op in a chain, dispatch to completion", first / count, second / count, 1.2)]


def _traced(raw: Raw, rounds: int, scale: float) -> Sequence[Figure]:
    """The same number of small ops as a traced function, against the calls one by one."""
    steps, calls = max(8, int(STEPS * scale)), max(3, int(50 * scale))

    @function
    def model(x: Any) -> Any:
        for _ in range(steps // 2):
            x = op("sin")(x) + 1.0
        return x

    mine, theirs = op("ones")((1_000,)), raw.array(1_000)

    def engine() -> None:
        x = mine
        for _ in range(calls):
            x = model(x)
        x.result()

    def by_hand() -> None:
        x = theirs
        for _ in range(calls * (steps // 2)):
            x = raw.add(raw.sin(x), 1.0)
        raw.host(x)

    first, second = in_turn(engine, by_hand, rounds)
    return [Figure(f"a traced function of {steps} small ops, a call", first / calls, second / calls, 1.0)]


def _chain_of_large_ops(raw: Raw, rounds: int, scale: float) -> Sequence[Figure]:
    """Ten ops on ten million numbers."""
    size = max(1_000, int(LARGE * scale))
    mine, theirs = op("ones")((size,)), raw.array(size)

    def engine() -> None:
        x = mine
        for _ in range(CHAIN):
            x = op("sin")(x) + 1.0
        _ready(x)

    def by_hand() -> None:
        x = theirs
        for _ in range(CHAIN):
            x = raw.add(raw.sin(x), 1.0)
        raw.synchronize()

    first, second = in_turn(engine, by_hand, rounds)
    return [Figure(f"a chain of {2 * CHAIN} ops on {size:,} float64", first, second, 1.2)]


def _copy_beside_compute(raw: Raw, rounds: int, scale: float) -> Sequence[Figure]:
    """A copy to the host while the GPU computes, against one after the other."""
    size, side = max(1_000, int(LARGE * scale)), max(64, int(4_000 * scale**0.5))
    square = op("ones")((side, side)) / side

    def fresh() -> Handle:
        handle: Handle = op("ones")((size,)) + 1.0
        _ready(handle)
        return handle

    def both(x: Handle) -> None:
        y = square
        for _ in range(4):
            y = op("matmul")(y, square)
        x.result()
        _ready(y)

    def one_by_one(x: Handle) -> None:
        y = square
        for _ in range(4):
            y = op("matmul")(y, square)
        _ready(y)
        x.result()

    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for way, mine in zip((both, one_by_one), times, strict=True):
            x = fresh()
            begun = perf_counter()
            way(x)
            if number:
                mine.append(perf_counter() - begun)
    name = "a copy to the host beside compute (raw: one after the other)"
    return [Figure(name, median(times[0]), median(times[1]), 0.95)]


# ---------------------------------------------------------------------------------------------------------------------
# The loop


def heartbeat(seconds: float = 5.0, side: int = 4_000) -> dict[str, float]:
    """Milliseconds that a task which sleeps a millisecond at a time wakes late, while the GPU is kept busy."""
    return asyncio.run(_heartbeat(seconds, side))


async def _heartbeat(seconds: float, side: int) -> dict[str, float]:
    lags: list[float] = []
    ops = 0
    async with Executor(config(), execution_mode=ExecutionMode.ASYNC):
        with device("GPU:0"):
            square = op("ones")((side, side)) / side
            await square.wait_ready()
            beating = asyncio.ensure_future(_beat(lags))
            until = perf_counter() + seconds
            while perf_counter() < until or not lags:
                x = square
                for _ in range(8):
                    x = op("matmul")(x, square) + 1.0
                    ops += 2
                await x.wait_ready()
            beating.cancel()
    lags.sort()
    return {
        "beats": float(len(lags)),
        "ops": float(ops),
        "median_ms": 1e3 * lags[(len(lags) - 1) // 2],
        "p99_ms": 1e3 * lags[ceil(0.99 * len(lags)) - 1],
        "aim_p99_ms": 1.0,
        "longest_ms": 1e3 * lags[-1],
    }


async def _beat(lags: list[float]) -> None:
    while True:
        due = perf_counter() + 0.001
        await asyncio.sleep(0.001)
        lags.append(perf_counter() - due)
