"""Scopes among the task groups and timeouts of asyncio and anyio: who is cancelled, and what comes out."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import pytest

import engine
from engine import ops
from engine.testing import GateOp
from tests.common import explode, turns

Child = Callable[[], Coroutine[Any, Any, None]]
Group = Callable[..., AbstractAsyncContextManager[object]]


@pytest.fixture(autouse=True)
def asynchronous(fresh_engine: None) -> None:
    """ASYNC mode for the whole program, with two devices."""
    engine.enable_eager_execution(config=engine.Config(device_count={"CPU": 2}), execution_mode=engine.ASYNC)


@asynccontextmanager
async def asyncio_group(*children: Child) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        for child in children:
            tasks.create_task(child())
        yield


@asynccontextmanager
async def anyio_group(*children: Child) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        for child in children:
            tasks.start_soon(child)
        yield


@asynccontextmanager
async def nested_groups(*children: Child) -> AsyncIterator[None]:
    async with asyncio_group(*children), anyio_group(*children):
        yield


@asynccontextmanager
async def scope_and_group(*children: Child) -> AsyncIterator[None]:
    async with engine.scope(), asyncio_group(*children):
        yield


GROUPS: dict[str, Group] = {
    "asyncio": asyncio_group,
    "anyio": anyio_group,
    "both": nested_groups,
    "a scope between": scope_and_group,
}
groups = pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)


def cancelling() -> int:
    """How many cancellations of this task are outstanding."""
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


def leaves(error: BaseException) -> set[str]:
    """The errors of a group, at any depth."""
    if isinstance(error, BaseExceptionGroup):
        return set[str]().union(*map(leaves, error.exceptions))
    return {str(error)}


# What fails inside


@groups
@pytest.mark.parametrize("delay", range(4))
@pytest.mark.parametrize("readers", [1, 3])
async def test_a_failure_that_tasks_of_a_group_await_comes_out_as_a_group(
    group: Group, delay: int, readers: int
) -> None:
    for _ in range(5):
        with pytest.raises(ExceptionGroup) as info:
            async with engine.scope():
                gate = GateOp()
                bad = explode(gate(1.0))

                async def read(bad: Any = bad) -> None:
                    await bad

                async with group(*[read] * readers):
                    await turns(delay)
                    gate.open()
        assert leaves(info.value) == {"'boom'"}
        assert cancelling() == 0
        await turns(5)


@groups
async def test_so_it_is_inside_a_task_that_is_being_cancelled(group: Group) -> None:
    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            with pytest.raises(ExceptionGroup) as info:
                async with engine.scope():
                    bad = explode(1.0)

                    async def read() -> None:
                        await bad

                    async with group(read, read):
                        pass
            assert leaves(info.value) == {"'boom'"}
            assert cancelling() == 1
            await turns(5)

    task = asyncio.ensure_future(work())
    await turns(5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@groups
async def test_a_timeout_with_tasks_that_await_its_ops_is_a_timeout(group: Group, gate: GateOp) -> None:
    with pytest.raises(TimeoutError, match=r"0\.01 s"):
        async with engine.scope(timeout=0.01):
            held = gate(1.0)

            async def read() -> None:
                await held

            async with group(read, read):
                pass
    assert cancelling() == 0
    await turns(5)


@groups
async def test_cancel_with_tasks_that_await_its_ops_is_silent(group: Group, gate: GateOp) -> None:
    async with engine.scope() as scope:
        held = gate(1.0)

        async def read() -> None:
            await held

        async with group(read, read):
            await turns(5)
            scope.cancel()
    assert cancelling() == 0
    await turns(5)


@groups
async def test_a_failure_beside_dropped_ops_comes_out_alone(group: Group, gate: GateOp) -> None:
    with pytest.raises(ExceptionGroup) as info:
        async with engine.scope():
            with engine.device("CPU:1"):
                held = gate(1.0)
            explode(1.0)

            async def read() -> None:
                await held

            async with group(read, read):
                pass
    assert leaves(info.value) == {"'boom'"}
    assert cancelling() == 0


@pytest.mark.parametrize("end", ["cancel", "failure"])
async def test_a_body_that_ends_as_its_scope_does_leaves_no_cancellation_behind(end: str) -> None:
    for delay in range(4):
        with contextlib.suppress(ExceptionGroup):
            async with engine.scope() as scope:
                if end == "cancel":
                    scope.cancel()
                else:
                    explode(1.0)
                await turns(delay)
        assert cancelling() == 0
        await turns(5)


async def test_a_body_that_swallows_the_interruption_is_left_all_the_same() -> None:
    with pytest.raises(TimeoutError):
        async with engine.scope(timeout=0.01):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            await turns(5)
    assert cancelling() == 0


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
async def test_what_ends_the_program_passes_as_it_is(kind: type[BaseException], gate: GateOp) -> None:
    queued = []
    with pytest.raises(kind):
        async with engine.scope():
            queued.append(gate(1.0) + 1)
            raise kind
    with pytest.raises(engine.OpCancelledError):
        await queued[0]


# What comes from outside


def by_anyio() -> Any:
    return anyio.move_on_after(0.01)


@asynccontextmanager
async def by_asyncio() -> AsyncIterator[None]:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.01):
            yield


@asynccontextmanager
async def by_a_scope() -> AsyncIterator[None]:
    with contextlib.suppress(TimeoutError):
        async with engine.scope(timeout=0.01):
            yield


@pytest.mark.parametrize("deadline", [by_anyio, by_asyncio, by_a_scope])
@pytest.mark.parametrize("where", ["body", "end"])
async def test_deadlines_around_a_scope_end_it_and_nothing_else(
    deadline: Callable[[], Any], where: str, gate: GateOp
) -> None:
    manager = deadline()
    went_on: list[bool] = []
    async with contextlib.AsyncExitStack() as stack:
        if hasattr(manager, "__aenter__"):
            await stack.enter_async_context(manager)
        else:
            stack.enter_context(manager)
        async with engine.scope():
            queued = gate(1.0) + 1
            if where == "body":
                await asyncio.Event().wait()
        went_on.append(True)
    assert went_on == []
    assert cancelling() == 0
    await turns(5)
    with pytest.raises(engine.OpCancelledError):
        await queued


@pytest.mark.parametrize("delay", range(5))
async def test_a_cancellation_from_outside_passes_whatever_ends_at_the_same_time(delay: int) -> None:
    async def work() -> None:
        gate = GateOp()
        async with engine.scope():
            bad = explode(gate(1.0))
            gate.open()
            with contextlib.suppress(KeyError):
                await bad
            await asyncio.Event().wait()

    task = asyncio.ensure_future(work())
    await turns(1)
    with contextlib.suppress(KeyError):
        await explode(1.0)
    await turns(delay)
    task.cancel()
    with pytest.raises((asyncio.CancelledError, ExceptionGroup)) as info:
        await task
    if isinstance(info.value, ExceptionGroup):
        assert leaves(info.value) == {"'boom'"}
        assert task.done()
        assert not task.cancelled()


async def test_a_cancellation_from_outside_beats_the_scopes_own() -> None:
    async def work() -> None:
        async with engine.scope() as scope:
            scope.cancel()
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_soon(task.cancel)
            await asyncio.Event().wait()
        raise AssertionError("the cancellation from outside was swallowed")

    task = asyncio.ensure_future(work())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_an_interruption_ends_the_scopes_inside_and_goes_no_further() -> None:
    reached = []
    async with engine.scope() as outer:
        async with engine.scope():
            async with engine.scope():
                outer.cancel()
                await asyncio.Event().wait()
            reached.append("between")
        reached.append("inside")
    assert reached == []
    assert cancelling() == 0
    await turns(5)


async def test_a_scope_needs_a_task() -> None:
    entering = engine.scope().__aenter__()
    failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    def drive() -> None:
        try:
            entering.send(None)
        except RuntimeError as error:
            failed.set_result(error)

    asyncio.get_running_loop().call_soon(drive)
    assert "in a task" in str(await failed)


async def test_an_endless_timeout_is_none() -> None:
    async with engine.scope(timeout=float("inf")):
        x = ops.asarray(1) + 1
    assert int(await x) == 2
