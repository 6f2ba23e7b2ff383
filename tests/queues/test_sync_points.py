"""Sync points: which ones block, where blocking is refused, and that readiness never decides."""

import asyncio
import operator
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.queues.device_queue import DeviceQueue
from engine.testing import GateOp
from handles import Handle
from handles.cell import Cell
from tests.common import reached

IMPLICIT: dict[str, Callable[[Handle], Any]] = {
    "bool": bool,
    "int": int,
    "float": float,
    "complex": complex,
    "index": operator.index,
    "asarray": np.asarray,
    "array": np.array,
    "item": lambda handle: handle.item(),
    "tolist": lambda handle: handle.tolist(),
    "range": range,
    "format": lambda handle: f"{handle:d}",
    "contains": lambda handle: 3 in handle,
    "result": lambda handle: handle.result(),
    "result with a timeout": lambda handle: handle.result(timeout=30),
}
every_sync = pytest.mark.parametrize("sync", [pytest.param(sync, id=name) for name, sync in IMPLICIT.items()])


def open_when_entered(gate: GateOp) -> None:
    gate.wait_entered()
    gate.open()


# What they give


@every_sync
def test_every_implicit_sync_point_gives_in_plain_code_what_numpy_gives(
    sync: Callable[[Any], Any], mode: engine.ExecutionMode
) -> None:
    if sync is IMPLICIT["result"] or sync is IMPLICIT["result with a timeout"]:
        assert sync(ops.add(1, 2)) == 3
        return
    expected = sync(np.asarray(3))
    given = sync(ops.add(1, 2))
    assert type(given) is type(expected)
    assert np.array_equal(given, expected)


@pytest.mark.parametrize("sync", [bool, int, float, complex, operator.index], ids=lambda each: each.__name__)
def test_conversions_of_more_than_one_element_raise_what_numpy_raises(
    sync: Callable[[Any], Any], mode: engine.ExecutionMode
) -> None:
    with pytest.raises((TypeError, ValueError)) as expected:
        sync(np.ones(2))
    with pytest.raises(expected.type) as given:
        sync(ops.add(np.ones(2), 0))
    assert str(given.value) == str(expected.value)


def test_asarray_in_another_dtype_and_as_a_copy(mode: engine.ExecutionMode) -> None:
    handle = ops.add(np.arange(3), 1)
    assert np.asarray(handle, dtype=np.float32).dtype == np.float32
    own = np.array(handle)
    own[0] = 9  # a copy of one's own can be written to
    assert handle.tolist() == [1, 2, 3]
    assert np.shares_memory(np.asarray(handle), np.asarray(handle))
    with pytest.raises(ValueError, match="copy"):
        np.asarray(handle, dtype=np.float32, copy=False)


def test_item_takes_an_index(mode: engine.ExecutionMode) -> None:
    handle = ops.asarray([[1, 2], [3, 4]])
    assert (handle.item(2), handle.item(0, 1)) == (3, 2)


def test_an_implicit_sync_raises_the_error_of_the_op(asynchronous: None) -> None:
    @engine.op
    def explode(x: np.ndarray) -> np.ndarray:
        raise KeyError("boom")

    handle = explode(1)
    for sync in (bool, float, np.asarray, Handle.tolist):
        with pytest.raises(KeyError, match="boom"):
            sync(handle)


# On a running loop


@every_sync
async def test_on_a_running_loop_every_sync_of_a_pending_handle_is_refused(
    sync: Callable[[Any], Any], gate: GateOp, asynchronous: None
) -> None:
    handle = gate(3)
    with pytest.raises(engine.BlockingSyncError, match=r"await.*allow_sync.*to_thread"):
        sync(handle)
    gate.open()
    assert await handle == 3


@every_sync
async def test_readiness_does_not_decide(sync: Callable[[Any], Any], asynchronous: None) -> None:
    handle = ops.add(1, 2)
    await handle
    assert handle.is_ready()
    with pytest.raises(engine.BlockingSyncError, match="await"):
        sync(handle)


@every_sync
async def test_a_failed_handle_is_refused_like_any_other(sync: Callable[[Any], Any], asynchronous: None) -> None:
    @engine.op
    def explode(x: np.ndarray) -> np.ndarray:
        raise KeyError("boom")

    handle = explode(1)
    with pytest.raises(KeyError):
        await handle
    with pytest.raises(engine.BlockingSyncError):
        sync(handle)


def test_the_error_is_a_value_error() -> None:
    assert issubclass(engine.BlockingSyncError, ValueError)


async def test_the_message_names_the_op_and_the_place(gate: GateOp, asynchronous: None) -> None:
    handle = ops.add(gate(1), 1)
    with pytest.raises(engine.BlockingSyncError, match=r"bool\(\).*'add' on CPU:0.*test_sync_points.py:\d+"):
        bool(handle)
    gate.open()


@every_sync
async def test_allow_sync_permits_it(sync: Callable[[Any], Any], asynchronous: None) -> None:
    handle = ops.add(1, 2)
    with engine.allow_sync():
        sync(handle)
        sync(ops.add(1, 2))
    with pytest.raises(engine.BlockingSyncError):
        sync(handle)


@every_sync
async def test_sync_mode_is_consent(sync: Callable[[Any], Any], asynchronous: None) -> None:
    handle = ops.add(1, 2)
    with engine.execution_mode(engine.SYNC):
        sync(handle)
    with pytest.raises(engine.BlockingSyncError):
        sync(ops.add(1, 2))


async def test_an_async_scope_inside_a_sync_one_takes_the_consent_back(asynchronous: None) -> None:
    handle = ops.add(1, 2)
    with engine.execution_mode(engine.SYNC), engine.execution_mode(engine.ASYNC):
        with pytest.raises(engine.BlockingSyncError):
            bool(handle)
        with engine.allow_sync():
            assert bool(handle)


@every_sync
async def test_concrete_handles_never_block_and_are_never_refused(
    sync: Callable[[Any], Any], asynchronous: None
) -> None:
    with engine.execution_mode(engine.SYNC):
        handle = ops.add(1, 2)
    sync(handle)


@every_sync
async def test_in_a_sync_program_a_running_loop_is_no_obstacle(sync: Callable[[Any], Any]) -> None:
    engine.enable_eager_execution()
    sync(ops.add(1, 2))
    with engine.execution_mode(engine.ASYNC):
        handle = ops.add(1, 2)
        with pytest.raises(engine.BlockingSyncError):
            sync(handle)
    sync(handle)


async def test_allow_sync_on_the_loop_waits_for_a_worker(gate: GateOp, asynchronous: None) -> None:
    handle = ops.add(gate(np.arange(3)), 1)
    opener = threading.Thread(target=open_when_entered, args=(gate,))
    opener.start()
    with engine.allow_sync():
        assert handle.tolist() == [1, 2, 3]
    opener.join()


async def test_an_async_op_cannot_be_waited_for_by_the_loop_that_runs_it(asynchronous: None) -> None:
    @engine.op
    async def later(x: np.ndarray) -> np.ndarray:
        await asyncio.sleep(0)
        return x + 1

    handle = later(np.ones(2))
    with engine.allow_sync(), pytest.raises(engine.BlockingSyncError, match="later"):
        handle.result()
    assert (await handle).tolist() == [2, 2]


# engine.wait


@pytest.mark.parametrize("pending", [False, True])
async def test_wait_on_a_running_loop_is_refused_whatever_is_pending(
    pending: bool, gate: GateOp, asynchronous: None
) -> None:
    if pending:
        gate(1)
    with pytest.raises(engine.BlockingSyncError, match="await"):
        engine.wait()
    gate.open()
    with engine.allow_sync():
        engine.wait()
    with engine.execution_mode(engine.SYNC):
        engine.wait()


def test_wait_in_plain_code_waits_for_all_that_was_dispatched(gate: GateOp, asynchronous: None) -> None:
    handle = ops.add(gate(1), 1)
    with pytest.raises(TimeoutError, match="not ready after"):
        engine.wait(timeout=0.01)
    gate.open()
    engine.wait()
    assert handle.is_ready()
    engine.wait(timeout=0)


def test_wait_in_sync_mode_returns() -> None:
    engine.enable_eager_execution()
    ops.add(1, 1)
    engine.wait()
    engine.wait("CPU:0")


# SYNC ops with non-ready operands


async def test_a_sync_op_waits_for_its_non_ready_inputs(gate: GateOp, asynchronous: None) -> None:
    handle = gate(np.arange(3))
    opener = threading.Thread(target=open_when_entered, args=(gate,))
    opener.start()
    with engine.execution_mode(engine.SYNC):
        total = ops.add(handle, 1)
        assert total.is_ready()
    assert (await total).tolist() == [1, 2, 3]
    opener.join()


async def test_a_sync_op_raises_the_error_of_a_failed_input(asynchronous: None) -> None:
    @engine.op
    def explode(x: np.ndarray) -> np.ndarray:
        raise KeyError("boom")

    handle = explode(1)
    with engine.execution_mode(engine.SYNC), pytest.raises(KeyError, match="boom"):
        ops.add(handle, 1)
    await engine.synchronize()  # it was seen


# Off the loop


@every_sync
async def test_to_thread_blocks_and_returns(sync: Callable[[Any], Any], gate: GateOp, asynchronous: None) -> None:
    handle = ops.add(gate(1), 2)
    reader = asyncio.ensure_future(asyncio.to_thread(sync, handle))
    await asyncio.sleep(0)
    assert not reader.done()
    gate.open()
    assert np.array_equal(await reader, await asyncio.to_thread(sync, handle)) or sync is IMPLICIT["range"]


async def test_library_code_in_a_thread_dispatches_and_reads(gate: GateOp, asynchronous: None) -> None:
    def fit(x: Handle) -> float:
        mean = ops.mean(x)
        if mean > 0:
            x = x - mean
        return float(ops.sum(ops.abs(x)))

    handle = gate(np.array([1.0, 3.0]))
    gate.open()
    assert await asyncio.to_thread(fit, handle) == 2.0


async def test_a_thread_without_a_loop_blocks_while_the_loop_is_busy(gate: GateOp, asynchronous: None) -> None:
    handle = ops.add(gate(1), 1)
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(int(handle)))
    thread.start()
    gate.open()
    thread.join()  # the loop does nothing meanwhile
    assert seen == [2]


async def test_wait_in_a_thread(gate: GateOp, asynchronous: None) -> None:
    ops.add(gate(1), 1)
    gate.open()
    await asyncio.to_thread(engine.wait)


def test_a_thread_with_a_loop_of_its_own_is_guarded_too(asynchronous: None) -> None:
    handle = ops.add(1, 1)

    async def read() -> int:
        return int(handle)

    refused: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(read())
        except engine.BlockingSyncError as error:
            refused.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert len(refused) == 1
    assert handle.result() == 2


# Deadlines


def test_the_timeout_of_the_configuration_holds_at_every_sync_point(gate: GateOp) -> None:
    config = engine.Config(operation_timeout_in_ms=20)
    engine.enable_eager_execution(config=config, execution_mode=engine.ASYNC)
    handle = ops.add(gate(1), 1)
    for sync in (int, np.asarray, Handle.result, lambda each: each.result(timeout=1000)):
        with pytest.raises(TimeoutError, match=r"'add' on CPU:0.*it is pending"):
            sync(handle)
    with pytest.raises(TimeoutError):
        engine.wait()
    gate.open()


async def test_the_timeout_of_the_configuration_holds_for_await(gate: GateOp) -> None:
    config = engine.Config(operation_timeout_in_ms=20)
    engine.enable_eager_execution(config=config, execution_mode=engine.ASYNC)
    handle = ops.add(gate(1), 1)
    for waiting in (handle.wait_ready(), engine.gather(handle), engine.synchronize()):
        with pytest.raises(TimeoutError):
            await waiting
    gate.open()
    await reached(handle.is_ready)
    assert await handle == 2


@pytest.mark.parametrize("wait", [lambda last: last.result(), lambda last: engine.wait()], ids=["result", "wait"])
@pytest.mark.parametrize("mark", [64, 32_768])
def test_a_blocking_wait_looks_at_each_op_of_a_long_chain_a_few_times(
    monkeypatch: pytest.MonkeyPatch, wait: Callable[[Handle], object], mark: int
) -> None:
    looks = 0
    waiting_for = DeviceQueue.waiting_for

    def counted(queue: DeviceQueue, cell: Cell) -> list[Cell]:
        nonlocal looks
        looks += 1
        return waiting_for(queue, cell)

    monkeypatch.setattr(DeviceQueue, "waiting_for", counted)
    config = engine.Config(device_count={"CPU": 2}, max_pending_ops=mark)
    with engine.Executor(config, execution_mode=engine.ASYNC):
        last: Handle = ops.asarray(0)
        for index in range(1_000):
            with engine.device(f"CPU:{index % 2}"):
                last = last + 1
        wait(last)
        assert int(last) == 1_000
    assert looks < 50_000  # looking from the end again after each op would be half a million looks, or more


async def test_a_handle_in_place_of_a_device_is_told_how_one_waits_for_it(mode: engine.ExecutionMode) -> None:
    handle: Any = ops.add(1.0, 2.0)
    with pytest.raises(TypeError, match="await h"):
        await engine.synchronize(handle)
    with pytest.raises(TypeError, match="await h"), engine.allow_sync():
        engine.wait(handle)
    assert await handle == 3.0
