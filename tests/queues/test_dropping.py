"""Dropping many records: a few at a time, each with an error of its own, and none left."""

import asyncio
import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

import engine
from engine import ops
from engine.queues import dropping
from engine.testing import GateOp
from handles.cell import Failure

MANY = 5 * dropping.TOGETHER


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """One group of records in each turn of the loop."""
    monkeypatch.setattr(dropping, "SECONDS", 0.0)
    monkeypatch.setattr(dropping, "LONGEST", 0.0)


def chain(start: Any) -> list[Any]:
    """Ops that depend on each other, each of another name than those beside it."""
    handles = [start]
    for number in range(MANY):
        handles.append((ops.add, ops.multiply, ops.subtract)[number % 3](handles[-1], float(number)))
    return handles


def fan(start: Any) -> list[Any]:
    """Ops that depend on one."""
    return [start, *((ops.add, ops.multiply, ops.subtract)[number % 3](start, float(number)) for number in range(MANY))]


def across(start: Any) -> list[Any]:
    """Ops that depend on each other, on two devices in turn."""
    handles = [start]
    for number in range(MANY):
        with engine.device(f"CPU:{number % 2}"):
            handles.append(ops.add(handles[-1], float(number)))
    return handles


Make = Callable[[Any], list[Any]]
SHAPES = pytest.mark.parametrize("make", [chain, fan, across])


async def until(condition: Callable[[], bool]) -> None:
    """Turn the loop until something holds."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - it is to be seen after each turn
            await asyncio.sleep(0)


def executor() -> engine.Executor:
    config = engine.Config(device_count={"CPU": 2})
    return engine.Executor(config, device_policy=engine.DevicePolicy.SILENT, execution_mode=engine.ASYNC)


def check_each_names_itself(handles: list[Any], why: str) -> None:
    """Every handle was cancelled for this reason, and its error is of its own op."""
    for handle in handles:
        cell = handle._cell
        assert cell.state == "cancelled"
        assert str(cell.value.error) == f"op {cell.op.name!r} was cancelled: {why}"
        assert f"op {cell.op.name!r} on {cell.home.device}, dispatched at" in cell.value.error.__notes__[0]


async def leave_by_an_error(make: Make, gate: GateOp) -> list[Any]:
    with pytest.raises(ExceptionGroup):
        async with engine.scope():
            handles = make(gate(1.0))
            await asyncio.sleep(0)
            raise LookupError
    return handles


@SHAPES
@pytest.mark.usefixtures("slowly")
async def test_a_scope_that_is_left_by_an_error(make: Make, gate: GateOp) -> None:
    async with executor() as running:
        handles = await leave_by_an_error(make, gate)
        check_each_names_itself(handles, "its scope was left")
        assert running.statistics().cancelled >= len(handles)  # copies between devices are records as well
        assert running.statistics().failed == 0
        gate.open()


@SHAPES
@pytest.mark.usefixtures("slowly")
async def test_a_scope_that_is_cancelled_on_the_loop(make: Make, gate: GateOp) -> None:
    async with executor():
        async with engine.scope() as scope:
            handles = make(gate(1.0))
            await asyncio.sleep(0)
            scope.cancel()
        check_each_names_itself(handles, "its scope was cancelled")
        gate.open()


async def test_a_scope_that_is_cancelled_on_another_thread_is_dropped_there(gate: GateOp) -> None:
    async with executor():
        async with engine.scope() as scope:
            handles = chain(gate(1.0))
            states: list[str] = []

            def cancel() -> None:
                scope.cancel()
                states.extend(handle._cell.state for handle in handles)

            thread = threading.Thread(target=cancel)
            thread.start()
            thread.join()
            assert states == ["cancelled"] * len(handles)
        gate.open()


@SHAPES
@pytest.mark.usefixtures("slowly")
async def test_the_first_failure_drops_the_others(make: Make, gate: GateOp) -> None:
    async with executor() as running:
        with pytest.raises(ExceptionGroup) as caught:
            async with engine.scope():
                handles = make(gate(1.0))
                bad: Any = engine.op(lambda x: 1 / 0, name="bad")(1.0)
        assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError]
        assert bad._cell.state == "failed"
        check_each_names_itself(handles, "another op of its scope failed")
        assert running.statistics().failed == 1
        gate.open()


@pytest.mark.usefixtures("slowly")
async def test_the_loop_turns_meanwhile_and_the_newest_go_first(gate: GateOp) -> None:
    async with executor():
        ended: list[list[int]] = []
        handles: list[Any] = []

        async def look() -> None:
            while True:
                ended.append([number for number, handle in enumerate(handles) if handle._cell.state == "cancelled"])
                await asyncio.sleep(0)

        with pytest.raises(ExceptionGroup):
            async with engine.scope():
                handles += chain(gate(1.0))
                looking = asyncio.create_task(look())
                await asyncio.sleep(0)
                raise LookupError
        looking.cancel()
        counts = sorted({len(each) for each in ended})
        assert len(counts) >= 4  # it went on in several turns
        assert all(b - a <= 2 * dropping.TOGETHER for a, b in pairwise(counts))
        for each in ended:  # what depends on a dropped one was dropped
            assert each == list(range(len(handles) - len(each), len(handles)))
        gate.open()


@pytest.mark.usefixtures("slowly")
async def test_a_task_that_is_cancelled_while_it_drops_leaves_none(gate: GateOp) -> None:
    async with executor():
        handles: list[Any] = []

        async def leave() -> None:
            async with engine.scope():
                handles.extend(chain(gate(1.0)))
                raise LookupError

        task = asyncio.create_task(leave())
        await until(lambda: bool(handles) and handles[-1]._cell.state == "cancelled")
        assert handles[0]._cell.state != "cancelled"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: handles[0]._cell.state == "cancelled")
        check_each_names_itself(handles, "its scope was left")
        gate.open()


async def test_small_scopes_are_dropped_in_the_order_of_dispatch(gate: GateOp) -> None:
    async with executor():
        order: list[int] = []

        async def wait(number: int, handle: Any) -> None:
            with pytest.raises(engine.OpCancelledError):
                await handle
            order.append(number)

        with pytest.raises(ExceptionGroup):
            async with engine.scope():
                handles = fan(gate(1.0))[1 : dropping.TOGETHER // 2]
                tasks = [asyncio.create_task(wait(number, handle)) for number, handle in enumerate(handles)]
                await asyncio.sleep(0)
                del handles
                raise LookupError
        await asyncio.gather(*tasks)
        assert sorted(order) == order
        gate.open()


async def test_errors_are_made_when_they_are_looked_at_and_stay(gate: GateOp) -> None:
    async with executor():
        handles = await leave_by_an_error(chain, gate)
        failure = handles[3]._cell.value
        assert isinstance(failure, Failure)
        assert failure.cancelled
        assert failure.seen
        with pytest.raises(AttributeError):
            object.__getattribute__(failure, "error")
        with pytest.raises(engine.OpCancelledError, match="its scope was left") as first:
            await handles[3]
        with pytest.raises(engine.OpCancelledError) as second:
            await handles[3]
        assert first.value is second.value
        assert failure.notes == tuple(first.value.__notes__)
        with pytest.raises(AttributeError, match="has no attribute 'other'"):
            failure.other  # type: ignore[attr-defined]  # noqa: B018
        gate.open()


async def test_cancel_pending_counts_ops_on_all_devices(gate: GateOp) -> None:
    async with executor():
        handles = across(gate(1.0))
        waiting = asyncio.create_task(engine.synchronize())
        await asyncio.sleep(0)
        assert engine.cancel_pending() >= len(handles)  # with the copies between devices
        assert {handle._cell.state for handle in handles} == {"cancelled"}
        gate.open()
        await waiting
