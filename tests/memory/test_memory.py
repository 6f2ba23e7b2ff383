"""The methods and attributes of arrays that are about their memory, their bytes and their fields."""

import datetime
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

import engine
from engine import ops
from engine.testing import GateOp

np: Any = numpy  # its stubs know of no arrays but its own

SQUARE = np.arange(12.0).reshape(3, 4)
COMPLEX = SQUARE + 1j
RECORDS = np.array([(1, 2.5, (1, 2)), (2, 3.5, (3, 4))], [("count", "i4"), ("share", "f8"), ("pair", "i2", 2)])


def same(got: Any, wanted: Any) -> None:
    """Assert that a handle, or an array, has the value, the shape and the dtype of an array."""
    shape, dtype = getattr(got, "shape", None), getattr(got, "dtype", None)
    got = np.asarray(got.result() if hasattr(got, "result") else got)
    wanted = np.asarray(wanted)
    assert got.dtype == wanted.dtype
    assert got.shape == wanted.shape
    assert (shape, dtype) == (wanted.shape, wanted.dtype)
    assert got.tobytes() == wanted.tobytes()


READS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "view of integers": (SQUARE, lambda x: x.view("i8")),
    "view of bytes": (SQUARE, lambda x: x.view(np.uint8)),
    "view of a shorter dtype": (SQUARE, lambda x: x.view("f4")),
    "view of a longer dtype": (SQUARE, lambda x: x.view("c16")),
    "view of strings of bytes": (SQUARE, lambda x: x.view("S8")),
    "view of fields": (SQUARE, lambda x: x.view([("a", "f8"), ("b", "f8")])),
    "view of nothing": (SQUARE, lambda x: x.view()),
    "view of an ndarray": (SQUARE, lambda x: x.view(np.ndarray)),
    "view of a scalar": (np.float64(2), lambda x: x.view("i8")),
    "getfield": (SQUARE, lambda x: x.getfield("i4", 4)),
    "getfield of a complex": (COMPLEX, lambda x: x.getfield("f8", offset=8)),
    "byteswap": (SQUARE, lambda x: x.byteswap()),
    "an element of flat": (SQUARE, lambda x: x.flat[5]),
    "elements of flat": (SQUARE, lambda x: x.flat[2:7]),
    "all of flat": (SQUARE, lambda x: x.T.flat[...]),
    "flat as an array": (SQUARE, lambda x: np.asarray(x.T.flat)),
    "a copy of flat": (SQUARE, lambda x: x.flat.copy()),
    "a field": (RECORDS, lambda x: x["share"]),
    "a field of arrays": (RECORDS, lambda x: x["pair"]),
    "a field of a part": (RECORDS, lambda x: x[1:]["count"]),
    "a part of a field": (RECORDS, lambda x: x["pair"][:, 0]),
    "a field in a sum": (RECORDS, lambda x: x["count"] + x["share"]),
    "several fields": (RECORDS, lambda x: x[["share", "count"]]),
    "a record": (RECORDS, lambda x: x[1]),
}


@pytest.mark.parametrize("name", READS)
def test_what_reads_the_memory(name: str, mode: engine.ExecutionMode) -> None:
    array, read = READS[name]
    same(read(ops.asarray(array)), read(np.asarray(array)))


@pytest.mark.parametrize("name", READS)
async def test_the_shape_of_what_reads_the_memory_is_known_at_once(name: str) -> None:
    array, read = READS[name]
    if name == "flat as an array":
        return  # it is a sync point
    async with engine.Executor(execution_mode=engine.ASYNC):
        handle, wanted = read(ops.asarray(array)), np.asarray(read(np.asarray(array)))
        assert (handle.shape, handle.dtype) == (wanted.shape, wanted.dtype)
        assert np.asarray(await handle).tobytes() == wanted.tobytes()


@pytest.mark.parametrize("name", READS)
def test_what_reads_the_memory_in_a_graph(name: str) -> None:
    array, read = READS[name]
    if name == "flat as an array":
        return
    array = np.asarray(array)
    with engine.Graph().as_default():
        x = engine.placeholder(array.dtype, array.shape)
        same(engine.Session().run(read(x), {x: array}), read(array))


WRITES: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "an element of flat": (SQUARE, lambda x: x.flat.__setitem__(5, 9)),
    "elements of flat": (SQUARE, lambda x: x.flat.__setitem__(slice(1, 9, 3), [7, 8, 9])),
    "few values for many": (SQUARE, lambda x: x.flat.__setitem__([1, 2, 3, 4], [7, 8])),
    "all of flat": (SQUARE, lambda x: setattr(x, "flat", [1, 2, 3])),
    "the real part": (COMPLEX, lambda x: setattr(x, "real", 5)),
    "the imaginary part": (COMPLEX, lambda x: setattr(x, "imag", SQUARE)),
    "the real part of real numbers": (SQUARE, lambda x: setattr(x, "real", 5)),
    "the shape": (SQUARE, lambda x: setattr(x, "shape", (2, -1))),
    "setfield": (SQUARE, lambda x: x.setfield(7, "i4", 4)),
    "byteswap": (SQUARE, lambda x: x.byteswap(inplace=True)),
    "a larger size": (SQUARE, lambda x: x.resize((4, 5), refcheck=False)),
    "a smaller size": (SQUARE, lambda x: x.resize(2, 3, refcheck=False)),
    "a field": (RECORDS, lambda x: x.__setitem__("share", [9, 8])),
    "an element of a field": (RECORDS, lambda x: x["count"].__setitem__(1, 9)),
    "a field of a part": (RECORDS, lambda x: x[1:].__setitem__("count", 7)),
    "elements of a view": (SQUARE, lambda x: x.view("i8").__setitem__((0, 0), 3)),
    "a row of flat": (SQUARE, lambda x: setattr(x[1], "flat", 3)),
}


of_numpy_2_5 = pytest.mark.filterwarnings("ignore:Setting the shape on a NumPy array:DeprecationWarning")


@of_numpy_2_5
@pytest.mark.parametrize("name", WRITES)
def test_what_writes_to_the_memory_rebinds_the_handle(name: str, mode: engine.ExecutionMode) -> None:
    array, write = WRITES[name]
    wanted, handle = array.copy(), ops.asarray(array)
    reader, alias = handle.copy(), handle
    write(wanted)
    write(handle)
    same(handle, wanted)
    same(reader, array)
    assert alias is handle


def test_a_field_can_be_updated_in_place(mode: engine.ExecutionMode) -> None:
    wanted, handle = RECORDS.copy(), ops.asarray(RECORDS)
    for records in (wanted, handle):
        records["share"] += 1
        records["count"] *= 3
    same(handle, wanted)


WRONG: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "a view of no whole elements": (SQUARE[:, :3], lambda x: x.view("c16")),
    "a view of another size of a scalar": (np.float64(1), lambda x: x.view("i4")),
    "a field that is not there": (RECORDS, lambda x: x["none"]),
    "a field of numbers": (SQUARE, lambda x: x["share"]),
    "a shape that does not fit": (SQUARE, lambda x: setattr(x, "shape", (5, 5))),
    "the imaginary part of real numbers": (SQUARE, lambda x: setattr(x, "imag", 1)),
    "an element of flat out of bounds": (SQUARE, lambda x: x.flat.__setitem__(99, 1)),
}


@of_numpy_2_5
@pytest.mark.parametrize("name", WRONG)
def test_what_numpy_refuses(name: str, mode: engine.ExecutionMode) -> None:
    array, call = WRONG[name]
    with pytest.raises(Exception) as wanted:  # noqa: PT011 - the class is compared
        call(np.array(array))
    handle = ops.asarray(array)
    with pytest.raises(wanted.type):
        np.asarray(call(handle) or handle)
    engine.clear_errors()


def test_how_the_array_lies_in_memory(mode: engine.ExecutionMode) -> None:
    handle = ops.asarray(SQUARE)
    assert handle.strides == SQUARE.strides
    assert handle.flags.c_contiguous
    assert not handle.flags.writeable
    assert handle.T.flags.f_contiguous
    for name in ("C_CONTIGUOUS", "F_CONTIGUOUS", "WRITEABLE", "ALIGNED", "OWNDATA", "C", "F", "W", "A", "FORC", "FNC"):
        assert handle.flags[name] == handle.result().flags[name]
    assert repr(handle.flags) == repr(handle.result().flags)
    with pytest.raises(AttributeError):
        handle.flags.nonsense  # noqa: B018
    with pytest.raises(KeyError):
        handle.flags["NONSENSE"]
    assert bytes(handle.data) == SQUARE.tobytes()
    assert handle.data.readonly
    assert handle.ctypes.shape[:] == [3, 4]


def test_the_base_is_the_handle_that_a_view_is_part_of(mode: engine.ExecutionMode) -> None:
    handle = ops.asarray(SQUARE) + 0
    row = handle[1]
    assert handle.base is None
    assert row.base is handle
    assert row[1:].base is row
    assert (row + 1).base is None
    kept = handle[2].T
    assert kept.base is handle


def test_bytes_and_files(mode: engine.ExecutionMode, tmp_path: Path) -> None:
    handle = ops.asarray(SQUARE)
    assert bytes(handle) == SQUARE.tobytes()
    assert len(handle.flat) == 12
    assert list(handle.T.flat) == SQUARE.T.ravel().tolist()
    handle.tofile(tmp_path / "raw")
    assert np.array_equal(np.fromfile(tmp_path / "raw"), SQUARE.ravel())
    handle.tofile(str(tmp_path / "text"), sep=" ", format="%.1f")
    assert (tmp_path / "text").read_text().split()[:2] == ["0.0", "1.0"]
    file = io.BytesIO()
    handle.dump(file)
    assert np.array_equal(pickle.loads(file.getvalue()), SQUARE)
    assert np.array_equal(pickle.loads(handle.dumps()), SQUARE)


SYNC_POINTS: dict[str, Callable[[Any], Any]] = {
    "flags": lambda x: x.flags.c_contiguous,
    "flags by name": lambda x: x.flags["F"],
    "strides": lambda x: x.strides,
    "data": lambda x: x.data,
    "bytes": bytes,
    "tofile": lambda x: x.tofile("nowhere"),
    "dumps": lambda x: x.dumps(),
    "iterating over flat": lambda x: list(x.flat),
}


@pytest.mark.parametrize("name", SYNC_POINTS)
async def test_what_needs_the_value_never_blocks_a_loop(name: str) -> None:
    async with engine.Executor(execution_mode=engine.ASYNC):
        with pytest.raises(engine.BlockingSyncError, match="await"):
            SYNC_POINTS[name](ops.asarray(SQUARE) + 1)


@pytest.mark.parametrize(
    "name", ["itemset", "newbyteorder", "ptp", "setflags", "tostring", "__array_interface__", "__array_struct__"]
)
def test_what_handles_cannot_have_says_what_to_use(name: str, mode: engine.ExecutionMode) -> None:
    handle = ops.asarray(SQUARE)
    assert not hasattr(handle, name)
    with pytest.raises(AttributeError, match=f"has no attribute '{name}': (use|write|its value)"):
        getattr(handle, name)


async def test_some_flags_are_known_at_once(gate: GateOp) -> None:
    async with engine.Executor(execution_mode=engine.ASYNC):
        flags = gate(SQUARE).flags
        assert (flags.writeable, flags.owndata, flags.aligned, flags["WRITEABLE"]) == (False, False, True, False)
        gate.open()


def test_a_view_of_a_class_of_arrays_is_refused(mode: engine.ExecutionMode) -> None:
    calls: list[Callable[[Any], Any]] = [lambda x: x.view(np.matrix), lambda x: x.view(type=np.ma.MaskedArray)]
    for call in calls:
        with pytest.raises(TypeError, match=r"view its value, `\(await h\)\.view"):
            call(ops.asarray(SQUARE))


# ---------------------------------------------------------------------------------------------------------------------
# Strings and dates

TEXT = np.array([["ab", "c"], ["", "abc"]])
FREE = np.array([["ab", "c" * 40], ["", "abc"]], np.dtypes.StringDType())
BYTES = np.array([b"ab", b"c"])
DAYS = np.array(["2024-01-01", "2024-01-03"], "M8[D]")

TEXTS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "a string added": (TEXT, lambda s: s + "x"),
    "a string before": (TEXT, lambda s: "x" + s),
    "bytes added": (BYTES, lambda s: s + b"x"),
    "itself": (TEXT, lambda s: s + s),
    "startswith": (TEXT, lambda s: np.strings.startswith(s, "a")),
    "find": (TEXT, lambda s: np.strings.find(s, "b", 0, None)),
    "length": (TEXT, lambda s: np.strings.str_len(s)),
    "upper": (TEXT, lambda s: np.strings.upper(s)),
    "replace": (TEXT, lambda s: np.strings.replace(s, "a", "xyz")),
    "char.add": (TEXT, lambda s: np.char.add(s, "x")),
    "equal": (TEXT, lambda s: s == "ab"),
    "less": (TEXT, lambda s: s < "b"),
    "where": (TEXT, lambda s: np.where(s == "ab", "yes", "no")),
    "isin": (TEXT, lambda s: np.isin(s, ["ab", "x"])),
    "sort": (TEXT, lambda s: np.sort(s, axis=None)),
    "joined": (TEXT, lambda s: np.concatenate([s, [["x" * 9, "y"]]])),
    "as bytes": (TEXT, lambda s: s.astype("S")),
    "an update": (TEXT, lambda s: np.add(s, "x")),
    "free strings": (FREE, lambda s: s),
    "a string added to free ones": (FREE, lambda s: s + "x"),
    "free strings before": (FREE, lambda s: "x" + s),
    "free strings compared": (FREE, lambda s: s == "abc"),
    "free strings and others": (FREE, lambda s: s + TEXT),
    "free strings selected": (FREE, lambda s: s[:, 1]),
    "free strings sorted": (FREE, lambda s: np.sort(s, axis=None)),
    "free strings in upper case": (FREE, lambda s: np.strings.upper(s)),
    "free strings from others": (TEXT, lambda s: s.astype(np.dtypes.StringDType())),
    "the other way": (FREE, lambda s: s.astype("U40")),
    "a whole comparison": (DAYS, lambda d: d == "2024-01-01"),
    "another date": (DAYS, lambda d: d > datetime.date(2024, 1, 2)),
    "the same date": (DAYS, lambda d: d == datetime.date(2024, 1, 1)),
    "NumPy's own interval": (DAYS, lambda d: d + np.timedelta64(2, "D")),
}


@pytest.mark.parametrize("name", TEXTS)
def test_strings_and_dates_are_operands(name: str, mode: engine.ExecutionMode) -> None:
    array, call = TEXTS[name]
    got, wanted = call(ops.asarray(array)), call(array)
    if name != "replace":  # how long the strings are, is not known before
        assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
    assert got.result().dtype == wanted.dtype
    assert got.tolist() == wanted.tolist()


def test_a_string_is_read_as_numpy_gives_it(mode: engine.ExecutionMode) -> None:
    for array in (TEXT, FREE):
        handle = ops.asarray(array)[0, 1]
        assert handle.dtype == array.dtype
        assert type(handle.result()) is type(array[0, 1])
        assert handle.result() == array[0, 1]


def test_text_and_numbers_are_not_added(mode: engine.ExecutionMode) -> None:
    handle = ops.asarray(SQUARE)
    calls: list[Callable[[], Any]] = [lambda: handle + "x", lambda: "total: " + handle, lambda: b"x" + handle]
    for call in calls:
        with pytest.raises(TypeError):
            call()
    assert "ab" * ops.asarray(2) == "abab"


def test_free_strings_are_snapshotted_and_written_to(mode: engine.ExecutionMode) -> None:
    array = FREE.copy()
    handle = ops.asarray(array)
    array[0, 0] = "another string that is too long to be kept in place"
    assert handle.tolist() == FREE.tolist()
    handle[1] = "z"
    assert handle.tolist() == [FREE[0].tolist(), ["z", "z"]]
    handle += "!"
    assert handle[1, 0].result() == "z!"


def test_many_free_strings(mode: engine.ExecutionMode) -> None:
    words = np.array([f"word number {n}" for n in range(100_000)], np.dtypes.StringDType())
    handle = ops.asarray(words)
    assert (handle + "!").result()[-1] == "word number 99999!"
    assert np.array_equal(np.sort(handle[handle != "word number 7"])[::-1].result()[:1], ["word number 99999"])


# What NumPy's own dates take, as those of Python's that a 0-d handle stands for
DATES: dict[str, Callable[[Any], Any]] = {
    "an interval later": lambda d: d + datetime.timedelta(days=1),
    "an interval before": lambda d: datetime.timedelta(days=1) + d,
    "an interval earlier": lambda d: d - datetime.timedelta(hours=1),
    "since a date": lambda d: d - datetime.date(2024, 1, 1),
    "until a date": lambda d: datetime.date(2024, 1, 9) - d,
    "since a moment": lambda d: d - datetime.datetime(2024, 1, 1, 12),
}


@pytest.mark.parametrize("name", DATES)
def test_dates_of_python_are_operands(name: str, mode: engine.ExecutionMode) -> None:
    def of_numpy(value: Any) -> Any:
        return {datetime.timedelta: np.timedelta64}.get(type(value), np.datetime64)(value)

    call = DATES[name]
    handle = ops.asarray(DAYS)
    got = [call(handle), call(handle[1])]
    for each, day in zip(got, (DAYS, DAYS[1]), strict=True):
        wanted = {
            "an interval later": lambda d: d + of_numpy(datetime.timedelta(days=1)),
            "an interval before": lambda d: of_numpy(datetime.timedelta(days=1)) + d,
            "an interval earlier": lambda d: d - of_numpy(datetime.timedelta(hours=1)),
            "since a date": lambda d: d - of_numpy(datetime.date(2024, 1, 1)),
            "until a date": lambda d: of_numpy(datetime.date(2024, 1, 9)) - d,
            "since a moment": lambda d: d - of_numpy(datetime.datetime(2024, 1, 1, 12)),
        }[name](day)
        same(each, wanted)


def test_the_length_of_strings_in_a_cast_is_known(mode: engine.ExecutionMode) -> None:
    for array, dtype in ((SQUARE, "S"), (SQUARE, "U"), (TEXT, "S"), (BYTES, "U"), (DAYS, "U"), (SQUARE > 1, "U")):
        same(ops.asarray(array).astype(dtype), array.astype(dtype))


def test_an_empty_index_is_one_of_integers(mode: engine.ExecutionMode) -> None:
    keys: list[Any] = [[], [[]], ([], []), (slice(None), [[]]), np.empty((0, 2), int)]
    for key in keys:
        same(ops.asarray(SQUARE)[key], SQUARE[key])


def test_functions_that_answer_give_a_bool(mode: engine.ExecutionMode) -> None:
    handle = ops.asarray(SQUARE)
    for function in (np.array_equal, np.array_equiv, np.allclose):
        assert function(handle, SQUARE) is True
        assert function(SQUARE, handle + 1) is False


async def test_functions_that_answer_never_block_a_loop() -> None:
    async with engine.Executor(execution_mode=engine.ASYNC):
        for function in (np.array_equal, np.array_equiv, np.allclose):
            with pytest.raises(engine.BlockingSyncError, match="await"):
                function(ops.asarray(SQUARE) + 1, SQUARE)


def test_roots_of_a_polynomial(mode: engine.ExecutionMode) -> None:
    coefficients = np.array([0.0, 1.0, -3.0, 2.0])
    same(np.roots(np.poly1d(ops.asarray(coefficients))), np.roots(np.poly1d(coefficients)))
