"""Cancellation: what `cancel` achieves at every moment of an op's life, and what cancelling a task does not do."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

import engine
from engine import CancelOutcome, ops
from engine.testing import GateOp


@pytest.fixture
async def executor() -> AsyncIterator[engine.Executor]:
    """An open ASYNC executor with two devices; fixtures and tests share no context, so tests make it their default."""
    config = engine.Config(device_count={"CPU": 2})
    async with engine.Executor(config=config, execution_mode=engine.ASYNC) as executor:
        yield executor


@engine.op(num_outputs=2)
def halves(x: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    middle = len(x) // 2
    return x[:middle].copy(), x[middle:].copy()


async def entered(gate: GateOp) -> None:
    """Wait until a kernel of the gate runs."""
    await asyncio.to_thread(gate.wait_entered)


def test_sync_ops_are_done_when_anybody_could_cancel_them() -> None:
    with engine.Executor(execution_mode=engine.SYNC):
        handle = ops.asarray(1) + 1
        assert handle.cancel() is CancelOutcome.TOO_LATE
        assert handle.result() == 2


async def test_a_queued_op_is_dropped_and_never_runs(gate: GateOp, executor: engine.Executor) -> None:
    ran = []

    @engine.op
    def note(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        ran.append(x)
        return x

    with executor.as_default():
        queued = note(gate(0))
        await entered(gate)
        assert queued.cancel() is CancelOutcome.DROPPED
        assert queued.is_ready()
        with pytest.raises(engine.OpCancelledError, match="'note' was cancelled") as info:
            await queued
        assert any("dispatched at" in note for note in info.value.__notes__)
        gate.open()
        await engine.synchronize()
    assert ran == []
    assert executor.statistics().cancelled == 1


async def test_a_running_op_is_abandoned_and_its_device_stays_busy(gate: GateOp, executor: engine.Executor) -> None:
    with executor.as_default():
        running = gate(1.0)
        await entered(gate)
        assert running.cancel() is CancelOutcome.ABANDONED
        with pytest.raises(engine.OpCancelledError):
            await running
        after = ops.asarray(2.0) + 1
        assert float(await after) == 3.0
        assert executor.statistics().running == 1
        gate.open()
        with pytest.raises(engine.OpCancelledError):
            await running
        await engine.synchronize()
    statistics = executor.statistics()
    assert (statistics.completed, statistics.failed, statistics.cancelled) == (2, 0, 1)


async def test_a_finished_op_is_too_late(executor: engine.Executor) -> None:
    with executor.as_default():
        handle = ops.asarray(1) + 1
        await handle
        assert handle.cancel() is CancelOutcome.TOO_LATE
        assert float(await handle) == 2


async def test_a_failed_op_is_too_late_and_keeps_its_error(executor: engine.Executor) -> None:
    with executor.as_default():
        bad = ops.linalg.inv(ops.zeros((2, 2)))
        with pytest.raises(np.linalg.LinAlgError):
            await bad
        assert bad.cancel() is CancelOutcome.TOO_LATE
        with pytest.raises(np.linalg.LinAlgError):
            await bad


async def test_cancelling_twice_is_too_late_the_second_time(gate: GateOp, executor: engine.Executor) -> None:
    with executor.as_default():
        queued = gate(1) + 1
        await entered(gate)
        assert [queued.cancel(), queued.cancel()] == [CancelOutcome.DROPPED, CancelOutcome.TOO_LATE]
        gate.open()


async def test_dependents_of_a_cancelled_op_raise_and_the_rest_goes_on(gate: GateOp, executor: engine.Executor) -> None:
    with executor.as_default():
        held = gate(1.0)
        dropped = held + 1
        dependent = dropped * 2
        with engine.device("CPU:1"):
            elsewhere = dependent + 1
        independent = held + 5
        dropped.cancel()
        gate.open()
        for handle in (dependent, elsewhere):
            with pytest.raises(engine.OpCancelledError, match="'add'"):
                await handle
        assert float(await independent) == 6.0
        await engine.synchronize()


async def test_an_op_parked_on_another_device_is_dropped(gate: GateOp, executor: engine.Executor) -> None:
    with executor.as_default():
        with engine.device("CPU:1"):
            held = gate(1.0)
        parked = ops.add(held.to_device("CPU:0"), 1)
        after = ops.asarray(5.0) + 1
        assert float(await after) == 6.0
        assert parked.cancel() is CancelOutcome.DROPPED
        with pytest.raises(engine.OpCancelledError):
            await parked
        gate.open()
        assert float(await held) == 1.0
        await engine.synchronize()
    assert executor.statistics().pending == 0


async def test_cancelling_the_operand_of_a_parked_op_ends_both(gate: GateOp, executor: engine.Executor) -> None:
    with executor.as_default():
        with engine.device("CPU:1"):
            queued = gate(1.0) + 1
        parked = ops.add(queued.to_device("CPU:0"), 1)
        await (ops.asarray(5.0) + 1)
        queued.cancel()
        with pytest.raises(engine.OpCancelledError):
            await parked
        gate.open()


@pytest.mark.parametrize("which", [0, 1])
async def test_cancelling_one_output_cancels_the_op(gate: GateOp, executor: engine.Executor, which: int) -> None:
    with executor.as_default():
        outputs = halves(gate(np.arange(4)))
        assert outputs[which].cancel() is CancelOutcome.DROPPED
        for output in outputs:
            with pytest.raises(engine.OpCancelledError):
                await output
        assert outputs[1 - which].cancel() is CancelOutcome.TOO_LATE
        gate.open()
        await engine.synchronize()
    assert executor.statistics().cancelled == 1


async def test_an_op_with_several_outputs_is_abandoned_while_it_runs(gate: GateOp, executor: engine.Executor) -> None:
    release = gate

    @engine.op(num_outputs=2)
    def slow(x: np.ndarray[Any, Any]) -> tuple[Any, Any]:
        release._kernel(x)
        return x, x

    with executor.as_default():
        first, second = slow(np.ones(2))
        await entered(gate)
        assert first.cancel() is CancelOutcome.ABANDONED
        gate.open()
        with pytest.raises(engine.OpCancelledError):
            await second
        await engine.synchronize()


async def test_an_async_op_is_really_cancelled_while_it_runs(executor: engine.Executor) -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    @engine.op
    async def forever(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return x

    with executor.as_default():
        handle = forever(np.ones(2))
        await started.wait()
        assert handle.cancel() is CancelOutcome.ABANDONED
        with pytest.raises(engine.OpCancelledError):
            await handle
        await ended.wait()
        await engine.synchronize()
    statistics = executor.statistics()
    assert (statistics.completed, statistics.failed, statistics.cancelled) == (0, 0, 1)


async def test_an_async_op_that_has_not_started_never_does(gate: GateOp, executor: engine.Executor) -> None:
    started = []

    @engine.op
    async def note(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        started.append(True)
        return x

    with executor.as_default():
        queued = note(gate(1.0))
        assert queued.cancel() is CancelOutcome.DROPPED
        gate.open()
        await engine.synchronize()
        direct = note(np.ones(2))
        direct.cancel()
        with pytest.raises(engine.OpCancelledError):
            await direct
        await engine.synchronize()
    assert started == []


async def test_an_async_op_that_shields_itself_from_its_cancellation_changes_nothing(
    executor: engine.Executor,
) -> None:
    started, go = asyncio.Event(), asyncio.Event()

    @engine.op
    async def stubborn(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await go.wait()
        return x

    with executor.as_default():
        handle = stubborn(np.ones(2))
        await started.wait()
        handle.cancel()
        with pytest.raises(engine.OpCancelledError):
            await handle
        go.set()
        await engine.synchronize()
        with pytest.raises(engine.OpCancelledError):
            await handle


async def test_an_async_op_whose_kernel_is_cancelled_from_inside_counts_as_cancelled(executor: engine.Executor) -> None:
    @engine.op
    async def quits(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        raise asyncio.CancelledError

    with executor.as_default():
        with pytest.raises(engine.OpCancelledError):
            await quits(np.ones(2))
        await engine.synchronize()
    assert executor.statistics().cancelled == 1


async def test_a_cancelled_failing_op_reports_nothing(gate: GateOp, executor: engine.Executor) -> None:
    @engine.op
    def fails(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        gate._kernel(x)
        raise KeyError("late")

    with executor.as_default():
        handle = fails(np.ones(2))
        await entered(gate)
        assert handle.cancel() is CancelOutcome.ABANDONED
        gate.open()
        await engine.synchronize()
        with pytest.raises(engine.OpCancelledError):
            await handle


@pytest.mark.parametrize("kind", ["on the loop", "on a worker"])
async def test_nobody_waits_for_what_was_abandoned(gate: GateOp, kind: str) -> None:
    started, go = asyncio.Event(), asyncio.Event()

    @engine.op
    async def stubborn(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        started.set()
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                continue
        return x

    async with engine.Executor(execution_mode=engine.ASYNC) as executor:
        if kind == "on the loop":
            handle = stubborn(np.ones(2))
            await started.wait()
        else:
            handle = gate(1.0)
            await entered(gate)
        assert handle.cancel() is CancelOutcome.ABANDONED
        await engine.synchronize()
    assert executor.state == "closed"
    go.set()


# Tasks


async def test_cancelling_a_task_that_awaits_does_not_cancel_the_op(gate: GateOp, executor: engine.Executor) -> None:
    with executor.as_default():
        held = gate(1.0)

        async def read() -> Any:
            return await held

        readers = [asyncio.ensure_future(read()) for _ in range(3)]
        await entered(gate)
        readers[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await readers[0]
        assert not held.is_ready()
        gate.open()
        assert [float(value) for value in await asyncio.gather(*readers[1:])] == [1.0, 1.0]


@pytest.mark.parametrize("turns", range(6))
async def test_a_task_cancelled_at_any_moment_leaves_op_and_queue_as_they_were(
    gate: GateOp, executor: engine.Executor, turns: int
) -> None:
    with executor.as_default():

        async def work() -> Any:
            x = gate(1.0)
            for _ in range(3):
                x = x + 1
                await x
            return x

        task = asyncio.ensure_future(work())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.open()
        after = ops.asarray(1.0) + 1
        assert float(await after) == 2.0
        await engine.synchronize()
        assert executor.statistics().pending == 0
        assert executor.statistics().cancelled == 0


async def test_waiting_with_a_timeout_gives_up_waiting_only(gate: GateOp, executor: engine.Executor) -> None:
    with executor.as_default():
        held = gate(1.0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await held
        gate.open()
        assert float(await held) == 1.0


async def test_a_cancelled_gather_cancels_no_op(gate: GateOp, executor: engine.Executor) -> None:
    with executor.as_default():
        handles = [gate(index) for index in range(3)]
        gathering = asyncio.ensure_future(engine.gather(*handles))
        await entered(gate)
        gathering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gathering
        gate.open()
        assert [int(await handle) for handle in handles] == [0, 1, 2]


async def test_a_waiter_learns_of_the_cancellation(gate: GateOp, executor: engine.Executor) -> None:
    with executor.as_default():
        held = gate(1.0)
        queued = held + 1
        reading = asyncio.ensure_future(queued.wait_ready())
        waiting = asyncio.ensure_future(engine.synchronize())
        await entered(gate)
        queued.cancel()
        with pytest.raises(engine.OpCancelledError):
            await reading
        assert not waiting.done()
        gate.open()
        await waiting


async def test_an_executor_left_by_an_exception_cancels_what_has_not_started(gate: GateOp) -> None:
    with pytest.raises(ValueError, match="body"):
        async with engine.Executor(execution_mode=engine.ASYNC) as executor:
            running = gate(1.0)
            queued = running + 1
            await entered(gate)
            raise ValueError("body")
    for handle in (running, queued):
        with pytest.raises(engine.OpCancelledError, match="executor"):
            await handle
    gate.open()
    assert executor.state == "closed"


async def test_an_executor_whose_exit_is_cancelled_is_closed_all_the_same(gate: GateOp) -> None:
    handles = []
    executor = engine.Executor(execution_mode=engine.ASYNC)

    async def work() -> None:
        async with executor:
            handles.append(gate(1.0))
            handles.append(handles[0] + 1)

    task = asyncio.ensure_future(work())
    await entered(gate)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert executor.state == "closed"
    for handle in handles:
        with pytest.raises(engine.OpCancelledError):
            await handle
    gate.open()


def test_cancel_works_without_a_loop(gate: GateOp) -> None:
    with engine.Executor(execution_mode=engine.ASYNC):
        running = gate(1.0)
        queued = running + 1
        gate.wait_entered()
        assert queued.cancel() is CancelOutcome.DROPPED
        assert running.cancel() is CancelOutcome.ABANDONED
        with pytest.raises(engine.OpCancelledError):
            queued.result()
        gate.open()
