"""How long a task waits while other work is queued: with eagerloop, with `to_thread`, and with NumPy in the coroutine.

`python -m benchmarks.waiting "eagerloop" behind_sorts` measures one workload once in a process of its own and prints
its figures as JSON; `benchmarks.fairness` asks for them in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any, Protocol

import numpy as np

import engine
from benchmarks.measure import percentile
from benchmarks.workloads import Array
from engine import ops

Figures = dict[str, float]
LEFT, RIGHT = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.5, 0.25, 0.125, 0.0])
MILLISECOND_SORT = 20_000
"""Elements that are sorted in about a millisecond."""


@dataclass(frozen=True)
class Sizes:
    """How much is done."""

    sorts: int = 100
    elements: int = 1_000_000
    sleep: float = 1.0
    tasks: int = 1_000
    large: int = 1_000
    large_elements: int = 200_000


FULL, QUICK = Sizes(), Sizes(sorts=20, sleep=0.2, tasks=200, large=100)


class Pending(Protocol):
    """What was begun and can be awaited or dropped: a handle or a task."""

    def __await__(self) -> Generator[Any, None, Any]: ...

    def cancel(self) -> object: ...


def nap(seconds: float) -> float:
    """Stands for a function that waits for something: the interpreter lock is free meanwhile."""
    time.sleep(seconds)
    return seconds


# ---------------------------------------------------------------------------------------------------------------------
# Three ways of doing the same


class Plain:
    """NumPy in the coroutine. Each piece of work is a task, which begins when the loop comes to it."""

    def start(self) -> None:
        """Get ready."""

    def run(self, function: Callable[..., Any], *args: Any) -> Pending:
        """Begin to compute `function(*args)`."""

        async def work() -> Any:
            return function(*args)

        return asyncio.create_task(work())

    def put(self, array: Array) -> Any:
        """The array as this side holds it."""
        return array

    def sort(self, array: Any) -> Pending:
        """Begin to sort."""
        return self.run(np.sort, array)

    def call(self, seconds: float) -> Pending:
        """Begin a function of the user, which sleeps."""
        return self.run(nap, seconds)

    def tiny(self) -> Pending:
        """Begin to add four numbers to four."""
        return self.run(np.add, LEFT, RIGHT)

    async def all_of(self, pending: Sequence[Pending]) -> None:
        """Wait for everything, as one task."""
        await asyncio.gather(*pending)


class Threads(Plain):
    """NumPy in `asyncio.to_thread`."""

    def run(self, function: Callable[..., Any], *args: Any) -> Pending:
        return asyncio.create_task(asyncio.to_thread(function, *args))


class Engine(Plain):
    """eagerloop on one device."""

    def start(self) -> None:
        engine.enable_eager_execution(execution_mode=engine.ASYNC)
        self._left, self._right = (ops.asarray(array, copy=False) for array in (LEFT, RIGHT))
        self._nap = engine.op(nap)

    def put(self, array: Array) -> Any:
        return ops.asarray(array, copy=False)

    def sort(self, array: Any) -> Pending:
        return ops.sort(array)

    def call(self, seconds: float) -> Pending:
        pending: Pending = self._nap(seconds)
        return pending

    def tiny(self) -> Pending:
        return self._left + self._right

    async def all_of(self, pending: Sequence[Pending]) -> None:
        await engine.gather(*pending)  # type: ignore[arg-type]


SIDES: Mapping[str, type[Plain]] = {"eagerloop": Engine, "to_thread": Threads, "NumPy": Plain}


# ---------------------------------------------------------------------------------------------------------------------
# What is measured


async def seconds_of(pending: Pending) -> float:
    """How long a task waits for what it has just begun."""
    began = perf_counter()
    await pending
    return perf_counter() - began


async def sampled(make: Callable[[], Pending], others: asyncio.Task[None], pause: float) -> list[float]:
    """How long a task waits for something small, again and again, until the others are done.

    While a task waits, further ones would have come, one in each pause, and would have waited for the rest of the time:
    they count as well, or else the side that stands still for seconds would be asked once in those seconds.
    """
    samples = []
    while True:
        waited = await seconds_of(make())
        samples += [waited - missed * pause for missed in range(1 + int(waited / pause))]
        if others.done():
            break
        await asyncio.sleep(pause)
    await others
    return samples


async def queued_sorts(side: Plain, sizes: Sizes) -> asyncio.Task[None]:
    """Queue the sorts; the task waits for all of them."""
    array = side.put(np.random.default_rng(0).random(sizes.elements))
    sorts = [side.sort(array) for _ in range(sizes.sorts)]
    return asyncio.create_task(side.all_of(sorts))


async def behind_sorts(side: Plain, sizes: Sizes) -> Figures:
    """A tiny op that is awaited while many sorts are queued."""
    await side.tiny()
    began = perf_counter()
    samples = await sampled(side.tiny, await queued_sorts(side, sizes), 0.002)
    return {
        "median": percentile(samples, 0.5) * 1e3,
        "p99": percentile(samples, 0.99) * 1e3,
        "sorts": perf_counter() - began,
    }


async def millisecond_op(side: Plain, sizes: Sizes) -> Figures:
    """An op of a millisecond that is awaited while many sorts are queued, in units of one sort."""
    random = np.random.default_rng(1)
    large, middling = (side.put(random.random(size)) for size in (sizes.elements, MILLISECOND_SORT))
    alone = median([await seconds_of(side.sort(large)) for _ in range(5)])
    middling_alone = median([await seconds_of(side.sort(middling)) for _ in range(5)])
    samples = await sampled(lambda: side.sort(middling), await queued_sorts(side, sizes), 0.02)
    return {
        "median": percentile(samples, 0.5) / alone,
        "p99": percentile(samples, 0.99) / alone,
        "alone": middling_alone * 1e3,
        "sort": alone * 1e3,
    }


async def sleepers(side: Plain, sizes: Sizes) -> Figures:
    """A tiny op beside a function that sleeps; four such functions."""
    await side.tiny()
    await side.call(0.0)
    beside = []
    for _ in range(3):
        sleeping = side.call(sizes.sleep)
        beside.append(await seconds_of(side.tiny()))
        await sleeping
    began = perf_counter()
    await side.all_of([side.call(sizes.sleep) for _ in range(4)])
    return {"beside": median(beside) * 1e3, "four": (perf_counter() - began) / sizes.sleep}


async def among_large(side: Plain, sizes: Sizes, interval: float | None) -> Figures:
    """Tasks of ten tiny ops each while one task waits for many large ones; they come at once, or at intervals."""
    await side.tiny()
    array = side.put(np.random.default_rng(2).random(sizes.large_elements))
    large = [side.sort(array) for _ in range(sizes.large)]
    waiting = asyncio.create_task(side.all_of(large))
    took: list[float] = []

    async def task(came: float) -> None:
        for _ in range(10):
            await side.tiny()
        took.append(perf_counter() - came)

    async with asyncio.TaskGroup() as group:
        for _ in range(sizes.tasks):
            group.create_task(task(perf_counter()))
            if interval is not None:
                await asyncio.sleep(interval)
    waiting.cancel()
    for each in large:
        each.cancel()
    await asyncio.gather(waiting, *large, return_exceptions=True)
    return {"median": percentile(took, 0.5) * 1e3, "p99": percentile(took, 0.99) * 1e3}


async def tasks_at_once(side: Plain, sizes: Sizes) -> Figures:
    return await among_large(side, sizes, None)


async def tasks_in_turn(side: Plain, sizes: Sizes) -> Figures:
    return await among_large(side, sizes, 0.001)


WORKLOADS: Mapping[str, Callable[[Plain, Sizes], Coroutine[Any, Any, Figures]]] = {
    function.__name__: function for function in (behind_sorts, millisecond_op, sleepers, tasks_at_once, tasks_in_turn)
}


async def measured(side: str, workload: str, sizes: Sizes) -> Figures:
    """The figures of one workload, on the running loop."""
    chosen = SIDES[side]()
    chosen.start()
    return await WORKLOADS[workload](chosen, sizes)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.waiting", description=__doc__)
    parser.add_argument("side", choices=list(SIDES))
    parser.add_argument("workload", choices=list(WORKLOADS))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    figures = asyncio.run(measured(options.side, options.workload, QUICK if options.quick else FULL))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
