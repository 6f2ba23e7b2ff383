"""Scopes, executors of one's own, and the default executors of loops and threads: who gets an op, and until when."""

import asyncio
import contextvars
import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.runtime.current import current_core
from engine.testing import GateOp
from handles import AsyncHandle, EagerHandle

OTHER = engine.Config(max_pending_ops=10)
BY_MODE = {engine.SYNC: EagerHandle, engine.ASYNC: AsyncHandle}


class Boom(Exception):
    """What the bodies and kernels of these tests fail with."""


@engine.op
def explode() -> np.ndarray:
    raise Boom("kernel")


# Modes


def test_a_mode_scope_changes_what_ops_return(mode: engine.ExecutionMode) -> None:
    for inner in engine.ExecutionMode:
        with engine.execution_mode(inner):
            assert engine.get_execution_mode() is inner
            assert type(ops.add(1, 2)) is BY_MODE[inner]
        assert engine.get_execution_mode() is mode
        assert type(ops.add(1, 2)) is BY_MODE[mode]


def test_the_innermost_mode_counts(mode: engine.ExecutionMode) -> None:
    with engine.execution_mode(engine.ASYNC), engine.execution_mode(engine.SYNC):
        with engine.execution_mode(engine.ASYNC):
            assert type(ops.add(1, 2)) is AsyncHandle
        assert type(ops.add(1, 2)) is EagerHandle


def test_a_mode_scope_ends_by_an_exception_too(mode: engine.ExecutionMode) -> None:
    other = engine.ASYNC if mode is engine.SYNC else engine.SYNC
    with pytest.raises(Boom), engine.execution_mode(other):
        raise Boom
    assert engine.get_execution_mode() is mode


@pytest.mark.parametrize("bad", [None, 0, 1, True, "ASYNC", engine.DevicePolicy.WARN], ids=repr)
def test_what_is_no_mode_is_refused_at_once(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"mode must be one of .*SYNC, .*ASYNC"):
        engine.execution_mode(bad)


def test_values_pass_between_modes(mode: engine.ExecutionMode) -> None:
    with engine.execution_mode(engine.ASYNC):
        x = ops.add(1, 2)
    with engine.execution_mode(engine.SYNC):
        y = x * 2
    with engine.execution_mode(engine.ASYNC):
        assert (y + x).result() == 9


async def test_scopes_belong_to_their_task(mode: engine.ExecutionMode) -> None:
    turn = asyncio.Barrier(2)

    async def run(inner: engine.ExecutionMode) -> None:
        with engine.execution_mode(inner):
            await turn.wait()
            assert type(ops.add(1, 2)) is BY_MODE[inner]
            await turn.wait()

    await asyncio.gather(run(engine.SYNC), run(engine.ASYNC))
    assert engine.get_execution_mode() is mode


async def test_tasks_started_inside_a_scope_keep_it(mode: engine.ExecutionMode) -> None:
    left = asyncio.Event()

    async def run() -> None:
        await left.wait()
        assert engine.get_execution_mode() is other

    other = engine.ASYNC if mode is engine.SYNC else engine.SYNC
    with engine.execution_mode(other):
        task = asyncio.create_task(run())
    left.set()
    await task


async def test_scopes_follow_into_to_thread_but_not_into_plain_threads(mode: engine.ExecutionMode) -> None:
    other = engine.ASYNC if mode is engine.SYNC else engine.SYNC
    with engine.execution_mode(other):
        assert await asyncio.to_thread(lambda: type(ops.add(1, 2))) is BY_MODE[other]
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(lambda: type(ops.add(1, 2))).result() is BY_MODE[mode]


def test_scopes_alone_enable_nothing() -> None:
    with engine.execution_mode(engine.ASYNC), engine.device_policy(engine.DevicePolicy.WARN), engine.device("CPU:0"):
        assert not engine.executing_eagerly()
        assert engine.get_execution_mode() is None
        assert engine.get_device_policy() is None


def test_a_scope_left_in_another_context_is_taken_back_there(mode: engine.ExecutionMode) -> None:
    scope = engine.execution_mode(engine.ASYNC if mode is engine.SYNC else engine.SYNC)
    contextvars.copy_context().run(scope.__enter__)
    assert engine.get_execution_mode() is mode
    scope.__exit__(None, None, None)
    assert engine.get_execution_mode() is mode


# Executors of one's own


def test_inside_an_executor_ops_are_eager_whatever_the_program_enabled() -> None:
    with engine.Executor() as executor:
        assert engine.executing_eagerly()
        assert executor.state == "open"
        assert type(ops.add(1, 2)) is EagerHandle
    assert not engine.executing_eagerly()
    assert engine.get_config() is None


async def test_inside_an_executor_ops_are_eager_on_a_loop_too() -> None:
    async with engine.Executor(execution_mode=engine.ASYNC):
        handle = ops.add(1, 2)
        assert type(handle) is AsyncHandle
        assert await handle == 3
    assert not engine.executing_eagerly()


def test_the_options_of_an_executor_win_inside_it(mode: engine.ExecutionMode) -> None:
    other = engine.ASYNC if mode is engine.SYNC else engine.SYNC
    with engine.Executor(OTHER, engine.DevicePolicy.EXPLICIT, other):
        assert engine.get_config() == OTHER
        assert engine.get_device_policy() is engine.DevicePolicy.EXPLICIT
        assert engine.get_execution_mode() is other
        assert type(ops.add(1, 2)) is BY_MODE[other]
        with engine.execution_mode(mode), engine.device_policy(engine.DevicePolicy.WARN):
            assert engine.get_device_policy() is engine.DevicePolicy.WARN
            assert type(ops.add(1, 2)) is BY_MODE[mode]
    assert engine.get_config() == engine.Config()
    assert engine.get_execution_mode() is mode


def test_options_of_an_executor_that_are_none_are_those_of_the_program() -> None:
    engine.enable_eager_execution(OTHER, engine.DevicePolicy.WARN, engine.ASYNC)
    with engine.Executor():
        assert engine.get_config() == OTHER
        assert engine.get_device_policy() is engine.DevicePolicy.WARN
        assert engine.get_execution_mode() is engine.ASYNC


def test_without_a_program_they_are_the_automatic_ones() -> None:
    with engine.Executor():
        assert engine.get_config() == engine.Config()
        assert engine.get_device_policy() is engine.DevicePolicy.SILENT
        assert engine.get_execution_mode() is engine.SYNC


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"config": {}}, TypeError),
        ({"device_policy": 7}, ValueError),
        ({"device_policy": True}, ValueError),
        ({"execution_mode": "async"}, ValueError),
        ({"execution_mode": True}, ValueError),
        ({"mode": engine.SYNC}, TypeError),
    ],
    ids=str,
)
def test_an_executor_refuses_what_enabling_refuses(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        engine.Executor(**options)


def test_the_innermost_executor_gets_the_ops() -> None:
    with engine.Executor(execution_mode=engine.ASYNC) as outer, engine.Executor(execution_mode=engine.ASYNC) as inner:
        ops.add(1, 2).result()
        assert (outer.statistics().completed, inner.statistics().completed) == (0, 1)
        with outer.as_default():
            ops.add(1, 2).result()
        assert (outer.statistics().completed, inner.statistics().completed) == (1, 1)


async def test_leaving_waits_for_the_work() -> None:
    gate = GateOp()
    async with engine.Executor(execution_mode=engine.ASYNC) as executor:
        handle = gate(1) + 1
        asyncio.get_running_loop().call_soon(gate.open)
    assert handle.is_ready()
    assert executor.statistics().pending == 0
    assert await handle == 2


def test_leaving_waits_for_the_work_in_plain_code() -> None:
    with engine.Executor(execution_mode=engine.ASYNC):
        handles = [ops.sum(ops.ones(n)) for n in range(50)]
    assert all(handle.is_ready() for handle in handles)


async def test_leaving_raises_what_failed_and_nobody_saw() -> None:
    with pytest.raises(Boom, match="kernel"):
        async with engine.Executor(execution_mode=engine.ASYNC):
            explode()
    with pytest.raises(ExceptionGroup) as caught:
        async with engine.Executor(execution_mode=engine.ASYNC):
            _ = explode(), explode()
    assert [type(error) for error in caught.value.exceptions] == [Boom, Boom]


def test_leaving_raises_what_failed_in_plain_code_too() -> None:
    with pytest.raises(Boom, match="kernel"), engine.Executor(execution_mode=engine.ASYNC):
        explode()


async def test_leaving_does_not_raise_what_was_seen() -> None:
    async with engine.Executor(execution_mode=engine.ASYNC):
        with pytest.raises(Boom):
            await explode()


async def test_leaving_by_an_exception_cancels_what_has_not_started(gate: GateOp) -> None:
    ran: list[int] = []
    handles: list[Any] = []
    executor = engine.Executor(execution_mode=engine.ASYNC)

    @engine.op
    def remember(x: np.ndarray) -> np.ndarray:
        ran.append(1)
        return x

    async def run() -> None:
        async with executor:
            handles.append(gate(1))
            handles.append(remember(handles[0]))
            handles.append(ops.add(handles[1], 1))
            raise Boom("body")

    with pytest.raises(Boom, match="body"):
        await run()
    assert executor.state == "closed"
    for handle in handles:
        assert handle.is_ready()
        with pytest.raises(engine.OpCancelledError, match="executor was left"):
            await handle
    gate.open()
    assert not ran


def test_leaving_by_an_exception_does_so_in_plain_code_too(gate: GateOp) -> None:
    handles: list[Any] = []

    def run() -> None:
        with engine.Executor(execution_mode=engine.ASYNC):
            handles.append(ops.add(gate(1), 1))
            raise Boom("body")

    with pytest.raises(Boom, match="body"):
        run()
    with pytest.raises(engine.OpCancelledError):
        handles[0].result()


async def test_a_cancelled_task_leaves_by_an_exception(gate: GateOp) -> None:
    inside = asyncio.Event()
    handles: list[Any] = []

    async def run() -> None:
        async with engine.Executor(execution_mode=engine.ASYNC):
            handles.append(gate(1) + 1)
            inside.set()

    task = asyncio.create_task(run())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(engine.OpCancelledError):
        await handles[0]


def test_a_closing_executor_does_not_wait_for_what_another_one_abandoned(gate: GateOp) -> None:
    def abandon() -> None:
        with engine.Executor(execution_mode=engine.ASYNC):
            gate(1)
            with pytest.raises(TimeoutError):
                engine.wait(timeout=0)
            assert gate.wait_entered(30)
            raise Boom

    def use_and_close() -> Any:
        with engine.Executor(execution_mode=engine.ASYNC):
            return engine.op(lambda x: x)(np.ones(3)).result().sum()

    with pytest.raises(Boom):
        abandon()
    with ThreadPoolExecutor(1) as pool:
        closed = pool.submit(use_and_close)
        try:
            assert closed.result(timeout=60) == 3
        finally:
            gate.open()


# States


def test_before_it_is_entered_an_executor_says_so() -> None:
    executor = engine.Executor()
    assert executor.state == executor.statistics().state == "not entered yet"
    with pytest.raises(engine.ExecutorClosedError, match="not entered yet: enter it"), executor.as_default():
        pass


@pytest.mark.parametrize("mode", engine.ExecutionMode)
async def test_after_its_end_an_executor_refuses_work_and_says_so(mode: engine.ExecutionMode) -> None:
    late: list[contextvars.Context] = []
    async with engine.Executor(execution_mode=mode) as executor:
        x = ops.add(1, 2)
        late.append(contextvars.copy_context())
    assert executor.state == executor.statistics().state == "closed"
    with pytest.raises(engine.ExecutorClosedError, match=r"closed: make a new one.*lifespan"), executor.as_default():
        pass
    calls: list[Callable[[], Any]] = [
        lambda: ops.add(1, 2),
        lambda: x + 1,
        lambda: ops.asarray(np.ones(3)),
        lambda: x.to_device("CPU:0"),
        explode,
    ]
    for call in calls:
        with pytest.raises(engine.ExecutorClosedError, match="closed"):
            late[0].run(call)
    assert await x == 3


async def test_an_executor_is_entered_once() -> None:
    async with engine.Executor(execution_mode=engine.ASYNC) as executor:
        with pytest.raises(engine.ExecutorClosedError, match=r"entered once.*open: .*as_default"):
            await executor.__aenter__()
        assert await ops.add(1, 2) == 3
    with pytest.raises(engine.ExecutorClosedError, match=r"entered once.*closed: make a new one.*lifespan"):
        await executor.__aenter__()


async def test_plain_with_is_refused_on_a_running_loop_in_async_mode() -> None:
    executor = engine.Executor(execution_mode=engine.ASYNC)
    with pytest.raises(engine.BlockingSyncError, match="async with"), executor:
        pass
    assert executor.state == "not entered yet"
    assert not engine.executing_eagerly()
    async with executor:
        assert await ops.add(1, 2) == 3


async def test_plain_with_is_fine_on_a_running_loop_in_sync_mode() -> None:
    with engine.Executor(execution_mode=engine.SYNC):
        assert ops.add(1, 2).result() == 3


async def test_plain_with_is_fine_in_a_thread_of_a_running_loop() -> None:
    def work() -> Any:
        with engine.Executor(execution_mode=engine.ASYNC):
            return ops.add(1, 2).result()

    assert await asyncio.to_thread(work) == 3


async def test_consent_to_block_holds_inside_an_executor_too() -> None:
    with engine.allow_sync():
        async with engine.Executor(execution_mode=engine.ASYNC):
            assert ops.add(1, 2).result() == 3


# Statistics


async def test_statistics_are_a_frozen_picture_of_the_moment(gate: GateOp) -> None:
    async with engine.Executor(execution_mode=engine.ASYNC) as executor:
        before: Any = executor.statistics()
        assert dataclasses.is_dataclass(before)
        assert before == engine.Statistics("open", 0, 0, 0, 0, 0, 0)
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(before, "completed", 1)  # noqa: B010 - as an assignment, mypy would refuse it
        x = gate(np.ones(1000))
        dependent = x + 1
        unwanted = x + 2
        unwanted.cancel()
        await asyncio.to_thread(gate.wait_entered, 30)
        during = executor.statistics()
        assert (during.running, during.pending_bytes) == (1, 8000)
        assert during.pending >= 2
        gate.open()
        await dependent
        with pytest.raises(Boom):
            await explode()
        await engine.synchronize()
    after = executor.statistics()
    assert before.completed == 0
    assert (after.state, after.failed, after.cancelled) == ("closed", 1, 1)
    assert (after.pending, after.running, after.pending_bytes) == (0, 0, 0)


# as_default


async def test_as_default_reaches_code_that_did_not_inherit_the_block() -> None:
    box: list[engine.Executor] = []
    entered, done = asyncio.Event(), asyncio.Event()

    async def lifespan() -> None:
        async with engine.Executor(execution_mode=engine.ASYNC) as executor:
            box.append(executor)
            entered.set()
            await done.wait()

    task = asyncio.create_task(lifespan())
    await entered.wait()
    assert not engine.executing_eagerly()
    with box[0].as_default() as same:
        assert same is box[0]
        assert await ops.add(1, 2) == 3
    assert not engine.executing_eagerly()
    assert box[0].state == "open"
    assert box[0].statistics().completed == 1
    done.set()
    await task


@engine.op
def identity(x: np.ndarray) -> np.ndarray:
    return x


USES: dict[str, Callable[[Any], object]] = {
    "an operator": lambda x: x + 1,
    "a function of the namespace": ops.sum,
    "a function of NumPy": lambda x: np.concatenate([x, x]),
    "an op of a user": identity,
    "a transfer": lambda x: x.to_device("CPU:0"),
    "an index": lambda x: x[0],
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("mode", engine.ExecutionMode)
async def test_a_handle_of_an_executor_that_is_not_current_names_as_default(
    mode: engine.ExecutionMode, use: Callable[[Any], object]
) -> None:
    outside = contextvars.copy_context()
    async with engine.Executor(execution_mode=mode) as executor:
        x = ops.ones(3)
        with pytest.raises(TypeError, match="engine") as caught:
            outside.run(use, x)
        message = str(caught.value)
        assert message.index("executor.as_default()") < message.index("graph")
        with executor.as_default():
            use(x)
    with pytest.raises(TypeError, match=r"closed.*make a new one.*graph"):
        use(x)
    engine.enable_eager_execution(execution_mode=mode)  # what was refused made no graph
    use(x)


def test_a_handle_of_the_program_says_how_to_enable_again(mode: engine.ExecutionMode) -> None:
    x = ops.ones(3)
    engine.disable_eager_execution()
    with pytest.raises(TypeError, match=r"engine\.enable_eager_execution\(\).*graph"):
        x + 1
    with engine.Graph().as_default(), pytest.raises(TypeError, match=r"used in a graph.*placeholder"):
        x + 1


def test_as_default_reaches_other_threads() -> None:
    def work(executor: engine.Executor) -> Any:
        with executor.as_default():
            return ops.add(1, 2).result()

    with engine.Executor(execution_mode=engine.ASYNC) as executor, ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, [executor] * 4)) == [3] * 4
        assert executor.statistics().completed == 4


# Default executors


def test_a_thread_without_a_loop_has_one_default_executor(mode: engine.ExecutionMode) -> None:
    mine = current_core()
    assert current_core() is mine
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(current_core).result()
        assert pool.submit(current_core).result() is other
    assert other is not mine


def test_each_loop_has_one_default_executor_of_its_own(mode: engine.ExecutionMode) -> None:
    async def core_of_loop() -> Any:
        core = current_core()
        assert core.loop is asyncio.get_running_loop()
        assert await asyncio.create_task(same(core))
        return core

    async def same(core: Any) -> bool:
        return current_core() is core

    first, second = asyncio.run(core_of_loop()), asyncio.run(core_of_loop())
    assert len({id(core) for core in (first, second, current_core())}) == 3


def test_loops_that_take_turns_keep_their_executors(mode: engine.ExecutionMode) -> None:
    async def core_of_loop() -> Any:
        await ops.add(1, 2)
        return current_core()

    with asyncio.Runner() as one, asyncio.Runner() as two:
        first, second = one.run(core_of_loop()), two.run(core_of_loop())
        assert first is not second
        assert one.run(core_of_loop()) is first
        assert two.run(core_of_loop()) is second


async def test_work_in_to_thread_gets_the_executor_of_that_thread(mode: engine.ExecutionMode) -> None:
    mine = current_core()
    assert await asyncio.to_thread(current_core) is not mine
    async with engine.Executor(execution_mode=mode):
        own = current_core()
        assert await asyncio.to_thread(current_core) is own


async def test_handles_cross_loops_and_threads() -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    x = await asyncio.to_thread(lambda: ops.add(1, 2))

    def elsewhere() -> Any:
        async def use() -> Any:
            return await (x * 2)

        return asyncio.run(use())

    assert await asyncio.to_thread(elsewhere) == 6
    assert await (x + 1) == 4


def test_default_executors_are_made_on_first_use(fresh_engine: None) -> None:
    before = threading.active_count()
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    assert threading.active_count() == before
    assert ops.add(1, 2).result() == 3
