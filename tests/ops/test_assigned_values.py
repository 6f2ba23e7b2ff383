"""Values that are written into elements: any that NumPy takes, in every dtype, and NumPy's errors for all others."""

import array
import datetime
import decimal
import fractions
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy
import pytest

import engine
from engine import ops
from engine.testing import GateOp

np: Any = numpy  # its stubs know which values fit; this is about all the others


class Index:
    def __index__(self) -> int:
        return 2


class Real:
    def __float__(self) -> float:
        return 2.5


class Complex:
    def __complex__(self) -> complex:
        return 2.5 + 1j


class Readable:
    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.array([1.5, 2.5, 3.5])


class Opaque:
    def __str__(self) -> str:
        return "an object"

    __repr__ = __str__


TEXTS = np.dtypes.StringDType()
DTYPES: dict[str, Any] = {
    **{code: np.dtype(code) for code in ("?", "i1", "u1", "i4", "u8", "f2", "f8", "g", "F", ">f8", "S3", "U3")},
    **{code: np.dtype(code) for code in ("M8[s]", "m8[s]", "M8[D]", "V3")},
    "fields": np.dtype([("a", "i4"), ("b", "f8")]),
    "subarray": np.dtype([("a", "i4", 2)]),
    "texts": TEXTS,
}
VALUES: dict[str, Any] = {
    "None": None,
    "bool": True,
    "integer": 7,
    "negative": -7,
    "300": 300,
    "huge": 2**70,
    "2**63": 2**63,
    "float": 2.5,
    "nan": float("nan"),
    "infinity": float("inf"),
    "1e300": 1e300,
    "complex": 1 + 2j,
    "text": "abc",
    "number in a text": "12",
    "long text": "abcdef",
    "date in a text": "2020-01-01",
    "NaT": "NaT",
    "no text": "",
    "accent": "é",
    "bytes": b"ab",
    "date": datetime.date(2020, 1, 2),
    "datetime": datetime.datetime(2020, 1, 2, 3),
    "interval": datetime.timedelta(seconds=5),
    "time": datetime.time(3),
    "Decimal": decimal.Decimal("2.5"),
    "Fraction": fractions.Fraction(5, 2),
    "index": Index(),
    "real": Real(),
    "complex object": Complex(),
    "readable": Readable(),
    "opaque": Opaque(),
    "class": int,
    "ellipsis": ...,
    "slice": slice(3),
    "set": {1},
    "dict": {1: 2},
    "range": range(3),
    "buffer": array.array("d", [1, 2, 3]),
    "view of a buffer": memoryview(array.array("i", [1, 2, 3])),
    "bytearray": bytearray(b"abc"),
    "deque": deque([1, 2, 3]),
    "list": [1, 2, 3],
    "two": [1, 2],
    "nested": [[1, 2, 3]] * 3,
    "ragged": [[1], [1, 2]],
    "None in a list": [None, 1.5, 2.5],
    "texts": ["1", "2", "3"],
    "mixed": [1, "a", 2.5],
    "empty": [],
    "tuple": (1, 2, 3),
    "pair": (1, 2),
    "pairs": [(1, 2), (3, 4), (5, 6)],
    "dates": [datetime.date(2020, 1, 1)] * 3,
    "Decimals": [decimal.Decimal(1)] * 3,
    "arrays": [np.ones(3)] * 3,
    "scalars": [np.array(1.0), np.int8(2), 3],
    "int8": np.int8(3),
    "float32": np.float32(2.5),
    "datetime64": np.datetime64("2020-01-01"),
    "timedelta64": np.timedelta64(3, "m"),
    "str_": np.str_("12"),
    "void": np.zeros((), [("a", "i4"), ("b", "f8")])[()],
    "floats": np.array([1.5, 2.5, 3.5]),
    "square": np.ones((3, 3)),
    "of no dimensions": np.array(2.5),
    "array of texts": np.array(["1", "2", "3"]),
    "objects": np.array([1, 2, 3], object),
    "object": np.array(2, object),
}
KEYS: dict[str, Any] = {
    "element": (0, 0),
    "row": 0,
    "all": ...,
    "mask": np.eye(3, dtype=bool),
    "rows": np.array([0, 2]),
    "column": (slice(None), 1),
    "view of an element": (0, 0, ...),
    "nothing": np.zeros(0, int),
}
SPARED = {("V3", "row"), ("V3", "column"), ("V3", "nothing")}
"""Raw bytes, for which NumPy has an error of another class by how deep a sequence is."""
CRASHES = {("M8[s]", "bytes"), ("m8[s]", "bytes"), ("M8[D]", "bytes")}
"""NumPy 2.4 ends the process for some keys, where it cannot read a date in bytes."""

pytestmark = pytest.mark.filterwarnings(
    "ignore"
)  # NumPy warns of much of this; which file it names is tested elsewhere


def outcome(function: Callable[[], Any]) -> tuple[Any, ...]:
    """The value of a call, its dtype and its shape; or the class of its error."""
    try:
        got = np.asarray(function())
    except Exception as error:  # noqa: BLE001 - NumPy's is compared with it
        return (type(error),)
    values = got.tolist() if got.dtype.char in "gT" else got.tobytes()  # a long double has bytes that mean nothing
    return got.dtype, got.shape, repr(values)


def filled(dtype: Any) -> Any:
    return np.full((3, 3), "ab", dtype) if dtype == TEXTS else np.zeros((3, 3), dtype)


@pytest.mark.sweep
@pytest.mark.parametrize("name", DTYPES)
def test_every_value_is_written_as_numpy_writes_it(name: str, mode: engine.ExecutionMode) -> None:
    dtype = DTYPES[name]

    def write(target: Any, key: Any, value: Any) -> Any:
        target[key] = value
        return target

    wrong = []
    for value_name, value in VALUES.items():
        for key_name, key in KEYS.items():
            if (name, key_name) in SPARED or (name, value_name) in CRASHES:
                continue
            if key_name == "nothing" and value_name.startswith("object"):
                continue  # NumPy casts no element where none is written
            expected = outcome(lambda key=key, value=value: write(filled(dtype), key, value))  # type: ignore[misc]
            got = outcome(lambda key=key, value=value: write(ops.asarray(filled(dtype)), key, value).result())  # type: ignore[misc]
            if got != expected:
                wrong.append((value_name, key_name, got, expected))
    assert not wrong


def fill(target: Any, value: Any) -> Any:
    target.fill(value)
    return target


def write_flat(target: Any, value: Any) -> Any:
    target.flat[[0, 2]] = value
    return target


def write_real(target: Any, value: Any) -> Any:
    target.real = value
    return target


def write_field(target: Any, value: Any) -> Any:
    target["b"] = value
    return target


def write_row_of_view(target: Any, value: Any) -> Any:
    row = target.T[1]
    row[2] = value
    return target


def put(target: Any, value: Any) -> Any:
    np.put(target, [0, 4], value)
    return target


def place(target: Any, value: Any) -> Any:
    np.place(target, np.eye(3, dtype=bool), value)
    return target


def putmask(target: Any, value: Any) -> Any:
    np.putmask(target, np.eye(3, dtype=bool), value)
    return target


def fill_diagonal(target: Any, value: Any) -> Any:
    np.fill_diagonal(target, value)
    return target


def copyto(target: Any, value: Any) -> Any:
    np.copyto(target, value, casting="unsafe")
    return target


def insert(target: Any, value: Any) -> Any:
    return np.insert(target, 0, value)


WRITERS = (
    *(fill, write_flat, write_real, write_field, write_row_of_view, put, place, putmask, fill_diagonal, copyto),
    *(np.full_like, insert),
)


@pytest.mark.sweep
@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.__name__)
def test_other_ways_to_write_take_the_same_values(
    writer: Callable[[Any, Any], Any], mode: engine.ExecutionMode
) -> None:
    wrong = []
    for name, dtype in DTYPES.items():
        for value_name, value in VALUES.items():
            if dtype == TEXTS or value_name.startswith("object") or (name, value_name) in CRASHES:
                continue  # NumPy ends the process for some texts; arrays of objects are refused
            expected = outcome(lambda dtype=dtype, value=value: writer(filled(dtype), value))  # type: ignore[misc]
            got = outcome(lambda dtype=dtype, value=value: writer(ops.asarray(filled(dtype)), value).result())  # type: ignore[misc]
            if got != expected:
                wrong.append((name, value_name, got, expected))
    assert not wrong


def test_a_value_that_does_not_fit_is_refused_at_the_call(asynchronous: None, gate: GateOp) -> None:
    handle: Any = gate(np.zeros(3))
    before = handle + 0
    with pytest.raises(TypeError, match="float"):
        handle[0] = Opaque()
    with pytest.raises(ValueError, match="could not convert string to float"):
        handle[:2] = ["1", "two"]
    handle[1] = None
    gate.open()
    assert np.array_equal(handle.result(), [0, np.nan, 0], equal_nan=True)
    assert before.result().tolist() == [0, 0, 0]


def test_values_in_traced_functions_and_graphs(mode: engine.ExecutionMode) -> None:
    @engine.function
    def masked(x: Any) -> Any:
        x[0] = None
        x[1] = "2.5"
        return x

    assert np.array_equal(masked(np.ones(3)).result(), [np.nan, 2.5, 1], equal_nan=True)
    assert np.array_equal(masked(np.ones(3)).result(), [np.nan, 2.5, 1], equal_nan=True)


@pytest.mark.filterwarnings("always")
def test_warnings_name_the_line_that_writes(mode: engine.ExecutionMode) -> None:
    handle = ops.zeros(3, dtype=np.float16)
    with pytest.warns(RuntimeWarning, match="overflow") as caught:
        handle[:2] = [1e300, 1]
    assert {each.filename for each in caught} == {__file__}


# Arguments that are written to after the call

MUTABLE: dict[str, Callable[[], Any]] = {
    "array": lambda: np.array([1.0, 2.0, 3.0]),
    "list": lambda: [1.0, 2.0, 3.0],
    "buffer": lambda: array.array("d", [1, 2, 3]),
    "view of a buffer": lambda: memoryview(array.array("d", [1, 2, 3])),
    "deque": lambda: deque([1.0, 2.0, 3.0]),
}
TAKERS: dict[str, Callable[[Any, Any], Any]] = {
    "ufunc": np.add,
    "ufunc method": lambda h, v: np.multiply.outer(h, v),
    "interp": lambda h, v: np.interp(h, [0, 1, 2], v),
    "convolve": np.convolve,
    "hstack": lambda h, v: np.hstack([h, v]),
    "concatenate": lambda h, v: np.concatenate([h, v]),
    "digitize": np.digitize,
    "gradient": np.gradient,
    "polyval": lambda h, v: np.polyval(v, h),
    "percentile": np.percentile,
    "cov": np.cov,
    "average": lambda h, v: np.average(h, weights=v),
    "where": lambda h, v: np.where(h > 0, h, v),
    "insert": lambda h, v: np.insert(h, 0, v),
    "einsum": lambda h, v: np.einsum("i,i->i", h, v),
    "select": lambda h, v: np.select([h > 0], [v]),
    "isin": np.isin,
    "put": lambda h, v: put_all(h + 0, v),
    "flat": lambda h, v: write_all(h + 0, v),
    "setitem": lambda h, v: set_all(h + 0, v),
}


def put_all(target: Any, value: Any) -> Any:
    np.put(target, [0, 1, 2], value)
    return target


def write_all(target: Any, value: Any) -> Any:
    target.flat[:] = value
    return target


def set_all(target: Any, value: Any) -> Any:
    target[:] = value
    return target


@pytest.mark.parametrize("taker", TAKERS)
def test_what_is_written_to_arguments_after_the_call_changes_nothing(
    taker: str, gate: GateOp, mode: engine.ExecutionMode
) -> None:
    if mode is engine.SYNC:
        gate.open()
    start = gate(np.arange(3.0))
    results = {}
    for name, make in MUTABLE.items():
        value = make()
        results[name] = TAKERS[taker](start, value)
        value[0] = 99.0
    gate.open()
    for name, result in results.items():
        assert np.array_equal(result, TAKERS[taker](np.arange(3.0), np.array([1.0, 2.0, 3.0]))), name
