"""`python -m benchmarks.cluster`: workers of a Dask cluster as devices, beside Dask's own futures and dask.array.

A local cluster of two processes serves all sides, in turn, in one run; the figures are medians. What the engine must
reach, and what it is meant to reach, stands beside them. `--quick` does less of everything.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import dask.array as da
import numpy as np
from distributed import Client, wait

import engine
from benchmarks.measure import seconds_of
from engine import ops
from engine.devices.dask.local import LocalCluster
from handles import Handle

MICRO, MILLI = 1e6, 1e3
JOB_SECONDS = 0.05
PAUSE = 0.1
"""Seconds between two measurements."""
PROMPT = 5.0
"""Seconds within which the handles of a lost worker are to raise."""


@dataclass(frozen=True)
class Sizes:
    """How much of everything is done."""

    rounds: int = 5
    chains: tuple[int, ...] = (100, 1_000)
    tasks: int = 100
    """Ops of the chain that Dask is given one task each for."""
    jobs: int = 64
    elements: int = 10_000_000
    gigabytes: float = 4.0
    ops: int = 100_000


QUICK = Sizes(rounds=1, chains=(20,), tasks=10, jobs=4, elements=20_000, gigabytes=0.001, ops=2_000)


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    what: str
    ours: float
    theirs: float | None
    unit: str
    ratio: float | None = None
    """What is to be compared with `must` and `goal`; `ours` where it is None."""
    must: float | None = None
    goal: float | None = None
    more: bool = False
    """Whether more is better."""

    def verdict(self) -> str:
        """What the figure is worth."""
        figure = self.ours if self.ratio is None else self.ratio
        for limit, word in ((self.goal, "goal"), (self.must, "ok")):
            if limit is not None and (figure >= limit if self.more else figure <= limit):
                return word
        return "" if self.must is None else "MISSED"

    def line(self) -> str:
        """The line as text."""
        theirs = "" if self.theirs is None else f"{self.theirs:.4g}"
        ratio = "" if self.ratio is None else f"{self.ratio:.3g}x"
        return f"{self.what:<64}{self.ours:>10.4g}{theirs:>10} {self.unit:<4}{ratio:>9}  {self.verdict()}"


Work = Callable[[], Awaitable[object]]


async def in_turn(rounds: int, *sides: Work, awake: bool = False) -> list[float]:
    """Median seconds of each side; rounds are taken in turn, after one that does not count.

    A pause comes before each, as Dask goes on for a while with what was let go: no side is to pay for another one.
    With `awake` the side runs once after the pause before it is measured, as a processor that has slept is slow for
    the first milliseconds, which is all that the work takes.
    """
    times: list[list[float]] = [[] for _ in sides]
    for number in range(rounds + 1):
        for side, found in zip(sides, times, strict=True):
            await asyncio.sleep(PAUSE)
            if awake:
                await side()
            seconds = await seconds_of(side)
            if number:
                found.append(seconds)
    return [median(found) for found in times]


def increment(x: Any) -> Any:
    return x + 1


@engine.op
def job() -> Any:
    ends = perf_counter() + JOB_SECONDS
    while perf_counter() < ends:
        pass
    return np.zeros(())


class Bench:
    """The sides of one cluster: an executor with its workers as devices, and a client of Dask."""

    def __init__(self, cluster: LocalCluster, client: Client, sizes: Sizes) -> None:
        self.cluster = cluster
        self.client = client
        self.sizes = sizes

    async def tiny_ops(self) -> list[Figure]:
        """Chains of tiny ops against one Dask task for each op."""
        start = ops.asarray(np.arange(5.0), device="DASK:0")
        await start
        tasks = self.sizes.tasks

        async def theirs() -> None:
            future = self.client.submit(increment, 0, pure=False)
            for _ in range(tasks - 1):
                future = self.client.submit(increment, future, pure=False)
            await asyncio.to_thread(future.result)

        figures = []
        for length in self.sizes.chains:

            async def ours(length: int = length) -> None:
                x = start
                for _ in range(length):
                    x = x + 1
                await x

            mine, dasks = await in_turn(self.sizes.rounds, ours, theirs, awake=True)
            mine, dasks = mine / length * MICRO, dasks / tasks * MICRO
            what = f"tiny op, chain of {length:,}, per op, against one Dask task per op"
            figures.append(Figure(what, mine, dasks, "us", dasks / mine, 100, 500, more=True))
        return figures

    async def round_trip(self) -> list[Figure]:
        """One op, awaited."""
        start = ops.asarray(np.arange(5.0), device="DASK:0")
        await start

        async def ours() -> None:
            await (start + 1)

        async def theirs() -> None:
            await asyncio.to_thread(self.client.submit(increment, 1, pure=False).result)

        mine, dasks = await in_turn(10 * self.sizes.rounds, ours, theirs, awake=True)
        return [Figure("round trip of one awaited op", mine * MILLI, dasks * MILLI, "ms", None, 4.0, 1.5)]

    async def two_workers(self) -> list[Figure]:
        """Independent jobs on one worker and on two."""

        def on(device: str) -> Work:
            async def run() -> None:
                with engine.device(device):
                    await engine.gather(*[job() for _ in range(self.sizes.jobs)])

            return run

        two, one = await in_turn(min(2, self.sizes.rounds), on("DASK"), on("DASK:0"))
        what = f"{self.sizes.jobs} jobs of 50 ms, two workers against one"
        return [Figure(what, two, one, "s", one / two, 1.85, 1.95, more=True)]

    async def transfer(self) -> list[Figure]:
        """An array to a worker and back."""
        array = np.random.default_rng(0).random(self.sizes.elements * 2 // 5)

        async def ours() -> None:
            there = ops.asarray(array, device="DASK:0")
            await there

        async def theirs() -> None:
            await asyncio.to_thread(lambda: self.client.gather(self.client.scatter(array, direct=True, hash=False)))

        mine, dasks = await in_turn(self.sizes.rounds, ours, theirs)
        what = f"{array.nbytes / 1e6:.3g} MB to a worker and back, against scatter and gather"
        return [Figure(what, mine * MILLI, dasks * MILLI, "ms", mine / dasks, 1.0, 0.5)]

    async def chain(self) -> list[Figure]:
        """Ten elementwise ops on large arrays, there and here."""
        array = np.random.default_rng(0).random(self.sizes.elements)

        async def run(x: Handle) -> None:
            y = x
            for _ in range(5):
                y = (y * 1.01) + 0.5
            await y.wait_ready()

        sides: list[Work] = []
        for device in ("DASK:0", "CPU:0"):
            x = ops.asarray(array, device=device)
            await x.wait_ready()
            sides.append(lambda x=x: run(x))  # type: ignore[misc]
        there, here = await in_turn(self.sizes.rounds, *sides)
        what = f"chain of ten on {self.sizes.elements:,} doubles, there against here"
        return [Figure(what, there * MILLI, here * MILLI, "ms", there / here, 1.1, 1.0)]

    async def whole(self) -> list[Figure]:
        """Matrix products and means of chunks, against dask.array itself."""
        rows = max(64, int(self.sizes.gigabytes * 1e9 / 8 / 500))
        lazy = da.random.random((rows, 500), chunks=(max(16, rows // 32), 500))
        (source,) = self.client.persist([lazy])
        with self.client.as_current():
            await asyncio.to_thread(wait, source)
        x = ops.asarray(source)

        async def ours() -> None:
            await engine.gather(ops.matmul(x.T, x), ops.mean(x, axis=1))

        async def theirs() -> None:
            both = self.client.compute([da.matmul(source.T, source), da.mean(source, axis=1)])
            await asyncio.to_thread(self.client.gather, both)

        mine, dasks = await in_turn(min(3, self.sizes.rounds), ours, theirs)
        what = f"CLUSTER: x.T @ x and row means of {self.sizes.gigabytes:g} GB, against dask.array"
        return [Figure(what, mine, dasks, "s", mine / dasks, 1.1, 1.0)]

    async def loss(self) -> list[Figure]:
        """Many ops over two workers, one of which is killed half-way."""
        count = self.sizes.ops
        chains = {device: ops.asarray(np.zeros(1), device=device) for device in ("DASK:0", "DASK:1")}
        await engine.gather(*chains.values())
        handles: list[Handle] = []
        for number in range(count):
            device = f"DASK:{number % 2}"
            chains[device] = chains[device] + 1
            handles.append(chains[device])
            if number % 1_000 == 0:
                await asyncio.sleep(0)
            if number == count // 2:
                os.kill(self.cluster.pids()[0], signal.SIGKILL)
        lost = handles[0::2]
        began = perf_counter()
        end = asyncio.gather(lost[-1].wait_ready(), return_exceptions=True)  # it needs all the others
        await asyncio.wait([end], timeout=PROMPT)
        seconds = perf_counter() - began
        late = sum(not each.is_ready() for each in lost)
        await engine.gather(*handles[1::2][-1:])  # the other worker goes on
        engine.clear_errors()
        what = f"{count:,} ops, a worker killed half-way: handles that hang (all known after {seconds:.1f} s)"
        return [Figure(what, late, None, "", None, 0, 0)]


async def run(sizes: Sizes, names: Sequence[str]) -> list[Figure]:
    """Take the figures, and print each as it is there."""
    cluster = await asyncio.to_thread(LocalCluster, 2)
    client = await asyncio.to_thread(Client, cluster.scheduler, set_as_default=False)
    config = engine.Config(
        device_count={"DASK": 2, "CLUSTER": 1}, dask_scheduler=cluster.scheduler, max_pending_ops=2 * sizes.ops
    )
    figures: list[Figure] = []
    print(f"{'':<64}{'eagerloop':>10}{'beside':>10}")
    try:
        async with engine.Executor(config, execution_mode=engine.ASYNC):
            bench = Bench(cluster, client, sizes)
            for name in names:
                for figure in await getattr(bench, name)():
                    print(figure.line(), flush=True)
                    figures.append(figure)
            engine.clear_errors()
    finally:
        await asyncio.to_thread(client.close)
        await asyncio.to_thread(cluster.close)
    return figures


ROWS = ("tiny_ops", "round_trip", "two_workers", "transfer", "chain", "whole", "loss")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything, one round")
    parser.add_argument(
        "--only", nargs="+", metavar="ROW", choices=ROWS, default=ROWS, help=f"some of {', '.join(ROWS)}"
    )
    parser.add_argument("--gigabytes", type=float, default=Sizes.gigabytes, help="of chunks, for CLUSTER")
    options = parser.parse_args()
    sizes = QUICK if options.quick else Sizes(gigabytes=options.gigabytes)
    figures = asyncio.run(run(sizes, options.only))
    sys.exit(any(figure.verdict() == "MISSED" for figure in figures) and not options.quick)


if __name__ == "__main__":
    main()
