"""pandas and xarray meet handles: the answers are those for the arrays, or an error."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from handles import Handle
from tests.handles.test_comparisons import ARRAYS, OPERATORS, outcome

pd = pytest.importorskip("pandas")
xr = pytest.importorskip("xarray")


@pytest.mark.parametrize("compare", OPERATORS.values(), ids=OPERATORS)
def test_arrays_of_other_libraries_answer_themselves(
    compare: Callable[[Any, Any], Any], mode: engine.ExecutionMode
) -> None:
    x = np.array([1.0, 2.0, 3.0])
    h = ops.asarray(x)
    for other in (pd.Series([1.0, 5.0, 2.0]), pd.Index([1.0, 5.0, 2.0]), xr.DataArray([1.0, 5.0, 2.0], dims="i")):
        assert type(compare(h, other)) is type(compare(other, h))
        assert isinstance(compare(h, other), Handle | type(compare(x, other)))  # an index gives what its values give
        assert np.asarray(compare(h, other)).tolist() == np.asarray(compare(x, other)).tolist()


@pytest.mark.parametrize("compare", OPERATORS.values(), ids=OPERATORS)
def test_timestamps_are_compared_as_the_dates_they_are(
    compare: Callable[[Any, Any], Any], mode: engine.ExecutionMode
) -> None:
    pairs: list[tuple[np.ndarray[Any, Any], Any]] = [
        (ARRAYS["date"], pd.Timestamp("2020-01-02")),
        (ARRAYS["time"], pd.Timestamp("2020-01-02")),
        (ARRAYS["duration"], pd.Timedelta(seconds=2)),
        (ARRAYS["time"], pd.NaT),
    ]
    for x, other in pairs:
        h = ops.asarray(x)
        assert outcome(partial(compare, h, other)) == outcome(partial(compare, x, other))
        assert outcome(partial(compare, other, h)) == outcome(partial(compare, other, x))


FLOATS = np.array([1.0, 2.0, 5.0])
INTS = np.array([3, 1, 2])
DATES = np.array(["2020-01-01", "2020-01-02", "2021-01-01"], "M8[ns]")
TEXTS = np.array(["a", "b", "c"])
MATRIX = np.arange(6.0).reshape(2, 3)

SAME: dict[str, tuple[Callable[[Any], Any], np.ndarray[Any, Any]]] = {
    "Series.isin": (lambda x: pd.Series([1.0, 2, 7]).isin(x), FLOATS),
    "Series.isin of texts": (lambda x: pd.Series(["a", "z"]).isin(x), TEXTS),
    "Series.isin of integers": (lambda x: pd.Series([1, 9]).isin(x), INTS),
    "DataFrame.isin": (lambda x: pd.DataFrame({"a": [1.0, 9]}).isin(x), FLOATS),
    "Index.isin": (lambda x: pd.Index([1.0, 9]).isin(x), FLOATS),
    "to_datetime": (pd.to_datetime, DATES),
    "to_datetime of numbers": (lambda x: pd.to_datetime(x, unit="s"), INTS),
    "Series": (pd.Series, TEXTS),
    "Index": (pd.Index, FLOATS),
    "DatetimeIndex": (pd.DatetimeIndex, DATES),
    "DataFrame": (pd.DataFrame, MATRIX),
    "DataFrame of columns": (lambda x: pd.DataFrame({"a": x, "b": x}), FLOATS),
    "Series + h": (lambda x: pd.Series([1.0, 2, 3]) + x, FLOATS),
    "Series == h": (lambda x: pd.Series([1.0, 2, 3]) == x, FLOATS),
    "merge": (
        lambda x: pd.merge(pd.DataFrame({"k": x, "a": [1, 2, 3]}), pd.DataFrame({"k": x, "b": [4, 5, 6]}), on="k"),
        INTS,
    ),
    "Series.loc": (lambda x: pd.Series([1.0, 2, 3, 4]).loc[x], INTS),
    "Series.iloc": (lambda x: pd.Series([1.0, 2, 3, 4]).iloc[x], INTS),
    "Series.where": (lambda x: pd.Series([1.0, 2, 3]).where(x > 1, x), FLOATS),
    "Categorical": (pd.Categorical, TEXTS),
    "MultiIndex": (lambda x: pd.MultiIndex.from_arrays([x, x]), INTS),
    "value_counts": (lambda x: pd.Series(x).value_counts(), INTS),
    "reindex": (lambda x: pd.Series([1.0, 2, 3, 4]).reindex(x), INTS),
    "cut": (lambda x: pd.cut(x, 2), FLOATS),
}

REFUSED: dict[str, tuple[Callable[[Any], Any], np.ndarray[Any, Any]]] = {
    "unique": (pd.unique, FLOATS),
    "factorize": (pd.factorize, FLOATS),
    "DataFrame + h": (lambda x: pd.DataFrame(x) + x, MATRIX),
    "groupby": (lambda x: pd.Series([1.0, 2, 3]).groupby(x).sum(), INTS),
    "mask": (lambda x: pd.Series([1.0, 2, 3])[x > 1], FLOATS),
}


@pytest.mark.parametrize("name", SAME)
def test_pandas_gives_what_it_gives_for_the_array(name: str, mode: engine.ExecutionMode) -> None:
    function, x = SAME[name]
    expected, result = function(x), function(ops.asarray(x))
    assert type(result) is type(expected)
    assert repr(result) == repr(expected)


@pytest.mark.parametrize("name", REFUSED)
def test_what_pandas_has_for_arrays_only_is_an_error(name: str, mode: engine.ExecutionMode) -> None:
    function, x = REFUSED[name]
    function(x)
    with pytest.raises((TypeError, ValueError, KeyError)):
        function(ops.asarray(x))
