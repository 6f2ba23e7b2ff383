"""Blocks that are held across `yield` in an async generator whose consumer leaves it, or left where they were not
entered: the consumer goes on, with what was in force around them."""

import asyncio
import contextlib
import contextvars
import gc
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import anyio
import pytest

import engine
from engine import ops
from engine.settings.scope import NOTHING, Block, Scope, scope_var
from engine.testing import GateOp
from handles import AsyncHandle, EagerHandle
from tests.common import explode

BY_MODE = {engine.SYNC: EagerHandle, engine.ASYNC: AsyncHandle}
FEW = engine.Config(max_pending_ops=100)


@contextlib.asynccontextmanager
async def plain(block: Any) -> AsyncIterator[None]:
    with block:
        yield


def another_mode() -> Any:
    return plain(engine.execution_mode(engine.SYNC if engine.get_execution_mode() is engine.ASYNC else engine.ASYNC))


BLOCKS: dict[str, Callable[[], Any]] = {
    "a scope": engine.scope,
    "a scope with a timeout": lambda: engine.scope(timeout=100, priority=3),
    "an executor": lambda: engine.Executor(FEW, execution_mode=engine.ASYNC),
    "an executor in SYNC mode": lambda: engine.Executor(FEW, execution_mode=engine.SYNC),
    "a device": lambda: plain(engine.device("CPU:1")),
    "a policy": lambda: plain(engine.device_policy(engine.DevicePolicy.WARN)),
    "a mode": another_mode,
    "a graph": lambda: plain(engine.Graph().as_default()),
    "consent": lambda: plain(engine.allow_sync()),
}
blocks = pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)


async def held(block: Callable[[], Any]) -> AsyncGenerator[Any, None]:
    async with block():
        for _ in range(5):
            yield ops.asarray(1) + 1


def values(scope: Scope) -> tuple[Any, ...]:
    """All that a scope asks for."""
    return (scope.executor, scope.mode, scope.policy, scope.device, scope.group, scope.consent, scope.graph)


@pytest.fixture(autouse=True)
def two_devices(mode: engine.ExecutionMode) -> None:
    """Each mode in turn, with two devices."""
    engine.disable_eager_execution()
    engine.enable_eager_execution(engine.Config(device_count={"CPU": 2}), execution_mode=mode)


@pytest.fixture
def told() -> list[dict[str, Any]]:
    return []


async def leave_one(block: Callable[[], Any], told: list[dict[str, Any]]) -> None:
    """Take one value from a generator that holds the block, and leave it by `break`."""
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
    async for _ in held(block):
        break


@blocks
async def test_after_break_the_consumer_goes_on(
    block: Callable[[], Any], mode: engine.ExecutionMode, told: list[dict[str, Any]]
) -> None:
    task = asyncio.current_task()
    assert task is not None
    before = values(scope_var.get())
    for _ in range(3):
        await leave_one(block, told)
        for _ in range(10):
            await asyncio.sleep(0)
        gc.collect()
        assert values(scope_var.get()) == before
        assert engine.get_execution_mode() is mode
        assert engine.get_config() == engine.Config(device_count={"CPU": 2})
        x = ops.asarray(1) + 1
        assert type(x) is BY_MODE[mode]
        assert str(x.device) == "CPU:0"
        assert int(await x) == 2
    assert task.cancelling() == 0
    assert told == []
    await engine.synchronize()


@blocks
async def test_blocks_entered_after_break_hold_and_end_as_ever(
    block: Callable[[], Any], mode: engine.ExecutionMode, told: list[dict[str, Any]]
) -> None:
    await leave_one(block, told)
    with engine.device("CPU:1"), engine.execution_mode(mode):
        for _ in range(10):
            await asyncio.sleep(0)
        assert type(ops.asarray(1) + 1) is BY_MODE[mode]
        assert str((ops.asarray(1) + 1).device) == "CPU:1"
        assert engine.get_config() == engine.Config(device_count={"CPU": 2})
        async with engine.scope() as scope:
            x = ops.asarray(1) + 1
            assert scope.in_flight == (2 if mode is engine.ASYNC else 0)
        assert x.is_ready()
    x = ops.asarray(1) + 1
    assert str(x.device) == "CPU:0"
    assert int(await x) == 2
    assert told == []


@pytest.mark.parametrize("block", [BLOCKS["a scope"], BLOCKS["an executor"]], ids=["a scope", "an executor"])
async def test_what_the_consumer_dispatched_before_the_block_ended_is_not_dropped(
    block: Callable[[], Any], gate: GateOp, told: list[dict[str, Any]]
) -> None:
    with engine.execution_mode(engine.ASYNC):
        await leave_one(block, told)
        running = gate(1)
        waiting = running + 1
        for _ in range(10):
            await asyncio.sleep(0)
        gate.open()
        assert int(await waiting) == 2
    assert told == []


async def test_a_failure_in_a_scope_left_behind_cancels_nothing(told: list[dict[str, Any]]) -> None:
    """The generator is kept, so that it is not closed: its scope is open, and its task runs the consumer."""
    with engine.execution_mode(engine.ASYNC):
        generator = held(engine.scope)
        await anext(generator)
        bad = explode(1)
        with pytest.raises(KeyError):
            await bad
        for _ in range(10):
            await asyncio.sleep(0)
        with pytest.raises(ExceptionGroup):
            async for _ in generator:
                pass


async def test_a_timeout_of_a_scope_left_behind_cancels_nothing(told: list[dict[str, Any]]) -> None:
    generator = held(lambda: engine.scope(timeout=0.001))
    await anext(generator)
    await asyncio.sleep(0.01)
    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    with pytest.raises(TimeoutError):
        async for _ in generator:
            pass
    assert int(await (ops.asarray(1) + 1)) == 2


async def test_a_generator_that_awaits_inside_its_scope_is_interrupted() -> None:
    async def waits() -> AsyncIterator[int]:
        async with engine.scope(timeout=0.01):
            yield 1
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        async for _ in waits():
            pass


@contextlib.asynccontextmanager
async def managed() -> AsyncIterator[None]:
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(engine.scope(timeout=0.01))
        yield


async def test_the_user_of_a_context_manager_is_interrupted() -> None:
    with pytest.raises(TimeoutError):
        async with managed():
            await asyncio.Event().wait()


async def test_the_consumer_of_a_generator_that_uses_a_context_manager_is_not() -> None:
    async def uses() -> AsyncIterator[int]:
        async with managed():
            yield 1

    generator = uses()
    await anext(generator)
    await asyncio.sleep(0.02)
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        await anext(generator)


@pytest.mark.parametrize("group", [anyio.create_task_group, asyncio.TaskGroup, lambda: plain(anyio.CancelScope())])
async def test_groups_of_tasks_around_the_consumer_are_left_alone(
    group: Callable[[], Any], told: list[dict[str, Any]]
) -> None:
    async with group():
        for block in (BLOCKS["a scope"], BLOCKS["an executor"]):
            await leave_one(block, told)
            for _ in range(10):
                await asyncio.sleep(0)
            assert int(await (ops.asarray(1) + 1)) == 2
    assert told == []


async def test_a_generator_that_is_closed_as_it_should_be_drops_its_work(gate: GateOp) -> None:
    async def work(handles: list[Any]) -> AsyncIterator[int]:
        async with engine.scope():
            handles.append(gate(1) + 1)
            yield 1

    with engine.execution_mode(engine.ASYNC):
        handles: list[Any] = []
        async with contextlib.aclosing(work(handles)) as generator:  # type: ignore[type-var]
            await anext(generator)
        with pytest.raises(engine.OpCancelledError, match="scope was left"):
            await handles[0]


async def test_blocks_left_in_another_order_than_they_were_entered(mode: engine.ExecutionMode) -> None:
    before = values(scope_var.get())
    generator = held(BLOCKS["an executor"])
    await anext(generator)
    with engine.device("CPU:1"):
        await generator.aclose()
        assert engine.get_config() == engine.Config(device_count={"CPU": 2})
        assert str((ops.asarray(1) + 1).device) == "CPU:1"
    assert values(scope_var.get()) == before
    assert int(await (ops.asarray(1) + 1)) == 2


async def test_a_task_that_outlives_an_executor_goes_on_outside_it(mode: engine.ExecutionMode) -> None:
    go = asyncio.Event()

    async def child() -> Any:
        await go.wait()
        return await (ops.asarray(1) + 1)

    async with engine.Executor(FEW, execution_mode=engine.ASYNC):
        task = asyncio.ensure_future(child())
        await asyncio.sleep(0)
    go.set()
    assert int(await task) == 2


async def test_a_task_that_outlives_a_device_scope_keeps_the_device() -> None:
    go = asyncio.Event()

    async def child() -> str:
        await go.wait()
        return str((ops.asarray(1) + 1).device)

    with engine.device("CPU:1"):
        task = asyncio.ensure_future(child())
    go.set()
    assert await task == "CPU:1"


def test_a_chain_of_blocks_and_contexts_keeps_no_scope_that_was_left() -> None:
    scopes: list[weakref.ref[Scope]] = []

    def link(context: contextvars.Context) -> contextvars.Context:
        block = context.run(Block, consent=True)
        scopes.append(weakref.ref(block.scope))
        inherited = context.run(contextvars.copy_context)
        context.run(block.leave)
        return inherited

    context = contextvars.copy_context()
    for _ in range(100):
        context = link(context)
    gc.collect()
    assert sum(scope() is not None for scope in scopes) < 5
    assert context.run(scope_var.get).consent


def test_a_scope_that_is_dissolved_takes_the_blocks_inside_along() -> None:
    outer = Block(consent=True, priority=1)
    inner = Block(mode=engine.SYNC)
    other = contextvars.copy_context()
    other.run(lambda: Block(priority=7))
    outer.leave()
    assert (inner.scope.consent, inner.scope.priority, inner.scope.mode) == (False, 0, engine.SYNC)
    assert scope_var.get() is inner.scope
    assert other.run(scope_var.get).priority == 7
    assert not other.run(scope_var.get).consent
    inner.leave()
    assert values(scope_var.get()) == values(NOTHING)
