"""Threads and loops: handles cross them freely, and progress never needs one particular loop to be free."""

import asyncio
import contextlib
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.queues.driver import Driver
from engine.testing import GateOp
from handles import AsyncHandle, EagerHandle, Handle

MANY = 3_000


@pytest.fixture(autouse=True)
def two_devices(fresh_engine: None) -> None:
    """ASYNC mode for the whole program, with two devices."""
    config = engine.Config(device_count={"CPU": 2})
    engine.enable_eager_execution(config=config, execution_mode=engine.ASYNC)


def chain(x: Handle, length: int = MANY) -> Handle:
    """That many small ops, one behind the other."""
    for _ in range(length):
        x = x + 1
    return x


@contextlib.contextmanager
def blocked_loop(dispatch: Callable[[], Any]) -> Iterator[Any]:
    """What `dispatch` returns on the loop of another thread, which is blocked from then on."""
    made: list[Any] = []
    ready, release = threading.Event(), threading.Event()

    async def block() -> None:
        made.append(dispatch())
        ready.set()
        release.wait()

    thread = threading.Thread(target=lambda: asyncio.run(block()))
    thread.start()
    ready.wait()
    try:
        yield made[0]
    finally:
        release.set()
        thread.join()


# Plain scripts


def test_polling_without_a_loop_makes_progress() -> None:
    end = chain(ops.asarray(0))
    while not end.is_ready():
        pass
    assert end.result() == MANY


def test_polling_a_handle_makes_progress_on_every_device_it_needs() -> None:
    with engine.device("CPU:1"):
        other = chain(ops.asarray(0))
    end = chain(other.to_device("CPU:0"))
    while not end.is_ready():
        pass
    assert end.result() == 2 * MANY


def test_result_and_wait_give_up_after_their_timeout(gate: GateOp) -> None:
    held = gate(1.0)
    behind = held + 1
    for handle in (held, behind):
        with pytest.raises(TimeoutError, match="dispatched at"):
            handle.result(timeout=0.001)
    with pytest.raises(TimeoutError):
        engine.wait(timeout=0.001)
    gate.open()
    engine.wait()
    assert behind.result(timeout=0) == 2.0


def test_a_timeout_of_zero_is_enough_for_what_is_ready() -> None:
    x = ops.asarray(1) + 1
    engine.wait()
    assert x.result(timeout=0) == 2


def test_ops_across_devices_need_no_loop() -> None:
    x = ops.asarray(0)
    for index in range(100):
        with engine.device(f"CPU:{index % 2}"):
            x = x + 1
    assert x.result() == 100


# Several threads


def test_ten_threads_that_alternate_modes_agree_with_numpy() -> None:
    together = threading.Barrier(10)

    def work(seed: int) -> list[float]:
        values = np.random.default_rng(seed).normal(size=(20, 16))
        together.wait()
        results = []
        for index, row in enumerate(values):
            mode = engine.SYNC if (index + seed) % 2 else engine.ASYNC
            with engine.execution_mode(mode), engine.device(f"CPU:{index % 2}"):
                x = ops.asarray(row)
                y = ops.sum(x * 2 + 1)
            assert isinstance(y, EagerHandle if mode is engine.SYNC else AsyncHandle)
            results.append(float(y))
        return results

    with ThreadPoolExecutor(10) as pool:
        got = list(pool.map(work, range(10)))
    for seed, results in enumerate(got):
        values = np.random.default_rng(seed).normal(size=(20, 16))
        assert results == [float(np.sum(row * 2 + 1)) for row in values]


def test_threads_that_read_the_same_handle_all_get_its_value(gate: GateOp) -> None:
    end = chain(gate(0))
    with ThreadPoolExecutor(8) as pool:
        reading = [pool.submit(end.result) for _ in range(8)]
        gate.wait_entered()
        gate.open()
        assert [int(each.result()) for each in reading] == [MANY] * 8


def test_threads_can_dispatch_on_each_others_handles() -> None:
    x = ops.asarray(0)
    with ThreadPoolExecutor(1) as pool:
        for _ in range(50):
            x = pool.submit(chain, x, 10).result() + 1
    assert x.result() == 50 * 11


def test_handles_outlive_the_thread_that_dispatched_them() -> None:
    made = []
    thread = threading.Thread(target=lambda: made.append(chain(ops.asarray(0))))
    thread.start()
    thread.join()
    assert made[0].result() == MANY


async def test_an_executor_scope_follows_into_threads() -> None:
    async with engine.Executor(execution_mode=engine.ASYNC) as executor:
        x = ops.asarray(1.0)
        y = await asyncio.to_thread(lambda: x + 1)
        assert executor.statistics().pending + executor.statistics().completed == 2
        assert float(await y) == 2.0
        assert await asyncio.to_thread(lambda: float(x + 2)) == 3.0


async def test_blocking_syncs_are_fine_in_threads(gate: GateOp) -> None:
    held = gate(1.0)
    waiting = asyncio.ensure_future(asyncio.to_thread((held + 1).result))
    await asyncio.to_thread(gate.wait_entered)
    gate.open()
    assert float(await waiting) == 2.0


async def test_many_threads_that_wait_for_one_loop_are_served_while_it_is_blocked_in_one_of_them() -> None:
    end = chain(ops.asarray(0))
    with ThreadPoolExecutor(4) as pool:
        values = [future.result() for future in [pool.submit(end.result) for _ in range(4)]]  # blocks this loop
    assert [int(value) for value in values] == [MANY] * 4


# Several loops


def test_two_loops_exchange_handles() -> None:
    rounds = 20
    baton = threading.Condition()
    state: dict[str, Any] = {"turn": 0, "x": None}

    async def play(me: int) -> None:
        for _ in range(rounds):
            await asyncio.to_thread(take_turn, me)
            x = state["x"]
            x = ops.asarray(0) if x is None else x
            state["x"] = chain(x, 50)
            with baton:
                state["turn"] = 1 - me
                baton.notify_all()
        await state["x"]

    def take_turn(me: int) -> None:
        with baton:
            baton.wait_for(lambda: state["turn"] == me)

    with ThreadPoolExecutor(2) as pool:
        for player in [pool.submit(asyncio.run, play(me)) for me in (0, 1)]:
            player.result()
    assert state["x"].result() == 2 * rounds * 50


async def test_a_handle_of_a_blocked_loop_can_be_awaited() -> None:
    with blocked_loop(lambda: chain(ops.asarray(0))) as end:
        assert int(await end) == MANY


async def test_what_a_blocked_loop_queued_behind_a_running_op_is_worked_off(gate: GateOp) -> None:
    with blocked_loop(lambda: chain(gate(0))) as end:
        reading = asyncio.ensure_future(end.wait_ready())
        await asyncio.to_thread(gate.wait_entered)
        gate.open()
        await reading
        assert int(await end) == MANY


async def test_an_op_here_may_wait_for_a_blocked_loop(gate: GateOp) -> None:
    with blocked_loop(lambda: chain(gate(0))) as end:
        here = end + 1
        await (ops.asarray(1) + 1)
        reading = asyncio.ensure_future(here.wait_ready())
        await asyncio.sleep(0)
        gate.open()
        await reading
        assert int(await here) == MANY + 1


async def test_a_blocked_loop_with_ops_across_its_devices_can_be_waited_for(gate: GateOp) -> None:
    def dispatch() -> Handle:
        x = gate(0)
        for index in range(40):
            with engine.device(f"CPU:{index % 2}"):
                x = chain(x, 100)
        return x

    with blocked_loop(dispatch) as end:
        reading = asyncio.ensure_future(end.wait_ready())
        await asyncio.to_thread(gate.wait_entered)
        gate.open()
        await reading
        assert int(await end) == 4_000


async def test_handles_of_a_blocked_loop_are_told_of_as_they_complete(gate: GateOp) -> None:
    with blocked_loop(lambda: [chain(gate(0), 10 * length) for length in range(1, 50)]) as ends:
        gathering = asyncio.ensure_future(engine.gather(*ends))
        await asyncio.to_thread(gate.wait_entered)
        gate.open()
        assert [int(value) for value in await gathering] == [10 * length for length in range(1, 50)]


async def test_a_thousand_waiters_elsewhere_start_no_thousand_threads() -> None:
    with blocked_loop(lambda: [chain(ops.asarray(0), 20) for _ in range(1_000)]) as ends:
        most = 0

        async def read(handle: Handle) -> int:
            nonlocal most
            value = int(await handle)
            most = max(most, threading.active_count())
            return value

        before = threading.active_count()
        assert await asyncio.gather(*(read(end) for end in ends)) == [20] * 1_000
        assert most - before <= 4


def test_polling_a_handle_of_a_blocked_loop_makes_progress() -> None:
    with blocked_loop(lambda: chain(ops.asarray(0))) as end:
        while not end.is_ready():
            pass
        assert end.result() == MANY


async def test_polling_on_the_loop_itself_makes_progress() -> None:
    end = chain(ops.asarray(0))
    while not end.is_ready():
        pass
    assert int(await end) == MANY


async def test_blocking_the_loop_by_consent_makes_progress(gate: GateOp) -> None:
    held = gate(0)
    end = chain(held)
    opening = threading.Timer(0, lambda: gate.open() if gate.wait_entered() else None)
    opening.start()
    with engine.allow_sync():
        assert end.result() == MANY
        assert float(chain(end, 10)) == MANY + 10
        engine.wait()


async def test_blocking_the_loop_for_its_own_async_op_is_refused() -> None:
    @engine.op
    async def here(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        await asyncio.sleep(0)
        return x

    handle = here(np.ones(2)) + 1
    with engine.allow_sync(), pytest.raises(engine.BlockingSyncError, match="blocked by this wait"):
        handle.result()
    assert (await handle).tolist() == [2.0, 2.0]


def test_handles_are_carried_from_one_run_to_the_next(gate: GateOp) -> None:
    kept: list[Handle] = []

    async def first() -> None:
        kept.append(chain(ops.asarray(0)))
        kept.append(chain(gate(0)))

    async def second() -> list[int]:
        gate.open()
        kept.append(kept[0] + kept[1])
        return [int(value) for value in await engine.gather(*kept)]

    asyncio.run(first())
    assert asyncio.run(second()) == [MANY, MANY, 2 * MANY]
    assert kept[2].result() == 2 * MANY
    assert asyncio.run(read(kept[2])) == 2 * MANY


async def read(handle: Handle) -> int:
    return int(await handle)


def test_what_a_thread_left_pending_before_it_ran_a_loop_is_waited_for_after_it(gate: GateOp) -> None:
    failing = ops.add(np.ones(2), np.ones(3))
    pending = gate(np.ones(1))

    async def on_a_loop() -> Any:
        return await ops.add(1, 2)

    assert asyncio.run(on_a_loop()) == 3
    gate.open()
    with pytest.raises(ValueError, match="broadcast"):
        engine.wait()
    assert pending.is_ready()
    assert failing.is_ready()


def test_a_thread_whose_loop_went_on_elsewhere_is_on_its_own(gate: GateOp) -> None:
    loop = asyncio.new_event_loop()

    async def on_the_loop() -> Any:
        return await ops.add(1, 2)

    assert loop.run_until_complete(on_the_loop()) == 3
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        pending = gate(np.ones(1))
        assert asyncio.run_coroutine_threadsafe(on_the_loop(), loop).result() == 3
        assert not pending.is_ready()
        gate.open()
        engine.wait()
        assert pending.is_ready()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def test_what_a_closed_loop_left_pending_can_be_polled_and_waited_for() -> None:
    async def dispatch() -> list[Handle]:
        return [chain(ops.asarray(0)) for _ in range(2)]

    polled, waited = asyncio.run(dispatch())
    while not polled.is_ready():
        pass
    assert [int(polled.result()), int(waited.result())] == [MANY, MANY]


async def test_a_loop_that_ends_while_another_awaits_its_handles_leaves_nobody_waiting(gate: GateOp) -> None:
    made: list[Handle] = []
    ready, release = threading.Event(), threading.Event()

    async def other() -> None:
        made.append(chain(gate(0)))
        ready.set()
        await asyncio.to_thread(release.wait)

    thread = threading.Thread(target=lambda: asyncio.run(other()))
    thread.start()
    await asyncio.to_thread(ready.wait)
    reading = asyncio.ensure_future(read(made[0]))
    await asyncio.to_thread(gate.wait_entered)
    release.set()
    await asyncio.to_thread(thread.join)
    gate.open()
    assert await reading == MANY


def test_a_loop_closed_without_shutdown_keeps_nobody_from_its_handles() -> None:
    loop = asyncio.new_event_loop()

    async def dispatch() -> Handle:
        return chain(ops.asarray(0))

    end = loop.run_until_complete(dispatch())
    loop.close()
    assert end.result() == MANY


def test_a_loop_that_stands_still_can_be_waited_for_and_polled() -> None:
    loop = asyncio.new_event_loop()

    async def dispatch() -> list[Handle]:
        return [chain(ops.asarray(0)) for _ in range(2)]

    try:
        first, second = loop.run_until_complete(dispatch())
        while not first.is_ready():
            pass
        assert second.result() == MANY
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def test_async_ops_run_without_a_loop() -> None:
    @engine.op
    async def fetch(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        await asyncio.sleep(0)
        return x + 1

    assert (fetch(np.ones(2)) + 1).result().tolist() == [3.0, 3.0]


@pytest.mark.parametrize("call", ["call_soon", "call_later", "call_at"])
async def test_the_loops_of_these_tests_refuse_calls_from_other_threads(call: str) -> None:
    """What the engine does to a loop from a thread that is not the loop's is thread-safe, or fails its test."""
    loop = asyncio.get_running_loop()
    arguments = (print,) if call == "call_soon" else (0.0, print)
    with pytest.raises(RuntimeError, match="thread"):
        await asyncio.to_thread(getattr(loop, call), *arguments)
    getattr(loop, call)(*arguments).cancel()


# Fork


def in_child(target: Callable[[], None]) -> int | None:
    """The exit code of a forked child that runs `target`."""
    child = multiprocessing.get_context("fork").Process(target=target)
    child.start()
    child.join(30)
    if child.exitcode is None:
        child.kill()
        child.join()
    return child.exitcode


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


def test_a_loop_that_is_run_inside_another_one_has_its_errors_too() -> None:
    """As some tools for notebooks have it: asyncio itself forbids it, and from Python 3.14 on a second task, too."""

    async def inner() -> int:
        ops.add(np.ones(3), np.ones(4))
        with pytest.raises(ValueError, match="broadcast"):
            await engine.synchronize()
        return int(await ops.add(1, 1))

    async def outer() -> None:
        await ops.add(1, 1)
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        asyncio.tasks._leave_task(loop, task)
        asyncio._set_running_loop(None)
        nested = asyncio.new_event_loop()
        try:
            assert nested.run_until_complete(inner()) == 2
        finally:
            nested.close()
            asyncio._set_running_loop(loop)
            asyncio.tasks._enter_task(loop, task)
        await engine.synchronize()
        assert await ops.add(2, 1) == 3

    asyncio.run(outer())


@needs_fork
def test_a_forked_child_computes_on_its_own() -> None:
    before = chain(ops.asarray(0))
    before.result()

    def child() -> None:
        assert chain(before, 100).result() == MANY + 100
        assert asyncio.run(compute()) == MANY

    assert in_child(child) == 0
    assert chain(before, 10).result() == MANY + 10


async def compute() -> int:
    return int(await chain(ops.asarray(0)))


@needs_fork
def test_a_forked_child_works_off_what_was_queued() -> None:
    end = chain(ops.asarray(0))

    def child() -> None:
        assert end.result() == MANY

    assert in_child(child) == 0
    assert end.result() == MANY


@needs_fork
def test_a_forked_child_is_not_held_up_by_an_op_that_runs_in_its_parent(gate: GateOp) -> None:
    held = gate(0)
    end = chain(held)
    gate.wait_entered()

    def child() -> None:
        gate.open()
        assert end.result() == MANY
        engine.wait()

    assert in_child(child) == 0
    assert not held.is_ready()
    gate.open()
    assert end.result() == MANY


@needs_fork
def test_a_child_forked_while_threads_compute_is_not_stuck() -> None:
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            chain(ops.asarray(0), 200).result()

    def child() -> None:
        assert chain(ops.asarray(0), 100).result() == 100

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(busy) for _ in range(2)]
        try:
            assert [in_child(child) for _ in range(10)] == [0] * 10
        finally:
            stop.set()
        for each in running:
            each.result()


def test_after_a_defect_of_the_engine_on_a_worker_another_worker_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that waits for a loop that is blocked needs one."""
    shown: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, *_: shown.append(kind))
    idle = Driver._drive_until_idle
    defects = [RuntimeError]

    def with_a_defect(driver: Driver) -> None:
        if defects:
            raise defects.pop()("a defect")
        idle(driver)

    monkeypatch.setattr(Driver, "_drive_until_idle", with_a_defect)

    async def main() -> list[int]:
        handle = chain(ops.asarray(0))
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(asyncio.run(read(handle))))
        thread.start()
        thread.join()  # the loop is blocked meanwhile
        return found

    assert asyncio.run(main()) == [MANY]
    assert shown == [RuntimeError]


def test_asking_for_an_async_op_leaves_it_alone_where_a_worker_runs_it() -> None:
    begun, go = threading.Event(), threading.Event()

    @engine.op
    async def later(x: Any) -> Any:
        begun.set()
        await asyncio.to_thread(go.wait)
        return x + 1

    with engine.Executor(execution_mode=engine.ASYNC):  # on no loop
        handle = later(1.0)
        assert begun.wait(30)
        assert not handle.is_ready()
        go.set()
        assert float(handle) == 2.0
