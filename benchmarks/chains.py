"""`python -m benchmarks.chains`: a chain of ten ops on arrays of all sizes, eager and as a function, beside NumPy.

All ways run in one process, in turns, so that what else the machine does falls on all. Each is awaited; where they are
installed, `jax.jit` and numexpr take part. `--write` puts the table into docs/performance.md.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Sequence
from statistics import median
from time import perf_counter

import numpy as np

import engine
from benchmarks.measure import heartbeat, percentile
from benchmarks.native import PAGE, peers, ten
from benchmarks.report import put
from engine import ops
from engine.fusion.native.natives import natives

SIZES = (100, 1_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
WORK = 3_000_000
"""Elements in all that each way computes in a row, in each round."""
SMALL = 10_000
"""Elements up to which what is no chain yet is looked at but now and then, so that more calls come first."""
MOST = 300
"""Calls in a row, at most."""
MUST = {
    "eager": {1_000: 0.3, 10_000: 1.0, 100_000: 4.0, 300_000: 6.0},
    "function": {100: 0.5, 1_000: 1.0, 10_000: 2.5, 100_000: 6.0, 300_000: 6.0},
}
"""How many times as fast as NumPy the engine is held to be."""
BEGIN, END = "<!-- chains: written by `python -m benchmarks.chains --write` -->", "<!-- end of chains -->"

Way = Callable[[], Awaitable[object]]
Row = tuple[int, dict[str, float], float]
"""Elements, seconds of each way, and the 99th percentile of the lag of the loop beside eager chains."""

function = engine.function(lambda x, y: ten(x, y, ops))


def ways(size: int) -> dict[str, Way]:
    """The systems, each as what computes the chain once."""
    source = np.random.default_rng(0)
    x, y = source.normal(size=size), source.random(size) + 0.5
    first, second = ops.asarray(x), ops.asarray(y)

    async def with_numpy() -> object:
        return ten(x, y, np)

    async def eager() -> object:
        return await ten(first, second, ops)

    async def replayed() -> object:
        return await function(first, second)

    return {"NumPy": with_numpy, "eager": eager, "function": replayed} | peers(ten, x, y)


async def measured(size: int, rounds: int) -> Row:
    """Median seconds of each way, in turns, once all has been compiled that will be."""
    systems = ways(size)
    for _ in range(4):
        for way in systems.values():
            for _ in range(3 if size > SMALL else 80):
                await way()
        await asyncio.to_thread(natives.settle)
    calls = max(1, min(MOST, WORK // size // 10))
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(rounds):
        for name, way in systems.items():
            await way()
            start = perf_counter()
            for _ in range(calls):
                await way()
            seconds[name].append((perf_counter() - start) / calls)
    async with heartbeat() as lags:
        for _ in range(20):
            await systems["eager"]()
            await asyncio.sleep(0)
    return size, {name: median(each) for name, each in seconds.items()}, percentile(lags, 0.99)


async def run(sizes: Sequence[int], rounds: int) -> list[Row]:
    """Print a line for each size: microseconds, and how many times as fast as NumPy."""
    rows = []
    async with engine.Executor(execution_mode=engine.ASYNC):
        for size in sizes:
            row = await measured(size, rounds)
            rows.append(row)
            _, seconds, lag = row
            figures = [f"{name} {its * 1e6:8.1f} us {seconds['NumPy'] / its:5.2f}x" for name, its in seconds.items()]
            print(f"{size:>9,}  {'   '.join(figures)}   lag p99 {lag * 1e3:.2f} ms", flush=True)
    return rows


def as_markdown(rows: Sequence[Row], command: str) -> str:
    """The table, the fastest system first in each size."""
    lines = ["### Ten ops on arrays of all sizes, float64, awaited", ""]
    lines += ["| elements | system | median | against NumPy | must | lag p99 |", "|---:|---|---:|---:|---:|---:|"]
    names = {"eager": "eagerloop, eager", "function": "eagerloop, `engine.function`"}
    for size, seconds, lag in rows:
        for name, its in sorted(seconds.items(), key=lambda item: item[1]):
            must = MUST.get(name, {}).get(size)
            cells = [
                f"{size:,}",
                names.get(name, name),
                f"{its * 1e6:.0f} us",
                f"{seconds['NumPy'] / its:.2f}x",
                "" if must is None else f"{must:g}x",
                f"{lag * 1e3:.2f} ms" if name == "eager" else "",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"* command: `{command}`", ""])


def main() -> None:
    """Measure all sizes, or those that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chains", description=__doc__)
    parser.add_argument("sizes", nargs="*", type=int, metavar="ELEMENTS", help="default: from 100 to a million")
    parser.add_argument("--rounds", type=int, default=9, help="default: %(default)s")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    options = parser.parse_args()
    rows = asyncio.run(run(options.sizes or SIZES, options.rounds))
    if options.write:
        command = f"python -m benchmarks.chains --rounds {options.rounds} --write"
        put(PAGE, BEGIN, END, as_markdown(rows, command))


if __name__ == "__main__":
    main()
