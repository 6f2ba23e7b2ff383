"""`python -m benchmarks.native`: chains computed by NumPy, by the engine without and with compiled code, in turns.

All of them run in one process, one after the other in each round, so that what else the machine does falls on all.
Where they are installed, `jax.jit` and numexpr take part. Every result of the engine is compared with NumPy's, bit for
bit. The lag of the loop beside compiled code is given with that of a loop that has nothing to do, taken right after it:
what another program on the machine takes, is in both. `--write` puts the tables into docs/performance.md, with those of
`benchmarks.chains`.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

import engine
from benchmarks.measure import lag_of
from benchmarks.report import put
from engine import ops
from engine.fusion.native.natives import natives

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- native: written by `python -m benchmarks.native --write` -->", "<!-- end of native -->"

WARMED_UP = 20
"""Runs before the first one that counts, at most."""
LAGS = "lag", "idle"
"""Names of what is no system: the lag of the loop beside compiled code, and of one with nothing to do."""
IN_A_ROW = 4
"""Runs without anything new, after which all is known."""

Array = np.ndarray[Any, Any]
Chain = Callable[[Any, Any, Any], Any]
"""A function of two operands and the namespace that computes with them."""
Way = Callable[[], Awaitable[object]]


def ten(x: Any, y: Any, xp: Any) -> Any:
    t = xp.sqrt(xp.abs(x * 2 + y)) - x
    t = xp.maximum(t * t + 1, y) / 3
    return t - y


def ten_integers(x: Any, y: Any, xp: Any) -> Any:
    return ((((((x * 3 + y) - 7) ^ y) * x) + 1 & 1023) | y) - x + 5


def chosen(x: Any, y: Any, xp: Any) -> Any:
    t = xp.where((x > 0.5) & (y < 1.2), x * 2 + 1, y - x)
    return xp.where(t > 1, t * y, t + 0.5)


def with_row_and_column(x: Any, y: Any, xp: Any) -> Any:
    t = (x + y[:1]) * y[:, :1] - x
    return xp.sqrt(xp.abs(t * 0.5 + y)) * 3 - y


def transposed(x: Any, y: Any, xp: Any) -> Any:
    t = (x + y.T) * 2 - x
    return xp.sqrt(xp.abs(t * 0.5 + x)) * 3 - x


def summed(x: Any, y: Any, xp: Any) -> Any:
    t = (x - y) * 0.5
    return xp.sum(t * t + xp.abs(x))


def largest(x: Any, y: Any, xp: Any) -> Any:
    t = (x - y) * 0.5
    return xp.max(t * t + xp.abs(x))


def sums_of_rows(x: Any, y: Any, xp: Any) -> Any:
    t = (x - y) * 0.5
    return xp.sum(t * t + xp.abs(x), axis=1)


def only_read(x: Any, y: Any, xp: Any) -> Any:
    """Next to no arithmetic: what memory gives two threads, and no reduction of two operands can do better."""
    return xp.sum(x ^ y)


def functions(x: Any, y: Any, xp: Any) -> Any:
    return xp.tanh(xp.exp(-x * x) * xp.sin(y * 3) + xp.log(y + 1)) * 2 - x


def one_add(x: Any, y: Any, xp: Any) -> Any:
    return x + y


def one_root(x: Any, y: Any, xp: Any) -> Any:
    return xp.sqrt(y)


CHAINS: dict[str, tuple[Chain, str]] = {
    "ten ops, float64": (ten, "f8"),
    "ten ops, float32": (ten, "f4"),
    "ten ops, int32": (ten_integers, "i4"),
    "a row and a column": (with_row_and_column, "f8"),
    "transposed": (transposed, "f8"),
    "where": (chosen, "f8"),
    "ending in a sum": (summed, "f8"),
    "ending in a maximum": (largest, "f8"),
    "sums of rows": (sums_of_rows, "f8"),
    "two operands only read": (only_read, "i8"),
    "exp, sin, log, tanh": (functions, "f8"),
    "one add": (one_add, "f8"),
    "one sqrt": (one_root, "f8"),
}


MUST = {
    "ten ops, float64": 12,
    "ten ops, float32": 14,
    "ten ops, int32": 14,
    "a row and a column": 11,
    "transposed": 6,
    "where": 14,
    "ending in a sum": 13,
    "ending in a maximum": 13,
    "sums of rows": 13,
    "exp, sin, log, tanh": 1.9,
}
"""How many times as fast as NumPy compiled code has to be."""

EXPRESSIONS: dict[Chain, str] = {
    ten: "where((sqrt(abs(x*2 + y)) - x)**2 + 1 > y, (sqrt(abs(x*2 + y)) - x)**2 + 1, y) / 3 - y",
    chosen: (
        "where(where((x > 0.5) & (y < 1.2), x*2 + 1, y - x) > 1, where((x > 0.5) & (y < 1.2), x*2 + 1, y - x) * y, "
        "where((x > 0.5) & (y < 1.2), x*2 + 1, y - x) + 0.5)"
    ),
    summed: "sum(((x - y) * 0.5)**2 + abs(x))",
    functions: "tanh(exp(-x*x) * sin(y*3) + log(y + 1)) * 2 - x",
    one_add: "x + y",
    one_root: "sqrt(y)",
}
"""Chains as numexpr has them; what it computes once that stands there twice, it finds itself."""


def operands(code: str, side: int) -> tuple[Array, Array]:
    """Two square arrays of a dtype."""
    source = np.random.default_rng(0)
    if code[0] == "f":
        return (source.normal(size=(side, side)).astype(code), (source.random((side, side)) + 0.5).astype(code))
    return source.integers(1, 100, (side, side)).astype(code), source.integers(1, 9, (side, side)).astype(code)


def ways(chain: Chain, x: Array, y: Array) -> dict[str, Way]:
    """The systems, each as what computes the chain once."""
    first, second = ops.asarray(x), ops.asarray(y)

    async def with_numpy() -> object:
        return chain(x, y, np)

    async def called() -> object:
        natives.enabled = False
        return await chain(first, second, ops)

    async def compiled() -> object:
        natives.enabled = True
        return await chain(first, second, ops)

    systems: dict[str, Way] = {"numpy": with_numpy, "called": called, "compiled": compiled}
    return systems | peers(chain, x, y)


def peers(chain: Chain, x: Array, y: Array) -> dict[str, Way]:
    """The other systems that are installed."""
    found: dict[str, Way] = {}
    if find_spec("jax") is not None:
        found["jax.jit"] = with_jax(chain, x, y)
    if find_spec("numexpr") is not None and chain in EXPRESSIONS:
        found["numexpr"] = with_numexpr(EXPRESSIONS[chain], x, y)
    return found


def with_numexpr(expression: str, x: Array, y: Array) -> Way:
    """The chain as an expression of numexpr."""
    numexpr = import_module("numexpr")

    async def run() -> object:
        return numexpr.evaluate(expression, {"x": x, "y": y})

    return run


def with_jax(chain: Chain, x: Array, y: Array) -> Way:
    """`jax.jit` of the chain, with 64-bit dtypes."""
    jax = import_module("jax")
    jax.config.update("jax_enable_x64", True)
    jitted = jax.jit(lambda a, b: chain(a, b, jax.numpy))
    first, second = jax.numpy.asarray(x), jax.numpy.asarray(y)

    async def run() -> object:
        return jitted(first, second).block_until_ready()

    return run


async def compared(chain: Chain, code: str, side: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each system in each round, and the lags of the loop beside compiled code, and idle, as `LAGS`."""
    x, y = operands(code, side)
    systems = ways(chain, x, y)
    expected = np.asarray(chain(x, y, np))
    await warmed(systems["compiled"], expected)
    seconds: dict[str, list[float]] = {name: [] for name in (*systems, *LAGS)}
    for _ in range(rounds):
        for name, way in systems.items():
            await way()
            start = perf_counter()
            await way()
            seconds[name].append(perf_counter() - start)
        for name, work in zip(LAGS, (systems["compiled"], idle), strict=True):
            seconds[name].append(await lag_of(work))
    return seconds


async def idle() -> None:
    """Leave the loop with nothing to do for some time."""
    await asyncio.sleep(0.01)


async def warmed(way: Way, expected: Array) -> None:
    """Compute until nothing new comes: what is dispatched together varies a little, and each form is compiled once."""
    known = 0
    for _ in range(WARMED_UP):
        before = engine.fusion_statistics().misses
        assert np.asarray(await way()).tobytes() == expected.tobytes()
        await asyncio.to_thread(natives.settle)
        known = known + 1 if engine.fusion_statistics().misses == before else 0
        if known == IN_A_ROW:
            return


def facts(seconds: dict[str, list[float]]) -> tuple[list[tuple[str, float, float]], str]:
    """For each system its median seconds and how many times as fast as NumPy it is; and the lags, as text."""
    numpy = median(seconds["numpy"])
    rows = [(name, median(each), numpy / median(each)) for name, each in seconds.items() if name not in LAGS]
    beside, alone = (median(seconds[name]) * 1e3 for name in LAGS)
    return rows, f"{beside:.2f} ms ({alone:.2f})"


def table(heading: str, results: dict[str, dict[str, list[float]]]) -> str:
    """The rows of all chains, the fastest system first, as Markdown."""
    lines = [f"### {heading}", "", "| chain | system | median | against NumPy | must | lag p99 (idle) |"]
    lines.append("|---|---|---:|---:|---:|---:|")
    for chain, seconds in results.items():
        rows, lag = facts(seconds)
        for name, its, ratio in sorted(rows, key=lambda row: row[1]):
            must = f"{MUST[chain]}x" if chain in MUST else ""
            beside = f"{must} | {lag}" if name == "compiled" else " |"
            lines.append(f"| {chain} | {NAMES.get(name, name)} | {its * 1e3:.2f} ms | {ratio:.1f}x | {beside} |")
    return "\n".join([*lines, ""])


NAMES = {"numpy": "NumPy", "compiled": "eagerloop", "called": "eagerloop without llvmlite"}


async def run(names: Sequence[str], side: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Print a line for each chain: milliseconds, and how many times as fast as NumPy."""
    results = {}
    async with engine.Executor(execution_mode=engine.ASYNC):
        for name in names:
            seconds = results[name] = await compared(*CHAINS[name], side, rounds)
            rows, lag = facts(seconds)
            figures = [f"{system} {its * 1e3:7.1f} ms {ratio:5.1f}x" for system, its, ratio in rows]
            print(f"{name:<20} {'   '.join(figures)}   lag p99 {lag}", flush=True)
    print(engine.fusion_statistics())
    return results


def main() -> None:
    """Run what the command line names, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.native", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="CHAIN", help=f"one or more of {', '.join(CHAINS)}; default: all")
    parser.add_argument("--side", type=int, default=3_162, help="elements along an axis; default: 10 million in all")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    options = parser.parse_args()
    results = asyncio.run(run(options.names or list(CHAINS), options.side, options.rounds))
    if options.write:
        elements = options.side**2
        text = table(f"Chains on {elements / 1e6:.0f} million elements", results)
        put(PAGE, BEGIN, END, text + f"\n* command: `python -m benchmarks.native --rounds {options.rounds} --write`\n")


if __name__ == "__main__":
    main()
