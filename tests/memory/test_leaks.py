"""Leaks: nothing that the engine made outlives its use: buffers, cells, tasks, threads, executors."""

import asyncio
import contextvars
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.base.loops import kept_turning
from engine.testing import GateOp
from handles import Handle
from handles.cell import Cell


@pytest.fixture
def without_collector() -> Iterator[None]:
    """Reference counting alone: what is part of a cycle stays."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def cells() -> int:
    """Cells that are alive."""
    return sum(1 for each in gc.get_objects() if type(each) is Cell)


class Buffers:
    """Counts the buffers that its op made and that are still alive."""

    def __init__(self) -> None:
        self._made: list[weakref.ref[np.ndarray[Any, Any]]] = []
        self.make = engine.op(self._make)

    def _make(self, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        result = x + 1
        self._made.append(weakref.ref(result))
        return result

    def __len__(self) -> int:
        return sum(1 for reference in self._made if reference() is not None)


def queues() -> int:
    """Device queues that are alive."""
    gc.collect()
    return sum(1 for each in gc.get_objects() if type(each).__name__ == "DeviceQueue")


def soon(condition: Callable[[], bool]) -> bool:
    """Whether the condition comes to hold: a worker may have what it has just done in hand for a moment more."""
    pause = threading.Event()
    return any(condition() or pause.wait(0.001) for _ in range(300))


# Buffers


async def test_the_buffer_of_a_dropped_handle_is_freed_at_once(
    mode: engine.ExecutionMode, without_collector: None
) -> None:
    alive = Buffers()
    handle = alive.make(np.ones(1000))
    await handle
    assert len(alive) == 1
    del handle
    await engine.synchronize()
    assert soon(lambda: len(alive) == 0)


def test_the_buffer_of_a_dropped_handle_is_freed_at_once_without_a_loop(
    mode: engine.ExecutionMode, without_collector: None
) -> None:
    alive = Buffers()
    handle = alive.make(np.ones(1000))
    handle.result()
    engine.wait()
    assert len(alive) == 1
    del handle
    assert soon(lambda: len(alive) == 0)


async def test_intermediates_are_freed_as_the_queue_runs(without_collector: None) -> None:
    alive = Buffers()
    most = []

    @engine.op
    def count(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        most.append(len(alive))
        return x

    async with engine.Executor(execution_mode=engine.ASYNC):
        x = ops.asarray(np.ones(1000))
        for _ in range(20):
            x = count(alive.make(x))
        await x
        del x
        await engine.synchronize()
    assert max(most) <= 2
    assert soon(lambda: len(alive) == 0)


async def test_a_value_read_keeps_the_buffer_and_not_the_handle(without_collector: None) -> None:
    alive = Buffers()
    async with engine.Executor(execution_mode=engine.ASYNC):
        handle = alive.make(np.ones(1000))
        value = await handle
        kept = weakref.ref(handle)
        del handle
        assert kept() is None
        assert len(alive) == 1
        del value
        await engine.synchronize()
        assert soon(lambda: len(alive) == 0)


async def test_cells_are_freed_without_the_collector(without_collector: None) -> None:
    async with engine.Executor(execution_mode=engine.ASYNC):
        await (ops.asarray(1.0) + 1)
        await engine.synchronize()
        before = cells()
        x = ops.asarray(1.0)
        for _ in range(500):
            x = x + 1
        a, b = ops.linalg.eigh(ops.eye(2))
        with engine.device("CPU:0"):
            y = x * 2
        await engine.gather(x, y, a, b)
        async for handle in engine.as_completed([x, y]):
            await handle
        del x, y, a, b, handle
        await engine.synchronize()
        assert soon(lambda: cells() <= before)


async def test_cells_of_scopes_and_of_cancelled_ops_are_freed_without_the_collector(
    gate: GateOp, without_collector: None
) -> None:
    async with engine.Executor(execution_mode=engine.ASYNC):
        await (ops.asarray(1.0) + 1)
        await engine.synchronize()
        before = cells()
        async with engine.scope():
            x = ops.asarray(1.0) + 1
        held = gate(1.0)
        queued = [held + index for index in range(10)]
        for handle in queued:
            handle.cancel()
        gate.open()
        await held
        await engine.synchronize()
        del x, held, queued, handle
        await engine.synchronize()
        assert soon(lambda: cells() <= before)


async def test_a_failed_handle_lets_go_of_its_operands_at_once(without_collector: None) -> None:
    async with engine.Executor(execution_mode=engine.ASYNC):
        alive = Buffers()
        bad = alive.make(np.ones(6)) + np.ones(4)
        dependent = bad + 1
        with pytest.raises(ValueError, match="broadcast"):
            await dependent
        await engine.synchronize()
        assert soon(lambda: len(alive) == 0)
        with pytest.raises(ValueError, match="broadcast"):
            await bad


async def test_failures_that_were_read_are_not_kept() -> None:
    async with engine.Executor(execution_mode=engine.ASYNC):
        alive = Buffers()
        for _ in range(200):
            with pytest.raises(np.linalg.LinAlgError):
                await ops.linalg.inv(alive.make(np.ones((2, 3))))
        gc.collect()
        assert len(alive) <= 20


async def test_a_copy_on_another_device_goes_with_its_last_user(without_collector: None) -> None:
    config = engine.Config(device_count={"CPU": 2})
    async with engine.Executor(config=config, execution_mode=engine.ASYNC):
        await ops.asarray(1.0)
        before = cells()
        x = ops.asarray(1.0)
        with engine.device("CPU:1"):
            y = x + 1
            await y
        await engine.synchronize()
        assert soon(lambda: cells() <= before + 2)
        del x, y
        assert soon(lambda: cells() <= before)


async def test_an_awaited_handle_keeps_no_waiter(gate: GateOp) -> None:
    async with engine.Executor(execution_mode=engine.ASYNC):
        held = gate(1.0)
        readers = [asyncio.ensure_future(held.wait_ready()) for _ in range(5)]
        await asyncio.sleep(0)
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        assert held._cell.waiters is None
        gate.open()
        await held


# Tasks and threads


async def test_the_engine_makes_no_task_of_its_own(mode: engine.ExecutionMode) -> None:
    before = asyncio.all_tasks()
    x = ops.asarray(np.ones(100))
    for _ in range(100):
        x = x + 1
    assert asyncio.all_tasks() == before
    await x
    await engine.synchronize()
    assert asyncio.all_tasks() == before


async def test_tasks_of_async_ops_end_with_them() -> None:
    @engine.op
    async def fetch(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        await asyncio.sleep(0)
        return x

    before = asyncio.all_tasks()
    async with engine.Executor(execution_mode=engine.ASYNC):
        await engine.gather(*(fetch(np.ones(2)) for _ in range(20)))
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


def test_nothing_starts_before_the_first_op() -> None:
    before = set(threading.enumerate())
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    engine.list_devices()
    engine.Executor()
    assert set(threading.enumerate()) == before


def test_threads_end_with_the_last_executor(gate: GateOp) -> None:
    before = set(threading.enumerate())
    with engine.Executor(execution_mode=engine.ASYNC):
        held = gate(1.0)
        gate.wait_entered()
        assert len(set(threading.enumerate()) - before) >= 1
        gate.open()
        held.result()
    assert set(threading.enumerate()) <= before


async def test_threads_end_with_the_last_executor_on_a_loop() -> None:
    before = set(threading.enumerate())
    for _ in range(3):
        async with engine.Executor(execution_mode=engine.ASYNC):
            await Buffers().make(np.ones(10))
    assert set(threading.enumerate()) <= before


def test_many_executors_one_after_the_other_use_few_threads() -> None:
    before = threading.active_count()
    for _ in range(30):
        with engine.Executor(execution_mode=engine.ASYNC):
            Buffers().make(np.ones(10)).result()
        assert threading.active_count() <= before + 1


def test_runs_of_the_loop_leave_no_threads_and_no_executors() -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)

    async def main() -> Handle:
        handle: Handle = Buffers().make(np.ones(10))
        await handle
        return handle

    before = threading.active_count()
    for _ in range(10):
        asyncio.run(main())
    assert threading.active_count() <= before + 1


# Executors


async def test_executors_are_collected() -> None:
    before = queues()
    for _ in range(5):
        async with engine.Executor(execution_mode=engine.ASYNC):
            await (ops.asarray(1.0) + 1)
    await asyncio.sleep(0)  # a callback of the loop may be on its way
    assert soon(lambda: queues() <= before)


def test_default_executors_are_collected_with_their_threads() -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    before = queues()
    for _ in range(5):
        thread = threading.Thread(target=lambda: (ops.asarray(1.0) + 1).result())
        thread.start()
        thread.join()
    assert soon(lambda: queues() <= before)


def test_default_executors_are_collected_with_their_loops() -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)

    async def main() -> float:
        return float(await (ops.asarray(1.0) + 1))

    asyncio.run(main())
    before = queues()
    for _ in range(5):
        asyncio.run(main())
    assert soon(lambda: queues() <= before)


async def test_an_executor_that_was_never_left_is_collected() -> None:
    before = queues()

    async def forget() -> None:
        executor = engine.Executor(execution_mode=engine.ASYNC)
        await executor.__aenter__()
        await (ops.asarray(1.0) + 1)

    await asyncio.ensure_future(forget())
    await asyncio.sleep(0)
    assert soon(lambda: queues() <= before)


def test_a_handle_keeps_its_value_after_its_executor() -> None:
    with engine.Executor(execution_mode=engine.ASYNC):
        handle = ops.asarray(1.0) + 1
    gc.collect()
    assert handle.result() == 2.0


async def test_the_timer_of_those_that_wait_keeps_the_context_of_none() -> None:
    class Request:
        """What a task has in its context."""

    request: contextvars.ContextVar[Request] = contextvars.ContextVar("request")
    loop = asyncio.get_running_loop()
    first, second = kept_turning(loop), kept_turning(loop)

    def enter() -> weakref.ref[Request]:
        request.set(Request())
        first.__enter__()
        return weakref.ref(request.get())

    known = contextvars.copy_context().run(enter)
    with second:
        first.__exit__(None, None, None)
        gc.collect()
        assert known() is None
