"""`@engine.batched`: concurrent calls become one, and each gets what it would have got alone."""

import asyncio
import contextlib
import gc
import inspect
import math
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from types import MethodType
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.custom.batches import Call, Pace, Waiting
from engine.custom.tickets import Ticket, Tickets
from engine.testing import GateOp
from handles import Symbol
from tests.common import reached

Array = np.ndarray[Any, Any]


@pytest.fixture
def asynchronous(fresh_engine: None) -> None:
    """ASYNC mode for the whole program."""
    engine.enable_eager_execution(execution_mode=engine.ASYNC)


class Held:
    """A function whose calls wait until they are let go, and that keeps what it was called with."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.release = threading.Semaphore(0)
        self.sizes: list[int] = []
        self.threads: list[str] = []

    def __call__(self, x: Array) -> Array:
        self.sizes.append(len(x))
        self.threads.append(threading.current_thread().name)
        self.entered.release()
        assert self.release.acquire(timeout=20)
        return x * 2

    def open(self) -> None:
        """Let all calls go from now on."""
        for _ in range(1000):
            self.release.release()

    async def wait_entered(self) -> None:
        """Wait until one more call has begun."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=20)


@pytest.fixture
def held() -> Iterator[Held]:
    """A held function, which is let go at the end of the test."""
    held = Held()
    yield held
    held.open()


async def outcomes(*calls: Any) -> list[Any]:
    """What each of several calls gives, or raises."""
    return await asyncio.gather(*calls, return_exceptions=True)


FOREVER = 3600.0
"""A `max_wait` that never passes in a test."""


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - there is no event for what others count
            await asyncio.sleep(0)


# What a call gives, in both modes


@pytest.mark.sweep
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("dtype", ["float64", "float32", "int16", "bool", "complex128", "M8[s]", "U3"])
async def test_each_call_gets_its_part(mode: engine.ExecutionMode, axis: int, dtype: str) -> None:
    @engine.batched(axis=axis)
    def double(x: Array) -> Array:
        assert x.ndim == 3
        return x.copy()

    rows = [np.arange(number, number + 6).reshape(2, 3).astype(dtype) for number in range(20)]
    results = await asyncio.gather(*map(double, rows))
    for row, result in zip(rows, results, strict=True):
        np.testing.assert_array_equal(result, row, strict=True)
        assert not result.flags.writeable


@pytest.mark.parametrize("value", [3, 2.5, True, 1j, np.float32(7), np.int8(3)])
async def test_numbers_are_stacked_to_arrays_and_parts_are_numpys_scalars(
    mode: engine.ExecutionMode, value: Any
) -> None:
    seen: list[Array] = []

    @engine.batched
    def same(x: Array) -> Array:
        seen.append(x)
        return x

    results = await asyncio.gather(*[same(value) for _ in range(5)])
    assert results == [value] * 5
    assert {type(each) for each in results} == {np.asarray(value).dtype.type}
    assert all(x.ndim == 1 and x.dtype == np.asarray(value).dtype for x in seen)


async def test_handles_sequences_and_several_arguments(mode: engine.ExecutionMode) -> None:
    @engine.batched
    def weighted(x: Array, y: Array, z: Array) -> Array:
        assert x.shape == (len(z), 3)
        return np.asarray((x * y).sum(axis=1) + z)

    handle: Any = ops.asarray([1.0, 2.0, 3.0]) * 2
    results = await asyncio.gather(*[weighted(handle, [1.0, 0.0, float(z)], z=z) for z in range(6)])
    assert results == [2.0 + 6 * z + z for z in range(6)]


async def test_what_is_no_array_comes_as_a_list_and_lists_are_taken_apart(mode: engine.ExecutionMode) -> None:
    @engine.batched
    def shout(texts: list[str], times: Array) -> list[str]:
        return [text.upper() * int(count) for text, count in zip(texts, times, strict=True)]

    results = await asyncio.gather(*[shout(text, 2) for text in ("a", "longer", "")])
    assert results == ["AA", "LONGERLONGER", ""]


async def test_tuples_dicts_and_none_are_taken_apart(mode: engine.ExecutionMode) -> None:
    @engine.batched
    def moments(x: Array) -> tuple[Any, ...]:
        return x.mean(axis=1), {"min": x.min(axis=1), "all": x}, None

    rows = [np.arange(number, number + 3.0) for number in range(5)]
    for row, (mean, more, nothing) in zip(rows, await asyncio.gather(*map(moments, rows)), strict=True):
        assert (mean, more["min"], nothing) == (row.mean(), row.min(), None)
        np.testing.assert_array_equal(more["all"], row)


async def test_parts_of_a_named_tuple_are_named(mode: engine.ExecutionMode) -> None:
    @engine.batched
    def decompose(x: Array) -> Any:
        return {"eigen": np.linalg.eigh(x)}

    matrices = [np.diag([1.0, number]) for number in range(2, 5)]
    for matrix, parts in zip(matrices, await asyncio.gather(*map(decompose, matrices)), strict=True):
        want = np.linalg.eigh(matrix)
        assert type(parts["eigen"]) is type(want)
        np.testing.assert_array_equal(parts["eigen"].eigenvalues, want.eigenvalues)
        np.testing.assert_array_equal(parts["eigen"].eigenvectors, want.eigenvectors)


async def test_a_part_keeps_nothing_alive_and_is_the_callers_own(mode: engine.ExecutionMode) -> None:
    buffer = np.zeros((1, 3))

    @engine.batched
    def reuse(x: Array) -> Array:
        buffer[:] = x
        return buffer

    first = await reuse(np.ones(3))
    await reuse(np.zeros(3))
    np.testing.assert_array_equal(first, np.ones(3))
    assert first.base is None


async def test_an_argument_may_be_written_to_after_the_call(asynchronous: None, held: Held) -> None:
    double = engine.batched(held, max_wait=FOREVER)
    array = np.ones(3)
    busy = asyncio.create_task(double(np.zeros(3)))
    await held.wait_entered()
    waiting = asyncio.create_task(double(array))
    await turns()
    array[:] = 5
    held.open()
    np.testing.assert_array_equal(await waiting, [2, 2, 2])
    await busy


async def test_the_function_may_write_to_what_it_gets(mode: engine.ExecutionMode) -> None:
    @engine.batched
    def centre(x: Array) -> Array:
        x -= x.mean(axis=1, keepdims=True)
        return x

    array = np.arange(3.0)
    np.testing.assert_array_equal(await centre(array), [-1, 0, 1])
    np.testing.assert_array_equal(array, [0, 1, 2])


async def test_options_are_passed_as_they_are_and_not_mixed(mode: engine.ExecutionMode) -> None:
    seen: list[Any] = []

    @engine.batched
    def top(x: Array, *, k: int = 1, name: str = "") -> Array:
        seen.append((k, name))
        return np.sort(x, axis=1)[:, -k:]

    rows = [np.arange(5.0)] * 4
    results = await asyncio.gather(top(rows[0]), top(rows[1], k=2), top(rows[2], k=True), top(rows[3], k=2, name="n"))
    assert [each.tolist() for each in results] == [[4.0], [3.0, 4.0], [4.0], [3.0, 4.0]]
    assert sorted(map(str, seen)) == ["(1, '')", "(2, '')", "(2, 'n')", "(True, '')"]
    with pytest.raises(TypeError, match="hashable"):
        await top(rows[0], name=[])


async def test_options_that_are_equal_and_not_the_same_are_not_mixed(mode: engine.ExecutionMode) -> None:
    @engine.batched
    def signs(x: Array, *, of: Any) -> Array:
        return np.copysign(x, of[0] if isinstance(of, tuple) else of)

    options = [0.0, -0.0, math.nan, -math.nan, np.float32(0), -np.float32(0), (0.0,), (-0.0,)]
    results = await asyncio.gather(*[signs(np.ones(2), of=each) for each in options])
    assert [each.tolist() for each in results] == [[1.0, 1.0], [-1.0, -1.0]] * 4


async def test_an_async_function_runs_on_the_loop(asynchronous: None) -> None:
    threads: list[str] = []

    @engine.batched
    async def fetch(x: Array) -> Array:
        await asyncio.sleep(0)
        threads.append(threading.current_thread().name)
        return x + 1

    assert await asyncio.gather(*map(fetch, range(10))) == list(range(1, 11))
    assert set(threads) == {threading.current_thread().name}


async def test_an_async_function_in_sync_mode() -> None:
    engine.enable_eager_execution(execution_mode=engine.SYNC)

    @engine.batched
    async def fetch(x: Array) -> Array:
        await asyncio.sleep(0)
        return x + 1

    assert await asyncio.gather(*map(fetch, range(3))) == [1, 2, 3]


async def test_a_function_may_compute_with_the_engine(mode: engine.ExecutionMode) -> None:
    @engine.batched
    def norms(x: Array) -> Any:
        return ops.sqrt(ops.sum(ops.multiply(x, x), axis=1))

    assert await asyncio.gather(*[norms(np.full(4, value)) for value in (1.0, 2.0)]) == [2.0, 4.0]


# Batches


async def test_calls_of_a_busy_function_become_one(asynchronous: None, held: Held) -> None:
    double = engine.batched(held, max_wait=FOREVER)
    calls = [asyncio.create_task(double(0))]
    await held.wait_entered()
    calls += [asyncio.create_task(double(number)) for number in range(1, 21)]
    await turns()
    assert double.statistics().waiting == 20
    held.open()
    assert await asyncio.gather(*calls) == [2 * number for number in range(21)]
    assert held.sizes == [1, 20]
    statistics = double.statistics()
    assert (statistics.calls, statistics.batches, statistics.sizes) == (21, 2, (1, 20))
    assert len(statistics.waits) == 21
    assert all(wait >= 0 for wait in statistics.waits)


async def test_an_idle_function_is_called_at_once(asynchronous: None, held: Held) -> None:
    double = engine.batched(held, max_wait=FOREVER)
    held.open()
    for number in range(3):
        assert await double(number) == 2 * number
    assert held.sizes == [1, 1, 1]


async def test_a_batch_has_max_size_calls_at_most(asynchronous: None, held: Held) -> None:
    double = engine.batched(held, max_size=8, max_wait=FOREVER)
    calls = [asyncio.create_task(double(0))]
    await held.wait_entered()
    calls += [asyncio.create_task(double(number)) for number in range(1, 21)]
    await turns()
    held.open()
    assert await asyncio.gather(*calls) == [2 * number for number in range(21)]
    assert max(held.sizes) == 8


async def test_a_call_that_waited_long_enough_starts_a_batch_beside_the_one_that_runs(
    asynchronous: None, held: Held
) -> None:
    double = engine.batched(held, max_wait=0.001)
    first = asyncio.create_task(double(1))
    await held.wait_entered()
    second = asyncio.create_task(double(2))
    await held.wait_entered()  # while the first one runs
    assert not first.done()
    held.open()
    assert await outcomes(first, second) == [2, 4]


async def test_shapes_and_dtypes_are_not_mixed(asynchronous: None) -> None:
    seen: set[tuple[Any, ...]] = set()

    @engine.batched(max_wait=FOREVER)
    def size(x: Array) -> Array:
        seen.add((x.shape[1:], x.dtype))
        return np.full(len(x), x[0].size)

    arrays = [np.zeros(shape, dtype) for shape in ((), (1,), (2,), (2, 2)) for dtype in ("f4", "f8", "i4")]
    results = await asyncio.gather(*[size(arrays[number % 12]) for number in range(120)])
    assert results == [arrays[number % 12].size for number in range(120)]
    assert seen == {(each.shape, each.dtype) for each in arrays}


async def test_a_heavy_function_does_not_run_on_the_loops_thread(asynchronous: None, held: Held) -> None:
    held.open()
    await engine.batched(held)(1)
    assert held.threads != [threading.current_thread().name]


async def test_contextvars_are_those_of_the_call_that_began_the_batch(asynchronous: None) -> None:
    name: ContextVar[str] = ContextVar("name")

    @engine.batched
    def read(x: Array) -> list[str]:
        return [name.get()] * len(x)

    name.set("its own")
    assert await read(1) == "its own"


async def test_the_executor_counts_waiting_calls_where_room_is_asked_for(held: Held) -> None:
    config = engine.Config(max_pending_ops=4)
    async with engine.Executor(config, execution_mode=engine.ASYNC) as executor:
        double = engine.batched(held, max_wait=FOREVER)
        calls = [asyncio.create_task(double(0))]
        await held.wait_entered()
        calls += [asyncio.create_task(double(number)) for number in range(4)]
        await turns()
        with pytest.raises(engine.QueueFullError):
            async with engine.scope(wait=False):
                pass
        held.open()
        await asyncio.gather(*calls)
        async with engine.scope(wait=False):
            pass
        await engine.synchronize()  # the kernel returns some time after its calls have their results
        await reached(lambda: not executor.statistics().pending)  # it is told of before the record is gone


# Cancellation


async def test_a_cancelled_caller_leaves_before_its_batch_begins(asynchronous: None, held: Held) -> None:
    double = engine.batched(held, max_wait=FOREVER)
    calls = [asyncio.create_task(double(0))]
    await held.wait_entered()
    calls += [asyncio.create_task(double(number)) for number in range(1, 6)]
    await turns()
    calls[2].cancel()
    await turns()
    assert double.statistics().waiting == 4
    held.open()
    results = await outcomes(*calls)
    assert isinstance(results.pop(2), asyncio.CancelledError)
    assert results == [0, 2, 6, 8, 10]
    assert held.sizes == [1, 4]
    assert double.statistics().cancelled == 1


async def test_a_caller_cancelled_in_its_batch_disturbs_nobody(asynchronous: None, held: Held) -> None:
    double = engine.batched(held, max_wait=FOREVER)
    first = asyncio.create_task(double(1))
    await held.wait_entered()
    waiting = [asyncio.create_task(double(number)) for number in (2, 3)]
    await turns()
    held.release.release()
    await held.wait_entered()
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    held.open()
    assert await outcomes(first, waiting[1]) == [2, 6]


async def test_a_scope_that_ends_cancels_its_calls_and_no_others(asynchronous: None, held: Held) -> None:
    double = engine.batched(held, max_wait=FOREVER)

    async def request() -> Any:
        async with engine.scope(timeout=0.05):
            return await double(1)

    async def head() -> Any:
        async with engine.scope() as scope:
            scopes.append(scope)
            return await double(0)

    scopes: list[Any] = []
    first = asyncio.create_task(head())
    await held.wait_entered()
    gone = asyncio.create_task(request())
    stays = asyncio.create_task(double(2))
    with pytest.raises(TimeoutError):
        await gone
    scopes[0].cancel()  # the call that began the batch goes; the batch goes on
    await first
    held.open()
    assert await stays == 4


async def test_an_executor_that_is_left_by_an_error_ends_all_calls(held: Held) -> None:
    double = engine.batched(held, max_wait=FOREVER)
    calls: list[asyncio.Task[Any]] = []
    with contextlib.suppress(LookupError):
        async with engine.Executor(execution_mode=engine.ASYNC):
            calls += [asyncio.create_task(double(0))]
            await held.wait_entered()
            calls += [asyncio.create_task(double(number)) for number in range(3)]
            await turns()
            raise LookupError
    results = await outcomes(*calls)
    assert [type(each) for each in results] == [engine.OpCancelledError] * 4


async def test_an_executor_that_is_left_waits_for_the_calls(asynchronous: None, held: Held) -> None:
    double = engine.batched(held, max_wait=FOREVER)
    async with engine.Executor(execution_mode=engine.ASYNC):
        calls = [asyncio.create_task(double(0))]
        await held.wait_entered()
        asyncio.get_running_loop().call_later(0.02, held.open)
    assert await calls[0] == 0


async def test_cancel_pending_ends_the_calls(asynchronous: None, held: Held) -> None:
    double = engine.batched(held, max_wait=FOREVER)
    calls = [asyncio.create_task(double(0))]
    await held.wait_entered()
    calls += [asyncio.create_task(double(number)) for number in range(3)]
    await turns()
    engine.cancel_pending()
    results = await outcomes(*calls)
    assert [type(each) for each in results] == [engine.OpCancelledError] * 4
    held.open()
    assert await double(3) == 6


async def test_a_batch_that_was_cancelled_while_it_ran_holds_no_later_call_up(
    asynchronous: None, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_again = threading.Semaphore(0)
    begin = Tickets.begin

    def noted(self: Tickets, ticket: Ticket) -> list[Call]:
        calls = begin(self, ticket)
        looked_again.release()
        return calls

    monkeypatch.setattr(Tickets, "begin", noted)
    monkeypatch.setattr("engine.custom.batch_kernel.SPAN", FOREVER)
    double = engine.batched(held, max_wait=FOREVER)
    call = asyncio.create_task(double(0))
    await held.wait_entered()
    assert looked_again.acquire(blocking=False)
    engine.cancel_pending()
    assert [type(each) for each in await outcomes(call)] == [engine.OpCancelledError]
    held.open()
    assert await asyncio.to_thread(looked_again.acquire, timeout=20)  # it looks for more calls, and there are none
    assert await double(3) == 6
    assert double.statistics().waiting == 0


async def test_an_operation_timeout_ends_a_call(held: Held) -> None:
    double = engine.batched(held, max_wait=FOREVER)
    async with engine.Executor(engine.Config(operation_timeout_in_ms=30), execution_mode=engine.ASYNC):
        said = "it waits for a batch"
        while "it waits for a batch" in said:  # on a busy machine time may be up before its batch begins
            with pytest.raises(TimeoutError) as raised:
                await double(1)
            said = str(raised.value)
        assert "its batch runs" in said
        held.open()


# Errors


class OddError(Exception):
    """An error of a function."""


async def test_one_bad_input_fails_alone(mode: engine.ExecutionMode) -> None:
    @engine.batched
    def invert(x: Array) -> Array:
        if (x == 0).any():
            raise OddError("zero")
        return 1 / x

    calls = [invert(float(number)) for number in (1, 0, 2, 0, 4)]
    results = await outcomes(*calls)
    assert [each for each in results if not isinstance(each, Exception)] == [1.0, 0.5, 0.25]
    assert [type(each) for each in results if isinstance(each, Exception)] == [OddError] * 2
    assert invert.statistics().failed == 2


async def test_a_batch_that_fails_is_retried_one_by_one(asynchronous: None) -> None:
    sizes: list[int] = []
    held = Held()

    @engine.batched(max_wait=FOREVER)
    def invert(x: Array) -> Array:
        sizes.append(len(x))
        held(x)
        if (x == 0).any():
            raise OddError("zero")
        return 1 / x

    calls = [asyncio.create_task(invert(1.0))]
    await held.wait_entered()
    calls += [asyncio.create_task(invert(float(number))) for number in (1, 0, 2)]
    await turns()
    held.open()
    results = await outcomes(*calls)
    assert isinstance(results.pop(2), OddError)
    assert results == [1.0, 1.0, 0.5]
    assert sizes == [1, 3, 1, 1, 1]
    statistics = invert.statistics()
    assert (statistics.batches, statistics.retried, statistics.failed) == (2, 1, 1)


async def test_an_async_function_is_retried_as_well(asynchronous: None) -> None:
    @engine.batched(max_wait=FOREVER)
    async def invert(x: Array) -> Array:
        await turns(3)
        if (x == 0).any():
            raise OddError("zero")
        return 1 / x

    results = await outcomes(*[invert(float(number)) for number in (1, 0, 2, 4)])
    assert isinstance(results.pop(1), OddError)
    assert results == [1.0, 0.5, 0.25]


async def test_an_error_says_where_its_call_was_made(mode: engine.ExecutionMode) -> None:
    @engine.batched
    def fail(x: Array) -> Array:
        raise OddError("no")

    first, second = await outcomes(fail(1), fail(2))
    assert first is not second
    for error in (first, second):
        assert isinstance(error, OddError)
        assert "op 'fail' on CPU:0, dispatched at" in error.__notes__[0]
        assert "test_batched.py" in error.__notes__[0]


@pytest.mark.parametrize(
    "result", [np.zeros(3), np.float64(1), [1, 2, 3], (np.zeros(2), np.zeros(3)), np.zeros((3, 2))]
)
async def test_a_result_without_a_part_for_each_call_is_an_error(mode: engine.ExecutionMode, result: Any) -> None:
    calls: list[int] = []

    @engine.batched(max_wait=FOREVER)
    def wrong(x: Array) -> Any:
        calls.append(len(x))
        return result

    with pytest.raises(ValueError, match="'wrong' cannot be batched: it returned"):
        await wrong(1.0)
    assert calls == [1]  # no retry would mend it


async def test_an_exit_in_a_function_ends_its_calls_and_no_others(asynchronous: None) -> None:
    @engine.batched(max_wait=FOREVER)
    def leave(x: Array) -> Array:
        if (x == 0).any():
            raise SystemExit(3)
        return x

    assert await leave(1) == 1
    with pytest.raises(SystemExit):
        await leave(0)
    assert await leave(2) == 2


async def test_a_failed_handle_fails_its_call_only(asynchronous: None) -> None:
    @engine.batched
    def same(x: Array) -> Array:
        return x

    bad: Any = ops.add(np.ones(2), np.ones(3))
    first, second = await outcomes(same(bad), same(np.ones(2)))
    assert isinstance(first, ValueError)
    np.testing.assert_array_equal(second, np.ones(2))


# Where it is called


async def test_inside_ops_it_is_a_call_like_any_other(asynchronous: None) -> None:
    @engine.batched
    def double(x: Array) -> Array:
        return x * 2

    @engine.op
    async def asynchronous_op(x: Array) -> Any:
        return await double(x)

    @engine.op
    def synchronous_op(x: Array) -> Any:
        return double.call(x)

    arrays = [np.full(3, float(number)) for number in range(8)]
    for op in (asynchronous_op, synchronous_op):
        results = await engine.gather(*map(op, arrays))
        np.testing.assert_array_equal(results, [each * 2 for each in arrays])


async def test_it_is_an_op_itself(asynchronous: None) -> None:
    @engine.batched
    def double(x: Array) -> Array:
        return x * 2

    op = engine.op(double)
    assert list(await engine.gather(*[op(number) + 1 for number in range(5)])) == [1, 3, 5, 7, 9]


async def test_without_eager_execution_it_says_what_to_do() -> None:
    @engine.batched
    def double(x: Array) -> Array:
        return x * 2

    with pytest.raises(engine.EagerNotEnabledError, match="'double' is batched, which needs eager execution"):
        await double(1)
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    with engine.Graph().as_default(), pytest.raises(engine.EagerNotEnabledError):
        await double(engine.placeholder("float64"))
    assert await double(1) == 2


async def test_a_symbol_is_refused(asynchronous: None) -> None:
    @engine.batched
    def double(x: Array) -> Array:
        return x * 2

    with engine.Graph().as_default():
        symbol = engine.placeholder("float64")
    assert isinstance(symbol, Symbol)
    with pytest.raises(engine.SymbolError):
        await double(symbol)


def test_threads_make_batches_as_tasks_do(mode: engine.ExecutionMode) -> None:
    @engine.batched
    def double(x: Array) -> Array:
        return x * 2

    with ThreadPoolExecutor(8) as pool, engine.Executor(execution_mode=mode) as executor:

        def call(number: int) -> Any:
            with executor.as_default():
                return double.call(number)

        assert list(pool.map(call, range(200))) == [2 * number for number in range(200)]


async def test_threads_and_tasks_share_batches(asynchronous: None) -> None:
    @engine.batched
    def double(x: Array) -> Array:
        return x * 2

    async with engine.Executor(execution_mode=engine.ASYNC):
        threads = [asyncio.to_thread(double.call, number) for number in range(20)]
        assert await asyncio.gather(*threads, *map(double, range(20))) == [2 * number for number in range(20)] * 2
    assert double.statistics().calls == 40


async def test_a_blocking_call_on_the_loop_is_refused(asynchronous: None) -> None:
    @engine.batched
    def double(x: Array) -> Array:
        return x * 2

    with pytest.raises(engine.BlockingSyncError, match=r"double\.call"):
        double.call(1)


@pytest.mark.parametrize("size", [1, 40])
def test_loops_come_and_go(size: int) -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)

    @engine.batched
    def double(x: Array) -> Array:
        return x * 2

    async def main() -> list[Any]:
        return await asyncio.gather(*map(double, range(size)))

    for _ in range(3):
        assert asyncio.run(main()) == [2 * number for number in range(size)]


def test_several_loops_at_once() -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)

    @engine.batched
    def double(x: Array) -> Array:
        return x * 2

    async def main() -> list[Any]:
        return await asyncio.gather(*map(double, range(50)))

    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: asyncio.run(main()), range(8)):
            assert result == [2 * number for number in range(50)]


def test_a_loop_that_ends_while_a_batch_runs_leaves_nothing_pending(held: Held) -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    double = engine.batched(held, max_wait=FOREVER)

    async def leave() -> None:
        tasks = [asyncio.create_task(double(number)) for number in range(3)]
        await held.wait_entered()
        await turns()
        assert not any(task.done() for task in tasks)

    async def call() -> Any:
        return await double(3)

    asyncio.run(leave())  # the tasks are cancelled with their loop
    assert double.statistics().waiting == 0
    held.open()
    assert asyncio.run(call()) == 6


# Methods


class Model:
    """A model with a batched method."""

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.sizes: list[int] = []

    @engine.batched(max_wait=FOREVER)
    def predict(self, x: Array, *, bias: float = 0.0) -> Array:
        """Predict."""
        self.sizes.append(len(x))
        return x * self.weight + bias

    @engine.batched
    async def fetch(self, x: Array) -> Array:
        await asyncio.sleep(0)
        return x * self.weight


async def test_methods_are_batched_for_each_instance(mode: engine.ExecutionMode) -> None:
    models = [Model(2.0), Model(3.0)]
    calls = [model.predict(np.float64(number), bias=1.0) for model in models for number in range(5)]
    assert await asyncio.gather(*calls) == [2.0 * n + 1 for n in range(5)] + [3.0 * n + 1 for n in range(5)]
    assert [model.predict.statistics().calls for model in models] == [5, 5]
    assert await models[0].fetch(2.0) == 4.0
    assert Model.predict.__doc__ == "Predict."


async def test_an_instance_is_not_kept(mode: engine.ExecutionMode) -> None:
    model = Model(2.0)
    await model.predict(1.0)
    dead = weakref.ref(model)
    del model
    gc.collect()
    assert dead() is None


async def test_an_instance_without_weak_references_is_refused(mode: engine.ExecutionMode) -> None:
    class Tight:
        __slots__ = ()

        @engine.batched
        def predict(self, x: Array) -> Array:
            return x

    with pytest.raises(TypeError, match="__weakref__"):
        await Tight().predict(1.0)


async def test_an_executor_is_not_kept(held: Held) -> None:
    double = engine.batched(held)
    held.open()
    async with engine.Executor(execution_mode=engine.ASYNC) as executor:
        await double(1)
        core = weakref.ref(executor._core)
    del executor
    for _ in range(3):
        await asyncio.sleep(0)
        gc.collect()
    assert core() is None


# Arguments


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_size": 0}, ValueError, "max_size"),
        ({"max_size": 1.5}, TypeError, "max_size"),
        ({"max_size": True}, TypeError, "max_size"),
        ({"max_wait": -1}, ValueError, "max_wait"),
        ({"max_wait": float("nan")}, ValueError, "max_wait"),
        ({"max_wait": float("inf")}, ValueError, "max_wait"),
        ({"max_wait": None}, TypeError, "max_wait"),
        ({"axis": 0.0}, TypeError, "axis"),
    ],
)
def test_options_are_checked(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        engine.batched(**arguments)


def test_what_cannot_be_batched_is_refused() -> None:
    def generate(x: Array) -> Iterator[Array]:
        yield x

    with pytest.raises(TypeError, match="yields"):
        engine.batched(generate)
    with pytest.raises(TypeError, match="functions"):
        engine.batched(3)  # type: ignore[call-overload]


async def test_a_call_that_does_not_fit_is_refused(mode: engine.ExecutionMode) -> None:
    @engine.batched(axis=1)
    def double(x: Array, y: Array = 0) -> Array:  # type: ignore[assignment]
        return x * 2

    with pytest.raises(TypeError, match="double: missing"):
        await double()
    with pytest.raises(TypeError, match="double: too many"):
        await double(1, 2, 3)
    with pytest.raises(ValueError, match="axis 1"):
        await double(1.0)
    assert double.statistics().calls == 0


def test_it_looks_like_its_function() -> None:
    @engine.batched
    def predict(x: Array) -> Array:
        """Predict."""
        return x

    assert (predict.__name__, predict.__doc__) == ("predict", "Predict.")
    assert inspect.iscoroutinefunction(predict.__call__)
    assert repr(predict) == "<engine.batched 'predict'>"


# The pure parts


def call(caller: int, key: str = "", priority: int = 0) -> Call:
    nothing: Any = None
    return Call((), (), {}, key, caller, priority, nothing, nothing, nothing, 0.0)


def test_callers_take_turns() -> None:
    waiting = Waiting()
    many = [call(1) for _ in range(100)]
    few = [call(2) for _ in range(3)]
    for each in [*many, *few]:
        waiting.add(each)
    assert sum(each.caller == 2 for each in waiting.take(8)) == 3


def test_a_higher_priority_goes_first_and_the_oldest_is_always_taken() -> None:
    waiting = Waiting()
    low, high = [call(1) for _ in range(5)], [call(2, priority=1) for _ in range(5)]
    for each in [*low, *high]:
        waiting.add(each)
    assert waiting.take(4) == [low[0], *high[:3]]


def test_no_key_waits_for_ever() -> None:
    waiting = Waiting()
    old = call(1, "old", priority=-1)
    waiting.add(old)
    for number in range(100):
        waiting.add(call(number, "new", priority=1))
        if old in waiting.take(1):
            return
    raise AssertionError("it was never taken")


def test_what_was_removed_is_not_taken() -> None:
    waiting = Waiting()
    calls = [call(1) for _ in range(5)]
    for each in calls:
        waiting.add(each)
    assert waiting.remove(calls[1])
    assert not waiting.remove(calls[1])
    assert waiting.first() is calls[0]
    assert waiting.take(9) == [calls[0], *calls[2:]]
    assert (len(waiting), waiting.take(9), waiting.first(), waiting.drain()) == (0, [], None, [])


def test_a_call_waits_for_a_function_that_computes_and_not_for_one_that_waits() -> None:
    computing, waiting = Pace(0.002), Pace(0.002)
    assert computing.grace() == waiting.grace() == 0.002
    for _ in range(20):
        computing.note(0.05, 0.049)
        waiting.note(0.05, 0.001)
    assert computing.grace() > 0.05
    assert waiting.grace() == 0.002


@pytest.mark.parametrize("clients", [1, 16])
async def test_many_callers_of_many_kinds_get_what_numpy_gives(asynchronous: None, clients: int) -> None:
    random = np.random.default_rng(0)

    @engine.batched(max_size=7, max_wait=0.0)
    def softmax(x: Array) -> Array:
        if np.isnan(x).any():
            raise OddError("nan")
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        return np.asarray(e / e.sum(axis=-1, keepdims=True))

    async def client() -> None:
        for _ in range(60):
            x = random.random(int(random.integers(1, 4)))
            match random.integers(5):
                case 0:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0):
                            await softmax(x)
                case 1:
                    with pytest.raises(OddError):
                        await softmax(x * np.nan)
                case _:
                    e = np.exp(x - x.max())
                    np.testing.assert_array_equal(await softmax(x), e / e.sum())

    await asyncio.gather(*[client() for _ in range(clients)])
    statistics = softmax.statistics()
    assert statistics.waiting == 0
    assert max(statistics.sizes) <= 7


async def test_a_gate_op_and_a_batch_do_not_hold_each_other_up(asynchronous: None, gate: GateOp) -> None:
    @engine.batched
    def double(x: Array) -> Array:
        return x * 2

    waits = gate(1)
    assert await asyncio.gather(*map(double, range(5))) == [0, 2, 4, 6, 8]
    gate.open()
    assert await waits == 1


# Methods of classes


def doubled(x: Array) -> Array:
    return x * 2


class Kinds:
    """Batched functions of a class, with the decorators in either order."""

    factor = 2

    @engine.batched
    @classmethod
    def above_class(cls, x: Array) -> Array:
        return x * cls.factor

    @classmethod
    @engine.batched
    def below_class(cls, x: Array) -> Array:
        return x * cls.factor

    @engine.batched
    @staticmethod
    def above_static(x: Array) -> Array:
        return x * 2

    @staticmethod
    @engine.batched
    def below_static(x: Array) -> Array:
        return x * 2


class Tripled(Kinds):
    """Has another factor."""

    factor = 3


KINDS = ("above_class", "below_class", "above_static", "below_static")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("through", [Kinds, Kinds()], ids=["class", "instance"])
async def test_methods_of_classes_in_either_order_of_the_decorators(
    mode: engine.ExecutionMode, kind: str, through: Any
) -> None:
    method = getattr(through, kind)
    assert await asyncio.gather(*(method(number) for number in range(10))) == [2 * number for number in range(10)]


@pytest.mark.parametrize("kind", ["above_class", "below_class"])
async def test_a_class_that_inherits_has_batches_of_its_own(mode: engine.ExecutionMode, kind: str) -> None:
    results = await asyncio.gather(*(getattr(each, kind)(1) for each in (Kinds, Tripled, Kinds, Tripled())))
    assert results == [2, 3, 2, 3]


@pytest.mark.parametrize("kind", ["above_class", "above_static"])
async def test_the_blocking_twin_and_statistics_of_methods_of_classes(asynchronous: None, kind: str) -> None:
    method = getattr(Kinds(), kind)
    before = method.statistics().calls
    assert await asyncio.to_thread(method.call, 4) == 8
    assert method.statistics().calls == before + 1


async def test_a_classmethod_that_asks_for_no_binding(mode: engine.ExecutionMode) -> None:
    function = vars(Kinds)["below_class"].__func__
    assert await MethodType(function, Tripled)(5) == 15  # as Python 3.13 binds it


def test_a_property_cannot_be_batched() -> None:
    with pytest.raises(TypeError, match="a property takes none"):
        engine.batched(property(doubled))  # type: ignore[call-overload]


# Inside ops, graphs and scopes


async def test_in_the_kernel_of_an_op_each_call_runs_by_itself(mode: engine.ExecutionMode) -> None:
    sizes: list[int] = []

    @engine.batched
    def counted(x: Array) -> Array:
        sizes.append(len(x))
        return x * 2

    @engine.op
    def kernel(x: Array) -> Array:
        return np.asarray([counted.call(each) for each in x])

    np.testing.assert_array_equal(await kernel(np.arange(4.0)), 2 * np.arange(4.0))
    assert sizes == [1, 1, 1, 1]


async def test_in_the_kernel_of_an_async_op(mode: engine.ExecutionMode) -> None:
    double = engine.batched(doubled)

    @engine.op
    async def kernel(x: Array) -> Array:
        return np.asarray(await asyncio.gather(*map(double, x)))

    np.testing.assert_array_equal(await kernel(np.arange(4.0)), 2 * np.arange(4.0))


async def test_graphs_have_no_calls_that_run_at_once(mode: engine.ExecutionMode) -> None:
    double = engine.batched(doubled)
    with engine.Graph().as_default(), pytest.raises(engine.EagerNotEnabledError, match="graphs have no calls"):
        await double(1.0)

    @engine.function
    def traced(x: Any) -> Any:
        return double.call(x)

    with pytest.raises((TypeError, engine.EagerNotEnabledError), match="batched"):
        await traced(np.ones(3))


async def test_in_a_scope_that_is_left_in_its_time_calls_have_their_results(asynchronous: None) -> None:
    double = engine.batched(doubled)
    async with engine.scope(priority=3), asyncio.TaskGroup() as group:
        tasks = [group.create_task(double(number)) for number in range(20)]
    assert [task.result() for task in tasks] == [2 * number for number in range(20)]
    assert double.statistics().cancelled == 0


async def test_calls_of_one_turn_of_the_loop_are_one_batch_also_where_the_function_is_idle(asynchronous: None) -> None:
    for _ in range(3):
        double = engine.batched(doubled, max_size=64)  # another time: the worker may not be back from a batch yet
        assert await asyncio.gather(*map(double, range(10))) == [2 * each for each in range(10)]
        assert double.statistics().sizes == (10,)
