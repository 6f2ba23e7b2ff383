"""Hooks: each record is dispatched, started and finished once, in that order, and a listener that raises is removed."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.queues.hooks import hooks
from handles.cell import Cell


class Heard:
    """What a listener was told: the op's name, and what happened."""

    never_raises = False

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.groups: list[list[str]] = []
        self.records: dict[str, list[Cell]] = {"dispatched": [], "started": [], "finished": []}

    def _note(self, what: str, record: Cell) -> None:
        self.events.append((record.op.name, what))
        self.records[what].append(record)

    def dispatched(self, record: Cell, operands: Sequence[Any]) -> None:
        self._note("dispatched", record)

    def started(self, record: Cell) -> None:
        self._note("started", record)

    def finished(self, record: Cell, outcome: Any) -> None:
        self._note("finished", record)

    def ran(self, record: Cell, outcome: Any, began: float, ended: float) -> None:
        assert began <= ended
        self.started(record)
        self.finished(record, outcome)

    def called(
        self, record: Cell, operands: Sequence[Any], outcome: Any, called: float, began: float, ended: float
    ) -> None:
        assert called <= began
        self.dispatched(record, operands)
        self.ran(record, outcome, began, ended)

    def grouped(self, records: Sequence[Cell]) -> None:
        self.groups.append([record.op.name for record in records])

    def demanded(self, records: Sequence[Cell]) -> None: ...

    def admitted(self, record: Cell, scope: object) -> None: ...

    def entered(self, scope: object) -> None: ...

    def left(self, scope: object, error: BaseException | None) -> None: ...


class Broken(Heard):
    """Raises when it is told of an end."""

    def finished(self, record: Cell, outcome: Any) -> None:
        raise RuntimeError("broken")


@pytest.fixture
def heard() -> Iterator[Heard]:
    listener = Heard()
    hooks.add(listener)
    yield listener
    hooks.remove(listener)
    assert not hooks.listeners


def of(heard: Heard, name: str) -> list[str]:
    return [what for op, what in heard.events if op == name]


WHOLE = ["dispatched", "started", "finished"]


async def test_small_large_and_unknown_ops_are_told_of_once(heard: Heard, mode: engine.ExecutionMode) -> None:
    @engine.op
    def mine(x: np.ndarray) -> np.ndarray:
        return x + 1

    @engine.op
    async def task(x: np.ndarray) -> np.ndarray:
        return x + 1

    x = ops.asarray(np.ones(1_000_000))
    handles = [ops.add(1, 2), ops.sort(x), mine(1.0), task(1.0)]
    for handle in handles:
        await handle.wait_ready()
    await engine.synchronize()
    for name in ("add", "sort", "mine", "task"):
        assert of(heard, name) == WHOLE, name


async def test_a_fused_group_is_told_of_op_by_op(heard: Heard) -> None:
    async with engine.Executor(execution_mode=engine.ASYNC):
        x = ops.asarray(np.ones(1_000_000))
        await engine.synchronize()
        with engine.testing.hold():
            result = ops.sqrt(ops.abs(x * 2.0))
        await result
    for name in ("multiply", "abs", "sqrt"):
        assert of(heard, name) == WHOLE, name
    assert heard.groups == [["multiply", "abs", "sqrt"]]


async def test_failed_poisoned_and_cancelled_ops_end_without_having_started(heard: Heard) -> None:
    async with engine.Executor(execution_mode=engine.ASYNC):
        failed = ops.linalg.inv(ops.zeros((2, 2)))
        poisoned = failed + 1
        with pytest.raises(np.linalg.LinAlgError):
            await poisoned
        with engine.testing.hold():
            dropped = ops.multiply(2, 3)
            dropped.cancel()
        with pytest.raises(engine.OpCancelledError):
            await dropped
    assert of(heard, "linalg.inv") == WHOLE
    assert of(heard, "add") == ["dispatched", "finished"]
    assert of(heard, "multiply") == ["dispatched", "finished"]


async def test_what_is_finished_is_seen_with_its_value(heard: Heard, mode: engine.ExecutionMode) -> None:
    await (ops.asarray(1) + 1).wait_ready()
    await engine.synchronize()
    last = heard.records["finished"][-1]
    assert last.op.name == "add"
    assert last.value == 2


async def test_a_listener_that_raises_is_removed_and_the_op_goes_on(
    mode: engine.ExecutionMode, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Broken()
    hooks.add(broken)
    with caplog.at_level(logging.ERROR, "engine.observe"):
        handle = await ops.add(1, 2).wait_ready()
    assert int(await handle) == 3
    assert not hooks.listeners
    assert "is removed" in caplog.text


async def test_without_listeners_ops_go_the_fast_way_again(mode: engine.ExecutionMode) -> None:
    listener = Heard()
    hooks.add(listener)
    await ops.add(1, 2).wait_ready()
    hooks.remove(listener)
    count = len(listener.events)
    await ops.add(1, 2).wait_ready()
    assert count == 3
    assert len(listener.events) == count
