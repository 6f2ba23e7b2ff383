"""What graphs, sessions and functions cost: building and running nodes, tracing, and replaying."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import engine
import engine.testing
from engine import ops

NODES = 100_000
TINY_OPS = 100
LARGE = 10_000_000

Row = tuple[str, float, str, float | None]
"""What was measured, the figure, its unit, and the most that it should be."""


def best_of(function: Callable[[], Any], times: int) -> float:
    """The shortest time of several, in seconds: what the rest of the machine adds is not of interest."""
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


@contextmanager
def fresh_engine(mode: engine.ExecutionMode | None = None) -> Iterator[None]:
    """Begin and end with nothing enabled, or with eager execution in one mode."""
    engine.testing.reset()
    gc.collect()
    if mode is not None:
        engine.enable_eager_execution(execution_mode=mode)
    try:
        yield
    finally:
        engine.testing.reset()


def tiny_chain(x: Any) -> Any:
    """A hundred additions and multiplications."""
    for _ in range(TINY_OPS // 2):
        x = (x + 1.5) * 0.5
    return x


def thousand_ops(x: Any) -> Any:
    for _ in range(10):
        x = tiny_chain(x)
    return x


def ten_ops(x: Any) -> Any:
    """Ten elementwise ops, as in the other benchmarks of large arrays."""
    y = x * 2.0
    y = y + 1.0
    y = y * x
    y = y - 3.0
    y = y / 7.0
    y = ops.abs(y)
    y = ops.sqrt(y)
    y = y + x
    y = y * 0.5
    return ops.maximum(y, 0.25)


def measure_graph() -> Iterator[Row]:
    with fresh_engine():
        x = engine.placeholder("f8", 4)
        y: Any = x
        begin = time.perf_counter()
        for _ in range(NODES):
            y = y + 1.0
        yield "building a node", (time.perf_counter() - begin) / NODES * 1e6, "us", None
        feeds = {x: np.zeros(4)}
        gc.collect()  # building made millions of objects: when those are looked at is no matter of the runs
        with engine.Session() as session:
            yield "running a node, first run", best_of(lambda: session.run(y, feeds), 1) / NODES * 1e6, "us", 3.0
            yield "running a node", best_of(lambda: session.run(y, feeds), 3) / NODES * 1e6, "us", 3.0

            async def awaited() -> None:
                await session.run_async(y, feeds)

            seconds = best_of(lambda: asyncio.run(awaited()), 3)
            yield "running a node, awaited", seconds / NODES * 1e6, "us", 3.0


def measure_tracing() -> Iterator[Row]:
    with fresh_engine(engine.SYNC):
        x = ops.ones(4)
        seconds = best_of(lambda: engine.function(thousand_ops)(x), 5)
        yield "tracing 1,000 ops and the first replay", seconds * 1e3, "ms", 50.0


def measure_replay(mode: engine.ExecutionMode) -> Iterator[Row]:
    with fresh_engine(mode):
        function = engine.function(tiny_chain)
        x = ops.ones(4)
        x.result()
        unit = TINY_OPS * 1e-6

        def replay() -> None:
            function(x).result()

        def pipelined() -> None:
            handles = [function(x) for _ in range(50)]
            handles[-1].result()

        def eager() -> None:
            tiny_chain(x).result()

        replay()
        yield f"{mode.name}: a tiny op, replayed and read", best_of(replay, 200) / unit, "us", 0.8
        yield f"{mode.name}: a tiny op, replayed 50 times, then read", best_of(pipelined, 20) / 50 / unit, "us", 0.8
        yield f"{mode.name}: a tiny op, eager", best_of(eager, 50) / unit, "us", None


def measure_awaited_replay() -> Iterator[Row]:
    async def main() -> float:
        function = engine.function(tiny_chain)
        x = ops.ones(4)
        await function(x)
        seconds = []
        for _ in range(200):
            begin = time.perf_counter()
            await function(x)
            seconds.append(time.perf_counter() - begin)
        return min(seconds)

    with fresh_engine(engine.ASYNC):
        yield "ASYNC: a tiny op, replayed and awaited", asyncio.run(main()) / TINY_OPS * 1e6, "us", 0.8


def measure_large(mode: engine.ExecutionMode) -> Iterator[Row]:
    with fresh_engine(mode):
        x = ops.ones(LARGE)
        x.result()
        function = engine.function(ten_ops)
        seconds = {"eager": [], "replayed": []}  # type: dict[str, list[float]]
        for _ in range(6):  # taking turns: both see the same machine
            seconds["eager"].append(best_of(lambda: ten_ops(x).result(), 1))
            seconds["replayed"].append(best_of(lambda: function(x).result(), 1))
        eager, replayed = min(seconds["eager"]), min(seconds["replayed"])
        yield f"{mode.name}: ten ops on 10M doubles, eager", eager * 1e3, "ms", None
        yield f"{mode.name}: ten ops on 10M doubles, replayed", replayed * 1e3, "ms", eager * 1e3 * 1.1


def measure() -> Iterator[Row]:
    """All rows, as they are measured."""
    yield from measure_graph()
    yield from measure_tracing()
    for mode in (engine.SYNC, engine.ASYNC):
        yield from measure_replay(mode)
    yield from measure_awaited_replay()
    for mode in (engine.SYNC, engine.ASYNC):
        yield from measure_large(mode)


def main() -> None:
    """Print one line for each row."""
    for what, figure, unit, most in measure():
        limit = "" if most is None else f"   (at most {most:.4g}{'' if figure <= most else ': MISSED'})"
        print(f"{what:<52} {figure:>9.3f} {unit}{limit}", flush=True)


if __name__ == "__main__":
    main()
