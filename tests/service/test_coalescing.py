"""`@engine.op(coalesce=True)`: equal calls share one op while it is in flight."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops

Array = np.ndarray[Any, Any]


class Counted:
    """A function that counts its calls, which wait until they are let go."""

    def __init__(self) -> None:
        self.calls = 0
        self.entered = threading.Semaphore(0)
        self.opened = threading.Event()

    def __call__(self, x: Array, *more: Any, **options: Any) -> Array:
        self.calls += 1
        self.entered.release()
        assert self.opened.wait(20)
        return np.asarray(x * 2)

    async def wait_entered(self) -> None:
        """Wait until one more call has begun."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=20)


@pytest.fixture
def counted() -> Iterator[Counted]:
    """A counted function in ASYNC mode, which is let go at the end of the test."""
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    counted = Counted()
    yield counted
    counted.opened.set()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - there is no event for what others count
            await asyncio.sleep(0)


LAYOUTS: dict[str, Callable[[], Array]] = {
    "small": lambda: np.arange(4.0),
    "large": lambda: np.arange(200_000.0),
    "0-d": lambda: np.asarray(3.0),
    "empty": lambda: np.zeros((0, 3)),
    "fortran": lambda: np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "gaps": lambda: np.arange(12.0).reshape(3, 4)[:, ::2],
    "nan": lambda: np.array([np.nan, 1.0]),
    "dates": lambda: np.arange(3).astype("M8[s]").view("i8"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_equal_calls_share_one_op(counted: Counted, layout: str) -> None:
    op = engine.op(counted, coalesce=True)
    handles = [op(LAYOUTS[layout](), 3, ["a", {"b": 2}], name=None) for _ in range(5)]
    assert len(set(map(id, handles))) == 5
    counted.opened.set()
    for value in await engine.gather(*handles):
        np.testing.assert_array_equal(value, LAYOUTS[layout]() * 2)
    assert counted.calls == 1


@pytest.mark.parametrize(
    "calls",
    [
        [(np.zeros(3),), (np.zeros(4),)],
        [(np.zeros(3),), (np.zeros(3, "f4"),)],
        [(np.zeros(3),), (-np.zeros(3),)],
        [(np.zeros(100_000),), (np.eye(1, 100_000, 99_999)[0],)],
        [(np.zeros(3), 1), (np.zeros(3), True)],
        [(np.zeros(3), 1), (np.zeros(3), 1.0)],
        [(np.zeros(3), 0.0), (np.zeros(3), -0.0)],
        [(np.zeros(3), [np.nan]), (np.zeros(3), [-np.nan])],
        [(np.zeros(3), 0j), (np.zeros(3), -0j)],
        [(np.zeros(3), [1]), (np.zeros(3), (1,))],
        [(np.zeros(3), {1}), (np.zeros(3), {1})],
        [(np.zeros((2, 3)),), (np.zeros((3, 2)).T,)],
    ],
    ids=[
        "shape",
        "dtype",
        "sign",
        "late",
        "bool",
        "float",
        "zeros",
        "NaNs",
        "complex",
        "tuple",
        "unhashable",
        "layout",
    ],
)
async def test_calls_that_differ_do_not(counted: Counted, calls: list[tuple[Any, ...]]) -> None:
    op = engine.op(counted, coalesce=True)
    handles = [op(*arguments) for arguments in calls]
    counted.opened.set()
    await engine.gather(*handles)
    assert counted.calls == len(calls)


async def test_handles_are_equal_when_they_are_the_same(counted: Counted) -> None:
    op = engine.op(counted, coalesce=True)
    first, second = ops.asarray(np.ones(3)), ops.asarray(np.ones(3))
    handles = [op(first), op(first), op(second)]
    counted.opened.set()
    await engine.gather(*handles)
    assert counted.calls == 2


async def test_an_array_written_to_meanwhile_is_another_one(counted: Counted) -> None:
    op = engine.op(counted, coalesce=True)
    array = np.ones(3)
    first = op(array)
    array[:] = 2
    second = op(array)
    counted.opened.set()
    assert [value.tolist() for value in await engine.gather(first, second)] == [[2.0] * 3, [4.0] * 3]


async def test_only_what_is_in_flight_is_shared(counted: Counted) -> None:
    op = engine.op(counted, coalesce=True)
    counted.opened.set()
    for _ in range(3):
        await op(np.ones(3))
    assert counted.calls == 3


async def test_cancelling_one_takes_nothing_from_the_others(counted: Counted) -> None:
    op = engine.op(counted, coalesce=True)
    first, second = op(np.ones(3)), op(np.ones(3))
    await counted.wait_entered()
    assert first.cancel() is engine.CancelOutcome.DROPPED
    counted.opened.set()
    np.testing.assert_array_equal(await second, [2, 2, 2])
    with pytest.raises(engine.OpCancelledError):
        await first


async def test_a_scope_that_ends_takes_nothing_from_the_others(counted: Counted) -> None:
    op = engine.op(counted, coalesce=True)
    with pytest.raises(TimeoutError):
        async with engine.scope(timeout=0.02):
            await op(np.ones(3))
    entered = asyncio.Event()

    async def later() -> Array:
        await entered.wait()
        result: Array = await op(np.ones(3))
        return result

    after = asyncio.create_task(later())
    async with engine.scope() as scope:
        op(np.ones(3))
        entered.set()
        await asyncio.sleep(0)
        scope.cancel()
    counted.opened.set()
    np.testing.assert_array_equal(await after, [2, 2, 2])


async def test_when_all_have_gone_the_shared_op_is_cancelled(counted: Counted) -> None:
    async with engine.Executor(execution_mode=engine.ASYNC) as executor:
        gate = engine.testing.GateOp()
        op = engine.op(counted, coalesce=True)
        waits = gate(1)
        handles = [op(waits) for _ in range(3)]
        for handle in handles:
            handle.cancel()
        await until(lambda: executor.statistics().cancelled == 4)
        again = op(waits)
        gate.open()
        counted.opened.set()
        assert await again == 2
        assert counted.calls == 1


async def test_an_error_reaches_all_of_them_and_is_reported_once(counted: Counted) -> None:
    @engine.op(coalesce=True)
    def fail(x: Array) -> Array:
        counted(x)
        raise KeyError("no")

    handles = [fail(np.ones(3)) for _ in range(3)]
    counted.opened.set()
    for handle in handles:
        with pytest.raises(KeyError, match="no"):
            await handle
    assert counted.calls == 1
    await engine.synchronize()


async def test_several_results_and_async_functions(counted: Counted) -> None:
    calls: list[int] = []

    @engine.op(coalesce=True, num_outputs=2)
    async def both(x: Array) -> tuple[Array, Array]:
        calls.append(1)
        await asyncio.sleep(0)
        return x, x * 2

    pairs = [both(np.ones(2)) for _ in range(3)]
    for first, second in pairs:
        assert (await first).tolist() == [1, 1]
        assert (await second).tolist() == [2, 2]
    assert len(calls) == 1


def test_in_sync_mode_each_call_has_run_when_it_returns() -> None:
    engine.enable_eager_execution(execution_mode=engine.SYNC)
    calls: list[int] = []

    @engine.op(coalesce=True)
    def double(x: Array) -> Array:
        calls.append(1)
        return x * 2

    assert [double(2).item() for _ in range(3)] == [4, 4, 4]
    assert len(calls) == 3


def test_in_a_graph_it_is_an_op_like_any_other() -> None:
    @engine.op(coalesce=True)
    def double(x: Array) -> Array:
        return x * 2

    with engine.Graph().as_default() as graph:
        x = engine.placeholder("float64")
        result = double(x)
    with engine.Session(graph) as session:
        assert session.run(result, {x: 2.0}) == 4.0


def test_coalesce_is_checked() -> None:
    with pytest.raises(TypeError, match="coalesce"):
        engine.op(lambda x: x, coalesce=1)  # type: ignore[call-overload]
