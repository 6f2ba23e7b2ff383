"""Arrays of subclasses of ndarray as operands: refused where their rules are not those of ndarrays."""

import asyncio
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from handles import Handle


class Metres(np.ndarray[Any, Any]):
    """An array with a unit, as those of unit libraries are."""

    def __array_ufunc__(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("computed by other rules")


class Tagged(np.ndarray[Any, Any]):
    """A subclass that computes as ndarrays do."""

    tag = "mine"


REFUSED: dict[str, Callable[[], Any]] = {
    "matrix": lambda: np.eye(3).view(np.matrix),
    "masked array": lambda: np.ma.masked_array(np.eye(3), np.eye(3, dtype=bool)),
    "array with units": lambda: np.eye(3).view(Metres),
}

OPERATORS = (operator.add, operator.sub, operator.mul, operator.truediv, operator.matmul, operator.eq, operator.lt)

CALLS: dict[str, Callable[[Any, Any], Any]] = {
    **{function.__name__: function for function in OPERATORS},
    "np.multiply": np.multiply,
    "np.hypot": np.hypot,
    "np.dot": np.dot,
    "ops.multiply": ops.multiply,
    "np.concatenate": lambda h, x: np.concatenate([h, x]),
    "np.where": lambda h, x: np.where(h > 0, h, x),
    "in place": operator.imul,
    "setitem": lambda h, x: operator.setitem(h, slice(None), x),
    "user function": lambda h, x: engine.op(lambda a, b: a * b)(h, x),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED.keys())
def test_an_array_with_rules_of_its_own_is_refused_at_the_call(
    make: Callable[[], Any], call: Callable[[Any, Any], Any], mode: engine.ExecutionMode
) -> None:
    h = ops.asarray(np.eye(3))
    with pytest.raises(TypeError, match=r"are not supported: .*pass"):
        call(h, make())
    assert h.tolist() == np.eye(3).tolist()


@pytest.mark.parametrize("function", [operator.mul, operator.add, operator.matmul, np.hypot, np.dot])
def test_a_matrix_on_the_left_is_refused_too(function: Any, mode: engine.ExecutionMode) -> None:
    with pytest.raises(TypeError, match=r"numpy\.matrix are not supported.*np\.asarray"):
        function(np.eye(3).view(np.matrix), ops.asarray(np.eye(3)))


def test_a_masked_array_on_the_left_is_numpys_off_the_loop(mode: engine.ExecutionMode) -> None:
    masked = np.ma.masked_array([1.0, 2.0, 3.0], [False, True, False])
    result = masked + ops.asarray([1.0, 1.0, 1.0])
    assert type(result) is np.ma.MaskedArray
    assert result.tolist() == [2.0, None, 4.0]


@pytest.mark.parametrize("function", [operator.add, operator.mul, operator.eq, operator.iadd, np.ma.hypot])
def test_a_masked_array_on_the_left_is_refused_on_the_loop(function: Any) -> None:
    async def main() -> None:
        masked = np.ma.masked_array([1.0, 2.0, 3.0], [False, True, False])
        with pytest.raises(TypeError, match=r"masked arrays are not supported: pass \.filled"):
            function(masked, ops.asarray([1.0, 1.0, 1.0]))
        assert masked.tolist() == [1.0, None, 3.0]

    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    asyncio.run(main())


def test_an_error_of_the_op_is_not_taken_for_one_of_the_masked_array(mode: engine.ExecutionMode) -> None:
    if mode is engine.SYNC:
        return
    failing = ops.asarray([1.0, 1.0, 1.0]) + ops.asarray([1.0, 1.0])
    with pytest.raises(ValueError, match="broadcast"):
        np.ma.masked_array([1.0, 2.0, 3.0]) + failing


def test_subclasses_that_compute_as_ndarrays_do_are_operands(mode: engine.ExecutionMode, tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "values", np.float64, "w+", shape=3)
    mapped[:] = [1, 2, 3]
    records = np.array([1.0, 2.0, 3.0]).view(np.recarray)
    for array in (mapped, records, np.array([1.0, 2.0, 3.0]).view(Tagged)):
        for result in (ops.asarray([1.0, 1.0, 1.0]) + array, array + ops.asarray([1.0, 1.0, 1.0])):
            assert isinstance(result, Handle)
            assert result.tolist() == [2, 3, 4]


def test_a_conversion_that_is_asked_for_takes_any_class_without_a_mask(mode: engine.ExecutionMode) -> None:
    assert (ops.asarray(np.array([[1, 2], [3, 4]]).view(np.matrix)) * 2).tolist() == [[2, 4], [6, 8]]
    assert ops.asarray(np.array([[1, 2]]).view(np.matrix), dtype=float, copy=True).dtype == float
    assert ops.asarray(np.array([[1, 2]]).view(np.matrix), copy=False).tolist() == [[1, 2]]
    for options in ({}, {"dtype": float}, {"copy": False}):
        with pytest.raises(TypeError, match="masked arrays are not supported"):
            ops.asarray(np.ma.masked_array([1, 2], [True, False]), **options)


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED.keys())
def test_feeds_and_arguments_of_traced_functions_are_refused_too(make: Callable[[], Any]) -> None:
    x = engine.placeholder(np.float64, (3, 3))
    with engine.Session() as session:
        with pytest.raises(TypeError, match=r"are not supported: .*pass"):
            session.run(x * 2, {x: make()})
        with pytest.raises(TypeError, match=r"are not supported: .*pass"):
            session.run(x * make(), {x: np.eye(3)})
    for signature in (None, [((3, 3), np.float64)]):
        with pytest.raises(TypeError, match=r"are not supported: .*pass"):
            engine.function(lambda a: a * 2, input_signature=signature)(make())
