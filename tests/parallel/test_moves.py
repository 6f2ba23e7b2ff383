"""Moved and selected elements: written by several threads into used buffers, with NumPy's result, layout included."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import engine
import engine.testing
from engine import ops
from engine.fusion.fused import execute_group
from engine.parallel import composed, joins, lanes, moves
from tests.common import examples
from tests.planning import force_threads

Array = np.ndarray[Any, Any]


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch, fresh_engine: None) -> list[bool]:
    """Whatever can be shared out among threads is. For each op that was: whether it came to a result."""
    force_threads(monkeypatch)
    monkeypatch.setattr(moves, "_PIECE", 16)
    outcomes: list[bool] = []

    def watched(*args: Any) -> bool:
        outcomes.append(lanes.share_out(*args))
        return outcomes[-1]

    def watched_run(*args: Any) -> Any:
        outcomes.append(True)
        return execute_group(*args)

    monkeypatch.setattr(moves, "share_out", watched)
    monkeypatch.setattr(joins, "share_out", watched)
    monkeypatch.setattr(composed, "execute_group", watched_run)
    return outcomes


def numbers(*shape: int, dtype: Any = np.float64) -> Array:
    return (np.arange(np.prod(shape)).reshape(shape) * 1.5 - 7).astype(dtype)


def assert_same(result: Array, expected: Array) -> None:
    np.testing.assert_array_equal(result, expected, strict=True)
    assert result.strides == expected.strides or expected.size == 0


CALLS: dict[str, Callable[[Any], Any]] = {
    "roll": lambda x: np.roll(x, 17),
    "roll backwards": lambda x: np.roll(x, -1000),
    "roll nowhere": lambda x: np.roll(x, 0),
    "roll rows": lambda x: np.roll(x, 3, axis=0),
    "roll within rows": lambda x: np.roll(x, -2, axis=-1),
    "tile": lambda x: np.tile(x, 3),
    "tile both ways": lambda x: np.tile(x, (2, 3)),
    "tile to more axes": lambda x: np.tile(x, (2, 1, 3, 2)),
    "tile once": lambda x: np.tile(x, 1),
    "repeat": lambda x: np.repeat(x, 2),
    "repeat rows": lambda x: np.repeat(x, 5, axis=0),
    "repeat within rows": lambda x: np.repeat(x, 3, axis=-1),
    "repeat often": lambda x: np.repeat(x, 40, axis=0),
    "take": lambda x: np.take(x, indices(x.size)),
    "take rows": lambda x: np.take(x, indices(len(x)), axis=0),
    "take a table": lambda x: np.take(x, indices(x.size).reshape(3, -1)),
    "index": lambda x: x[indices(len(x))],
    "index by a table": lambda x: x[indices(len(x)).reshape(-1, 3)],
    "differences": lambda x: np.diff(x),
    "differences of rows": lambda x: np.diff(x, axis=0),
}


def indices(length: int) -> Array:
    """Of both signs, in no order."""
    return np.random.default_rng(length).integers(-length, length, 300)


@pytest.mark.sweep
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("dtype", ["float64", "int16", "bool"])
@pytest.mark.parametrize("shape", [(40, 7), (5, 3, 4)], ids=str)
async def test_what_is_shared_out_is_numpys(
    shared: list[bool], call: Callable[[Any], Any], dtype: str, shape: tuple[int, ...]
) -> None:
    x = numbers(*shape, dtype=dtype)
    assert_same(await call(ops.asarray(x)), call(x))
    assert shared == [True]


@pytest.mark.parametrize("chosen", [0.5, 0.0, 1.0])
async def test_masks(shared: list[bool], chosen: float) -> None:
    x = numbers(40, 7)
    mask = np.random.default_rng(1).random(x.shape) < chosen
    assert_same(await ops.asarray(x)[ops.asarray(mask)], x[mask])
    assert shared == [True, True]  # counted, then selected


ALONE: dict[str, tuple[Callable[[Any], Any], Array]] = {
    "an array that is not row-major": (lambda x: np.roll(x, 3), np.asfortranarray(numbers(9, 8))),
    "every other element": (lambda x: np.repeat(x, 3), numbers(90)[::2]),
    "several axes": (lambda x: np.roll(x, (1, 2), axis=(0, 1)), numbers(9, 8)),
    "counts for each": (lambda x: np.repeat(x, np.arange(30)), numbers(30)),
    "another axis": (lambda x: np.take(x, [0, 2], axis=1), numbers(9, 8)),
    "narrow indices": (lambda x: np.take(x, np.array([0, 2], np.int8)), numbers(9)),
    "a mask of rows": (lambda x: x[np.arange(9) % 2 == 0], numbers(9, 8)),
    "two arrays of indices": (lambda x: x[np.array([0, 2]), np.array([1, 3])], numbers(9, 8)),
    "indices of rows and a slice": (lambda x: x[np.array([0, 2]), 1:3], numbers(9, 8)),
    "differences of differences": (lambda x: np.diff(x, n=2), numbers(30)),
    "differences from a start": (lambda x: np.diff(x, prepend=0), numbers(30)),
    "nothing": (lambda x: np.roll(x, 1), numbers(0, 4)),
}


@pytest.mark.parametrize(("call", "x"), ALONE.values(), ids=ALONE)
async def test_what_is_run_as_a_whole_is_numpys(shared: list[bool], call: Callable[[Any], Any], x: Array) -> None:
    assert_same(await call(ops.asarray(x)), call(x))
    assert shared == []


@pytest.mark.parametrize("call", [lambda x, i: x[i], lambda x, i: np.take(x, i)], ids=["index", "take"])
@pytest.mark.parametrize("wrong", [30, -31])
async def test_an_index_out_of_bounds_is_numpys_error(shared: list[bool], call: Callable[..., Any], wrong: int) -> None:
    x, which = numbers(30), np.arange(20)
    which[13] = wrong
    with pytest.raises(IndexError, match="out of bounds") as expected:
        call(x, which)
    with pytest.raises(IndexError) as raised:
        await call(ops.asarray(x), ops.asarray(which))
    assert str(raised.value) == str(expected.value)
    assert shared == [False]


ALONG: dict[str, Callable[..., Any]] = {
    "diff": np.diff,
    "roll": lambda x, axis: np.roll(x, 1, axis),
    "repeat": lambda x, axis: np.repeat(x, 2, axis),
}


@pytest.mark.parametrize("call", ALONG.values(), ids=ALONG)
@pytest.mark.parametrize("axis", [2, -3])
async def test_an_axis_out_of_bounds_is_numpys_error(shared: list[bool], call: Callable[..., Any], axis: int) -> None:
    x = numbers(40, 7)
    with pytest.raises(np.exceptions.AxisError) as expected:
        call(x, axis=axis)
    with pytest.raises(np.exceptions.AxisError) as raised:
        await call(ops.asarray(x), axis=axis)
    assert str(raised.value) == str(expected.value)


async def test_a_difference_that_overflows_warns_once_as_numpys(shared: list[bool]) -> None:
    x = np.array([1e308, -1e308] * 50)
    with pytest.warns(RuntimeWarning, match="overflow encountered in subtract") as warned:
        result = await np.diff(ops.asarray(x))  # type: ignore[misc]
    assert len(warned) == 1
    assert np.isinf(result).all()
    assert shared == [True]


SHAPES = st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple)


@settings(max_examples=examples(150, 50), deadline=None)
@given(data=st.data(), shape=SHAPES, name=st.sampled_from(["roll", "tile", "repeat", "take", "diff"]))
def test_any_move_of_any_shape_is_numpys(data: st.DataObject, shape: tuple[int, ...], name: str) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        engine.testing.reset()
        force_threads(monkeypatch)
        monkeypatch.setattr(moves, "_PIECE", 3)
        x = numbers(*shape)
        axis = data.draw(st.integers(-len(shape), len(shape) - 1))
        kwargs: dict[str, Any] = {"axis": axis}
        argument: Any = data.draw(st.integers(0, 20))
        if name == "tile":
            argument, kwargs = tuple(data.draw(st.lists(st.integers(0, 3), max_size=4))), {}
        elif name == "take":
            length = shape[axis]
            argument = np.array(data.draw(st.lists(st.integers(-length, length - 1), min_size=1)))
        arguments = () if name == "diff" else (argument,)
        function = getattr(np, name)
        assert_same(function(ops.asarray(x), *arguments, **kwargs).result(), function(x, *arguments, **kwargs))
