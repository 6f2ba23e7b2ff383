"""Calls of small functions of any kind that are recognized by their arguments: results, warnings and errors as ever."""

import asyncio
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from tests.graph.shortcuts import noted

Array = np.ndarray[Any, Any]


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each call that a shortcut was asked for, whether it took it; nothing is compiled."""
    monkeypatch.setattr("engine.fusion.native.natives.natives.enabled", False)
    return noted(monkeypatch)


def square(seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(6, 6))


async def there(*values: Any) -> list[Any]:
    """Handles of values, which are ready."""
    handles = [ops.asarray(value) for value in values]
    for handle in handles:
        await handle
    return handles


def normalized(x: Any, m: Any) -> Any:
    mean = m.mean(x, axis=0)
    return {"mean": mean, "rest": [x - mean, m.std(x, axis=0)]}


FUNCTIONS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "one op": lambda x, y, m: m.add(x, y),
    "one argument is left out": lambda x, y, m: m.exp(y),
    "a product": lambda x, y, m: m.tanh(m.matmul(x, y)),
    "softmax": lambda x, y, m: m.exp(x - m.max(x)) / m.sum(m.exp(x - m.max(x))),
    "a number": lambda x, y, m: m.sum(x * y),
    "sorted": lambda x, y, m: m.sort(x, axis=1)[::-1, 2:],
    "a view of an argument": lambda x, y, m: m.reshape(x, (4, 9)),
    "two results": lambda x, y, m: (x + y, x - y),
    "one result twice": lambda x, y, m: [x * y] * 2,
    "an argument among the results": lambda x, y, m: (x, x * y),
    "a nested result": lambda x, y, m: normalized(x, m),
    "an op of several results": lambda x, y, m: tuple(m.linalg.qr(x @ y)),
}


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [leaf for each in value for leaf in leaves(each)]
    return [value]


@pytest.mark.parametrize("name", FUNCTIONS)
async def test_calls_alike_are_recognized(taken: list[bool], name: str) -> None:
    steps = FUNCTIONS[name]
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    function = engine.function(lambda x, y: steps(x, y, ops))
    for seed in range(4):
        x, y = square(seed), square(seed + 9)
        result, expected = function(*await there(x, y)), steps(x, y, np)
        assert type(result) is type(expected) or not isinstance(expected, list | tuple | dict)
        for handle, array in zip(leaves(result), leaves(expected), strict=True):
            assert handle.shape == array.shape
            value = np.asarray(await handle)
            assert value.dtype == array.dtype
            assert value.tobytes() == np.asarray(array).tobytes()
    assert all(taken)
    assert len(taken) == 3
    assert function.statistics().calls == 4


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda: square().astype("f4"), id="another dtype"),
        pytest.param(lambda: square()[:, :5], id="another shape"),
        pytest.param(lambda: square().astype(">f8"), id="another byte order"),
        pytest.param(lambda: square()[0], id="another rank"),
    ],
)
async def test_other_arguments_go_the_long_way_and_back(taken: list[bool], other: Callable[[], Array]) -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    function = engine.function(lambda x: (ops.sum(x, axis=0), ops.max(x)))
    for value in (square(), square(1), other(), square(2), square(3)):
        (handle,) = await there(value)
        total, largest = function(handle)
        assert (await total).tobytes() == value.sum(axis=0).tobytes()
        assert await largest == value.max()
    assert taken == [True, False, False, True]


async def test_strides_change_nothing(taken: list[bool]) -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    function = engine.function(lambda x: (ops.sort(x, axis=0), ops.cumulative_sum(x, axis=1)))
    value = square()
    for view in (value, value.T, value[::-1], np.asfortranarray(value)):
        handle = await ops.asarray(view, copy=False).wait_ready()
        first, second = function(handle)
        assert (await first).tobytes() == np.sort(view, axis=0).tobytes()
        assert (await second).tobytes() == np.cumsum(view, axis=1).tobytes()
    assert taken == [True] * 3


async def test_an_error_is_the_functions_and_names_the_step(taken: list[bool]) -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    one = engine.function(lambda x: ops.linalg.inv(x))
    two = engine.function(lambda x: (ops.linalg.inv(x), ops.sum(x)))
    good, bad = await there(square(), np.zeros((6, 6)))
    for _ in range(2):
        await one(good)
        await two(good)[1]
    taken.clear()
    with pytest.raises(np.linalg.LinAlgError) as raised:
        await one(bad)
    assert "linalg.inv" in "".join(raised.value.__notes__)
    for handle in two(bad):
        with pytest.raises(np.linalg.LinAlgError, match="Singular"):
            await handle
    assert taken == [True, True]
    assert (await one(good)).shape == (6, 6)


async def test_warnings_are_numpys_and_come_from_the_call(taken: list[bool]) -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    function = engine.function(lambda x: (ops.log(x), ops.sum(x)))
    good, bad = await there(np.ones(4), np.array([1.0, 0.0, -1.0, 2.0]))
    for _ in range(2):
        await function(good)[0]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        logarithm, _ = function(bad)
        result = await logarithm
    with np.errstate(all="ignore"):
        assert result.tobytes() == np.log([1.0, 0.0, -1.0, 2.0]).tobytes()
    assert {str(each.message) for each in caught} == {
        "divide by zero encountered in log",
        "invalid value encountered in log",
    }
    assert {each.filename for each in caught} == {__file__}
    with np.errstate(all="raise"), pytest.raises(FloatingPointError):
        await function(bad)[0]
    assert taken == [True, True, False]


async def test_calls_in_a_scope_end_with_it(taken: list[bool]) -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    function = engine.function(lambda x: (ops.linalg.inv(x), ops.sum(x)))
    good, bad = await there(square(), np.zeros((6, 6)))
    for _ in range(2):
        await function(good)[0]
    async with engine.scope():
        results = [function(good) for _ in range(5)]
    assert all(handle.is_ready() for pair in results for handle in pair)
    with pytest.raises(ExceptionGroup) as raised:
        async with engine.scope():
            function(bad)
    assert raised.group_contains(np.linalg.LinAlgError, depth=1)
    assert all(taken)


async def test_what_waits_can_be_held_and_cancelled(taken: list[bool]) -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    function = engine.function(lambda x: (x + 1, x - 1))
    (handle,) = await there(square())
    for _ in range(2):
        await function(handle)[0]
    with engine.testing.hold():
        first, second = function(handle)
        third, _ = function(handle)
        waiting = asyncio.ensure_future(third.numpy())
        await asyncio.sleep(0)
        assert not waiting.done()
        assert second.cancel() is engine.CancelOutcome.DROPPED
    assert (await waiting == square() - 0 + 1).all()
    for each in (first, second):
        with pytest.raises(engine.OpCancelledError):
            await each
    assert all(taken)


async def test_results_feed_further_calls_before_they_are_there(taken: list[bool]) -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    function = engine.function(lambda x, y: (x + y, x * y))
    x, y = square(), square(1)
    a, b = await there(x, y)
    for _ in range(5):
        a, b = function(a, b)
        x, y = x + y, x * y
    assert (await a).tobytes() == x.tobytes()
    assert (await b).tobytes() == y.tobytes()
    assert len(taken) < 5 or not all(taken)


async def test_a_signature_with_lengths_that_change_has_no_shortcut(taken: list[bool]) -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    function = engine.function(lambda x: ops.sum(x), input_signature=[engine.ShapeDtype((None,), np.dtype("f8"))])
    for length in (3, 4, 3, 5):
        (handle,) = await there(np.arange(float(length)))
        assert await function(handle) == np.arange(length).sum()
    assert not any(taken)


async def test_on_a_device_of_one_op_at_a_time_a_call_waits_for_what_runs(taken: list[bool]) -> None:
    function = engine.function(lambda x: ops.sum(x * 2))
    began, goes_on = threading.Event(), threading.Event()

    @engine.op
    def blocking(x: Array) -> Array:
        began.set()
        assert goes_on.wait(30)
        return x

    config = engine.Config(inter_op_parallelism_threads=1)
    async with engine.Executor(config, execution_mode=engine.ASYNC):
        (handle,) = await there(square())
        for _ in range(3):
            await function(handle)
        before: Any = blocking(handle)
        waiting = asyncio.ensure_future(before.numpy())
        await asyncio.to_thread(began.wait, 30)
        result = function(handle)
        assert taken[-1]
        reading = asyncio.ensure_future(result.numpy())
        for _ in range(5):
            await asyncio.sleep(0)
        assert not reading.done()
        goes_on.set()
        assert await reading == np.sum(square() * 2)
        await waiting
