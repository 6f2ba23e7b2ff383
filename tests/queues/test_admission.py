"""Admission: who waits for room when an executor is full, in which order, and what is said where no scope waits."""

import asyncio
import logging
from collections.abc import AsyncIterator

import numpy as np
import pytest

import engine
from engine import ops
from engine.testing import GateOp
from tests.common import turns

FULL = 4


@pytest.fixture
async def executor() -> AsyncIterator[engine.Executor]:
    async with engine.Executor(engine.Config(max_pending_ops=FULL), execution_mode=engine.ASYNC) as executor:
        with executor.as_default():
            yield executor


async def filled(gate: GateOp) -> list[object]:
    handles: list[object] = [gate(float(number)) for number in range(FULL)]
    await asyncio.to_thread(gate.wait_entered)
    return handles


async def enter(log: list[int], number: int, priority: int) -> None:
    async with engine.scope(priority=priority):
        log.append(number)


async def test_below_the_mark_a_scope_is_entered_at_once(executor: engine.Executor, gate: GateOp) -> None:
    with executor.as_default():
        held = [gate(1.0) for _ in range(FULL - 1)]
        async with engine.scope(wait=False):
            pass
        gate.open()
        await engine.gather(*held)


async def test_above_it_tasks_are_let_in_by_priority_and_then_by_arrival(
    executor: engine.Executor, gate: GateOp
) -> None:
    with executor.as_default():
        held = await filled(gate)
        log: list[int] = []
        tasks = [asyncio.create_task(enter(log, number, priority)) for number, priority in enumerate([0, 0, 5, 1])]
        await turns()
        assert log == []
        gate.open()
        await asyncio.gather(*tasks)
        assert log == [2, 3, 0, 1]
        assert len(held) == FULL


async def test_a_scope_that_does_not_wait_is_refused_and_nothing_is_changed(
    executor: engine.Executor, gate: GateOp
) -> None:
    with executor.as_default():
        await filled(gate)
        with pytest.raises(engine.QueueFullError, match=r"4 ops .* are pending"):
            async with engine.scope(wait=False):
                raise AssertionError("was entered")
        assert executor.statistics().pending == FULL
        gate.open()
        await engine.synchronize()
        async with engine.scope(wait=False):
            pass


async def test_a_task_that_is_cancelled_while_it_waits_leaves_its_place_to_the_next(
    executor: engine.Executor, gate: GateOp
) -> None:
    with executor.as_default():
        await filled(gate)
        log: list[int] = []
        tasks = [asyncio.create_task(enter(log, number, 0)) for number in range(3)]
        await turns()
        tasks[0].cancel()
        await turns()
        gate.open()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert log == [1, 2]
        assert tasks[0].cancelled()


async def test_the_timeout_counts_while_it_waits(executor: engine.Executor, gate: GateOp) -> None:
    with executor.as_default():
        await filled(gate)
        with pytest.raises(TimeoutError, match="executor is full"):
            async with engine.scope(timeout=0.01):
                raise AssertionError("was entered")
        gate.open()


async def test_a_scope_that_was_let_in_may_go_on_past_the_mark(executor: engine.Executor, gate: GateOp) -> None:
    with executor.as_default():
        async with engine.scope():
            held = gate(1.0)
            chain = [held + number for number in range(2 * FULL - 2)]
            gate.open()
        assert [float(await each) for each in chain] == [1.0 + number for number in range(2 * FULL - 2)]


async def test_dispatch_past_the_mark_on_a_loop_is_said_once_for_each_place(
    executor: engine.Executor, caplog: pytest.LogCaptureFixture
) -> None:
    with executor.as_default(), caplog.at_level(logging.WARNING, "engine.flow"):
        x = ops.asarray(0)
        for _ in range(10 * FULL):
            x = x + 1
        assert int(await x) == 10 * FULL
    said = [record.getMessage() for record in caplog.records if record.name == "engine.flow"]
    assert len(said) == 1
    assert "test_admission.py" in said[0]
    assert "engine.scope()" in said[0]


async def test_cancel_pending_drops_what_has_not_started_and_abandons_what_runs(
    executor: engine.Executor, gate: GateOp
) -> None:
    with executor.as_default():
        running = gate(1.0)
        await asyncio.to_thread(gate.wait_entered)
        queued = [running + 1, running + 2]
        assert engine.cancel_pending() == 3
        assert engine.cancel_pending() == 0
        for handle in (running, *queued):
            with pytest.raises(engine.OpCancelledError):
                await handle
        gate.open()
        assert int(await ops.add(1, np.int64(1))) == 2


async def test_cancel_pending_of_one_device_leaves_the_others(gate: GateOp) -> None:
    config = engine.Config(device_count={"CPU": 2})
    async with engine.Executor(config, execution_mode=engine.ASYNC):
        here = gate(1.0)
        with engine.device("CPU:1"):
            there = gate(2.0)
        assert engine.cancel_pending("CPU:1") == 1
        with pytest.raises(engine.OpCancelledError):
            await there
        gate.open()
        assert float(await here) == 1.0
