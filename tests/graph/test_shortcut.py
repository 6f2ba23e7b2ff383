"""Calls of a function that are recognized by their arguments alone: the same results, warnings and errors as others."""

import asyncio
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.fusion.chains.chain import LONGEST_NS
from engine.fusion.chains.chains import Chains
from engine.fusion.native.machine import is_available
from engine.fusion.native.natives import Natives
from engine.graph.function import Function
from tests.graph.shortcuts import noted

pytestmark = pytest.mark.skipif(not is_available(), reason="there is no compiler: llvmlite is not installed")

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def natives() -> Natives:
    return Natives(at_once=True)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch, natives: Natives) -> list[bool]:
    """For each call that a shortcut was asked for, whether it took it; chains are compiled before they are needed."""
    monkeypatch.setattr("engine.graph.compiled.chains", Chains(natives, sightings=1))
    return noted(monkeypatch)


def steps(x: Any, y: Any) -> Any:
    return (x * 2 + y) * x - y / 3


def array(size: int = 100, code: str = "f8", seed: int = 0) -> Array:
    return (np.random.default_rng(seed).normal(size=size) * 9).astype(code)


async def there(*values: Any) -> list[Any]:
    """Handles of values, which are ready."""
    handles = [ops.asarray(value, copy=False) for value in values]
    for handle in handles:
        await handle
    return handles


async def test_calls_alike_are_recognized(taken: list[bool]) -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    function = engine.function(steps)
    for seed in range(6):
        x, y = array(seed=seed), array(seed=seed + 9)
        handle = function(*await there(x, y))
        assert handle.shape == (100,)
        assert handle.dtype == np.float64
        assert np.asarray(await handle).tobytes() == steps(x, y).tobytes()
    assert taken[-3:] == [True] * 3
    statistics = function.statistics()
    assert (statistics.calls, statistics.traces) == (6, 1)


OTHERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "another dtype": lambda: (array(code="f4"), array(code="f4")),
    "one of another dtype": lambda: (array(), array(code="i4")),
    "another byte order": lambda: (array(code=">f8"), array()),
    "another length": lambda: (array(7), array(7)),
    "another shape": lambda: (array().reshape(10, 10), array().reshape(10, 10)),
    "broadcast": lambda: (array(), array(1)),
    "other strides": lambda: (np.repeat(array(), 2)[::2], array()),
    "backwards": lambda: (array(), array()[::-1]),
    "not aligned": lambda: (np.frombuffer(b"\0" + array().tobytes(), np.uint8)[1:].view("f8"), array()),
    "none": lambda: (array(0), array(0)),
    "a number": lambda: (array(), 3),
}


@pytest.mark.parametrize("other", OTHERS)
async def test_other_arguments_go_the_long_way_and_back(taken: list[bool], other: str) -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    function = engine.function(steps)
    known = array(), array(seed=1)
    for values in (known, known, known, OTHERS[other](), known, known, known):
        given = [(await there(each))[0] if isinstance(each, np.ndarray) else each for each in values]
        result = np.asarray(await function(*given))
        expected = np.asarray(steps(*values))
        assert result.dtype == expected.dtype
        assert result.tobytes() == expected.tobytes()
    assert taken[1] is taken[-1] is True
    assert taken[2] is False


async def test_arguments_by_name_defaults_and_what_is_not_ready_go_the_long_way(taken: list[bool]) -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)

    @engine.function
    def function(x: Any, y: Any, scale: float = 2.0) -> Any:
        return (x * scale + y) * x

    x, y = array(), array(seed=1)
    a, b = await there(x, y)
    for _ in range(3):
        assert (await function(a, b) == (x * 2.0 + y) * x).all()
    assert taken[-1]
    assert (await function(a, b, 3.0) == (x * 3.0 + y) * x).all()
    assert (await function(a, y=b) == (x * 2.0 + y) * x).all()
    assert (await function(y=b, x=a, scale=-1.0) == (x * -1.0 + y) * x).all()
    assert (await function(x, y) == (x * 2.0 + y) * x).all()
    with engine.testing.hold():
        pending = a + 1.0
        result = function(pending, b)
        assert not taken.pop()
    assert (await result == ((x + 1.0) * 2.0 + y) * (x + 1.0)).all()
    with pytest.raises(TypeError, match="function"):
        function(a)


async def test_each_executor_and_each_mode_gets_its_own(taken: list[bool]) -> None:
    function = engine.function(steps)
    x, y = array(), array(seed=1)
    for _ in range(2):
        async with engine.Executor(execution_mode=engine.ASYNC):
            a, b = await there(x, y)
            for _ in range(3):
                assert (await function(a, b) == steps(x, y)).all()
        assert taken[-1] is True
        async with engine.Executor(execution_mode=engine.ASYNC):
            result = function(a, b)  # of the executor before
            assert (await result == steps(x, y)).all()
            async with engine.scope():
                inside = function(*await there(x, y))
            assert inside.is_ready()
            assert (await inside == steps(x, y)).all()
        with engine.Executor(execution_mode=engine.SYNC):
            assert (function(ops.asarray(x), ops.asarray(y)).numpy() == steps(x, y)).all()


@pytest.mark.parametrize("calls", [1, 2, 3, 8])
async def test_warnings_and_error_states_are_those_of_the_steps(taken: list[bool], calls: int) -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    function = engine.function(lambda x: 1.0 / (x * 2.0) + 1.0)
    fine, zero = array(), array()
    zero[7] = 0.0
    a, b = await there(fine, zero)
    for _ in range(3):
        await function(a)
    for _ in range(calls):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = await function(b)
        assert [str(each.message) for each in caught] == ["divide by zero encountered in divide"]
        assert caught[0].filename == __file__
        with np.errstate(divide="ignore"):
            assert np.asarray(result).tobytes() == (1.0 / (zero * 2.0) + 1.0).tobytes()
    with np.errstate(divide="raise"), pytest.raises(FloatingPointError, match="divide by zero"):
        await function(b)
    with np.errstate(divide="ignore"), warnings.catch_warnings():
        warnings.simplefilter("error")
        await function(b)


async def test_a_chain_that_takes_too_long_is_left_to_workers(taken: list[bool]) -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    function = engine.function(steps)
    x, y = array(), array(seed=1)
    a, b = await there(x, y)
    for _ in range(3):
        await function(a, b)
    shortcut = function._shortcut
    assert shortcut is not None
    assert shortcut.chain is not None
    shortcut.chain.ns = 1.5 * LONGEST_NS
    assert (await function(a, b) == steps(x, y)).all()
    assert taken[-1] is False
    for _ in range(60):
        assert (await function(a, b) == steps(x, y)).all()
    assert taken[-1] is True  # what made it slow has passed


async def test_code_that_is_let_go_of_is_not_called(taken: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.graph.compiled.chains", Chains(Natives(limit=1, at_once=True), sightings=1))
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    function, other = engine.function(steps), engine.function(lambda x: (x + 1) * x)
    x, y = array(), array(seed=1)
    a, b = await there(x, y)
    for _ in range(3):
        await function(a, b)
    with engine.testing.hold():
        handle = function(a, b)
        assert taken[-1] is True
        other(b)  # its code takes the place of the other's
        assert function._shortcut is not None
        assert function._shortcut.chain is not None
        assert function._shortcut.chain.entry.code is None
    assert (await handle == steps(x, y)).all()
    for _ in range(3):
        assert (await function(a, b) == steps(x, y)).all()


async def test_many_calls_at_once_are_all_told_of_and_counted(taken: list[bool]) -> None:
    async with engine.Executor(execution_mode=engine.ASYNC) as executor:
        function = engine.function(steps)
        x, y = array(), array(seed=1)
        a, b = await there(x, y)
        for _ in range(3):
            await function(a, b)
        before = executor.statistics().completed
        with engine.profile() as profile:
            handles = [function(a, b) for _ in range(30)]
            await asyncio.gather(*(each.numpy() for each in handles))
        assert executor.statistics().completed == before + 30
        assert executor.statistics().pending == 0
        assert sum(op.name == "steps" for op in profile.ops) == 30
        for each in handles:
            assert (await each == steps(x, y)).all()


async def test_a_method_and_an_object_with_attributes_are_looked_at_in_each_call(taken: list[bool]) -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)

    class Layer:
        def __init__(self) -> None:
            self.scale = 2.0

        @engine.function
        def call(self, x: Any) -> Any:
            return x * self.scale + 1.0

    layer = Layer()
    x = array()
    (a,) = await there(x)
    bound = engine.function(layer.call.__func__.python_function.__get__(layer))
    assert isinstance(bound, Function)
    for scale in (2.0, 2.0, 2.0, 3.0, 3.0, 4.0):
        layer.scale = scale
        assert (await layer.call(a) == x * scale + 1.0).all()
        assert (await bound(a) == x * scale + 1.0).all()
    assert not any(taken)
