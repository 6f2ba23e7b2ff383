"""The loop is never held longer than a slice: other tasks get their turns, whatever the program does."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.runtime.current import current_core
from engine.testing import GateOp

BACKLOG = 20_000


pytestmark = pytest.mark.usefixtures("asynchronous")


class Turns:
    """Counts the turns of the running loop."""

    def __init__(self) -> None:
        self.count = 0
        self._loop = asyncio.get_running_loop()
        self._next = self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self.count += 1
        self._next = self._loop.call_soon(self._turn)

    def stop(self) -> None:
        self._next.cancel()


@contextlib.contextmanager
def counted() -> Iterator[Turns]:
    turns = Turns()
    try:
        yield turns
    finally:
        turns.stop()


async def test_the_loop_turns_while_a_backlog_is_worked_off() -> None:
    with counted() as turns:
        x = ops.asarray(0)
        for _ in range(BACKLOG):
            x = x + 1
        assert turns.count == 0
        assert int(await x) == BACKLOG
        assert turns.count >= 5  # 20,000 ops of a microsecond are dozens of slices


async def test_awaiting_in_a_loop_lets_other_tasks_run() -> None:
    a, b = ops.asarray(1), ops.asarray(2)
    with counted() as turns:
        while turns.count < 20:
            assert int(await (a + b)) == 3


async def test_draining_in_a_loop_lets_other_tasks_run() -> None:
    x = ops.asarray(0)
    with counted() as turns:
        while turns.count < 20:
            x = x + 1
            await engine.drain()
    await x


async def test_synchronizing_in_a_loop_lets_other_tasks_run() -> None:
    x = ops.asarray(0)
    with counted() as turns:
        while turns.count < 20:
            x = x + 1
            await engine.synchronize()


async def test_gathering_in_a_loop_lets_other_tasks_run() -> None:
    x = ops.asarray(0)
    with counted() as turns:
        while turns.count < 20:
            await engine.gather(x + 1, x + 2)


async def test_awaiting_in_several_tasks_is_fair_to_all() -> None:
    a = ops.asarray(1)
    done = [0] * 4

    async def work(index: int) -> None:
        while min(done) < 20:
            await (a + index)
            done[index] += 1

    await asyncio.gather(*(work(index) for index in range(4)))


async def test_an_event_set_by_another_task_is_seen_by_a_task_that_only_awaits_ops() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0, stop.set)
    a = ops.asarray(1)
    while not stop.is_set():
        await (a + 1)


async def test_the_loop_turns_while_a_large_op_runs() -> None:
    gate = GateOp()
    try:
        held = gate(np.ones(3))
        with counted() as turns:
            for _ in range(50):
                await asyncio.sleep(0)
            assert turns.count >= 50
            assert not held.is_ready()
    finally:
        gate.open()
    assert (await held).tolist() == [1, 1, 1]


async def test_no_kernel_of_unknown_cost_and_no_large_one_runs_on_the_loop() -> None:
    threads = []

    @engine.op
    def note(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        threads.append(threading.current_thread())
        return x

    for _ in range(5):
        await (note(np.ones(1)) + 1)
    note(ops.asarray(1.0))
    await engine.drain()
    await engine.synchronize()
    assert len(threads) == 6
    assert threading.current_thread() not in threads


async def test_ops_run_though_nobody_awaits_them() -> None:
    x = ops.asarray(0)
    for _ in range(100):
        x = x + 1
    for _ in range(1_000):
        await asyncio.sleep(0)
    assert x.is_ready()
    assert int(await x) == 100


async def test_an_idle_engine_leaves_the_loop_idle() -> None:
    await (ops.asarray(1) + 1)
    await engine.synchronize()
    loop = asyncio.get_running_loop()
    before = asyncio.all_tasks()
    with counted():
        for _ in range(10):
            await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    assert loop.is_running()


def test_a_slot_that_came_free_when_nothing_was_left_to_start_is_looked_at_once() -> None:
    ops.asarray(np.ones(3)).result()
    queue: Any = current_core().queues[engine.Device("CPU:0")]
    queue.driver.drive(1.0, patient=True)
    assert not queue.in_flight()
    queue.starting.wanted = True  # as where its ready ops have joined a group
    queue.driver.drive(1.0, patient=True)
    assert not queue.runnable()
