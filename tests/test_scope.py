"""`engine.scope()`: a task group for ops, that fails, times out and is cancelled as anyio's and asyncio's own are."""

import asyncio
import contextlib
import inspect
import threading
from collections.abc import Callable
from typing import Any

import anyio
import numpy as np
import pytest

import engine
from engine import ops
from engine.dispatch.executor import Core
from engine.settings.scope import scope_var
from engine.testing import GateOp
from handles import Handle
from tests.common import explode
from tests.interrupts import Interrupt


@pytest.fixture(autouse=True)
def two_devices(fresh_engine: None) -> None:
    """ASYNC mode for the whole program, with two devices."""
    config = engine.Config(device_count={"CPU": 2})
    engine.enable_eager_execution(config=config, execution_mode=engine.ASYNC)


async def entered(gate: GateOp) -> None:
    """Wait until a kernel of the gate runs."""
    await asyncio.to_thread(gate.wait_entered)


def leaves(group: BaseExceptionGroup[BaseException]) -> list[str]:
    """The errors of a group, at any depth."""
    names = []
    for error in group.exceptions:
        names += leaves(error) if isinstance(error, BaseExceptionGroup) else [str(error)]
    return sorted(names)


def current_task_is_cancelled() -> bool:
    """Whether a cancellation of this task is outstanding."""
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling() > 0


# The quiet end


async def test_leaving_waits_for_all_ops_dispatched_inside(gate: GateOp) -> None:
    async def opener() -> None:
        await entered(gate)
        gate.open()

    opening = asyncio.ensure_future(opener())
    async with engine.scope():
        held = gate(1.0)
        after = held + 1
        with engine.device("CPU:1"):
            other = ops.asarray(3.0) * 2
    assert held.is_ready()
    assert after.is_ready()
    assert other.is_ready()
    assert float(await after) == 2.0
    await opening


async def test_a_scope_without_ops_is_left_at_once() -> None:
    async with engine.scope(timeout=0) as scope:
        assert scope.in_flight == 0
    async with engine.scope():
        pass


async def test_ops_of_sync_mode_are_done_when_they_are_called() -> None:
    with engine.execution_mode(engine.SYNC):
        async with engine.scope():
            x = ops.asarray(1) + 1
            assert float(await x) == 2
        with pytest.raises(ExceptionGroup) as info:
            async with engine.scope():
                explode(1)
        assert leaves(info.value) == ["'boom'"]


async def test_an_op_that_nobody_waits_for_is_not_demanded_because_it_is_in_a_scope(gate: GateOp) -> None:
    async with engine.scope() as scope:
        held = gate(1.0)
        handle = held + 1.0
        assert scope.in_flight == 2
        assert handle._cell.waiters is None
        gate.open()
        assert await handle == 2.0
    assert handle._cell.group is None
    assert scope.in_flight == 0


@pytest.mark.parametrize("step", range(9))
@pytest.mark.parametrize(
    "dispatch",
    [
        lambda: ops.add(1.0, 2.0),
        lambda: ops.where(True, ops.asarray(1.0), 2.0),
        lambda: ops.matmul(np.ones((2, 3)), np.ones((2, 3))),
    ],
    ids=["brief", "simple", "failed"],
)
async def test_an_interrupt_while_an_op_ends_leaves_none_to_be_waited_for(
    dispatch: Callable[[], Handle], step: int
) -> None:
    """Whatever stands between a value and its scope, the next drive makes up for it."""
    with contextlib.suppress(BaseExceptionGroup):
        async with engine.scope() as scope:
            handle = dispatch()
            queue: Any = handle._cell.home
            with Interrupt(step + 1, within={"settle", "tell_group", "note"}):
                queue.drive(60.0)
            queue.drive(60.0)
            left = scope.in_flight
            if left:
                scope.cancel()  # or it would wait for ever
    assert handle._cell.state in ("ready", "failed")
    assert handle._cell.group is None
    assert left == 0


async def test_only_ops_dispatched_inside_are_waited_for(gate: GateOp) -> None:
    with engine.device("CPU:1"):
        outside = gate(1.0)
    async with engine.scope():
        inside = ops.asarray(1.0) + 1
    assert inside.is_ready()
    assert not outside.is_ready()
    gate.open()
    await outside


async def test_a_scope_is_entered_once() -> None:
    scope = engine.scope()
    async with scope:
        pass
    with pytest.raises(RuntimeError, match="entered once"):
        async with scope:
            pass


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_a_timeout_that_is_none_is_refused(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        engine.scope(timeout=timeout)


# Failures


async def test_a_failing_op_comes_out_in_a_group_and_drops_the_rest(gate: GateOp) -> None:
    with pytest.raises(ExceptionGroup) as info:
        async with engine.scope():
            explode(1)
            with engine.device("CPU:1"):
                running = gate(1.0)
                queued = running + 1
    assert leaves(info.value) == ["'boom'"]
    assert "dispatched at" in info.value.exceptions[0].__notes__[0]
    for handle in (running, queued):
        with pytest.raises(engine.OpCancelledError, match="failed"):
            await handle
    gate.open()
    await engine.synchronize()


async def test_dependents_of_a_failed_op_bring_no_further_error() -> None:
    with pytest.raises(ExceptionGroup) as info:
        async with engine.scope():
            bad = explode(1)
            _ = [bad + index for index in range(10)]
    assert leaves(info.value) == ["'boom'"]
    await engine.synchronize()


async def test_a_failure_that_the_body_was_told_of_is_in_the_group_once() -> None:
    with pytest.raises(ExceptionGroup) as info:
        async with engine.scope():
            await explode(1)
    assert leaves(info.value) == ["'boom'"]
    await engine.synchronize()


async def test_a_failure_that_child_tasks_were_told_of_is_in_the_group_once() -> None:
    with pytest.raises(ExceptionGroup) as info:
        async with engine.scope():
            bad = explode(1)

            async def read() -> None:
                await bad

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(read())
                tasks.create_task(read())
    assert set(leaves(info.value)) == {"'boom'"}
    await engine.synchronize()


async def test_failures_of_the_body_and_of_ops_come_out_together() -> None:
    with pytest.raises(ExceptionGroup) as info:
        async with engine.scope():
            explode(1, "of an op")
            try:
                await asyncio.Event().wait()
            finally:
                raise ValueError("of the body")
    assert leaves(info.value) == ["'of an op'", "of the body"]
    await engine.synchronize()


async def test_an_exception_in_the_body_drops_what_has_not_started(gate: GateOp) -> None:
    with pytest.raises(ExceptionGroup) as info:
        async with engine.scope():
            running = gate(1.0)
            queued = running + 1
            await entered(gate)
            raise ValueError("body")
    assert leaves(info.value) == ["body"]
    with pytest.raises(engine.OpCancelledError, match="scope was left"):
        await queued
    with pytest.raises(engine.OpCancelledError):
        await running
    gate.open()
    await engine.synchronize()


async def test_a_failure_interrupts_a_body_that_awaits_something_else() -> None:
    with pytest.raises(ExceptionGroup) as info:
        async with engine.scope():
            explode(1)
            await asyncio.Event().wait()
    assert leaves(info.value) == ["'boom'"]


async def test_failures_at_once_all_come_out_or_are_cancelled(gate: GateOp) -> None:
    with pytest.raises(ExceptionGroup) as info:
        async with engine.scope():
            for index in range(2):
                with engine.device(f"CPU:{index}"):
                    explode(gate(1.0), str(index))
            gate.open()
    assert set(leaves(info.value)) <= {"'0'", "'1'"}
    await engine.synchronize()


async def test_a_cancelled_op_is_no_failure_of_the_scope(gate: GateOp) -> None:
    async with engine.scope():
        with engine.device("CPU:1"):
            held = gate(1.0)
            dropped = held + 1
        fine = ops.asarray(1.0) + 1
        assert dropped.cancel() is engine.CancelOutcome.DROPPED
        gate.open()
    assert float(await fine) == 2.0


async def test_a_base_exception_of_the_body_is_not_swallowed() -> None:
    class Halt(BaseException):
        pass

    with pytest.raises(BaseExceptionGroup) as info:
        async with engine.scope():
            raise Halt
    assert isinstance(info.value.exceptions[0], Halt)


# Deadlines and cancellation


async def test_a_timeout_abandons_what_runs_and_drops_the_rest(gate: GateOp) -> None:
    place = r"dispatched at .*test_scope\.py:\d+ in .*; it is (running|pending); those not started were dropped"
    with pytest.raises(TimeoutError, match=rf"0\.01 s: op 'gate' on CPU:0, {place}"):
        async with engine.scope(timeout=0.01):
            running = gate(1.0)
            queued = running + 1
    with pytest.raises(engine.OpCancelledError):
        await queued
    assert running.is_ready()
    gate.open()
    await engine.synchronize()


async def test_a_timeout_interrupts_the_body() -> None:
    with pytest.raises(TimeoutError, match=r"the block of a scope had not ended after 0\.01 s"):
        async with engine.scope(timeout=0.01):
            await asyncio.Event().wait()


async def test_cancel_leaves_the_block_in_silence(gate: GateOp) -> None:
    async with engine.scope() as scope:
        running = gate(1.0)
        queued = running + 1
        await entered(gate)
        scope.cancel()
        assert scope.cancelled
        assert queued.is_ready()
        await asyncio.Event().wait()
    with pytest.raises(engine.OpCancelledError, match="scope was cancelled"):
        await queued
    gate.open()
    await engine.synchronize()


async def test_ops_dispatched_after_cancel_are_dropped_when_the_block_is_left(gate: GateOp) -> None:
    async with engine.scope() as scope:
        scope.cancel()
        late = gate(1.0)
    with pytest.raises(engine.OpCancelledError):
        await late
    gate.open()


async def test_a_scope_cancelled_before_it_is_entered_ends_at_once() -> None:
    scope = engine.scope()
    scope.cancel()
    async with scope:
        await asyncio.Event().wait()


async def test_cancel_works_from_another_thread(gate: GateOp) -> None:
    async with engine.scope() as scope:
        held = gate(1.0)
        await asyncio.to_thread(scope.cancel)
        await asyncio.Event().wait()
    with pytest.raises(engine.OpCancelledError):
        await held
    gate.open()


async def test_a_cancelled_task_drops_what_has_not_started(gate: GateOp) -> None:
    handles = []

    async def work() -> None:
        async with engine.scope():
            handles.append(gate(1.0))
            handles.append(handles[0] + 1)

    task = asyncio.ensure_future(work())
    await entered(gate)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    with pytest.raises(engine.OpCancelledError):
        await handles[1]
    gate.open()
    await engine.synchronize()


def shut_by_anyio() -> Any:
    return anyio.fail_after(0.01)


def shut_by_asyncio() -> Any:
    return asyncio.timeout(0.01)


@pytest.mark.parametrize("deadline", [shut_by_anyio, shut_by_asyncio])
async def test_deadlines_around_a_scope_drop_its_ops(gate: GateOp, deadline: Callable[[], Any]) -> None:
    manager = deadline()
    with pytest.raises(TimeoutError):
        async with contextlib.AsyncExitStack() as stack:
            if hasattr(manager, "__aenter__"):
                await stack.enter_async_context(manager)
            else:
                stack.enter_context(manager)
            async with engine.scope():
                running = gate(1.0)
                queued = running + 1
    with pytest.raises(engine.OpCancelledError):
        await queued
    gate.open()
    await engine.synchronize()


async def test_move_on_after_around_a_scope_moves_on(gate: GateOp) -> None:
    with anyio.move_on_after(0.01) as moved:
        async with engine.scope():
            held = gate(1.0)
    assert moved.cancelled_caught
    assert held.is_ready()
    gate.open()


async def test_wait_for_around_a_scope_times_out(gate: GateOp) -> None:
    handles = []

    async def work() -> None:
        async with engine.scope():
            handles.append(gate(1.0))

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(work(), 0.01)
    assert handles[0].is_ready()
    gate.open()


async def test_task_groups_around_scopes_cancel_them(gate: GateOp) -> None:
    handles = []

    async def work() -> None:
        async with engine.scope():
            handles.append(gate(1.0))

    async def fail() -> None:
        await entered(gate)
        raise ValueError("sibling")

    with pytest.raises(ExceptionGroup) as info:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(work())
            tasks.create_task(fail())
    assert leaves(info.value) == ["sibling"]
    assert handles[0].is_ready()
    with pytest.raises(ExceptionGroup) as info:
        async with anyio.create_task_group() as group:
            group.start_soon(work)
            group.start_soon(fail)
    assert leaves(info.value) == ["sibling"]
    gate.open()


async def test_an_op_failing_in_a_scope_cancels_the_task_group_around_it() -> None:
    async def work() -> None:
        async with engine.scope():
            explode(1)

    with pytest.raises(ExceptionGroup) as info:
        async with anyio.create_task_group() as group:
            group.start_soon(work)
            group.start_soon(anyio.sleep_forever)
    assert leaves(info.value) == ["'boom'"]
    await engine.synchronize()


async def test_a_task_group_inside_a_scope_is_cancelled_with_it() -> None:
    ended = []

    async def forever() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(True)

    with pytest.raises(TimeoutError):
        async with engine.scope(timeout=0.01), asyncio.TaskGroup() as tasks:
            tasks.create_task(forever())
    assert ended == [True]


# Priority and admission


class Door:
    """Stands for the admission of an executor: notes who asks, and lets them in when it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, bool]] = []
        self.knocked = asyncio.Event()
        self.opened = asyncio.Event()

    async def admit(self, core: Core, priority: int, wait: bool) -> None:
        self.asked.append((priority, wait))
        self.knocked.set()
        if not wait and not self.opened.is_set():
            raise engine.QueueFullError("full")
        await self.opened.wait()


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Door:
    door = Door()

    async def admit(self: Core, priority: int, wait: bool) -> None:
        await door.admit(self, priority, wait)

    monkeypatch.setattr(Core, "admit", admit)
    return door


@pytest.mark.parametrize("priority", [True, False, 1.5, "high", None, [1]], ids=repr)
def test_a_priority_that_is_no_integer_is_refused_at_the_call(priority: Any) -> None:
    with pytest.raises(TypeError, match=r"priority must be an integer .* but got"):
        engine.scope(priority=priority)


@pytest.mark.parametrize("wait", [1, 0, None, "no"], ids=repr)
def test_a_wait_that_is_no_bool_is_refused_at_the_call(wait: Any) -> None:
    with pytest.raises(TypeError, match=r"wait must be True .* or False .* but got"):
        engine.scope(wait=wait)


def test_priority_and_wait_are_given_by_name() -> None:
    parameters = inspect.signature(engine.scope).parameters
    assert [repr(parameters[name].default) for name in ("timeout", "priority", "wait")] == ["None", "0", "True"]
    with pytest.raises(TypeError, match="positional"):
        engine.scope(1.0, 2)  # type: ignore[call-arg]


async def test_the_priority_is_that_of_the_innermost_scope_that_names_one() -> None:
    int_like: Any = np.int64(-2)

    def now() -> int:
        return scope_var.get().priority

    assert now() == 0
    async with engine.scope():
        assert now() == 0
    async with engine.scope(priority=3):
        assert now() == 3
        async with engine.scope():
            assert now() == 3
            assert await asyncio.to_thread(now) == 3
            async with engine.scope(priority=0):
                assert now() == 0
            async with engine.scope(priority=int_like):
                assert now() == -2
            async with engine.Executor(execution_mode=engine.ASYNC):
                assert now() == 0
        assert now() == 3
    assert now() == 0


async def test_entering_asks_the_executor_in_force_for_room(door: Door) -> None:
    door.opened.set()
    async with engine.scope(priority=5):
        pass
    assert door.asked == []  # nothing is queued where no op was dispatched
    await (ops.asarray(1) + 1)
    async with engine.scope(priority=5), engine.scope(), engine.scope(priority=1, wait=False):
        pass
    assert door.asked == [(5, True), (5, True), (1, False)]
    del door.asked[:]
    async with engine.Executor(execution_mode=engine.ASYNC), engine.scope():
        pass
    assert door.asked == [(0, True)]
    with engine.execution_mode(engine.SYNC):
        async with engine.scope():
            pass
    with engine.Graph().as_default():
        async with engine.scope():
            pass
    assert door.asked == [(0, True)]


async def test_a_scope_that_waits_for_room_has_not_begun(door: Door) -> None:
    inside = asyncio.Event()

    async def work() -> Any:
        async with engine.scope():
            inside.set()
            return await (ops.asarray(1) + 1)

    await (ops.asarray(1) + 1)
    task = asyncio.ensure_future(work())
    await door.knocked.wait()
    assert not inside.is_set()
    door.opened.set()
    assert int(await task) == 2


async def test_without_waiting_a_full_executor_is_an_error(door: Door) -> None:
    await (ops.asarray(1) + 1)
    with pytest.raises(engine.QueueFullError, match="full"):
        async with engine.scope(wait=False):
            raise AssertionError("entered")
    assert scope_var.get().group is None


async def test_the_timeout_counts_while_a_scope_waits_for_room(door: Door) -> None:
    await (ops.asarray(1) + 1)
    with pytest.raises(TimeoutError, match=r"not entered after 0\.01 s"):
        async with engine.scope(timeout=0.01):
            raise AssertionError("entered")
    assert not current_task_is_cancelled()


async def test_cancel_ends_a_scope_that_waits_for_room_in_silence(door: Door) -> None:
    await (ops.asarray(1) + 1)
    scope = engine.scope()
    asyncio.get_running_loop().call_soon(scope.cancel)
    async with scope:
        await asyncio.Event().wait()
    assert not current_task_is_cancelled()


async def test_a_task_that_waits_for_room_can_be_cancelled(door: Door) -> None:
    async def work() -> None:
        async with engine.scope(timeout=100):
            raise AssertionError("entered")

    await (ops.asarray(1) + 1)
    task = asyncio.ensure_future(work())
    await door.knocked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# Nesting, inheritance and the time after


async def test_the_inner_scope_has_its_own_ops(gate: GateOp) -> None:
    async with engine.scope() as outer:
        with engine.device("CPU:1"):
            held = gate(1.0)
        async with engine.scope() as inner:
            quick = ops.asarray(1.0) + 1
            assert inner.in_flight == 2
        assert quick.is_ready()
        assert not held.is_ready()
        assert outer.in_flight == 1
        gate.open()
    assert held.is_ready()


async def test_a_failure_of_the_inner_scope_ends_the_outer_one(gate: GateOp) -> None:
    with pytest.raises(ExceptionGroup) as info:
        async with engine.scope():
            with engine.device("CPU:1"):
                held = gate(1.0)
            async with engine.scope():
                explode(1)
    assert leaves(info.value) == ["'boom'"]
    assert held.is_ready()
    gate.open()
    await engine.synchronize()


async def test_a_timeout_of_the_outer_scope_ends_the_inner_one(gate: GateOp) -> None:
    with pytest.raises(TimeoutError):
        async with engine.scope(timeout=0.01):
            before = gate(1.0)
            async with engine.scope():
                inside = gate(1.0)
    assert before.is_ready()
    assert inside.is_ready()
    gate.open()


async def test_a_timeout_of_the_inner_scope_can_be_caught_inside_the_outer_one(gate: GateOp) -> None:
    async with engine.scope():
        with pytest.raises(TimeoutError):
            async with engine.scope(timeout=0.01):
                gate(1.0)
        gate.open()
        x = ops.asarray(1) + 1
    assert float(await x) == 2


async def test_child_tasks_inherit_the_scope(gate: GateOp) -> None:
    async def child() -> Any:
        return gate(1.0)

    with pytest.raises(TimeoutError):
        async with engine.scope(timeout=0.1) as scope:
            held = await asyncio.ensure_future(child())
            assert scope.in_flight == 1
    assert held.is_ready()
    gate.open()


async def test_threads_inherit_the_scope(gate: GateOp) -> None:
    async with engine.scope() as scope:
        held = await asyncio.to_thread(gate, 1.0)
        assert scope.in_flight == 1
        gate.open()
    assert held.is_ready()


async def test_tasks_that_outlive_the_scope_count_in_the_one_around_it(gate: GateOp) -> None:
    go = asyncio.Event()

    async def child() -> Any:
        x = ops.asarray(1.0) + 1
        await x
        await go.wait()
        return gate(1.0)

    async with engine.scope() as outer:
        async with engine.scope():
            late = asyncio.ensure_future(child())
            await asyncio.sleep(0)
        go.set()
        held = await late
        assert outer.in_flight == 1
        gate.open()
    assert held.is_ready()


async def test_tasks_that_outlive_every_scope_go_on_as_if_there_were_none() -> None:
    go = asyncio.Event()

    async def child() -> Any:
        await go.wait()
        return ops.asarray(1.0) + 1

    async with engine.scope() as scope:
        late = asyncio.ensure_future(child())
        await asyncio.sleep(0)
    go.set()
    handle = await late
    assert scope.in_flight == 0
    assert float(await handle) == 2.0


async def test_scopes_side_by_side_do_not_mix(gate: GateOp) -> None:
    async def fails() -> None:
        async with engine.scope():
            explode(1)

    async def holds() -> Any:
        async with engine.scope():
            with engine.device("CPU:1"):
                return gate(1.0)

    holding = asyncio.ensure_future(holds())
    with pytest.raises(ExceptionGroup):
        await fails()
    assert not holding.done()
    gate.open()
    assert float(await (await holding)) == 1.0
    await engine.synchronize()


async def test_async_ops_of_a_scope_are_cancelled_with_it() -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    @engine.op
    async def forever(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return x

    with pytest.raises(TimeoutError):
        async with engine.scope(timeout=0.01):
            handle = forever(np.ones(2))
    with pytest.raises(engine.OpCancelledError):
        await handle
    if started.is_set():
        await ended.wait()
    await engine.synchronize()


async def test_failures_of_a_scope_are_not_reported_again_by_a_barrier() -> None:
    with pytest.raises(ExceptionGroup):
        async with engine.scope():
            bad = explode(1)
    await engine.synchronize()
    for _ in range(2):
        with pytest.raises(KeyError):
            await bad


async def test_an_executor_inside_a_scope_keeps_its_ops_to_itself() -> None:
    async with engine.scope() as scope, engine.Executor(execution_mode=engine.ASYNC):
        x = ops.asarray(1.0) + 1
        assert scope.in_flight == 0
        assert float(await x) == 2.0


async def test_leaving_a_scope_works_off_the_queue_of_a_loop_that_is_blocked() -> None:
    handed: asyncio.Future[engine.Executor] = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()
    release = threading.Event()

    async def owner() -> None:
        async with engine.Executor(execution_mode=engine.ASYNC) as executor:
            loop.call_soon_threadsafe(handed.set_result, executor)
            release.wait()  # blocks its loop on purpose

    thread = threading.Thread(target=lambda: asyncio.run(owner()))
    thread.start()
    try:
        executor = await handed
        with executor.as_default():
            async with engine.scope() as scope:
                x = ops.asarray(0)
                for _ in range(5_000):
                    x = x + 1
                assert scope.in_flight == 5_001
        assert int(await x) == 5_000
    finally:
        release.set()
        await asyncio.to_thread(thread.join)


async def test_leaving_waits_no_longer_than_the_operation_timeout() -> None:
    gate = engine.testing.GateOp()
    config = engine.Config(operation_timeout_in_ms=30)
    async with engine.Executor(config=config, execution_mode=engine.ASYNC):
        with pytest.raises(TimeoutError, match=r"op 'gate' .*it is running"):
            async with engine.scope():
                held = gate(1.0)
                queued = ops.add(held, 3.0)
                await asyncio.to_thread(gate.wait_entered, 30)
        gate.open()
        for handle in (held, queued):
            with pytest.raises(engine.OpCancelledError):
                await handle
