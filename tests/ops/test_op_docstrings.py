"""What `help` says of the ops is there, and it is so: the examples run, results and errors are those that are said."""

import doctest
import inspect
import re
from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any

import numpy as np
import pytest

import engine
import handles
from engine import ops
from engine.ops.texts import methods, of_handles
from engine.ops.texts.compose import ERRORS, PARAMETERS, RESULTS, Row, rows

ROWS = dict(rows())
CHAPTERS: dict[str, Any] = {"": ops, "linalg": ops.linalg, "fft": ops.fft}


def function_of(name: str) -> Any:
    """The function that a row is of."""
    chapter, _, own = name.rpartition(".")
    return getattr(CHAPTERS[chapter], own)


FUNCTIONS = [pytest.param(function_of(name), row, id=name) for name, row in ROWS.items()]


def test_each_op_has_a_row_and_each_row_an_op() -> None:
    public = {
        id(getattr(module, name)): f"{chapter}.{name}".lstrip(".")
        for chapter, module in CHAPTERS.items()
        for name in module.__all__
        if inspect.isfunction(getattr(module, name)) and not name.startswith("__")
    }
    assert {id(function_of(name)) for name in ROWS} == set(public)


def test_no_text_is_left_over() -> None:
    assert {row.result for row in ROWS.values()} == set(RESULTS)
    assert {each for row in ROWS.values() for each in row.errors} == set(ERRORS)
    names = {each.name for function in ROWS for each in inspect.signature(function_of(function)).parameters.values()}
    own = {key for key in PARAMETERS if "." in key}
    assert names - {key.rpartition(".")[2] for key in PARAMETERS} == set()
    for key in own:
        name, _, parameter = key.partition(".")
        (function,) = {function_of(each) for each in ROWS if each.rpartition(".")[2] == name}
        assert parameter in inspect.signature(function).parameters


@pytest.mark.parametrize(("function", "row"), FUNCTIONS)
def test_the_sections_are_there_in_order(function: Any, row: Row) -> None:
    text = inspect.getdoc(function) or ""
    heads = ["NumPy calls it", "Parameters:", "Returns:", "Raises:", "Example:"]
    places = [text.index(head) for head in heads]
    assert places == sorted(places)
    first = text.partition("\n\n")[0]
    assert first.endswith((".", ")"))
    assert "\n" not in first
    given = re.findall(r"^    \* `\*?(\w+)`: ", text, re.MULTILINE)
    assert sorted(given) == sorted(inspect.signature(function).parameters)
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize(("function", "row"), FUNCTIONS)
def test_numpys_name_is_one_of_numpy(function: Any, row: Row) -> None:
    found: Any = np
    for part in row.numpy.split(".")[1:] if row.numpy.startswith("numpy.") else ():
        found = getattr(found, part)
    assert found is not np or row.numpy == "ndarray.to_device"


@pytest.mark.parametrize(("function", "row"), FUNCTIONS)
def test_the_example_runs(function: Any, row: Row, mode: engine.ExecutionMode) -> None:
    (test,) = doctest.DocTestFinder(recurse=False).find(function, "op", module=False, globs={"ops": ops, "np": np})
    assert len(test.examples) == 1
    said: list[str] = []
    results = doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert (results.attempted, results.failed) == (1, 0), "".join(said)


# Results

FLOATS = np.array([[0.5, 0.25], [0.75, 1.0]])
INTEGERS = np.array([[1, 2], [3, 1]], np.int16)
ARRAYS = (FLOATS, FLOATS.astype(np.float32), INTEGERS)


def of_one(row: str, array: Any) -> tuple[Any, Any]:
    """Shape and dtype that a row says an op of one array has."""
    integer = array.dtype.kind in "iu"
    return {
        "same": (array.shape, array.dtype),
        "real": (array.shape, array.dtype),
        "float": (array.shape, np.sqrt(array[:1]).dtype),
        "bool": (array.shape, np.dtype(bool)),
        "reduced": ((), array.dtype),
        "reduced_bool": ((), np.dtype(bool)),
        "reduced_count": ((), np.dtype(np.int64)),
        "reduced_float": ((), np.dtype(np.float64) if integer else array.dtype),
        "reduced_sum": ((), np.dtype(np.int64) if integer else array.dtype),
        "index": ((), np.dtype(np.int64)),
        "made_like": (array.shape, array.dtype),
        "matrices": (array.shape, np.dtype(np.float64) if integer else array.dtype),
    }[row]


SIMPLE = [
    pytest.param(function_of(name), row, id=name)
    for name, row in ROWS.items()
    if row.result in {"same", "real", "float", "bool", "index", "made_like", "matrices"}
    or row.result.startswith("reduced")
]


@pytest.mark.sweep
@pytest.mark.parametrize(("function", "row"), SIMPLE)
def test_shape_and_dtype_of_ops_of_one_array_are_as_said(function: Any, row: Row, mode: engine.ExecutionMode) -> None:
    more: dict[str, tuple[Any, ...]] = {"isin": ([1, 2],), "full_like": (1,), "matrix_power": (2,), "roll": (1,)}
    for array in ARRAYS:
        if "integers" in row.errors and array.dtype.kind == "f":
            continue
        x = array if "singular_definite" not in row.errors else np.eye(2, dtype=array.dtype)
        with np.errstate(all="ignore"):
            handle = function(x, *more.get(function.__name__.rpartition(".")[2], ()))
        assert (handle.shape, handle.dtype) == of_one(row.result, x)
        assert handle.result().dtype == handle.dtype


PAIRS = [pytest.param(function_of(name), row, id=name) for name, row in ROWS.items() if row.result.startswith("pair")]


@pytest.mark.parametrize(("function", "row"), PAIRS)
def test_shape_and_dtype_of_ops_of_two_arrays_are_as_said(function: Any, row: Row, mode: engine.ExecutionMode) -> None:
    for array in ARRAYS:
        if "integers" in row.errors and array.dtype.kind == "f":
            continue
        left, right = (np.ones((2, 1, 3), array.dtype), np.ones((4, 3), np.int16))
        if function is ops.linalg.cross:
            right = np.ones((1, 3), np.int16)
        handle = function(left, right)
        assert handle.shape == np.broadcast_shapes(left.shape, right.shape)
        promoted = np.result_type(left, right)
        if row.result == "pair_float" and promoted.kind != "f":
            assert handle.dtype.kind == "f"
        else:
            assert handle.dtype == (np.dtype(bool) if row.result == "pair_bool" else promoted)


# Errors

TEXT = np.array(["a"])


def on_device(function: Any, device: str) -> Any:
    """Call an op that takes a device."""
    given: dict[Any, tuple[Any, ...]] = {
        ops.astype: ([1], np.int64),
        ops.from_dlpack: (np.ones(3),),
        ops.full: (3, 1),
        ops.full_like: ([3], 1),
        ops.linspace: (0, 1, 3),
    }
    if function is ops.to_device:
        return ops.to_device(ops.ones(3), device)
    return function(*given.get(function, (3,)), device=device)


def bad_calls(name: str, error: str) -> list[tuple[type[Exception], Callable[[], Any]]]:  # noqa: C901 - a case for each
    """Calls of an op that a row says raise this; none where it takes arguments that tell no other op."""
    function, row = function_of(name), ROWS[name]
    binary = "x2" in inspect.signature(function).parameters
    match error:
        case "dtype" if binary:
            return [(TypeError, partial(function, TEXT, 1.5))]
        case "dtype":
            return [(TypeError, partial(function, TEXT))]
        case "integers" if binary:
            return [(TypeError, partial(function, 1.5, 2.5))]
        case "integers":
            return [(TypeError, partial(function, 1.5))]
        case "broadcast" if binary and row.result.startswith("pair"):
            return [(ValueError, partial(function, [1, 2], [1, 2, 3]))]
        case "axis" | "axis_index" if row.result.startswith(
            ("reduced", "index", "running", "same", "argsort", "spectr")
        ):
            key = "axes" if "axes" in inspect.signature(function).parameters else "axis"
            shift = (1,) if function is ops.roll else ()
            value: Any = (7,) if key == "axes" else 7
            kind = np.exceptions.AxisError if error == "axis" else IndexError
            return [(kind, partial(function, [1.0, 2.0], *shift, **{key: value}))]
        case "empty":
            return [(ValueError, partial(function, []))]
        case "square" if function is ops.linalg.solve:
            return [(np.linalg.LinAlgError, partial(function, [[1.0, 2.0]], [1.0]))]
        case "square" if function is ops.linalg.matrix_power:
            return [(np.linalg.LinAlgError, partial(function, [[1.0, 2.0]], 2))]
        case "square":
            return [(np.linalg.LinAlgError, partial(function, [[1.0, 2.0]]))]
        case "matrix":
            return [(ValueError, partial(function, [1.0]))]
        case "lengths" if function in (ops.full, ops.linspace):
            return [(ValueError, partial(function, *((-1, 2) if function is ops.full else (0, 1, -1))))]
        case "lengths":
            return [(ValueError, partial(function, -1))]
        case "device" if "device" in inspect.signature(function).parameters:
            return [(ValueError, partial(on_device, function, "?"))]
        case _:
            return [(kind, call) for kind, call in SINGLE.get(error, []) if call.func is function]  # type: ignore[attr-defined]


SINGULAR = [[1.0, 2.0], [2.0, 4.0]]
NANS = np.full((2, 2), np.nan)
SINGLE: dict[str, list[tuple[type[Exception], Callable[[], Any]]]] = {
    "axis": [
        (np.exceptions.AxisError, partial(ops.expand_dims, [1], 5)),
        (np.exceptions.AxisError, partial(ops.moveaxis, [1], 3, 0)),
        (np.exceptions.AxisError, partial(ops.permute_dims, [1], (1,))),
        (np.exceptions.AxisError, partial(ops.unstack, 1)),
    ],
    "broadcast": [
        (ValueError, partial(ops.broadcast_arrays, [1, 2], [1, 2, 3])),
        (ValueError, partial(ops.broadcast_shapes, (2,), (3,))),
        (ValueError, partial(ops.broadcast_to, [1, 2], (3,))),
        (ValueError, partial(ops.where, [True, False], [1, 2, 3], 0)),
    ],
    "converge": [
        (np.linalg.LinAlgError, partial(ops.linalg.svd, NANS)),
        (np.linalg.LinAlgError, partial(ops.linalg.svdvals, NANS)),
        (np.linalg.LinAlgError, partial(ops.linalg.pinv, NANS)),
        (np.linalg.LinAlgError, partial(ops.linalg.matrix_rank, NANS)),
        (np.linalg.LinAlgError, partial(ops.linalg.eig, NANS)),
    ],
    "copy": [(ValueError, partial(ops.asarray, [1, 2], copy=False))],
    "counts": [(ValueError, partial(ops.repeat, [1, 2], -1)), (ValueError, partial(ops.tile, [1], -1))],
    "diagonal": [
        (TypeError, partial(ops.tril, np.eye(2), k=1.5)),  # type: ignore[arg-type]
        (TypeError, partial(ops.triu, np.eye(2), k=1.5)),  # type: ignore[arg-type]
    ],
    "fit": [(ValueError, partial(ops.stack, [[1], [1, 2]])), (ValueError, partial(ops.concat, [[1], [[1]]]))],
    "fit_key": [(ValueError, partial(ops.setitem, np.zeros(3), slice(0, 2), [1, 2, 3]))],  # type: ignore[arg-type]
    "index": [
        (IndexError, partial(ops.take, [1, 2], [5])),
        (IndexError, partial(ops.take_along_axis, [[1, 2]], [[5]])),
    ],
    "indexing": [(ValueError, partial(ops.meshgrid, [1], [2], indexing="ji"))],  # type: ignore[arg-type]
    "kind": [(ValueError, partial(ops.isdtype, np.int32, "nonsense"))],
    "length_one": [(ValueError, partial(ops.squeeze, [[1, 2]], axis=1))],
    "mode": [(ValueError, partial(ops.linalg.qr, [[1.0]], mode="full"))],  # type: ignore[arg-type]
    "negative_power": [(ValueError, partial(ops.pow, [2], -1))],
    "no_dimensions": [(ValueError, partial(ops.nonzero, 1))],
    "no_dlpack": [(TypeError, partial(ops.from_dlpack, 3))],
    "no_dtype": [
        (TypeError, partial(ops.can_cast, "nonsense", int)),
        (TypeError, partial(ops.isdtype, 3, "bool")),
        (TypeError, partial(ops.result_type, "nonsense")),
    ],
    "no_float": [(ValueError, partial(ops.finfo, np.int32))],
    "no_integer": [(ValueError, partial(ops.iinfo, float))],
    "objects": [
        (TypeError, partial(ops.asarray, np.array([None]))),
        (TypeError, partial(ops.astype, [1], object)),
        (TypeError, partial(ops.isin, [1], np.array([None]))),
        (TypeError, partial(ops.unique_values, np.array([None]))),
    ],
    "order": [(ValueError, partial(ops.linalg.matrix_norm, [[1.0]], ord=7))],
    "parts": [(ValueError, partial(ops.split, [1, 2, 3], 2))],
    "points": [(ValueError, partial(ops.fft.fft, [1.0], n=0)), (ValueError, partial(ops.fft.fftn, [1.0], s=(0,)))],
    "product": [
        (ValueError, partial(ops.matmul, [1], [1, 2])),
        (ValueError, partial(ops.vecdot, [1, 2], [1, 2, 3])),
        (ValueError, partial(ops.tensordot, [1], [1, 2], axes=1)),
        (ValueError, partial(ops.linalg.cross, [1, 2], [1, 2])),
    ],
    "ragged": [(ValueError, partial(ops.asarray, [[1], [1, 2]]))],
    "singular": [
        (np.linalg.LinAlgError, partial(ops.linalg.inv, SINGULAR)),
        (np.linalg.LinAlgError, partial(ops.linalg.solve, SINGULAR, [1.0, 2.0])),
    ],
    "singular_definite": [(np.linalg.LinAlgError, partial(ops.linalg.cholesky, [[-1.0]]))],
    "singular_negative": [(np.linalg.LinAlgError, partial(ops.linalg.matrix_power, SINGULAR, -1))],
    "size": [(ValueError, partial(ops.reshape, [1, 2], 3))],
    "step": [(ValueError, partial(ops.arange, 0, 1, 0))],
    "vectors": [
        (ValueError, partial(ops.linalg.outer, [[1]], [1])),
        (ValueError, partial(ops.searchsorted, [[1]], [1])),
    ],
}


@pytest.mark.sweep
@pytest.mark.parametrize(("name", "error"), [(name, error) for name, row in ROWS.items() for error in row.errors])
def test_what_an_op_is_said_to_raise_it_raises(name: str, error: str, mode: engine.ExecutionMode) -> None:
    for kind, call in bad_calls(name, error):
        with pytest.raises(kind):
            read(call())


def test_most_of_what_is_said_is_tried() -> None:
    said = [(name, error) for name, row in ROWS.items() for error in row.errors]
    assert len([each for each in said if bad_calls(*each)]) > 0.75 * len(said)
    tried = {error for name, error in said if bad_calls(name, error)}
    assert set(ERRORS) == tried


def read(result: Any) -> None:
    """Read each handle of a result."""
    for each in result if isinstance(result, tuple) else (result,):
        if isinstance(each, handles.Handle):
            each.result()


# Handles


METHODS = dict(of_handles.rows())
UNSAID = {"ctypes", "dump", "tofile", "wait_ready"}
"""What has no example that runs in both modes and leaves nothing behind."""


def test_each_method_and_attribute_of_a_handle_has_a_row() -> None:
    public = {
        name
        for name in dir(handles.Handle)
        if not name.startswith("_")
        and isinstance(inspect.getattr_static(handles.Handle, name), FunctionType | property)
    }
    assert public - UNSAID == METHODS.keys()
    assert {each for row in METHODS.values() for each in row.errors} >= methods.ERRORS.keys()
    assert {row.result for row in METHODS.values()} >= methods.RESULTS.keys()


@pytest.mark.parametrize("name", METHODS)
def test_a_method_of_a_handle_is_documented_and_its_example_runs(name: str, mode: engine.ExecutionMode) -> None:
    member = inspect.getattr_static(handles.Handle, name)
    text = inspect.getdoc(member) or ""
    heads = [head for head in ("NumPy calls it", "Parameters:", "Returns:", "Raises:", "Example:") if head in text]
    assert heads == sorted(heads, key=text.index)
    assert {"Returns:", "Example:"} <= set(heads)
    assert ("NumPy calls it" in heads) is hasattr(np.ndarray, name)
    if inspect.isfunction(member):
        assert re.findall(r"^    \* `(\w+)`: ", text, re.MULTILINE) == list(inspect.signature(member).parameters)[1:]
    assert max(map(len, text.splitlines())) <= 120
    test = doctest.DocTestParser().get_doctest(text, {"ops": ops, "np": np}, name, None, 0)
    said: list[str] = []
    results = doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert (results.attempted, results.failed) == (2, 0), "".join(said)


@pytest.mark.parametrize("cls", [handles.Handle, handles.EagerHandle, handles.AsyncHandle, handles.Symbol])
def test_each_public_method_says_what_it_does(cls: type) -> None:
    for name in dir(cls):
        member = inspect.getattr_static(cls, name)
        if name.startswith("_") or not (inspect.isfunction(member) or isinstance(member, property)):
            continue
        text = inspect.getdoc(member) or ""
        assert text.partition("\n")[0].endswith("."), name
