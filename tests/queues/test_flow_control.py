"""Flow control: dispatch never waits below the marks and executes queued work past them; `drain` waits."""

import asyncio
import math
import threading
import tracemalloc
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.testing import GateOp
from handles import Handle


def limited(ops: int = 32_768, nbytes: int = 1 << 30, devices: int = 1) -> engine.Executor:
    """An ASYNC executor with these marks."""
    config = engine.Config(device_count={"CPU": devices}, max_pending_ops=ops, max_pending_bytes=nbytes)
    return engine.Executor(config=config, execution_mode=engine.ASYNC)


async def test_below_the_mark_dispatch_executes_nothing() -> None:
    async with limited(ops=100) as executor:
        x = ops.asarray(1.0)
        handles = [x + index for index in range(99)]
        assert executor.statistics().pending == 100
        assert executor.statistics().completed == 0
        assert [float(await handle) for handle in handles] == [1.0 + index for index in range(99)]


@pytest.mark.parametrize("mark", [1, 2, 7, 64])
async def test_in_flight_never_passes_the_mark_with_one_device(mark: int) -> None:
    async with limited(ops=mark) as executor:
        x = ops.asarray(0)
        most = 0
        for _ in range(5 * mark):
            x = x + 1
            most = max(most, executor.statistics().pending)
        assert most == mark
        assert int(await x) == 5 * mark


async def test_the_marks_count_what_is_running_and_what_is_parked(gate: GateOp) -> None:
    async with limited(ops=8, devices=2) as executor:
        with engine.device("CPU:1"):
            held = gate(1.0)
        await asyncio.to_thread(gate.wait_entered)
        x = held.to_device("CPU:0")
        with pytest.raises(engine.QueueFullError, match="max_pending_ops is 8"):
            for _ in range(8):
                x = x + 1
        assert executor.statistics().pending == 8
        gate.open()
        assert float(await x) == 7.0


async def test_two_devices_pass_the_mark_by_one_op_at_most() -> None:
    async with limited(ops=10, devices=2) as executor:
        ends = []
        most = 0
        for device in ("CPU:0", "CPU:1"):
            with engine.device(device):
                ends.append(ops.asarray(0))
        for _ in range(50):
            ends = [end + 1 for end in ends]
            most = max(most, executor.statistics().pending)
        assert most <= 11
        assert [int(await end) for end in ends] == [50, 50]


async def test_marks_are_those_of_each_executor(gate: GateOp) -> None:
    async with limited(ops=2) as full:
        gate(1.0)
        gate(1.0)
        async with limited(ops=100):
            x = ops.asarray(1.0) + 1
            assert float(await x) == 2.0
        assert full.statistics().pending == 2
        with pytest.raises(engine.QueueFullError):
            ops.asarray(1.0)
        gate.open()


async def test_ops_stuck_behind_a_closed_gate_are_refused_past_the_mark(gate: GateOp) -> None:
    async with limited(ops=4) as executor:
        held = gate(1.0)
        await asyncio.to_thread(gate.wait_entered)
        behind = [held + index for index in range(3)]
        for _ in range(3):
            with pytest.raises(engine.QueueFullError, match="'add' was not dispatched: 4 ops"):
                held + 1
        assert executor.statistics().pending == 4
        gate.open()
        assert [float(await handle) for handle in behind] == [1.0, 2.0, 3.0]
        assert float(await (held + 1)) == 2.0


async def test_an_op_in_flight_is_counted_once(gate: GateOp) -> None:
    async with limited() as executor:
        chain = gate(0.0)
        for _ in range(2_000):
            chain = chain + 1
        reading = asyncio.ensure_future(chain.wait_ready())
        for _ in range(200):
            await asyncio.sleep(0)
            assert executor.statistics().pending <= 2_001
        gate.open()
        await reading


@pytest.mark.parametrize("after", [0, 2], ids=["last", "amid"])
async def test_an_op_that_ran_before_its_turn_is_in_flight_no_more(after: int) -> None:
    async with limited() as executor:
        before = [ops.add(1.0, index) for index in range(100)]
        awaited = ops.add(1.0, 2.0)
        behind = [awaited + index for index in range(after)]
        queue: Any = awaited._cell.home
        assert queue.slice.run_alone(math.inf, awaited._cell)
        assert executor.statistics().completed == 1
        assert executor.statistics().pending == 100 + after
        assert [float(await handle) for handle in (*before, *behind)] == [*range(1, 101), *range(3, 3 + after)]
        assert executor.statistics().pending == 0


async def test_async_ops_are_refused_past_the_mark() -> None:
    going = asyncio.Event()

    @engine.op
    async def fetch(x: np.ndarray) -> np.ndarray:
        await going.wait()
        return x

    async with limited(ops=5) as executor:
        handles = [fetch(np.ones(2)) for _ in range(5)]
        with pytest.raises(engine.QueueFullError, match="drain"):
            fetch(np.ones(2))
        assert executor.statistics().pending == 5
        going.set()
        await engine.drain()
        handles.append(fetch(np.ones(2)))
        assert len(await engine.gather(*handles)) == 6


async def test_small_ops_are_executed_to_make_room_beside_an_async_op() -> None:
    going = asyncio.Event()

    @engine.op
    async def fetch(x: np.ndarray) -> np.ndarray:
        await going.wait()
        return x

    async with limited(ops=4):
        waiting = fetch(np.ones(2))
        x = ops.asarray(0)
        for _ in range(20):
            x = x + 1
        going.set()
        assert int(await x) == 20
        assert (await waiting).tolist() == [1.0, 1.0]


async def test_an_op_that_runs_on_a_worker_is_waited_for_past_the_mark() -> None:
    ran = []

    @engine.op
    def note(x: np.ndarray) -> np.ndarray:
        ran.append(threading.current_thread())
        return x + 1

    async with limited(ops=3) as executor:
        x = ops.asarray(0)
        for _ in range(12):
            x = note(x)
            assert executor.statistics().pending <= 3
        assert int(await x) == 12
    assert threading.main_thread() not in ran


async def test_a_running_op_is_waited_for_beside_an_async_op_past_the_mark() -> None:
    going = asyncio.Event()

    @engine.op
    async def fetch(x: np.ndarray) -> np.ndarray:
        await going.wait()
        return x

    @engine.op
    def step(x: np.ndarray) -> np.ndarray:
        return x + 1

    async with limited(ops=3):
        waiting = fetch(np.ones(2))
        x = ops.asarray(0)
        for _ in range(20):
            x = step(x)
        going.set()
        await waiting
        assert int(await x) == 20


async def test_an_executor_past_its_mark_works_off_what_it_waits_for_in_another() -> None:
    async with limited():
        x = ops.asarray(1) + 1
        async with limited(ops=4) as inner:
            for _ in range(30):
                x = x + 1  # the first of them is an op of the outer executor's handle
            assert inner.statistics().pending <= 4
            assert int(await x) == 32


async def test_bytes_of_snapshots_are_bounded() -> None:
    block = np.zeros(100_000)
    async with limited(nbytes=4 * block.nbytes) as executor:
        total = ops.asarray(0.0)
        for _ in range(40):
            total = total + ops.sum(ops.asarray(block))
            assert executor.statistics().pending_bytes <= 4 * block.nbytes
        assert float(await total) == 0.0
        await engine.synchronize()
        assert executor.statistics().pending_bytes == 0


async def test_arrays_that_are_not_copied_do_not_count() -> None:
    block = np.zeros(100_000)
    block.flags.writeable = False
    async with limited(nbytes=1000) as executor:
        x = ops.add(block, 1)
        ops.add(x, block)
        assert executor.statistics().pending == 2
        assert executor.statistics().pending_bytes == 0


async def test_bytes_are_given_back_when_an_op_is_cancelled(gate: GateOp) -> None:
    async with limited() as executor:
        held = gate(1.0)
        await asyncio.to_thread(gate.wait_entered)
        handle = ops.add(ops.add(held, np.ones(10_000)), np.ones(10_000))
        await asyncio.sleep(0)
        assert executor.statistics().pending_bytes == 160_000
        handle.cancel()
        assert executor.statistics().pending_bytes == 80_000
        gate.open()
        await engine.synchronize()
        assert executor.statistics().pending_bytes == 0


async def test_dispatch_past_the_bytes_mark_behind_a_closed_gate_is_refused(gate: GateOp) -> None:
    async with limited(nbytes=50_000) as executor:
        held = gate(0.0)
        await asyncio.to_thread(gate.wait_entered)
        behind = ops.add(held, np.ones(10_000))
        with pytest.raises(engine.QueueFullError, match="max_pending_bytes is 50000"):
            ops.add(held, np.ones(10_000))
        assert executor.statistics().pending == 2
        gate.open()
        assert (await behind).sum() == 10_000


async def test_dispatch_past_the_bytes_mark_to_a_device_that_is_held_is_refused() -> None:
    async with limited(nbytes=50_000) as executor:
        with engine.testing.hold():
            held = ops.asarray(np.ones(10_000))
            with pytest.raises(engine.QueueFullError, match="max_pending_bytes is 50000"):
                ops.asarray(np.ones(10_000))
            assert executor.statistics().pending == 1
        assert (await held).sum() == 10_000


async def test_what_is_set_aside_counts_until_it_ends(gate: GateOp) -> None:
    async with limited(ops=8) as executor:
        held = gate(0.0)
        refused = 0
        for index in range(50):
            try:
                held + index
            except engine.QueueFullError:
                refused += 1
            await asyncio.sleep(0)  # what was dispatched is looked at, and set aside
            assert executor.statistics().pending <= 8
        assert refused == 50 - 7
        gate.open()
        await engine.synchronize()


async def test_an_operand_larger_than_the_mark_is_taken_alone() -> None:
    async with limited(nbytes=8_000):
        handles = [ops.sum(ops.asarray(np.full(5_000, index))) for index in range(4)]
        assert [int(await handle) for handle in handles] == [0, 5_000, 10_000, 15_000]


async def test_drain_waits_until_below_the_low_mark(gate: GateOp) -> None:
    async with limited(ops=20) as executor:
        held = gate(0.0)
        await asyncio.to_thread(gate.wait_entered)
        for _ in range(14):
            held = held + 1
        draining = asyncio.ensure_future(engine.drain())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not draining.done()
        gate.open()
        await draining
        assert executor.statistics().pending < 10
        assert float(await held) == 14.0


async def test_drain_waits_for_bytes_too(gate: GateOp) -> None:
    async with limited(nbytes=100_000) as executor:
        held = gate(0.0)
        await asyncio.to_thread(gate.wait_entered)
        ops.add(held, np.ones(10_000))
        draining = asyncio.ensure_future(engine.drain())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not draining.done()
        gate.open()
        await draining
        assert executor.statistics().pending_bytes <= 50_000


async def test_drain_below_the_low_mark_executes_nothing(gate: GateOp) -> None:
    async with limited(ops=20) as executor:
        held = gate(0.0)
        ops.add(held, 1)
        await engine.drain()
        assert executor.statistics().pending == 2
        gate.open()


async def test_drain_leaves_failures_to_those_who_read_them(gate: GateOp) -> None:
    async with limited(ops=4):
        bad = ops.linalg.inv(gate(np.zeros((2, 2))) + 0)
        draining = asyncio.ensure_future(engine.drain())
        await asyncio.sleep(0)
        assert not draining.done()
        gate.open()
        await draining
        with pytest.raises(np.linalg.LinAlgError):
            await bad


@pytest.mark.parametrize("devices", [1, 2])
async def test_drain_passes_what_was_cancelled_while_it_was_queued(gate: GateOp, devices: int) -> None:
    async with limited(ops=8, devices=devices):
        held = gate(1.0)
        for handle in [held + index for index in range(6)]:
            handle.cancel()
        asyncio.get_running_loop().call_soon(gate.open)
        await engine.drain()
        assert float(await held) == 1.0


async def test_drain_passes_what_was_cancelled_behind_an_abandoned_op(gate: GateOp) -> None:
    async with limited(ops=8):
        held = gate(1.0)
        behind = [held + index for index in range(6)]
        await asyncio.to_thread(gate.wait_entered)
        for handle in (held, *behind):
            handle.cancel()
        asyncio.get_running_loop().call_soon(gate.open)
        await engine.drain()
        assert float(await ops.add(1.0, 1.0)) == 2.0


async def test_drain_is_not_held_up_by_a_device_with_little_to_do(gate: GateOp) -> None:
    async with limited(ops=8, devices=2):
        held = gate(1.0)
        with engine.device("CPU:1"):
            busy = [ops.add(index, 1) for index in range(6)]
        await engine.drain()
        assert not held.is_ready()
        assert all(handle.is_ready() for handle in busy[:3])
        gate.open()
        assert float(await held) == 1.0


async def test_a_cancelled_drain_cancels_nothing(gate: GateOp) -> None:
    async with limited(ops=4):
        held = [gate(index) for index in range(4)]
        draining = asyncio.ensure_future(engine.drain())
        await asyncio.sleep(0)
        draining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await draining
        gate.open()
        assert [int(await handle) for handle in held] == [0, 1, 2, 3]


async def test_drain_in_sync_mode_has_nothing_to_wait_for() -> None:
    async with engine.Executor(execution_mode=engine.SYNC):
        x = ops.asarray(1) + 1
        await engine.drain()
        assert float(await x) == 2.0


def test_dispatch_outside_a_loop_keeps_to_the_mark() -> None:
    with limited(ops=16) as executor:
        x = ops.asarray(0)
        for _ in range(500):
            x = x + 1
            assert executor.statistics().pending <= 16
        assert x.result() == 500


@pytest.mark.sweep(one_in=2)
async def test_tens_of_thousands_of_ops_without_an_await_end_right_in_bounded_memory() -> None:
    count = 50_000
    async with limited(ops=1_000) as executor:
        x = ops.asarray(0)
        await x
        tracemalloc.start()
        try:
            for _ in range(count):
                x = x + 1
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 4_000_000  # all of them at once would be three times as much and more
        assert int(await x) == count
        assert executor.statistics().completed == count + 1


async def test_many_ops_nobody_keeps_are_executed_all_the_same() -> None:
    async with limited(ops=512) as executor:
        x = ops.asarray(1.0)
        for _ in range(20_000):
            x + 1
        await engine.synchronize()
        assert executor.statistics().completed == 20_001
        assert executor.statistics().pending == 0


async def test_a_failure_past_the_mark_surfaces_at_its_sync_point() -> None:
    async with limited(ops=4):
        bad = ops.linalg.inv(ops.zeros((2, 2)))
        x = ops.asarray(0)
        for _ in range(20):
            x = x + 1
        assert int(await x) == 20
        with pytest.raises(np.linalg.LinAlgError):
            await bad


async def test_room_is_for_whoever_dispatches_from_a_waiter_of_the_full_executor() -> None:
    async with limited(ops=4):
        x = ops.asarray(0)

        async def step(x: Handle, left: int) -> Handle:
            for _ in range(left):
                x = x + 1
                await x.wait_ready()
            return x

        ends = await asyncio.gather(*(step(x, 10) for _ in range(8)))
        assert [int(await end) for end in ends] == [10] * 8


async def test_completed_failed_and_cancelled_are_counted_once_each(gate: GateOp) -> None:
    async with limited() as executor:
        held = gate(np.zeros((2, 2)))
        await asyncio.to_thread(gate.wait_entered)
        bad = ops.linalg.inv(held)
        dependent = bad + 1
        dropped = held + 1
        fine = held + 2
        assert dropped.cancel() is engine.CancelOutcome.DROPPED
        gate.open()
        await fine
        for handle in (bad, dependent):
            with pytest.raises(np.linalg.LinAlgError):
                await handle
        statistics = executor.statistics()
        assert (statistics.completed, statistics.failed, statistics.cancelled) == (2, 2, 1)
        assert (statistics.pending, statistics.running) == (0, 0)
