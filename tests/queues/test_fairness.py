"""Fairness: an op waits for its operands and a slot, never for another op; what a task waits for goes first, in turns.

Nothing here is measured. A `Line` is a function of which one call runs at a time: its first call keeps the slot until
the test has put all others in place, so that the order in which those run is decided, and seen.
"""

import asyncio
import contextlib
import itertools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import numpy as np
import pytest

import engine
import engine.testing
from engine import ops
from engine.base.op import Op
from engine.queues import slice as slices
from engine.queues.records import entry_of, record_of
from engine.queues.states import Entry, State
from engine.runtime.current import current_core
from engine.testing import GateOp
from engine.threads.blas import core_count
from engine.threads.slots import PATIENCE
from handles import Handle
from handles.cell import pending_cell
from tests.common import turns

WAIT = 60.0
"""Seconds after which a test has failed: nothing waits as long when it works."""


async def until(condition: Callable[[], object], seconds: float = WAIT) -> None:
    """Let the loop turn until something is so."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - it may be a thread that makes it so
            await asyncio.sleep(0)


class Line:
    """Calls of a function of which one runs at a time; the others stand in line until the first one is let go."""

    def __init__(self) -> None:
        self.order: list[Any] = []
        self._opened = threading.Event()
        self._op = engine.op(self._call, name="line", max_concurrency=1)
        self.first = self._op(0.0, None)

    def _call(self, x: Any, tag: Any) -> Any:
        if tag is None:
            assert self._opened.wait(WAIT)
        else:
            self.order.append(tag)
        return x

    def __call__(self, tag: Any, x: Any = 0.0) -> Handle:
        handle: Handle = self._op(x, tag)
        return handle

    async def up(self, tags: Any) -> list[Handle]:
        """Dispatch a call for each tag, and wait until all stand in line."""
        handles = [self(tag) for tag in tags]
        await until(lambda: all(state_of(handle) is State.READY for handle in handles))
        return handles

    def open(self) -> None:
        """Let the first call end, and all others after it."""
        self._opened.set()


@pytest.fixture
def opened() -> Iterator[list[Line]]:
    """Lines that are opened at the end of the test, whatever happened."""
    lines: list[Line] = []
    yield lines
    for line in lines:
        line.open()


@pytest.fixture
async def line(asynchronous: None, opened: list[Line]) -> AsyncIterator[Line]:
    """A line of the loop's default executor."""
    line = Line()
    opened.append(line)
    yield line
    line.open()


def state_of(handle: Handle) -> State | None:
    entry = entry_of(record_of(handle._cell))
    return None if entry is None else entry.state


def is_demanded(handle: Handle) -> bool:
    entry = entry_of(record_of(handle._cell))
    return entry is not None and any(demand.alive for demand in entry.demands)


@contextlib.contextmanager
def in_thread(target: Callable[[], object]) -> Iterator[None]:
    """Call something on another thread; the block is left when it has returned, and fails as it does."""
    failures: list[BaseException] = []

    def call() -> None:
        try:
            target()
        except BaseException as error:  # noqa: BLE001 - handed to the test
            failures.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    try:
        yield
    finally:
        thread.join(WAIT)
    assert not thread.is_alive()
    if failures:
        raise failures[0]


# ---------------------------------------------------------------------------------------------------------------------
# What passes what


async def test_a_small_op_passes_functions_that_run_and_that_are_queued(gate: GateOp, asynchronous: None) -> None:
    held = [gate(float(index)) for index in range(100)]
    assert await ops.add(1, 2) == 3
    assert not any(handle.is_ready() for handle in held)
    gate.open()
    assert await engine.gather(*held) == [float(index) for index in range(100)]


def test_a_small_op_passes_them_without_a_loop(gate: GateOp, asynchronous: None) -> None:
    held = [gate(float(index)) for index in range(100)]
    assert ops.add(1, 2).result() == 3
    assert not any(handle.is_ready() for handle in held)
    gate.open()


async def test_a_small_op_that_no_task_waits_for_passes_them_too(gate: GateOp, asynchronous: None) -> None:
    held = [gate(float(index)) for index in range(100)]
    small = ops.add(1, 2)
    await until(small.is_ready)
    assert not any(handle.is_ready() for handle in held)


async def test_large_ops_of_the_engine_pass_functions_of_the_user(gate: GateOp, asynchronous: None) -> None:
    held = [gate(float(index)) for index in range(100)]
    array = np.random.default_rng(0).normal(size=200_000)
    np.testing.assert_array_equal(await ops.sort(array), np.sort(array))
    assert not any(handle.is_ready() for handle in held)


async def test_what_depends_on_a_gate_waits_and_nothing_else(gate: GateOp, asynchronous: None) -> None:
    held = gate(1.0)
    behind = [held + index for index in range(5)]
    beside = [ops.add(1.0, index) for index in range(5)]
    assert await engine.gather(*beside) == [1.0 + index for index in range(5)]
    assert not any(handle.is_ready() for handle in (held, *behind))
    gate.open()
    assert await engine.gather(*behind) == [1.0 + index for index in range(5)]


@pytest.mark.parametrize("count", [2, 4])
async def test_independent_functions_run_at_once(count: int, asynchronous: None) -> None:
    together = threading.Barrier(count)

    @engine.op
    def meet(x: Any) -> Any:
        together.wait(WAIT)
        return x

    assert await engine.gather(*[meet(float(index)) for index in range(count)]) == [float(n) for n in range(count)]


def test_independent_functions_run_at_once_without_a_loop(asynchronous: None) -> None:
    together = threading.Barrier(4)

    @engine.op
    def meet(x: Any) -> Any:
        together.wait(WAIT)
        return x

    handles = [meet(float(index)) for index in range(4)]
    assert [handle.result() for handle in handles] == [0, 1, 2, 3]


async def test_a_barrier_sees_all_that_was_dispatched_before(gate: GateOp, asynchronous: None) -> None:
    held = [gate(float(index)) for index in range(20)]
    behind, beside = held[-1] + 1, ops.add(1, 2)
    barrier = asyncio.ensure_future(engine.synchronize())
    await until(beside.is_ready)
    await turns(50)
    assert not barrier.done()
    gate.open()
    await barrier
    assert all(handle.is_ready() for handle in (*held, behind, beside))


async def test_a_barrier_waits_for_nothing_that_was_dispatched_after(gate: GateOp, asynchronous: None) -> None:
    later = GateOp()
    gate(1.0)
    barrier = asyncio.ensure_future(engine.synchronize())
    await turns(50)
    held = later(2.0)
    try:
        gate.open()
        await barrier
        assert not held.is_ready()
    finally:
        later.open()


# ---------------------------------------------------------------------------------------------------------------------
# How many at once


class Crowd:
    """A function that counts how many of its calls run at once."""

    def __init__(self, at_least: int = 1) -> None:
        self.most = self._now = 0
        self.order: list[Any] = []
        self._lock = threading.Lock()
        self._together = threading.Barrier(at_least)

    def __call__(self, x: Any, tag: Any = None) -> Any:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
            self.order.append(tag)
        self._together.wait(WAIT)
        with self._lock:
            self._now -= 1
        return x


def narrow(width: int, mode: engine.ExecutionMode = engine.ASYNC) -> engine.Executor:
    return engine.Executor(config=engine.Config(inter_op_parallelism_threads=width), execution_mode=mode)


@pytest.mark.parametrize("demanded", [None, 0, 10, 19])
async def test_with_one_thread_ops_run_in_dispatch_order_and_never_two_at_once(demanded: int | None) -> None:
    crowd = Crowd()
    call = engine.op(crowd, name="call")
    async with narrow(1) as executor:
        with engine.testing.hold():
            handles = [call(float(index), index) for index in range(20)]
            reading = None if demanded is None else asyncio.ensure_future(handles[demanded].wait_ready())
            await turns(3)
        await engine.synchronize()
        if reading is not None:
            await reading
        assert executor.statistics().completed == 20
    assert crowd.order == list(range(20))
    assert crowd.most == 1


async def test_with_one_thread_small_ops_wait_for_their_turn(gate: GateOp) -> None:
    async with narrow(1):
        before = ops.add(1, 1)
        held = gate(1.0)
        after = ops.add(1, 2)
        reading = asyncio.ensure_future(after.wait_ready())
        await until(before.is_ready)
        await turns(50)
        assert not held.is_ready()
        assert not after.is_ready()
        gate.open()
        await reading
        assert held.is_ready()


async def test_with_two_threads_two_run_at_once_and_never_three() -> None:
    crowd = Crowd(at_least=2)
    call = engine.op(crowd, name="call")
    async with narrow(2):
        handles = [call(float(index)) for index in range(12)]
        await handles[-1]
        await engine.gather(*handles)
    assert crowd.most == 2


async def test_functions_have_as_many_threads_as_documented_and_no_more(gate: GateOp, asynchronous: None) -> None:
    entered: list[int] = []

    @engine.op
    def call(x: Any) -> Any:
        entered.append(1)
        gate._opened.wait(WAIT)
        return x

    handles = [call(float(index)) for index in range(60)]
    most = min(32, core_count() + 4)
    await until(lambda: len(entered) >= most)
    await turns(50)
    assert len(entered) == most
    gate.open()
    await engine.gather(*handles)


async def test_max_concurrency_bounds_a_function_over_several_executors() -> None:
    crowd = Crowd(at_least=2)
    call = engine.op(crowd, name="call", max_concurrency=2)
    async with engine.Executor(execution_mode=engine.ASYNC) as first, engine.Executor(execution_mode=engine.ASYNC):
        handles = [call(float(index)) for index in range(6)]
        with first.as_default():
            handles += [call(float(index)) for index in range(6)]
        await engine.gather(*handles)
    assert crowd.most == 2


@pytest.mark.parametrize("limit", [1, 3])
async def test_max_concurrency_bounds_async_functions(limit: int, asynchronous: None) -> None:
    running = [0]
    most = [0]
    going = asyncio.Event()

    @engine.op(max_concurrency=limit)
    async def fetch(x: Any) -> Any:
        running[0] += 1
        most[0] = max(most)
        most.append(running[0])
        await going.wait()
        running[0] -= 1
        return x

    handles = [fetch(float(index)) for index in range(10)]
    await until(lambda: running[0] == limit)
    await turns(50)
    assert running[0] == limit
    going.set()
    assert await engine.gather(*handles) == [float(index) for index in range(10)]
    assert max(most) == limit


def test_max_concurrency_bounds_sync_calls_of_several_threads() -> None:
    crowd = Crowd()
    call = engine.op(crowd, name="call", max_concurrency=1)
    begin = threading.Barrier(4)

    def work() -> None:
        with engine.Executor(execution_mode=engine.SYNC):
            begin.wait(WAIT)
            for _ in range(20):
                call(1.0)

    with contextlib.ExitStack() as threads:
        for _ in range(4):
            threads.enter_context(in_thread(work))
    assert len(crowd.order) == 80
    assert crowd.most == 1


def test_sync_and_async_calls_of_a_function_share_its_bound(gate: GateOp, asynchronous: None) -> None:
    crowd = Crowd()
    entered = threading.Event()

    @engine.op(max_concurrency=1)
    def call(x: Any, first: bool) -> Any:
        if first:
            entered.set()
            gate._opened.wait(WAIT)
        return crowd(x, first)

    held = call(1.0, True)
    with in_thread(held.result):
        assert entered.wait(WAIT)

        def work() -> None:
            with engine.execution_mode(engine.SYNC):
                call(2.0, False)

        with in_thread(work):
            gate.open()
    assert crowd.order == [True, False]
    assert crowd.most == 1


def test_a_function_with_a_bound_may_call_itself(mode: engine.ExecutionMode) -> None:
    @engine.op(max_concurrency=1)
    def factorial(n: Any) -> Any:
        return n * factorial(n - 1).result() if n > 1 else n

    assert factorial(np.int64(5)).result() == 120


def test_functions_with_bounds_may_call_each_other(mode: engine.ExecutionMode) -> None:
    @engine.op(max_concurrency=1)
    def even(n: Any) -> Any:
        return odd(n - 1).result() if n > 0 else np.bool_(True)

    @engine.op(max_concurrency=1)
    def odd(n: Any) -> Any:
        return even(n - 1).result() if n > 0 else np.bool_(False)

    assert even(np.int64(6)).result()


async def test_an_async_function_with_a_bound_may_call_itself(asynchronous: None) -> None:
    @engine.op(max_concurrency=1)
    async def factorial(n: Any) -> Any:
        return n * await factorial(n - 1) if n > 1 else n

    handle = factorial(np.int64(5))
    try:
        await until(handle.is_ready, 2.0)
        assert await handle == 120
    finally:
        engine.testing.reset()


async def test_a_queue_with_no_call_of_a_function_left_does_not_hold_others_up(line: Line, gate: GateOp) -> None:
    async with (
        engine.Executor(execution_mode=engine.ASYNC) as second,
        engine.Executor(execution_mode=engine.ASYNC) as third,
    ):
        with second.as_default():
            busy = [gate(1.0) for _ in range(60)]
            (dropped,) = await line.up(["dropped"])
            dropped.cancel()
        with third.as_default():
            (last,) = await line.up(["last"])
        line.open()
        try:
            await until(last.is_ready, 2.0)
            assert not busy[-1].is_ready()
        finally:
            gate.open()


async def test_a_call_that_waits_for_its_bound_keeps_no_slot_from_others(asynchronous: None) -> None:
    gates = [GateOp() for _ in range(min(32, core_count() + 4))]
    entered, let_go = threading.Event(), threading.Event()

    @engine.op(max_concurrency=1)
    def bounded(x: Any, first: bool) -> Any:
        if first:
            entered.set()
            let_go.wait(WAIT)
        return x

    async with (
        engine.Executor(execution_mode=engine.ASYNC) as other,
        engine.Executor(config=engine.Config(device_count={"CPU": 2}), execution_mode=engine.ASYNC),
    ):
        try:
            for gate in gates:
                gate(1.0)
            for gate in gates:
                await asyncio.to_thread(gate.wait_entered, WAIT)
            waiting = bounded(1.0, False)
            await until(lambda: state_of(waiting) is State.READY)
            await turns(50)
            with other.as_default():
                bounded(1.0, True)
            await asyncio.to_thread(entered.wait, WAIT)
            gates[0].open()
            with engine.device("CPU:1"):
                free = engine.op(lambda x: x)(2.0)
            await until(free.is_ready, 2.0)
        finally:
            let_go.set()
            for gate in gates:
                gate.open()


async def test_a_bound_of_another_function_does_not_hold_a_function_up(line: Line) -> None:
    await line.up(range(3))
    other = engine.op(lambda x: x, name="other", max_concurrency=1)
    assert await other(5.0) == 5.0
    assert line.order == []


@pytest.mark.parametrize(
    ("value", "error"),
    [(0, ValueError), (-1, ValueError), (True, TypeError), (1.0, TypeError), ("2", TypeError), ([], TypeError)],
)
def test_values_of_max_concurrency_that_make_no_sense_are_refused(value: Any, error: type[Exception]) -> None:
    def function(x: Any) -> Any:
        return x

    with pytest.raises(error, match="max_concurrency must be None or an integer, 1 or more"):
        engine.op(function, max_concurrency=value)
    with pytest.raises(error, match="max_concurrency"):
        engine.op(max_concurrency=value)(function)


# ---------------------------------------------------------------------------------------------------------------------
# What a task waits for goes first


Waits = Callable[[Handle], Awaitable[Any]]


async def reads(handle: Handle) -> None:
    await handle


async def waits_until_ready(handle: Handle) -> None:
    await handle.wait_ready()


async def gathers(handle: Handle) -> None:
    await engine.gather(handle)


async def takes_what_is_completed(handle: Handle) -> None:
    async for each in engine.as_completed([handle]):
        await each


async def awaits_what_depends_on_it(handle: Handle) -> None:
    await ((handle + 1) * 2)


async def awaits_what_depends_on_it_on_another_device(handle: Handle) -> None:
    await (handle.to_device("CPU:1") + 1)


async def awaits_what_another_executor_made_of_it(handle: Handle) -> None:
    async with engine.Executor(execution_mode=engine.ASYNC):
        await ops.add(handle, 1)


async def blocks_a_thread(handle: Handle) -> None:
    await asyncio.to_thread(handle.result)


async def blocks_a_thread_for_some_time(handle: Handle) -> None:
    await asyncio.to_thread(handle.result, WAIT)


async def converts_it_on_a_thread(handle: Handle) -> None:
    await asyncio.to_thread(np.asarray, handle)


async def awaits_it_on_another_loop(handle: Handle) -> None:
    await asyncio.to_thread(asyncio.run, reads(handle))


WAITERS: list[Waits] = [
    reads,
    waits_until_ready,
    gathers,
    takes_what_is_completed,
    awaits_what_depends_on_it,
    awaits_what_depends_on_it_on_another_device,
    awaits_what_another_executor_made_of_it,
    blocks_a_thread,
    blocks_a_thread_for_some_time,
    converts_it_on_a_thread,
    awaits_it_on_another_loop,
]


@pytest.fixture
async def lines(opened: list[Line], fresh_engine: None) -> AsyncIterator[Callable[[], Line]]:
    """Makes lines in a program with two devices."""
    engine.enable_eager_execution(engine.Config(device_count={"CPU": 2}), execution_mode=engine.ASYNC)

    def make() -> Line:
        opened.append(Line())
        return opened[-1]

    yield make
    for each in opened:
        each.open()
    await engine.synchronize()


@pytest.mark.parametrize("wait", WAITERS, ids=lambda wait: wait.__name__)
async def test_what_is_waited_for_goes_before_what_is_not(wait: Waits, lines: Callable[[], Line]) -> None:
    line = lines()
    handles = await line.up(range(20))
    waiting = asyncio.ensure_future(wait(handles[-1]))
    await until(lambda: is_demanded(handles[-1]))
    line.open()
    await waiting
    await engine.synchronize()
    assert line.order == [19, *range(19)]


async def test_leaving_a_scope_demands_what_was_dispatched_inside(line: Line) -> None:
    async def scoped() -> None:
        async with engine.scope():
            handles.append(line("inside"))

    handles = await line.up(range(20))
    waiting = asyncio.ensure_future(scoped())
    await until(lambda: len(handles) == 21 and is_demanded(handles[-1]))
    line.open()
    await waiting
    await engine.synchronize()
    assert line.order == ["inside", *range(20)]


async def test_what_is_waited_for_goes_first_with_its_operands(line: Line) -> None:
    handles = await line.up(range(10))
    for tag in "abc":
        handles.append(line(tag, handles[-1]))
    waiting = asyncio.ensure_future(reads(handles[-1]))
    await until(lambda: all(is_demanded(handle) for handle in handles[-4:]))
    line.open()
    await waiting
    assert line.order[:4] == [9, "a", "b", "c"]
    await engine.synchronize()


async def test_handles_that_are_waited_for_together_go_in_the_order_in_which_they_are_named(line: Line) -> None:
    handles = await line.up(range(10))
    waiting = asyncio.ensure_future(engine.gather(*handles[:2:-1]))
    await until(lambda: all(map(is_demanded, handles[3:])))
    line.open()
    await waiting
    await engine.synchronize()
    assert line.order == [9, 8, 7, 6, 5, 4, 3, 0, 1, 2]


async def test_what_was_waited_for_while_the_device_was_held_is_among_the_first(line: Line) -> None:
    with engine.testing.hold():
        handles = [line(tag) for tag in range(20)]
        waiting = asyncio.ensure_future(reads(handles[-1]))
        await turns(5)
    await until(lambda: is_demanded(handles[-1]))
    line.open()
    await waiting
    await engine.synchronize()
    assert line.order == [19, *range(19)]


@pytest.mark.parametrize("tasks", [2, 3])
async def test_waiting_tasks_take_turns(line: Line, tasks: int) -> None:
    handles = await line.up([(task, index) for task in range(tasks) for index in range(12)])
    waiting = [asyncio.ensure_future(engine.gather(*handles[12 * task : 12 * (task + 1)])) for task in range(tasks)]
    await until(lambda: all(map(is_demanded, handles)))
    line.open()
    await asyncio.gather(*waiting)
    counts = [0] * tasks
    for task, _ in line.order[: 9 * tasks]:
        counts[task] += 1
        assert max(counts) - min(counts) <= 4, line.order  # who waits longest has a turn now and then, out of turn


async def test_a_task_that_waits_for_all_takes_turns_with_one_that_waits_for_some(line: Line) -> None:
    handles = await line.up(range(20))
    barrier = asyncio.ensure_future(engine.synchronize())
    await turns(5)
    waiting = asyncio.ensure_future(engine.gather(*handles[10:]))
    await until(lambda: all(map(is_demanded, handles[10:])))
    line.open()
    await asyncio.gather(barrier, waiting)
    assert 3 <= sum(tag < 10 for tag in line.order[:10]) <= 7


async def test_the_higher_priority_goes_first(line: Line) -> None:
    async def waits(tag: str, priority: int) -> None:
        async with engine.scope(priority=priority):
            handles[tag] = line(tag)
            await handles[tag]

    handles: dict[str, Handle] = {}
    priorities = {"low": -1, "none": 0, "high": 9, "middle": 4}
    waiting = [asyncio.ensure_future(waits(tag, priority)) for tag, priority in priorities.items()]
    await until(lambda: len(handles) == 4 and all(map(is_demanded, handles.values())))
    line.open()
    await asyncio.gather(*waiting)
    assert line.order == ["high", "middle", "none", "low"]


async def test_a_priority_is_that_of_all_that_is_needed(line: Line) -> None:
    async def waits(handle: Handle, priority: int) -> None:
        async with engine.scope(priority=priority):
            await ops.add(handle, 1)

    handles = await line.up(range(3))
    waiting = [asyncio.ensure_future(waits(handle, priority)) for priority, handle in enumerate(handles)]
    await until(lambda: all(map(is_demanded, handles)))
    line.open()
    await asyncio.gather(*waiting)
    assert line.order == [2, 1, 0]


# ---------------------------------------------------------------------------------------------------------------------
# Those who go away, and those who wait long


async def is_cancelled(handle: Handle) -> None:
    waiting = asyncio.ensure_future(reads(handle))
    await until(lambda: is_demanded(handle))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def times_out(handle: Handle) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as limit:
            limit.reschedule(asyncio.get_running_loop().time())
            await handle


async def times_out_on_a_thread(handle: Handle) -> None:
    def wait() -> None:
        with pytest.raises(TimeoutError):
            handle.result(0)

    await asyncio.to_thread(wait)


async def breaks_off(handle: Handle) -> None:
    async def wait() -> None:
        completed = engine.as_completed([handle])
        try:
            await anext(completed)
        finally:
            await completed.aclose()  # type: ignore[attr-defined]

    waiting = asyncio.ensure_future(wait())
    await until(lambda: is_demanded(handle))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


@pytest.mark.parametrize(
    "leave", [is_cancelled, times_out, times_out_on_a_thread, breaks_off], ids=lambda leave: leave.__name__
)
async def test_one_that_waits_no_longer_takes_its_demand_back(leave: Waits, line: Line) -> None:
    handles = await line.up(range(10))
    await leave(handles[-1])
    await until(lambda: not is_demanded(handles[-1]))
    line.open()
    await engine.synchronize()
    assert line.order == list(range(10))


async def test_another_task_that_waits_keeps_its_demand(line: Line) -> None:
    handles = await line.up(range(10))
    waiting = asyncio.ensure_future(reads(handles[-1]))
    await is_cancelled(handles[-1])
    await turns(50)
    line.open()
    await waiting
    await engine.synchronize()
    assert line.order == [9, *range(9)]


@pytest.mark.parametrize("tasks", [1, 3])
async def test_an_endless_stream_of_demands_lets_what_no_task_waits_for_run(tasks: int, line: Line) -> None:
    (waiting,) = await line.up(["undemanded"])

    async def stream(task: int) -> None:
        while not waiting.is_ready():
            following = [line(task) for _ in range(3)]  # there is always one in line
            await engine.gather(*following)

    streams = [asyncio.ensure_future(stream(task)) for task in range(tasks)]
    await turns(50)
    line.open()
    await asyncio.gather(*streams)
    assert line.order.index("undemanded") <= PATIENCE


async def test_tiny_requests_are_answered_beside_large_ones(gate: GateOp, asynchronous: None) -> None:
    """Two clients with tiny ops, four with ops that take until the tiny ones are done."""

    async def slow() -> None:
        await (gate(np.ones(3)) + 1)

    async def tiny() -> None:
        for index in range(50):
            assert await (ops.asarray(index) + 1) == index + 1

    others = [asyncio.ensure_future(slow()) for _ in range(4)]
    await asyncio.gather(tiny(), tiny())
    assert not any(task.done() for task in others)
    gate.open()
    await asyncio.gather(*others)


def test_ops_that_were_taken_into_a_group_leave_the_line_for_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them waited for a core of its own before; its place in the line must not keep other devices waiting."""
    monkeypatch.setattr("engine.threads.slots.core_count", lambda: 1)
    engine.enable_eager_execution(engine.Config(device_count={"CPU": 2}), execution_mode=engine.ASYNC)
    here, there = (ops.asarray(np.ones(1_000_000), device=f"CPU:{index}") for index in range(2))
    engine.wait()
    with engine.testing.hold():
        results = [(here + 1) + 1, (here * 2) * 2]
    assert [result.result()[0] for result in results] == [3, 4]
    for _ in range(3 * PATIENCE):
        assert (there + 1).result(timeout=WAIT)[0] == 2


async def test_what_arrives_when_it_has_ended_already_does_not_take_up_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    async with engine.Executor(execution_mode=engine.ASYNC):
        (queue,) = current_core().queues.values()
        ended = Entry(pending_cell(Op("step", lambda: None), (), None, queue, None, 0), 0)
        ended.state = State.DONE  # it was computed in one group with what it waited for
        queue.backlog.arrived.append(ended)
        turns = itertools.count()
        monkeypatch.setattr(slices, "perf_counter", lambda: next(turns))
        with queue.lock:
            queue.slice.run(1_000)
        assert not queue.backlog.arrived
        assert next(turns) < 10
