"""Who is measured: each system in a process of its own, asked for one round at a time.

A system gives, for a workload that it can do, a coroutine function that does it once and has the result at its end.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from types import SimpleNamespace
from typing import Any

import anyio
import numpy as np

import engine
from benchmarks import measure
from benchmarks.workloads import Array, Workload
from engine import ops

Work = Callable[[], Awaitable[object]]
Figures = dict[str, float]
SMALL_OPERANDS = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.5, 0.25, 0.125, 0.0])


class System:
    """NumPy in the coroutine itself: what the others are compared with, and what they replace."""

    distribution = "numpy"
    concurrent = False
    """Whether the event loop is meant to be free meanwhile, so that its lag is a figure."""
    xp: Any = np

    async def start(self) -> None:
        """Get ready, on the loop that rounds run on."""

    def put(self, array: Array) -> Any:
        """The array as this system holds it."""
        return array

    async def take(self, result: Any) -> None:
        """Wait until the result is there."""

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    def prepare(self, workload: Workload) -> Callable[[], Awaitable[Figures]] | None:
        """What runs one round of a workload, or None where this system has no such thing."""
        make = getattr(self, workload.kind, None)
        return None if make is None else make(workload)

    def work(self, workload: Workload) -> Work:
        """A chain, once, on inputs that are there."""
        assert workload.chain is not None
        assert workload.inputs is not None
        inputs = [self.put(array) for array in workload.inputs(workload.size)]
        function = self.compiled(partial(workload.chain, self.xp))

        async def work() -> None:
            await self.take(function(*inputs))

        return work

    # Kinds of workloads

    def chain(self, workload: Workload) -> Callable[[], Awaitable[Figures]]:
        work = self.work(workload)

        async def one_round() -> Figures:
            figures = {"time": 1e3 * await measure.repeated(work)}
            if self.concurrent:
                figures["lag p99"] = 1e3 * await measure.lag_of(work)
            return figures

        return one_round

    def peak(self, workload: Workload) -> Callable[[], Awaitable[Figures]]:
        return growth_of(self.work(workload))

    def stream(self, workload: Workload) -> Callable[[], Awaitable[Figures]]:
        start, step = map(self.put, SMALL_OPERANDS)
        add = self.compiled(self.xp.add)

        async def work() -> None:
            total = start
            for _ in range(workload.size):
                total = add(total, step)
            await self.take(total)

        return per_unit(work, workload.size)


def per_unit(work: Work, units: int) -> Callable[[], Awaitable[Figures]]:
    async def one_round() -> Figures:
        return {"time": 1e6 * await measure.repeated(work) / units}

    return one_round


def in_milliseconds(work: Work) -> Callable[[], Awaitable[Figures]]:
    async def one_round() -> Figures:
        return {"time": 1e3 * await measure.repeated(work), "lag p99": 1e3 * await measure.lag_of(work)}

    return one_round


def at_once(task: Callable[[], Coroutine[Any, Any, None]], count: int) -> Work:
    """So many tasks, all started before the first of them runs."""

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(task())

    return work


def growth_of(work: Work) -> Callable[[], Awaitable[Figures]]:
    async def one_round() -> Figures:
        return {"seconds": await measure.seconds_of(work)}

    return and_growth(one_round, first=True)


def and_growth(one_round: Callable[[], Awaitable[Figures]], *, first: bool = False) -> Callable[[], Awaitable[Figures]]:
    """The figures of a round, and by how much memory is above what it was before the first round."""
    before = measure.resident()

    async def with_growth() -> Figures:
        measure.forget_peak()
        figures = await one_round()
        growth = {"growth": measure.peak() - before}
        return growth | figures if first else figures | growth

    return with_growth


class Tasks(System):
    """What programs of many tasks do; `run` is how one task has a function of arrays run."""

    async def run(self, function: Callable[..., Any], *inputs: Any) -> None:
        function(*inputs)

    def tasks(self, workload: Workload) -> Callable[[], Awaitable[Figures]]:
        return self._tasks(workload, 10)

    def many_tasks(self, workload: Workload) -> Callable[[], Awaitable[Figures]]:
        return self.bundled_tasks(workload)

    def bundled_tasks(self, workload: Workload) -> Callable[[], Awaitable[Figures]]:
        small = Workload(**{**vars(workload), "size": 4})
        return and_growth(self._tasks(small, workload.size))

    def _tasks(self, workload: Workload, count: int) -> Callable[[], Awaitable[Figures]]:
        assert workload.chain is not None
        assert workload.inputs is not None
        inputs = [self.put(array) for array in workload.inputs(workload.size)]
        function = partial(workload.chain, self.xp)

        return in_milliseconds(at_once(partial(self.run, function, *inputs), count))


class NumPy(Tasks):
    """NumPy called in the coroutine, one thing after the other."""


class ToThread(Tasks):
    """NumPy in `asyncio.to_thread`."""

    concurrent = True

    async def run(self, function: Callable[..., Any], *inputs: Any) -> None:
        await asyncio.to_thread(function, *inputs)

    def work(self, workload: Workload) -> Work:
        assert workload.chain is not None
        assert workload.inputs is not None
        return partial(self.run, partial(workload.chain, self.xp), *workload.inputs(workload.size))

    stream = None  # type: ignore[assignment]

    def many_tasks(self, workload: Workload) -> Callable[[], Awaitable[Figures]]:
        """Each op awaited by itself, as it is written in a coroutine; `bundled_tasks` hands over ten at once."""
        left, right = SMALL_OPERANDS

        async def task() -> None:
            for _ in range(10):
                await self.run(np.add, left, right)

        return and_growth(in_milliseconds(at_once(task, workload.size)))

    def round_trip(self, workload: Workload) -> Callable[[], Awaitable[Figures]]:
        async def work() -> None:
            for _ in range(workload.size):
                await self.run(np.add, *SMALL_OPERANDS)

        return per_unit(work, workload.size)


class AnyioToThread(ToThread):
    """NumPy in `anyio.to_thread.run_sync`."""

    distribution = "anyio"

    async def run(self, function: Callable[..., Any], *inputs: Any) -> None:
        await anyio.to_thread.run_sync(function, *inputs)


class Sync(System):
    """eagerloop in SYNC mode."""

    distribution = "eagerloop"
    xp = ops
    mode = engine.SYNC
    devices = 1

    async def start(self) -> None:
        engine.enable_eager_execution(engine.Config(device_count={"CPU": self.devices}), execution_mode=self.mode)

    def put(self, array: Array) -> Any:
        return ops.asarray(array, copy=False)

    async def take(self, result: Any) -> None:
        await result


class Async(Sync, Tasks):
    """eagerloop in ASYNC mode."""

    concurrent = True
    mode = engine.ASYNC

    async def run(self, function: Callable[..., Any], *inputs: Any) -> None:
        await function(*inputs)

    def round_trip(self, workload: Workload) -> Callable[[], Awaitable[Figures]]:
        a, b = map(self.put, SMALL_OPERANDS)

        async def work() -> None:
            for _ in range(workload.size):
                await (a + b)

        return per_unit(work, workload.size)

    def in_turn(self, workload: Workload) -> Callable[[], Awaitable[Figures]]:
        functions: dict[str, Callable[[Any], Any]] = {
            "sorts": ops.sort,
            "ffts": ops.fft.fft,
            "cumsums": ops.cumulative_sum,
        }
        function = functions[workload.name]
        array = self.put(np.random.default_rng(0).random(workload.size))

        async def work() -> None:
            handles = []
            for index in range(8):
                with engine.device(f"CPU:{index % self.devices}"):
                    handles.append(function(array))
            await engine.gather(*handles)

        return in_milliseconds(work)

    def backlog_large(self, workload: Workload) -> Callable[[], Awaitable[Figures]]:
        array = self.put(np.random.default_rng(0).random(1_000_000))

        async def work() -> None:
            await engine.gather(*[ops.sort(array) for _ in range(workload.size)])

        return lags_of(work)

    def backlog_tiny(self, workload: Workload) -> Callable[[], Awaitable[Figures]]:
        return lags_of(self._tiny(workload.size))

    def _tiny(self, count: int) -> Work:
        start, step = map(self.put, SMALL_OPERANDS)

        async def work() -> None:
            total = start
            for index in range(count):
                total = total + step
                if index % 100 == 0:
                    await engine.drain()
            await total

        return work

    def million(self, workload: Workload) -> Callable[[], Awaitable[Figures]]:
        return growth_of(self._tiny(workload.size))

    def pending(self, workload: Workload) -> Callable[[], Awaitable[Figures]]:
        start, step = map(self.put, SMALL_OPERANDS)

        async def work() -> None:
            total = start
            for _ in range(workload.size):
                total = total + step
            await total

        return growth_of(work)


def lags_of(work: Work) -> Callable[[], Awaitable[Figures]]:
    async def one_round() -> Figures:
        lags = await measure.lags_of(work)
        return {"lag p50": 1e3 * measure.percentile(lags, 0.5), "lag p99": 1e3 * measure.percentile(lags, 0.99)}

    return one_round


class TwoDevices(Async):
    """eagerloop in ASYNC mode, with two logical CPU devices."""

    devices = 2

    def prepare(self, workload: Workload) -> Callable[[], Awaitable[Figures]] | None:
        return super().prepare(workload) if workload.kind == "in_turn" else None


# ---------------------------------------------------------------------------------------------------------------------
# Peers


class NumExpr(System):
    distribution = "numexpr"
    stream = None  # type: ignore[assignment]

    def prepare(self, workload: Workload) -> Callable[[], Awaitable[Figures]] | None:
        return super().prepare(workload) if workload.expression else None

    def work(self, workload: Workload) -> Work:
        assert workload.inputs is not None
        numexpr = importlib.import_module("numexpr")
        expression = workload.expression
        names = ("x", "row", "column") if "row" in expression else ("x", "y")
        operands = dict(zip(names, workload.inputs(workload.size), strict=True))
        if "y.T" in expression:
            expression, operands["y"] = expression.replace("y.T", "y"), operands["y"].T
        finish: Callable[[Array], Any] = getattr(np, workload.after) if workload.after else np.asarray

        async def work() -> None:
            finish(numexpr.evaluate(expression, operands))

        return work


class Dask(System):
    distribution = "dask"
    stream = None  # type: ignore[assignment]

    async def start(self) -> None:
        module = importlib.import_module("dask.array")
        self.xp = with_names(module, permute_dims=module.transpose, astype=lambda x, dtype: x.astype(dtype))
        self.from_array = module.from_array

    def put(self, array: Array) -> Any:
        return self.from_array(array)

    async def take(self, result: Any) -> None:
        result.compute(scheduler="threads")


class Torch(System):
    distribution = "torch"

    async def start(self) -> None:
        torch = importlib.import_module("torch")
        self.xp = with_names(torch, permute_dims=torch.permute, astype=lambda x, dtype: x.to(dtype))
        self.from_numpy = torch.from_numpy

    def put(self, array: Array) -> Any:
        return self.from_numpy(array)


class Jax(System):
    distribution = "jax"

    async def start(self) -> None:
        self.jax = importlib.import_module("jax")
        self.jax.config.update("jax_enable_x64", True)
        self.xp = importlib.import_module("jax.numpy")

    def put(self, array: Array) -> Any:
        return self.xp.asarray(array)

    async def take(self, result: Any) -> None:
        result.block_until_ready()


class JaxJit(Jax):
    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        compiled: Callable[..., Any] = self.jax.jit(function)
        return compiled


class TensorFlow(System):
    distribution = "tensorflow-cpu"
    asynchronous = False

    async def start(self) -> None:
        self.tf = tf = importlib.import_module("tensorflow")
        tf.config.experimental.set_synchronous_execution(not self.asynchronous)
        self.xp = with_names(
            tf,
            permute_dims=tf.transpose,
            astype=tf.cast,
            sum=tf.reduce_sum,
            mean=tf.reduce_mean,
            max=tf.reduce_max,
        )

    def put(self, array: Array) -> Any:
        return self.tf.constant(array)

    async def take(self, result: Any) -> None:
        result.numpy()


class TensorFlowAsync(TensorFlow):
    asynchronous = True


class TensorFlowFunction(TensorFlow):
    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        compiled: Callable[..., Any] = self.tf.function(function)
        return compiled


ELEMENTWISE = (
    "abs",
    "add",
    "greater",
    "less",
    "maximum",
    "multiply",
    "negative",
    "sqrt",
    "square",
    "subtract",
    "where",
)
NAMES = (*ELEMENTWISE, "sum", "mean", "max", "float32")


def with_names(module: Any, **names: Any) -> Any:
    """The functions that chains use, some of them under other names."""
    found = {name: getattr(module, name) for name in NAMES if hasattr(module, name)}
    return SimpleNamespace(**found | names)


SYSTEMS: dict[str, type[System]] = {
    "NumPy": NumPy,
    "eagerloop ASYNC": Async,
    "eagerloop ASYNC, 2 devices": TwoDevices,
    "eagerloop SYNC": Sync,
    "asyncio.to_thread": ToThread,
    "anyio.to_thread": AnyioToThread,
    "numexpr": NumExpr,
    "Dask": Dask,
    "PyTorch": Torch,
    "JAX": Jax,
    "JAX jit": JaxJit,
    "TensorFlow": TensorFlow,
    "TensorFlow ASYNC": TensorFlowAsync,
    "tf.function": TensorFlowFunction,
}
"""By the name that reports call them."""

MODULES = {"tensorflow-cpu": "tensorflow", "dask": "dask.array", "eagerloop": "engine"}


def version(name: str) -> str | None:
    """The version of a system; None where it is not installed."""
    distribution = SYSTEMS[name].distribution
    try:
        found = importlib.util.find_spec(MODULES.get(distribution, distribution))
    except ModuleNotFoundError:
        return None
    if found is None:
        return None
    if distribution == "eagerloop":
        return engine.__version__
    for candidate in (distribution, distribution.partition("-")[0]):
        try:
            return importlib.metadata.version(candidate)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"
