"""Comparison operators with operands of any class: elementwise, as NumPy's, or NumPy's error."""

import datetime
import decimal
import fractions
import operator
import unittest.mock
from array import array
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from handles import Handle

OPERATORS = {
    each.__name__: each for each in (operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge)
}

ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    "float": np.array([1.0, 2.0, np.nan]),
    "int": np.array([1, 2, 300]),
    "uint8": np.array([1, 2, 255], np.uint8),
    "bool": np.array([True, False, True]),
    "complex": np.array([1j, 1, 2]),
    "str": np.array(["a", "b", "abc"]),
    "bytes": np.array([b"a", b"b", b"abc"]),
    "date": np.array(["2020-01-01", "2020-01-02", "NaT"], "M8[D]"),
    "time": np.array(["2020-01-01", "2020-01-02", "2021-01-01"], "M8[ns]"),
    "duration": np.array([1, 2, 3], "m8[s]"),
    "structured": np.array([(1, 2.0), (2, 3.0), (3, 4.0)], "i4,f8"),
    "matrix of float": np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
    "0-d float": np.array(1.0),
    "0-d str": np.array("a"),
    "0-d date": np.array("2020-01-01", "M8[D]"),
    "empty": np.array([]),
}


class Never:
    """An object that equals nothing and has no order."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return False


class Broken:
    """An object that cannot be compared."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("broken")


OTHERS: dict[str, Any] = {
    "str": "a",
    "bytes": b"a",
    "date text": "2020-01-01",
    "none": None,
    "date": datetime.date(2020, 1, 1),
    "datetime": datetime.datetime(2020, 1, 1),
    "timedelta": datetime.timedelta(seconds=2),
    "numpy date": np.datetime64("2020-01-01"),
    "numpy duration": np.timedelta64(1, "s"),
    "numpy str": np.str_("a"),
    "decimal": decimal.Decimal(1),
    "fraction": fractions.Fraction(1),
    "object": object(),
    "class": int,
    "never equal": Never(),
    "broken": Broken(),
    "any": unittest.mock.ANY,
    "dict": {},
    "set": {1.0},
    "slice": slice(2),
    "ellipsis": ...,
    "NotImplemented": NotImplemented,
    "range": range(3),
    "array.array": array("d", [1.0, 2.0, 3.0]),
    "memoryview": memoryview(array("d", [1.0, 2.0, 3.0])),
    "list of strings": ["a", "b", "c"],
    "list with none": [None, 1.0, "a"],
    "list": [1, 2, 3],
    "ragged list": [[1], [1, 2]],
    "too long": [1.0, 2.0, 3.0, 4.0],
    "too long strings": ["a", "b", "c", "d"],
    "str array": np.array(["a", "b", "c"]),
    "column of strings": np.array([["a"], ["b"]]),
    "object array": np.array([None, "a", 1.0], dtype=object),
    "float array": np.array([1.0, 5.0, 2.0]),
    "date array": np.array(["2020-01-01", "2020-01-02", "2020-01-03"], "M8[D]"),
    "structured array": np.array([(1, 2.0), (2, 5.0), (3, 4.0)], "i4,f8"),
    "structured scalar": np.array([(2, 3.0)], "i4,f8")[0],
    "number": 1,
    "large number": 300,
    "huge number": 10**30,
    "numpy bool": np.True_,
}


def outcome(function: Callable[[], Any]) -> Any:
    """What a call gives: its values, or the kind of its error."""
    try:
        with np.errstate(all="ignore"):
            result = function()
            value = result.result() if isinstance(result, Handle) else result
    except Exception as error:  # noqa: BLE001
        return TypeError if isinstance(error, TypeError) else type(error)
    value = np.asarray(value)
    return value.dtype, value.shape, value.tolist()


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("compare", OPERATORS.values(), ids=OPERATORS)
@pytest.mark.parametrize("name", ARRAYS)
def test_comparisons_are_numpys(name: str, compare: Callable[[Any, Any], Any], mode: engine.ExecutionMode) -> None:
    x = ARRAYS[name]
    h = ops.asarray(x)
    for other_name, other in OTHERS.items():
        if name == "structured" and other_name == "ragged list":
            continue  # one False in NumPy, where every other array refuses
        expected = outcome(partial(compare, x, other))
        assert outcome(partial(compare, h, other)) == expected, other_name
        if not isinstance(other, np.ndarray | np.generic | list | memoryview | Broken):
            reflected = outcome(partial(compare, other, h))
            assert reflected == outcome(partial(compare, other, x)), other_name


@pytest.mark.sweep
@pytest.mark.parametrize("compare", OPERATORS.values(), ids=OPERATORS)
@pytest.mark.parametrize("left", ARRAYS)
def test_comparisons_of_handles_are_numpys(
    left: str, compare: Callable[[Any, Any], Any], mode: engine.ExecutionMode
) -> None:
    x = ARRAYS[left]
    h = ops.asarray(x)
    for name, y in ARRAYS.items():
        expected = outcome(partial(compare, x, y))
        assert outcome(partial(compare, h, ops.asarray(y))) == expected, name
        if "structured" in (left, name):
            continue  # NumPy gives one False for a list of such arrays
        assert outcome(partial(compare, h, [ops.asarray(y)])) == outcome(partial(compare, x, [y])), name


@pytest.mark.sweep
@pytest.mark.parametrize("compare", OPERATORS.values(), ids=OPERATORS)
@pytest.mark.parametrize("left", ARRAYS)
def test_comparisons_of_an_array_with_a_handle_are_numpys(
    left: str, compare: Callable[[Any, Any], Any], mode: engine.ExecutionMode
) -> None:
    """The array's own operator is asked first: it calls the ufunc, and looks at once at what that raises."""
    x = ARRAYS[left]
    for name, y in ARRAYS.items():
        expected = outcome(partial(compare, x, y))
        assert outcome(partial(compare, x, ops.asarray(y))) == expected, name


def test_ufuncs_without_a_loop_are_no_operators(mode: engine.ExecutionMode) -> None:
    for ufunc in (np.equal, np.not_equal):
        for x, y in ((np.ones(3), ops.asarray(np.array(["a"]))), (ops.asarray(np.array(["a"])), np.ones(3))):
            with pytest.raises(TypeError, match="did not contain a loop"):
                ufunc(x, y).result()  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["str", "none", "date", "str array", "list with none", "float array", "dict"])
def test_a_comparison_in_a_graph_is_elementwise_too(name: str) -> None:
    other = OTHERS[name]
    for x in (ARRAYS["float"], ARRAYS["str"], ARRAYS["date"]):
        symbol = engine.placeholder(x.dtype, (None,))
        with engine.Session() as session:
            for compare in (operator.eq, operator.ne):
                result = session.run(compare(symbol, other), {symbol: x})
                assert result.tolist() == compare(x, other).tolist()


async def test_shapes_and_dtypes_are_known_before_the_comparison_has_run(mode: engine.ExecutionMode) -> None:
    h = ops.asarray(ARRAYS["matrix of float"])
    for other in ("a", None, ["a", "b", "c"], datetime.date(2020, 1, 1), np.array([["a"], ["b"]])):
        result = h == other
        assert (result.shape, result.dtype) == ((2, 3), np.dtype(bool))
        assert not (await result).any()
        assert (await (h != other)).all()


async def test_what_is_compared_with_is_read_at_the_call(mode: engine.ExecutionMode) -> None:
    names: list[Any] = ["a", None]
    objects = np.array(["a", None], dtype=object)
    h = ops.asarray(np.array(["a", "b"]))
    first, second = h == names, h == objects
    names[0] = objects[0] = "z"
    assert (await first).tolist() == (await second).tolist() == [True, False]


def test_an_object_that_refuses_arrays_is_left_to_python(mode: engine.ExecutionMode) -> None:
    class Aloof:
        __array_ufunc__ = None

    other: Any = Aloof()
    h = ops.asarray([1.0])
    assert [operator.eq(h, other), operator.ne(h, other)] == [False, True]
    with pytest.raises(TypeError, match="not supported between"):
        operator.lt(h, other)
