"""Handles: what they tell without waiting, how they are waited for, rebound, copied, pickled and cancelled."""

import asyncio
import copy
import gc
import inspect
import pickle
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.testing import GateOp
from handles import AsyncHandle, CancelOutcome, EagerHandle, Handle
from tests.common import explode

WIDE = engine.Config(inter_op_parallelism_threads=4)


# What an op returns


def test_ops_return_the_handle_of_the_mode(mode: engine.ExecutionMode) -> None:
    handle = ops.multiply(6, 7)
    assert isinstance(handle, Handle)
    assert type(handle) is (EagerHandle if mode is engine.SYNC else AsyncHandle)
    assert handle.result() == 42


def test_sync_handles_are_ready_and_async_ones_are_not(gate: GateOp, mode: engine.ExecutionMode) -> None:
    if mode is engine.SYNC:
        gate.open()
        assert gate(1.0).is_ready()
    else:
        assert not gate(1.0).is_ready()


async def test_numpy_gives_the_array_in_sync_mode_and_an_awaitable_of_it_in_async_mode(
    mode: engine.ExecutionMode,
) -> None:
    handle = ops.add(np.arange(3), 1)
    assert isinstance(handle, EagerHandle | AsyncHandle)
    given = handle.numpy()
    if isinstance(given, np.ndarray):
        assert mode is engine.SYNC
        value = given
    else:
        assert mode is engine.ASYNC
        assert inspect.isawaitable(given)
        value = await given
    assert value.tolist() == [1, 2, 3]
    assert (await handle).tolist() == [1, 2, 3]


async def test_numpy_of_an_async_handle_goes_wherever_a_coroutine_does(asynchronous: None) -> None:
    handle = ops.add(1, 2)
    assert isinstance(handle, AsyncHandle)
    both = await asyncio.gather(handle.numpy(), asyncio.create_task(handle.numpy()))
    assert list(map(int, both)) == [3, 3]


def test_a_handle_is_made_by_ops_only() -> None:
    for cls in (Handle, EagerHandle, AsyncHandle):
        with pytest.raises(TypeError, match="made by ops"):
            cls()


# Facts that never wait


async def test_facts_of_a_pending_handle(gate: GateOp, asynchronous: None) -> None:
    handle = ops.matmul(gate(np.ones((2, 3), np.float32)), np.ones((3, 5)))
    assert handle.shape == (2, 5)
    assert handle.dtype == np.float64
    assert (handle.ndim, handle.size, handle.itemsize, handle.nbytes) == (2, 10, 8, 80)
    assert str(handle.device) == "CPU:0"
    assert len(handle) == 2
    assert not handle.is_ready()


async def test_a_dimension_that_depends_on_values_is_none_until_they_are_there(
    gate: GateOp, asynchronous: None
) -> None:
    x = gate(np.arange(6.0).reshape(2, 3))
    chosen = x[x > 2.5]
    doubled = ops.add(chosen, chosen)
    for handle in (chosen, doubled):
        assert handle.shape == (None,)
        assert (handle.ndim, handle.size, handle.nbytes) == (1, None, None)
        assert handle.dtype == np.float64
    gate.open()
    assert (await doubled).tolist() == [6, 8, 10]
    assert (chosen.shape, doubled.size) == ((3,), 3)


async def test_the_shape_of_unknown_code_is_a_clear_error_until_it_has_run(gate: GateOp, asynchronous: None) -> None:
    @engine.op
    def twice(x: np.ndarray) -> np.ndarray:
        return x * 2

    handle = ops.add(twice(gate(np.ones(2))), 1)
    with pytest.raises(engine.UnknownShapeError, match="twice"):
        _ = handle.shape
    with pytest.raises(ValueError, match="twice"):
        _ = handle.dtype
    gate.open()
    await handle
    assert handle.shape == (2,)


# Waiting


async def test_is_ready_becomes_true_and_stays(gate: GateOp, asynchronous: None) -> None:
    handle = gate(5)
    assert not handle.is_ready()
    gate.open()
    assert await handle.wait_ready() is handle
    assert handle.is_ready()
    assert handle.is_ready()


async def test_polling_is_ready_gets_there(asynchronous: None) -> None:
    handle = ops.add(1, 1)
    while not handle.is_ready():  # noqa: ASYNC110 - polling is what is tested
        await asyncio.sleep(0)
    assert await handle == 2


def test_polling_is_ready_off_the_loop_gets_there(asynchronous: None) -> None:
    handle = ops.add(1, 1)
    waiting = threading.Event()
    while not handle.is_ready():
        waiting.wait(0.0005)  # yields the interpreter: nobody sets it
    assert handle.result() == 2


async def test_wait_ready_raises_the_error_of_the_op(asynchronous: None) -> None:
    with pytest.raises(KeyError, match="boom"):
        await explode(1).wait_ready()


async def test_wait_ready_in_both_modes(mode: engine.ExecutionMode) -> None:
    handle = ops.add(1, 1)
    assert await handle.wait_ready() is handle


def test_result_blocks_in_plain_code(gate: GateOp, mode: engine.ExecutionMode) -> None:
    gate.open()
    assert ops.add(gate(np.arange(3)), 1).result().tolist() == [1, 2, 3]


def test_result_that_times_out_names_the_op_and_its_state(gate: GateOp, asynchronous: None) -> None:
    running = gate(1.0)
    assert gate.wait_entered(30)
    with pytest.raises(TimeoutError, match=r"'gate' on CPU:0.*test_handles.py.*running"):
        running.result(timeout=0.01)
    with pytest.raises(TimeoutError, match=r"'add' on CPU:0.*pending"):
        ops.add(running, 1).result(timeout=0)
    gate.open()
    assert running.result(timeout=30) == 1.0


def test_result_with_a_timeout_of_a_ready_handle_returns(mode: engine.ExecutionMode) -> None:
    handle = ops.add(1, 1)
    handle.result()
    assert handle.result(timeout=0) == 2


async def test_awaiting_twice_and_from_many_tasks(gate: GateOp, asynchronous: None) -> None:
    handle = ops.add(gate(np.arange(3)), 1)
    tasks = [asyncio.ensure_future(handle.wait_ready()) for _ in range(5)]
    await asyncio.sleep(0)
    gate.open()
    assert await asyncio.gather(*tasks) == [handle] * 5
    assert (await handle).tolist() == (await handle).tolist()


async def test_a_cancelled_waiter_disturbs_no_other_waiter_and_not_the_op(gate: GateOp, asynchronous: None) -> None:
    async def read(handle: Handle) -> float:
        return float((await handle).sum())

    handle = ops.add(gate(np.arange(3.0)), 1)
    tasks = [asyncio.ensure_future(read(handle)) for _ in range(3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[1]
    assert not tasks[0].done()
    assert not handle.is_ready()
    gate.open()
    assert await tasks[0] == await tasks[2] == 6.0


async def test_a_waiter_that_times_out_leaves_the_op_running(gate: GateOp, asynchronous: None) -> None:
    handle = gate(3)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await handle
    gate.open()
    assert await handle == 3


def test_a_handle_crosses_loops_and_threads(gate: GateOp, asynchronous: None) -> None:
    async def make() -> Handle:
        return ops.add(gate(np.arange(3)), 1)

    async def use(handle: Handle) -> list[int]:
        here = ops.multiply(handle, 2)
        return [int(each) for each in await here]

    handle = asyncio.run(make())
    gate.open()
    assert asyncio.run(use(handle)) == [2, 4, 6]
    seen: list[list[int]] = []
    thread = threading.Thread(target=lambda: seen.append(handle.result().tolist()))
    thread.start()
    thread.join()
    assert seen == [[1, 2, 3]]


async def test_a_handle_of_a_loop_that_runs_elsewhere_can_be_awaited(asynchronous: None) -> None:
    here = asyncio.get_running_loop()
    given: asyncio.Future[Handle] = here.create_future()
    done = threading.Event()

    async def elsewhere() -> None:
        here.call_soon_threadsafe(given.set_result, ops.add(np.arange(3), 1))
        while not done.is_set():  # noqa: ASYNC110 - it is set by another thread
            await asyncio.sleep(0.001)

    thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
    thread.start()
    try:
        handle = await given
        assert (await ops.add(handle, 1)).tolist() == [2, 3, 4]
    finally:
        done.set()
        thread.join()


async def test_dropping_a_handle_cancels_nothing(gate: GateOp, asynchronous: None) -> None:
    ran = []

    @engine.op
    def note(x: np.ndarray) -> np.ndarray:
        ran.append(1)
        return x

    note(gate(1))
    gc.collect()
    gate.open()
    await engine.synchronize()
    assert ran == [1]


async def test_values_go_with_their_last_handle(asynchronous: None) -> None:
    handle = ops.add(np.ones(3), 1)
    cell = weakref.ref(handle._cell)
    await handle
    del handle
    gc.collect()
    assert cell() is None


# Arrays handed out


async def test_arrays_handed_out_are_read_only_views_without_a_copy(mode: engine.ExecutionMode) -> None:
    handle = ops.add(np.arange(3.0), 1)
    first, second = await handle, await handle
    assert np.shares_memory(first, second)
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 7
    with pytest.raises(ValueError, match="WRITEABLE"):
        first.setflags(write=True)
    assert type(first) is np.ndarray


# gather, as_completed


async def test_gather_keeps_the_order_given(mode: engine.ExecutionMode) -> None:
    handles = [ops.add(np.arange(2), index) for index in range(5)]
    values = await engine.gather(*handles, handles[0])
    assert [value.tolist() for value in values] == [*([index, index + 1] for index in range(5)), [0, 1]]


async def test_gather_of_nothing() -> None:
    assert await engine.gather() == []


@pytest.mark.parametrize("wrong", [1, "h", None, np.ones(2)], ids=str)
async def test_gather_and_as_completed_refuse_what_is_no_handle(wrong: object, mode: engine.ExecutionMode) -> None:
    with pytest.raises(TypeError, match="argument 1 must be a handle"):
        await engine.gather(ops.add(1, 1), wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="argument 0 must be a handle"):
        async for _ in engine.as_completed([wrong]):  # type: ignore[list-item]
            pass


async def test_gather_raises_the_first_failure_and_the_others_go_on(gate: GateOp, asynchronous: None) -> None:
    async with engine.Executor(config=WIDE, execution_mode=engine.ASYNC):
        slow = gate(np.ones(2))
        with pytest.raises(KeyError, match="boom"):
            await engine.gather(slow, explode(1))
        assert not slow.is_ready()
        gate.open()
        assert (await slow).tolist() == [1, 1]


async def test_gather_cancelled_leaves_the_ops_alone(gate: GateOp, asynchronous: None) -> None:
    handle = ops.add(gate(1), 1)
    task = asyncio.ensure_future(engine.gather(handle))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.open()
    assert await handle == 2


async def test_as_completed_yields_in_the_order_of_completion() -> None:
    gates = [GateOp() for _ in range(3)]
    async with engine.Executor(config=WIDE, execution_mode=engine.ASYNC):
        handles = [gate(index) for index, gate in enumerate(gates)]
        order = []
        gates[2].open()
        async for handle in engine.as_completed(handles):
            order.append(int((await handle).item()))
            if len(order) < 3:
                gates[2 - len(order)].open()
    assert order == [2, 1, 0]


async def test_as_completed_yields_the_very_handles_failed_ones_and_duplicates_too(
    mode: engine.ExecutionMode,
) -> None:
    first = ops.add(1, 1)
    handles = [first, first, ops.add(2, 2)]
    if mode is engine.ASYNC:
        handles.append(explode(1))
    seen = [handle async for handle in engine.as_completed(iter(handles))]
    assert sorted(map(id, seen)) == sorted(map(id, handles))
    if mode is engine.ASYNC:
        with pytest.raises(KeyError):
            await handles[-1]


async def test_leaving_as_completed_early_leaves_no_waiter(gate: GateOp, asynchronous: None) -> None:
    async with engine.Executor(config=WIDE, execution_mode=engine.ASYNC):
        slow = gate(1)
        completions = engine.as_completed([slow, ops.add(1, 1)])
        async for _ in completions:
            break
        await completions.aclose()  # type: ignore[attr-defined]
        assert slow._cell.waiters is None
        gate.open()


# Cancelling


async def test_cancel_drops_what_is_queued(gate: GateOp, asynchronous: None) -> None:
    ran = []

    @engine.op
    def note(x: np.ndarray) -> np.ndarray:
        ran.append(1)
        return x

    held = gate(1)
    queued = note(2)
    dependent = ops.add(queued, 1)
    assert queued.cancel() is CancelOutcome.DROPPED
    assert queued.cancel() is CancelOutcome.TOO_LATE
    assert queued.is_ready()
    assert "cancelled" in repr(queued)
    gate.open()
    for handle in (queued, dependent, queued):
        with pytest.raises(engine.OpCancelledError, match="'note' was cancelled"):
            await handle
    assert await held == 1
    await engine.synchronize()  # a cancelled op is no failure
    assert ran == []


async def test_cancel_abandons_what_runs_and_the_device_stays_busy(gate: GateOp, asynchronous: None) -> None:
    config = engine.Config(inter_op_parallelism_threads=1)
    async with engine.Executor(config=config, execution_mode=engine.ASYNC) as executor:
        running = gate(np.ones(2))
        later = ops.add(1, 1)
        await asyncio.to_thread(gate.wait_entered)
        assert running.cancel() is CancelOutcome.ABANDONED
        with pytest.raises(engine.OpCancelledError):
            await running
        for _ in range(20):
            await asyncio.sleep(0)
        assert executor.statistics().running == 1
        assert not later.is_ready()
        gate.open()
        assert await later == 2
        with pytest.raises(engine.OpCancelledError):
            await running


async def test_independent_ops_pass_one_that_runs_on_though_it_was_abandoned(gate: GateOp, asynchronous: None) -> None:
    running = gate(np.ones(2))
    await asyncio.to_thread(gate.wait_entered)
    assert running.cancel() is CancelOutcome.ABANDONED
    assert await ops.add(1, 1) == 2
    with pytest.raises(engine.OpCancelledError):
        await (running + 1)


async def test_cancel_of_what_is_done_is_too_late(mode: engine.ExecutionMode) -> None:
    handle = ops.add(1, 1)
    await handle
    assert handle.cancel() is CancelOutcome.TOO_LATE
    assert await handle == 2


async def test_cancel_of_a_failed_op_is_too_late(asynchronous: None) -> None:
    handle = explode(1)
    with pytest.raises(KeyError):
        await handle
    assert handle.cancel() is CancelOutcome.TOO_LATE
    with pytest.raises(KeyError):
        await handle


async def test_cancel_wakes_who_waits(gate: GateOp, asynchronous: None) -> None:
    gate(1)
    handle = ops.add(1, 1)
    task = asyncio.ensure_future(handle.wait_ready())
    await asyncio.sleep(0)
    if handle.cancel() is CancelOutcome.DROPPED:
        with pytest.raises(engine.OpCancelledError):
            await task
    gate.open()


async def test_cancel_of_one_result_cancels_the_op_that_has_several(gate: GateOp, asynchronous: None) -> None:
    first, second = ops.split(gate(np.arange(4)), 2)
    assert first.cancel() is CancelOutcome.DROPPED
    gate.open()
    for handle in (first, second):
        with pytest.raises(engine.OpCancelledError, match="'split'"):
            await handle


async def test_cancelling_a_task_that_awaits_does_not_cancel_the_op(gate: GateOp, asynchronous: None) -> None:
    handle = gate(1)
    task = asyncio.ensure_future(handle.wait_ready())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.open()
    assert await handle == 1


# repr


async def test_repr_of_a_pending_handle(gate: GateOp, asynchronous: None) -> None:
    text = repr(ops.add(gate(np.ones((2, 3))), 1))
    assert text == "<AsyncHandle op=add device=CPU:0 state=pending shape=(2, 3) dtype=float64>"


async def test_repr_of_a_running_handle(gate: GateOp, asynchronous: None) -> None:
    handle = gate(np.ones(3))
    await asyncio.to_thread(gate.wait_entered)
    assert repr(handle) == "<AsyncHandle op=gate device=CPU:0 state=running shape=(3,) dtype=float64>"


async def test_repr_without_a_shape(gate: GateOp, asynchronous: None) -> None:
    assert repr(explode(gate(1))) == "<AsyncHandle op=explode device=CPU:0 state=pending>"
    gate.open()
    with pytest.raises(KeyError):
        await engine.synchronize()


MISMATCHES: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "add": (lambda x, y: x + y, "ValueError"),
    "matmul": (lambda x, y: x @ y, "ValueError"),
    "hstack": (lambda x, y: np.hstack([x, y]), "ValueError"),
    "sum": (lambda x, y: np.sum(x, axis=7), "AxisError"),
    "a dependent": (lambda x, y: (x + y) * 2, "ValueError"),
}


@pytest.mark.parametrize("name", MISMATCHES)
async def test_repr_says_what_the_op_will_fail_with(name: str, gate: GateOp) -> None:
    call, error = MISMATCHES[name]
    async with engine.Executor(execution_mode=engine.ASYNC):
        handle = call(gate(np.ones((3, 4))), ops.ones(5))
        assert f"state=pending error={error}: " in repr(handle)
        gate.open()
        with pytest.raises(ValueError):  # noqa: PT011 - NumPy has words of its own
            await handle


async def test_repr_of_a_ready_handle(mode: engine.ExecutionMode) -> None:
    handle = ops.add(np.arange(3), 1)
    await handle
    name = type(handle).__name__
    assert repr(handle) == f"<{name} op=add device=CPU:0 state=ready shape=(3,) dtype=int64 value=[1, 2, 3]>"
    assert str(handle) == f"{handle}" == repr(handle)


async def test_repr_of_a_large_value_is_short(mode: engine.ExecutionMode) -> None:
    handle = ops.add(np.arange(1_000_000.0).reshape(1000, 1000), 0.123456789)
    await handle
    text = repr(handle)
    assert "..." in text
    assert len(text) < 250
    assert "\n" not in text


async def test_repr_of_a_failed_and_of_a_cancelled_handle(gate: GateOp, asynchronous: None) -> None:
    failed = explode(1)
    with pytest.raises(KeyError):
        await failed
    text = repr(failed)
    assert "state=failed" in text
    assert "KeyError: 'boom'" in text
    gate(1)
    cancelled = ops.add(1, 1)
    cancelled.cancel()
    assert "state=cancelled" in repr(cancelled)
    gate.open()


async def test_repr_does_not_count_as_reading_a_failure(asynchronous: None) -> None:
    failed = explode(1)
    async for _ in engine.as_completed([failed]):
        pass
    repr(failed)
    with pytest.raises(KeyError):
        await engine.synchronize()


async def test_looking_at_the_shape_of_a_failed_handle_does_not_hide_the_failure(asynchronous: None) -> None:
    failed = ops.add(np.ones(2), explode(1))
    async for _ in engine.as_completed([failed]):
        pass
    repr(failed)
    with pytest.raises(KeyError):
        await engine.synchronize()


# h[k] = v


@pytest.mark.parametrize("writing", [engine.SYNC, engine.ASYNC], ids=lambda each: f"write-{each.name}")
@pytest.mark.parametrize("making", [engine.SYNC, engine.ASYNC], ids=lambda each: f"make-{each.name}")
def test_setitem_rebinds_the_handle_only(making: engine.ExecutionMode, writing: engine.ExecutionMode) -> None:
    engine.enable_eager_execution()
    with engine.execution_mode(making):
        handle = ops.asarray(np.arange(4))
        twin = copy.copy(handle)
        before = ops.add(handle, 0)
        view = handle[1:]
    with engine.execution_mode(writing):
        handle[1] = 10
        handle[2:] = ops.asarray([20, 30])
        after = ops.add(handle, 0)
    assert handle.result().tolist() == [0, 10, 20, 30]
    assert after.result().tolist() == [0, 10, 20, 30]
    assert before.result().tolist() == twin.result().tolist() == [0, 1, 2, 3]
    assert view.result().tolist() == [1, 2, 3]
    assert type(handle) is (EagerHandle if writing is engine.SYNC else AsyncHandle)


async def test_setitem_of_a_pending_handle_does_not_wait(gate: GateOp, asynchronous: None) -> None:
    handle = gate(np.zeros(3))
    handle[0] = 1
    handle += 1
    assert not handle.is_ready()
    assert handle.shape == (3,)
    gate.open()
    assert (await handle).tolist() == [2, 1, 1]


async def test_setitem_keeps_the_identity_and_the_hash(mode: engine.ExecutionMode) -> None:
    handle = ops.asarray(np.zeros(3))
    table = {handle: "here"}
    handle[0] = 1
    assert table[handle] == "here"
    assert (await handle).tolist() == [1, 0, 0]


async def test_setitem_never_writes_into_an_array_that_was_handed_out(mode: engine.ExecutionMode) -> None:
    handle = ops.asarray(np.zeros(3))
    seen = await handle
    handle[:] = 5
    assert (await handle).tolist() == [5, 5, 5]
    assert seen.tolist() == [0, 0, 0]


async def test_setitem_keeps_the_dtype(mode: engine.ExecutionMode) -> None:
    handle = ops.asarray(np.zeros(3, np.int32))
    handle[0] = 7
    assert handle.dtype == np.int32
    assert (await handle).dtype == np.int32


async def test_setitem_that_fails_in_async_mode_poisons_the_new_value_only(asynchronous: None) -> None:
    handle = ops.asarray(np.zeros(3))
    old = copy.copy(handle)
    handle[7] = 1
    with pytest.raises(IndexError):
        await handle
    assert (await old).tolist() == [0, 0, 0]


def test_setitem_that_fails_in_sync_mode_changes_nothing() -> None:
    engine.enable_eager_execution()
    handle = ops.asarray(np.zeros(3))
    with pytest.raises(IndexError):
        handle[7] = 1
    assert handle.result().tolist() == [0, 0, 0]


# Equality and identity


async def test_equality_is_elementwise_and_hash_is_identity(mode: engine.ExecutionMode) -> None:
    first, second = ops.asarray([1, 2, 3]), ops.asarray([1, 0, 3])
    same = first == second
    other = first != second
    assert isinstance(same, Handle)
    assert (await same).tolist() == [True, False, True]
    assert (await other).tolist() == [False, True, False]
    assert hash(first) == hash(first)
    assert len({first, second, first}) == 2


async def test_each_element_differs_from_what_is_no_array(mode: engine.ExecutionMode) -> None:
    handle = ops.asarray([1, 2])
    text: Any = handle == "text"
    thing: Any = handle != object()
    assert (await text).tolist() == [False, False]
    assert (await thing).tolist() == [True, True]


@pytest.mark.parametrize("dtype", ["?", "b", "u4", "f4", "d", "F", "D"])
async def test_the_conjugate_keeps_the_dtype(dtype: str, mode: engine.ExecutionMode) -> None:
    x = np.array([0, 1, 3]).astype(dtype) * np.array(1 if dtype not in "FD" else 1j, dtype)
    for result in (ops.asarray(x).conj(), ops.asarray(x).conjugate()):
        assert (result.dtype, result.shape) == (x.dtype, x.shape)
        value = await result
        assert value.dtype == x.conj().dtype
        assert value.tolist() == x.conj().tolist()


# Copies and pickles


@pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
async def test_copies_show_the_same_value_and_are_rebound_apart(copier: type, mode: engine.ExecutionMode) -> None:
    handle = ops.asarray(np.arange(3))
    twin = copier(handle)
    assert type(twin) is type(handle)
    twin[0] = 9
    assert (await handle).tolist() == [0, 1, 2]
    assert (await twin).tolist() == [9, 1, 2]


async def test_copies_of_a_pending_handle_do_not_wait(gate: GateOp, asynchronous: None) -> None:
    handle = gate(np.ones(2))
    twins = copy.deepcopy([handle, handle])
    assert not twins[0].is_ready()
    gate.open()
    assert (await twins[0]).tolist() == [1, 1]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
async def test_a_ready_handle_is_pickled_by_value(protocol: int, mode: engine.ExecutionMode) -> None:
    handle = ops.add(np.arange(6.0).reshape(2, 3), 1)
    await handle
    data = pickle.dumps(handle, protocol)
    engine.disable_eager_execution()
    twin = pickle.loads(data)  # also where eager execution is off
    assert isinstance(twin, EagerHandle)
    assert twin.is_ready()
    assert np.array_equal(twin.numpy(), await handle)
    assert (twin.dtype, twin.shape, str(twin.device)) == (np.dtype(np.float64), (2, 3), "CPU:0")
    with pytest.raises(ValueError, match="read-only"):
        twin.numpy()[0] = 1


async def test_an_unpickled_handle_is_an_operand(mode: engine.ExecutionMode) -> None:
    handle = ops.add(np.arange(3), 1)
    await handle
    twin = pickle.loads(pickle.dumps(handle))
    assert (await (twin + handle)).tolist() == [2, 4, 6]
    twin[0] = 5
    assert (await twin).tolist() == [5, 2, 3]


async def test_a_pending_handle_is_not_pickled(gate: GateOp, asynchronous: None) -> None:
    with pytest.raises(ValueError, match=r"only ready handles can be pickled.*'gate'"):
        pickle.dumps(gate(1))


async def test_pickling_a_failed_handle_raises_its_error(asynchronous: None) -> None:
    handle = explode(1)
    with pytest.raises(KeyError):
        await handle
    with pytest.raises(KeyError, match="boom"):
        pickle.dumps(handle)


# Other devices


async def test_to_device_copies_and_the_handle_stays(mode: engine.ExecutionMode) -> None:
    async with engine.Executor(config=engine.Config(device_count={"CPU": 2}), execution_mode=mode):
        handle = ops.add(np.arange(3), 1)
        there = handle.to_device("CPU:1")
        assert (str(handle.device), str(there.device)) == ("CPU:0", "CPU:1")
        assert (await there).tolist() == [1, 2, 3]
        assert str(ops.add(there, 1).device) == "CPU:1"


def test_to_device_refuses_streams_and_names_that_are_none(mode: engine.ExecutionMode) -> None:
    handle = ops.add(1, 1)
    with pytest.raises(ValueError, match="stream"):
        handle.to_device("CPU:0", stream=1)
    with pytest.raises(ValueError, match="nonsense"):
        handle.to_device("nonsense")
