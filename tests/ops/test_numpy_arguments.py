"""Arguments of NumPy's functions on handles, in every form that NumPy's own signatures allow.

The calls are generated from the signatures: each public function that dispatches is called with its arguments by
position and by name, with values of every kind for the parameters that are no arrays, and with `out` wherever it can
stand. What comes of it (value, shape, dtype, or the class of the exception) is what NumPy does.
"""

import functools
import inspect
from array import array
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy
import pytest

import engine
from engine import ops
from engine.ops.numpy_binding import named, parameters, without
from engine.ops.numpy_forms import FORMS
from handles import Handle

np: Any = numpy  # its stubs know of no arrays but its own

pytestmark = pytest.mark.filterwarnings("ignore")

SQUARE = np.array([[4.0, 1.0, 0.5], [1.0, 3.0, 0.25], [0.5, 0.25, 2.0]])
ROW = np.array([1.0, 2.0, 4.0])
INDEX = np.array([0, 2, 1])
DAYS = np.array(["2024-01-01", "2024-01-03"], "M8[D]")
TEXT = np.array(["ab", "cd e"])
BYTES = np.array([3, 5], np.uint8)


def each(names: str, value: Any) -> dict[str, Any]:
    """The same value for each of the names."""
    return dict.fromkeys(names.split(), value)


# What is passed for a required parameter, by its name, or by function and name.
OPERANDS: dict[str, Any] = {
    **each("a m x arr ary array arrays element f A v p y z ar prototype val filt X", SQUARE),
    **each("b a1 a2 x1 x2 ar1 ar2 test_elements u test fp xp seq_of_zeros N", ROW),
    **each("indices ind obj", INDEX),
    **each("shape new_shape", (9,)),
    **each("axis axis1 source kth shift", 1),
    **each("axis2 destination axes", 0),
    **each("values fill_value vals", 7.0),
    **each("tup keys arrays", [SQUARE, SQUARE + 1]),
    **each("mask condition", SQUARE > 1),
    **each("dates begindates enddates", DAYS),
    "reps": 2,
    "repeats": 2,
    "pad_width": 1,
    "sample": SQUARE,
    "dtype": np.float32,
    "q": 30.0,
    "n": 2,
    "deg": 1,
    "offsets": 1,
    "bins": ROW,
    "start": 0.0,
    "stop": 1.0,
    "window_shape": (2, 2),
    "indices_or_sections": 3,
    "dims": (3, 3),
    "condlist": [SQUARE > 1, SQUARE > 0],
    "choicelist": [SQUARE, -SQUARE],
    "func1d": lambda line: line[0] - line,
    "func": np.sum,
}
BY_FUNCTION: dict[tuple[Any, str], Any] = {
    (np.bincount, "x"): INDEX,
    (np.packbits, "a"): BYTES,
    (np.unpackbits, "a"): BYTES,
    (np.choose, "a"): INDEX,
    (np.choose, "choices"): [ROW, ROW + 1, ROW + 2],
    (np.compress, "condition"): np.array([True, False, True]),
    (np.convolve, "a"): ROW,
    (np.convolve, "v"): ROW,
    (np.correlate, "a"): ROW,
    (np.correlate, "v"): ROW,
    (np.datetime_as_string, "arr"): DAYS,
    (np.digitize, "x"): ROW,
    (np.interp, "x"): ROW,
    (np.lexsort, "keys"): SQUARE,
    (np.piecewise, "condlist"): [SQUARE > 1],
    (np.piecewise, "funclist"): [lambda x: -x, lambda x: x * 2],
    (np.polyfit, "x"): ROW,
    (np.polyfit, "y"): ROW**2,
    (np.poly, "seq_of_zeros"): ROW,
    (np.polydiv, "v"): ROW,
    (np.polyder, "p"): ROW,
    (np.polyint, "p"): ROW,
    (np.polyval, "p"): ROW,
    (np.roots, "p"): ROW,
    (np.histogram2d, "x"): ROW,
    (np.histogram2d, "y"): ROW,
    (np.ravel_multi_index, "multi_index"): (INDEX, INDEX),
    (np.searchsorted, "a"): ROW,
    (np.searchsorted, "v"): ROW,
    (np.take_along_axis, "indices"): INDEX[:, None],
    (np.insert, "values"): 5.0,
    (np.append, "values"): ROW,
    (np.diagonal, "axis1"): 0,
    (np.unravel_index, "indices"): INDEX,
    (np.unravel_index, "shape"): (3, 3),
    (np.vander, "x"): ROW,
    (np.diag, "v"): SQUARE,
    (np.diagflat, "v"): ROW,
    (np.cross, "a"): SQUARE,
    (np.broadcast_to, "shape"): (2, 3, 3),
    (np.reshape, "shape"): (9,),
    (np.tensordot, "b"): SQUARE,
    (np.linalg.tensordot, "x2"): SQUARE,
    (np.linalg.multi_dot, "arrays"): [SQUARE, SQUARE],
    (np.linalg.matmul, "x1"): SQUARE,
    (np.linalg.cross, "x1"): SQUARE,
    (np.linalg.tensorinv, "a"): SQUARE.reshape(1, 3, 3),
    (np.dsplit, "ary"): SQUARE.reshape(1, 3, 3),
    (np.trim_zeros, "filt"): np.array([0.0, 1.0, 0.0]),
    (np.dot, "b"): SQUARE,
    (np.linspace, "start"): ROW,
    (np.geomspace, "start"): ROW,
    (np.geomspace, "stop"): 8.0,
    (np.logspace, "start"): ROW,
    (np.block, "arrays"): [[SQUARE], [SQUARE]],
    (np.isin, "test_elements"): ROW,
    (np.select, "condlist"): [SQUARE > 1, SQUARE > 0],
    (np.percentile, "q"): [30.0, 60.0],
    (np.linalg.outer, "x1"): ROW,
    (np.cumulative_sum, "x"): ROW,
    (np.cumulative_prod, "x"): ROW,
    (np.quantile, "q"): [0.3, 0.6],
    (np.nanquantile, "q"): 0.3,
    (np.vdot, "a"): ROW,
    (np.linalg.tensordot, "x1"): SQUARE,
}
SEVERAL: dict[Any, tuple[Any, ...]] = {
    np.einsum: ("ij,jk->ik", SQUARE, SQUARE),
    **dict.fromkeys((np.atleast_1d, np.atleast_2d, np.atleast_3d, np.broadcast_arrays, np.meshgrid), (ROW, ROW)),
    np.ix_: (INDEX, INDEX),
    np.common_type: (SQUARE,),
    np.result_type: (SQUARE, ROW),
}

# Values for the parameters that are no arrays, of every kind that somebody might pass.
AXES = [
    0, -1, 1, 7, None, True, 1.0, "x", np.int64(1), np.array(1), np.array([1]), np.array([0, 1]), (1,), (0, 1), [0],
    [0, 1], range(2), (), (0, 0), (np.int64(0), 1),
]  # fmt: skip
LENGTHS = [
    (3, 3),
    9,
    -1,
    (9, 1),
    [3, 3],
    np.array([3, 3]),
    np.array(9),
    range(3, 4),
    (np.int64(3), 3),
    9.0,
    "x",
    (2, 2),
]
NUMBERS = [0, 1, 2, -1, np.int64(1), np.array(1), True, 1.5, None, "x", (1,), [1]]
FLAGS = [True, False, None, 1, 0, np.True_]
VALUES: dict[str, list[Any]] = {
    **each("axis axes axis1 axis2 source destination axisa axisb axisc", AXES),
    **each("shape new_shape reps window_shape s", LENGTHS),
    "shift": [*AXES, -2, (1, 2, 1), [[1, 0]], -1.5],
    **each("k n N num offset decimals ddof correction start kth indices_or_sections repeats", NUMBERS),
    **each("keepdims invert include_initial equal_nan assume_unique returned bias rowvar density", FLAGS),
    **each("return_index return_inverse return_counts return_indices endpoint sorted stable", FLAGS),
    **each("hermitian full_matrices compute_uv upper increasing right wrap copy full deg", FLAGS),
    **each("overwrite_input optimize", FLAGS),
    **each("initial nan posinf neginf", [2.0, np.float32(3)]),
    **each("prepend append to_end to_begin weights y", [ROW, 1.0]),
    "where": [True, SQUARE > 0.5, ROW > 1],
    "mean": [np.array(1.0)],
    "dtype": [np.float32, "f8", None, "nonsense"],
    "norm": [None, "ortho", "forward", "backward", "nonsense"],
    "mode": ["raise", "clip", "wrap", "full", "same", "reduced", "r", "edge", 1, None],
    "method": ["linear", "nearest", "nonsense"],
    "side": ["left", "right", "nonsense", None],
    "kind": [None, "stable", "quicksort", "sort", "nonsense"],
    "order": [None, "C", "F", "K", "A", "nonsense"],
    "ord": [None, 1, 2, "fro", np.inf],
    "p": [None, 1, "fro"],
    "UPLO": ["L", "U", "nonsense"],
    "a_min": [1.0, None, ROW],
    "a_max": [2.0, None, ROW],
    "min": [1.0, None],
    "max": [2.0, None],
    "subok": [True, False],
    "trim": ["f", "b"],
    "casting": ["same_kind", "unsafe", "no", "nonsense"],
    "edge_order": [1, 2, 3],
    "bitorder": ["big", "little"],
    "deg": [False, True, 1],
}
VALUES["s"] = [*LENGTHS, (None, 4), (4, -1), None]
OPERAND_NAMES = {"where", "prepend", "append", "to_end", "to_begin", "weights", "a_min", "a_max", "y", "values"}
"""Parameters whose arrays are operands; of the others an array is passed as it is."""

NO_ARRAYS = {
    np.save, np.savetxt, np.savez, np.savez_compressed, np.array2string, np.array_repr, np.array_str,
    np.may_share_memory, np.shares_memory, np.einsum_path, np.min_scalar_type, np.can_cast, np.common_type,
    np.result_type, np.shape, np.ndim, np.size, np.iscomplexobj, np.isrealobj, np.array_equiv,
}  # fmt: skip
CHANGING = {np.copyto, np.fill_diagonal, np.place, np.put, np.put_along_axis, np.putmask}
UNTOLD = {np.empty_like}  # its values are whatever was there


UNTOLD_SIGNATURES: dict[str, Callable[..., Any]] = {
    "bincount": lambda x, /, weights=None, minlength=0: 0,
    "busday_count": lambda begindates, enddates, weekmask="1111100", holidays=(), busdaycal=None, out=None: 0,
    "busday_offset": lambda dates, offsets, roll="raise", weekmask="1111100", holidays=None, busdaycal=None, out=None: (
        0
    ),
    "can_cast": lambda from_, to, casting="safe": 0,
    "concat": lambda arrays, /, axis=0, out=None, *, dtype=None, casting="same_kind": 0,
    "concatenate": lambda arrays, /, axis=0, out=None, *, dtype=None, casting="same_kind": 0,
    "copyto": lambda dst, src, casting="same_kind", where=True: 0,
    "datetime_as_string": lambda arr, unit=None, timezone="naive", casting="same_kind": 0,
    "dot": lambda a, b, out=None: 0,
    "empty_like": lambda prototype, /, dtype=None, order="K", subok=True, shape=None, *, device=None: 0,
    "inner": lambda a, b, /: 0,
    "is_busday": lambda dates, weekmask="1111100", holidays=None, busdaycal=None, out=None: 0,
    "lexsort": lambda keys, axis=-1: 0,
    "may_share_memory": lambda a, b, /, max_work=0: 0,
    "min_scalar_type": lambda a, /: 0,
    "packbits": lambda a, /, axis=None, bitorder="big": 0,
    "putmask": lambda a, /, mask, values: 0,
    "ravel_multi_index": lambda multi_index, dims, mode="raise", order="C": 0,
    "result_type": lambda *arrays_and_dtypes: 0,
    "shares_memory": lambda a, b, /, max_work=-1: 0,
    "unpackbits": lambda a, /, axis=None, count=None, bitorder="big": 0,
    "unravel_index": lambda indices, shape, order="C": 0,
    "vdot": lambda a, b, /: 0,
    "where": lambda condition, x=None, y=None, /: 0,
}
"""The signatures of functions written in C, which NumPy tells from version 2.4 on."""


def signature_of(function: Any) -> inspect.Signature:
    """The signature of a NumPy function."""
    try:
        return inspect.signature(function)
    except ValueError:
        return inspect.signature(UNTOLD_SIGNATURES[function.__name__])


def functions() -> dict[str, Callable[..., Any]]:
    """The public functions that dispatch, by the name that users type."""
    found: dict[Any, str] = {}
    for prefix, module in (("", np), ("linalg.", np.linalg), ("fft.", np.fft)):
        for name in sorted(dir(module)):
            function = getattr(module, name)
            if hasattr(function, "_implementation") and not name.startswith("_"):
                found.setdefault(function, prefix + name)
    found[np.lib.stride_tricks.sliding_window_view] = "sliding_window_view"
    return {name: function for function, name in found.items()}


FUNCTIONS = functions()
ARRAYS = [name for name, function in FUNCTIONS.items() if function not in NO_ARRAYS | CHANGING | UNTOLD]
WITH_OUT = [name for name, function in FUNCTIONS.items() if "out" in signature_of(function).parameters]


class Call(NamedTuple):
    """Arguments of one call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def required(function: Any) -> dict[str, Any]:
    """What has to be passed, by name, in order."""
    given: dict[str, Any] = {}
    for each in signature_of(function).parameters.values():
        needed = each.default is each.empty or (function, each.name) in BY_FUNCTION
        if needed and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
            given[each.name] = BY_FUNCTION.get((function, each.name), OPERANDS.get(each.name))
            assert given[each.name] is not None, f"say what to pass as {each.name} of {function}"
    return given


def base(function: Any) -> Call:
    """The call with all that is required, by position where it can stand there."""
    if function in SEVERAL:
        return Call(SEVERAL[function], {})
    given, names = required(function), parameters(function).names
    args = tuple(given[name] for name in names if name in given)
    return Call(args, {name: value for name, value in given.items() if name not in names})


def by_name(function: Any) -> Call:
    """The same with everything by name that may be."""
    args, kwargs = base(function)
    if function in SEVERAL:
        return Call(args, kwargs)
    told = signature_of(function).parameters
    only = [name for name in parameters(function).names if told[name].kind is told[name].POSITIONAL_ONLY]
    names = parameters(function).names
    return Call(args[: len(only)], {**dict(zip(names[len(only) :], args[len(only) :], strict=False)), **kwargs})


def with_argument(function: Any, name: str, value: Any) -> Iterator[Call]:
    """The call with one more argument (or another one), by name, and by position with the defaults before it."""
    told, names = signature_of(function).parameters, parameters(function).names
    args, kwargs = base(function)
    if name not in names:
        yield Call(args, {**kwargs, name: value})
        return
    if names.index(name) >= len(args) and told[name].kind is not told[name].POSITIONAL_ONLY:
        yield Call(args, {**kwargs, name: value})
    place = names.index(name)
    before = [told[each].default for each in names[len(args) : place]]
    yield Call((*args[:place], *before, value, *args[place + 1 :]), kwargs)


def calls(function: Any) -> Iterator[Call]:
    """All calls of a function that the sweep makes."""
    yield base(function)
    yield by_name(function)
    for name in signature_of(function).parameters:
        if name == "out":
            continue
        if name in ("p", "y") and (name in required(function) or function is np.where):
            continue
        for value in VALUES.get(name, []):
            yield from with_argument(function, name, value)


def as_handles(function: Any, call: Call, make: Callable[[Any], Any] = ops.asarray) -> Call:
    """The same call with its operands as handles."""
    names = parameters(function).names
    needed = set(required(function)) if function not in SEVERAL else set()

    def convert(name: str, value: Any) -> Any:
        if name in VALUES and name not in OPERAND_NAMES and (name not in needed or name in NO_OPERANDS):
            return value
        return arrays_in(value, make)

    args = tuple(convert(names[place] if place < len(names) else "", each) for place, each in enumerate(call.args))
    return Call(args, {name: convert(name, value) for name, value in call.kwargs.items()})


NO_OPERANDS = set(VALUES) - {"y", "p"}


def arrays_in(value: Any, replace: Callable[[Any], Any]) -> Any:
    """The value with something in place of each array."""
    if isinstance(value, np.ndarray):
        return replace(value)
    if isinstance(value, list | tuple):
        return type(value)([arrays_in(each, replace) for each in value])
    return value


def outcome(function: Any, call: Call) -> Any:
    """What a call gives: facts of its arrays, or the class of its error."""
    try:
        with np.errstate(all="ignore"):
            return facts(function(*call.args, **call.kwargs))
    except engine.UnknownShapeError:
        raise
    except Exception as error:  # noqa: BLE001 - is compared
        return next(
            cls for cls in type(error).__mro__ if cls.__module__ in ("builtins", "numpy.exceptions", "numpy.linalg")
        )


def facts(result: Any) -> Any:
    """The structure of a result, with dtype, shape and bytes of each array in it."""
    if isinstance(result, tuple | list):
        return [facts(each) for each in result]
    inferred = None
    if isinstance(result, Handle):
        try:
            inferred = (result.shape, result.dtype)
        except Exception:  # noqa: BLE001 - what the value will raise, too
            inferred = None
        result = result.result()
    value = np.asarray(result)
    if inferred is not None:
        assert inferred[1] == value.dtype
        assert len(inferred[0]) == value.ndim
        assert all(said in (None, real) for said, real in zip(inferred[0], value.shape, strict=True))
    return (value.dtype, value.shape, value.tobytes())


def show(function_name: str, call: Call) -> str:
    """A call in a message."""
    return f"np.{function_name}(*{call.args!r}, **{call.kwargs!r})"


@functools.cache
def expected(name: str) -> tuple[tuple[Call, Any], ...]:
    """All calls of a function, with what NumPy gives."""
    function = FUNCTIONS[name]
    return tuple((call, outcome(function, copied(call))) for call in calls(function))


def copied(call: Call) -> Call:
    """The same call with arrays of its own: NumPy may write to them."""
    args = tuple(arrays_in(each, np.copy) for each in call.args)
    return Call(args, {name: arrays_in(value, np.copy) for name, value in call.kwargs.items()})


@pytest.mark.sweep
@pytest.mark.parametrize("name", ARRAYS)
def test_a_function_takes_its_arguments_as_numpy_does(name: str, mode: engine.ExecutionMode) -> None:
    function, different = FUNCTIONS[name], []
    for call, wanted in expected(name):
        got = outcome(function, as_handles(function, call))
        if got != wanted:
            different.append(f"{show(name, call)}\n    gives {got}\n    not {wanted}")
    engine.clear_errors()
    assert not different, "\n".join(different)
    assert not isinstance(expected(name)[0][1], type), f"the call without options fails: {expected(name)[0]}"


@pytest.mark.sweep
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_beside_a_handle_are_taken_and_left_as_they_are(name: str, mode: engine.ExecutionMode) -> None:
    """Each operand in turn is a handle, the others are arrays, which can be written to afterwards."""
    function = FUNCTIONS[name]
    call, wanted = expected(name)[0]
    operands: list[Any] = []

    def count(array: Any) -> Any:
        operands.append(array)
        return array

    as_handles(function, call, count)
    for chosen in range(len(operands)):
        numbers = iter(range(len(operands)))
        others: list[np.ndarray[Any, Any]] = []

        def replace(array: Any, chosen: int = chosen, numbers: Any = numbers, others: Any = others) -> Any:
            if next(numbers) == chosen:
                return ops.asarray(array)
            others.append(array.copy())
            return others[-1]

        mixed = as_handles(function, call, replace)
        before = [other.tobytes() for other in others]
        assert outcome(function, mixed) == wanted
        assert [other.tobytes() for other in others] == before
        assert all(other.flags.writeable for other in others)


@pytest.mark.sweep
@pytest.mark.parametrize("name", [name for name in ARRAYS if FUNCTIONS[name] in FORMS])
def test_a_plain_call_is_one_of_the_row(name: str) -> None:
    """Its shape is known at once, however its arguments are passed."""
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    function = FUNCTIONS[name]
    assert FORMS[function].known.keys() <= signature_of(function).parameters.keys()
    for call, wanted in expected(name)[:2]:
        if isinstance(wanted, type) or function is np.where:  # of one operand it has another form
            continue
        args, kwargs = as_handles(function, call)
        result = function(*args, **kwargs)
        for each in result if isinstance(result, tuple) else (result,):
            assert each.shape is not None


# ---------------------------------------------------------------------------------------------------------------------
# `out`


def calls_into(function: Any, out: Any) -> Iterator[Call]:
    """The calls with `out`: by name, by position, and by position with all that may follow it."""
    told, names = signature_of(function).parameters, parameters(function).names
    for call in (base(function), by_name(function)):
        yield Call(call.args, {**call.kwargs, "out": out})
    if "axis" in names and function not in (np.median, np.nanmedian):
        *_, (args, kwargs) = with_argument(function, "axis", 0)
        yield Call(args, {**kwargs, "out": out})
    if "out" in names:
        args, kwargs = base(function)
        place = names.index("out")
        args = (*args, *(told[each].default for each in names[len(args) : place]), out)
        yield Call(args, kwargs)
        for last in range(place + 1, len(names)):
            args = (*args, told[names[last]].default)
            yield Call(args, kwargs)


def fresh(like: Any, dtype: Any = None) -> Any:
    """An array for a result, with something else in it."""
    return np.full(like.shape, 3, dtype or like.dtype) if like.dtype.kind != "M" else np.full_like(like, "2000-01-01")


def result_into(function: Any, call: Call, out: Any, handles: bool) -> tuple[Any, Any, bool]:
    """What a call gives, what `out` is afterwards, and whether it is what was returned."""
    args, kwargs = as_handles(function, call) if handles else copied(call)
    args = tuple(out if given is OUT else value for given, value in zip(call.args, args, strict=True))
    kwargs = {name: out if call.kwargs[name] is OUT else value for name, value in kwargs.items()}
    with np.errstate(all="ignore"):
        result = function(*args, **kwargs)
    return facts(result), facts(out), result is out


OUT = np.zeros(0)


@functools.cache
def expected_into(name: str) -> tuple[tuple[Call, Any, Any], ...]:
    """The calls of a function with `out`, with an array that fits as one, and what NumPy gives."""
    function, found = FUNCTIONS[name], []
    like = np.zeros(())
    for call in calls_into(function, OUT):
        args, kwargs = copied(call)
        args, kwargs = named(function, args, kwargs, "out")
        with np.errstate(all="ignore"):
            try:
                like = np.asarray(function(*args, **without(kwargs, "out")))
                wanted: Any = result_into(function, call, fresh(like), handles=False)
            except Exception as error:  # noqa: BLE001 - is compared
                wanted = type(error)
        found.append((call, fresh(like), wanted))
    return tuple(found)


@pytest.mark.sweep
@pytest.mark.parametrize("kind", ["handle", "array"])
@pytest.mark.parametrize("name", WITH_OUT)
def test_out_is_written_to_wherever_it_stands(name: str, kind: str, mode: engine.ExecutionMode) -> None:
    function = FUNCTIONS[name]
    for call, like, wanted in expected_into(name):
        out = like.copy() if kind == "array" else ops.asarray(like)
        older = out.copy()
        if isinstance(wanted, type):
            with pytest.raises(wanted):
                result_into(function, call, out, handles=True)
        else:
            assert result_into(function, call, out, handles=True) == wanted, show(name, call)
        assert facts(older) == facts(like)
    assert not isinstance(expected_into(name)[0][2], type), f"the plain call fails: {expected_into(name)[0]}"


@pytest.mark.sweep
@pytest.mark.parametrize("name", WITH_OUT)
def test_an_out_that_does_not_fit_is_refused_and_stays(name: str, mode: engine.ExecutionMode) -> None:
    function = FUNCTIONS[name]
    for out in (np.full(77, 3.0), np.full((77, 1, 1), 3, np.int8)):
        call = next(calls_into(function, OUT))
        try:
            wanted: Any = result_into(function, call, out.copy(), handles=False)
        except Exception as error:  # noqa: BLE001 - is compared
            wanted = type(error)
        handle = ops.asarray(out)
        older = handle.copy()
        if isinstance(wanted, type):
            with pytest.raises(Exception) as caught:  # noqa: PT011 - the class is compared
                result_into(function, call, handle, handles=True)
            assert issubclass(caught.type, wanted) or issubclass(wanted, caught.type), show(name, call)
            if mode is engine.SYNC:
                assert facts(handle) == facts(out)
        else:
            assert result_into(function, call, handle, handles=True) == wanted
        assert facts(older) == facts(out)
        engine.clear_errors()


def test_a_call_that_is_refused_changes_nothing(mode: engine.ExecutionMode) -> None:
    h, out = ops.asarray(SQUARE), ops.asarray(ROW)
    refused: list[Callable[[], Any]] = [
        lambda: np.sum(h, 0, None, out, False, 0.0, True, "one too many"),
        lambda: np.take(h, INDEX, out=out, modus="clip"),
        lambda: np.cumsum(h, 0, None, out, out=out),
        lambda: np.add(h, h, out=(out, out)),
        lambda: np.copyto(h, 1.0, "no such casting", True, 5),
        lambda: np.nan_to_num(h, False, number=3),
        lambda: np.sum(h, 0, out=(out,)),
        lambda: np.median(h, 0, [out]),
    ]
    for call in refused:
        with pytest.raises((TypeError, ValueError)):
            call()
        assert facts(h) == facts(SQUARE)
        assert facts(out) == facts(ROW)


def test_out_in_a_tuple_is_that_of_a_ufunc(mode: engine.ExecutionMode) -> None:
    h, out, array = ops.asarray(SQUARE), ops.asarray(np.zeros((3, 3))), np.zeros((3, 3))
    older = out.copy()
    assert np.clip(h, 1, 2, out=(out,)) is out
    assert np.clip(h, 1, 2, (array,)) is array
    assert facts([out, array, older]) == facts([SQUARE.clip(1, 2), SQUARE.clip(1, 2), np.zeros((3, 3))])


# ---------------------------------------------------------------------------------------------------------------------
# einsum

FORMS_OF_EINSUM: dict[str, Callable[..., Any]] = {
    "transposed": lambda x, **kw: np.einsum("ij->ji", x, **kw),
    "trace": lambda x, **kw: np.einsum("ii", x, **kw),
    "diagonal": lambda x, **kw: np.einsum("ii->i", x, **kw),
    "sum": lambda x, **kw: np.einsum("ij->", x, **kw),
    "implied result": lambda x, **kw: np.einsum("ji", x, **kw),
    "ellipsis": lambda x, **kw: np.einsum("...j->...", x, **kw),
    "lists of subscripts": lambda x, **kw: np.einsum(x, [0, 1], **kw),
    "lists, and one of the result": lambda x, **kw: np.einsum(x, [0, 1], [1], **kw),
    "two operands in lists": lambda x, **kw: np.einsum(x, [0, 1], x, [1, 2], [0, 2], **kw),
    "two operands": lambda x, **kw: np.einsum("ij,jk", x, x, **kw),
    "three operands": lambda x, **kw: np.einsum("ij,jk,kl->il", x, x, x, **kw),
    "an array beside": lambda x, **kw: np.einsum("ij,j->i", x, ROW, **kw),
    "dtype": lambda x, **kw: np.einsum("ij->i", x, dtype="f4", casting="unsafe", **kw),
    "order": lambda x, **kw: np.einsum("ij->ji", x, order="F", **kw),
}


@pytest.mark.sweep
@pytest.mark.parametrize("optimize", [None, False, True, "greedy"])
@pytest.mark.parametrize("name", FORMS_OF_EINSUM)
def test_einsum_in_every_form(name: str, optimize: Any, mode: engine.ExecutionMode) -> None:
    call, kwargs = FORMS_OF_EINSUM[name], {} if optimize is None else {"optimize": optimize}
    wanted = call(SQUARE, **kwargs)
    h = ops.asarray(SQUARE)
    assert facts(call(h, **kwargs)) == facts(wanted)
    assert facts(h) == facts(SQUARE)
    out = ops.asarray(np.full_like(wanted, 9))
    older = out.copy()
    assert call(h, out=out, **kwargs) is out
    assert facts(out) == facts(wanted)
    array = np.full_like(wanted, 9)
    assert call(h, out=array, **kwargs) is array
    assert facts(array) == facts(wanted)
    assert facts(older) == facts(np.full_like(wanted, 9))
    assert facts(h) == facts(SQUARE)


@pytest.mark.parametrize("name", FORMS_OF_EINSUM)
def test_einsum_in_a_graph_and_in_a_function(name: str) -> None:
    call = FORMS_OF_EINSUM[name]
    wanted = call(SQUARE)
    with engine.Graph().as_default():
        x = engine.placeholder("f8", (3, 3))
        out = ops.zeros(wanted.shape, dtype=wanted.dtype)
        filled = call(x, out=out)
        assert filled is out
        results = engine.Session().run([call(x), filled], {x: SQUARE})
    assert [facts(each) for each in results] == [facts(wanted)] * 2
    engine.testing.reset()
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    assert facts(engine.function(call)(ops.asarray(SQUARE))) == facts(wanted)


def test_out_by_position_in_a_graph_and_in_a_function() -> None:
    def write(x: Any) -> tuple[Any, ...]:
        total, some, taken = ops.zeros(3), ops.zeros(3, dtype=bool), ops.zeros((2, 3))
        np.sum(x, 0, None, total, False)
        np.any(x > 3, 0, some, False)
        np.take(x, [0, 9], 0, taken, "clip")
        return total, some, taken

    wanted = [SQUARE.sum(0), (SQUARE > 3).any(0), SQUARE[[0, 2]]]
    with engine.Graph().as_default():
        x = engine.placeholder("f8", (3, 3))
        results = engine.Session().run(list(write(x)), {x: SQUARE})
    assert facts(results) == facts(wanted)
    engine.testing.reset()
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    assert facts(list(engine.function(write)(ops.asarray(SQUARE)))) == facts(wanted)


# ---------------------------------------------------------------------------------------------------------------------
# What may be written to

HOLES = np.array([[1.0, np.nan, np.inf], [-np.inf, 2.0, 3.0], [0.5, 4.0, np.nan]])


@pytest.mark.parametrize("by_position", [False, True])
def test_nan_to_num_without_a_copy_rebinds(by_position: bool, mode: engine.ExecutionMode) -> None:
    gate = engine.testing.GateOp()
    gate.open()
    h = gate(HOLES)
    alias, reader = h, h + 0
    result = np.nan_to_num(h, False, 7.0) if by_position else np.nan_to_num(x=h, nan=7.0, copy=False)
    assert result is h
    assert alias is h
    assert facts(h) == facts(np.nan_to_num(HOLES, nan=7.0))
    assert facts(reader) == facts(HOLES)
    kept = ops.asarray(HOLES)
    assert facts(np.nan_to_num(kept)) == facts(np.nan_to_num(HOLES))
    assert facts(kept) == facts(HOLES)


async def test_readers_that_have_not_run_keep_the_old_value() -> None:
    gate = engine.testing.GateOp()
    async with engine.Executor(execution_mode=engine.ASYNC):
        h = ops.asarray(HOLES) + 0
        await h
        reader = gate(h)
        np.nan_to_num(h, copy=False)
        median = np.median(h, overwrite_input=True)
        gate.open()
        assert np.array_equal(await median, np.median(np.nan_to_num(HOLES)))
        assert np.array_equal(await h, np.nan_to_num(HOLES))
        assert np.array_equal(await reader, HOLES, equal_nan=True)


OVERWRITING = [name for name, each in FUNCTIONS.items() if "overwrite_input" in signature_of(each).parameters]


@pytest.mark.parametrize("name", OVERWRITING)
def test_overwrite_input_leaves_its_input(name: str, mode: engine.ExecutionMode) -> None:
    function = FUNCTIONS[name]
    array = np.array([[3.0, 1.0, 2.0], [9.0, 7.0, 8.0]])
    for call in with_argument(function, "overwrite_input", True):
        args, kwargs = Call((array, *call.args[1:]), call.kwargs)
        h = ops.asarray(array)
        assert facts(function(h, *args[1:], **kwargs)) == facts(function(array.copy(), *args[1:], **kwargs))
        assert facts(h) == facts(array)


def test_what_is_called_back_may_write_to_its_slice(mode: engine.ExecutionMode) -> None:
    def doubled(line: Any) -> Any:
        line *= 2
        return line.sum()

    def zeroed(x: Any, axis: int) -> Any:
        x[...] = 1
        return x.sum(axis)

    calls: list[Callable[[Any], Any]] = [
        lambda x: np.apply_along_axis(doubled, 0, x),
        lambda x: np.apply_over_axes(zeroed, x, [0, 1]),
    ]
    for call in calls:
        h = ops.asarray(SQUARE)
        assert facts(call(h)) == facts(call(SQUARE.copy()))
        assert facts(h) == facts(SQUARE)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "copyto": lambda x: np.copyto(x, ROW, "same_kind", x > 1),
    "copyto by name": lambda x: np.copyto(dst=x, src=x[::-1]),
    "fill_diagonal": lambda x: np.fill_diagonal(x, ROW, True),
    "fill_diagonal by name": lambda x: np.fill_diagonal(val=0.0, a=x),
    "place": lambda x: np.place(x, x > 1, [9.0, 8.0]),
    "place by name": lambda x: np.place(vals=[9.0], mask=x > 1, arr=x),
    "put": lambda x: np.put(x, INDEX, ROW, "clip"),
    "put by name": lambda x: np.put(a=x, ind=[99], v=5.0, mode="wrap"),
    "put_along_axis": lambda x: np.put_along_axis(x, INDEX[:, None], 5.0, 1),
    "put_along_axis by name": lambda x: np.put_along_axis(arr=x, indices=INDEX[None], values=x[:1], axis=0),
    "putmask": lambda x: np.putmask(x, x > 1, ROW),
    "putmask by name": lambda x: np.putmask(x, values=-x, mask=x > 1),
    "a place that is not there": lambda x: np.put(x, [99], 5.0),
    "a shape that does not fit": lambda x: np.copyto(x, np.ones(77)),
    "a dtype that does not fit": lambda x: np.copyto(x, 1j),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_an_argument_rebinds_it(name: str, mode: engine.ExecutionMode) -> None:
    change: Callable[[Any], Any] = CHANGES[name]
    array, handle = SQUARE.copy(), ops.asarray(SQUARE)
    reader = handle + 0
    try:
        change(array)
    except Exception as error:  # noqa: BLE001 - is compared
        with pytest.raises(type(error)):
            change(handle)
            handle.result()
        engine.clear_errors()
    else:
        assert change(handle) is None
        assert facts(handle) == facts(array)
    assert facts(reader) == facts(SQUARE)


def test_an_array_is_changed_by_handles(mode: engine.ExecutionMode) -> None:
    h, array = ops.asarray(SQUARE), np.zeros((3, 3))
    np.copyto(array, h)
    np.put(array, [0], h[1, 1])
    assert array[0, 0] == SQUARE[1, 1]
    array[0, 0] = SQUARE[0, 0]
    assert facts(array) == facts(SQUARE)


# ---------------------------------------------------------------------------------------------------------------------
# Handles and sequences where NumPy takes arrays

M = np.arange(24.0).reshape(2, 3, 4)
AXIS_CALLS: dict[str, Callable[..., Any]] = {
    "transpose of an array": lambda x, n: x.transpose(np.argsort([2, 0, 1])),
    "transpose of a range": lambda x, n: np.transpose(x, range(3)),
    "flip": lambda x, n: np.flip(x, np.array([0, 1])),
    "roll": lambda x, n: np.roll(x, np.array([1, 2]), (0, 1)),
    "roll of lists": lambda x, n: np.roll(x, [1, 2], [0, 2]),
    "moveaxis": lambda x, n: np.moveaxis(x, np.array([0, 1]), range(1, 3)),
    "expand_dims": lambda x, n: np.expand_dims(x, [0, 2]),
    "reshape to an array": lambda x, n: np.reshape(x, np.array([6, 4])),
    "tile": lambda x, n: np.tile(x, np.array([1, 2])),
    "fftshift": lambda x, n: np.fft.fftshift(x, np.array([0, 2])),
    "fftn": lambda x, n: np.fft.fftn(x, s=(None, 4), axes=(0, 1)),
    "fft": lambda x, n: np.fft.fft(x, norm=None),
    "broadcast_to": lambda x, n: np.broadcast_to(x, np.array([2, 2, 3, 4])),
    "a shape of handles": lambda x, n: np.reshape(x, (n + 1, 12)),
    "a shape method of handles": lambda x, n: x.reshape(n + 1, -1),
    "an axis": lambda x, n: np.sum(x, axis=n),
    "a tuple of axes": lambda x, n: np.sum(x, axis=(0, n)),
    "a shift": lambda x, n: np.roll(x, n),
    "an axis of a function without a row": lambda x, n: np.cumsum(x, axis=n),
    "an axis of a ufunc's method": lambda x, n: np.add.reduce(x, axis=n),
    "an axis of an array in a ufunc's method": lambda x, n: np.multiply.accumulate(x, np.array(1)),
    "an axis of a median": lambda x, n: np.median(x, axis=n),
    "counts": lambda x, n: np.tile(x, n + 1),
    "sections": lambda x, n: np.split(x, n + 2, axis=n),
    "new axes": lambda x, n: np.expand_dims(x, n),
    "a diagonal": lambda x, n: np.tril(x, n),
    "decimals": lambda x, n: np.round(x / 7, n),
    "turns": lambda x, n: np.rot90(x, n),
    "indices of a range": lambda x, n: x[range(2), range(1, 3)],
    "one index of a range": lambda x, n: x[range(1)],
    "indices of an array of Python's": lambda x, n: x[:, array("i", [0, 2])],
    "a range as an operand": lambda x, n: np.add(x, range(4)),
    "an array of Python's as an operand": lambda x, n: x * array("d", [1.0, 2.0, 3.0, 4.0]),
    "a range on the left": lambda x, n: range(4) - x,
    "isin": lambda x, n: np.isin(x, range(2)),
    "a memoryview": lambda x, n: np.maximum(x, memoryview(np.arange(4.0))),
}


@pytest.mark.parametrize("name", AXIS_CALLS)
def test_sequences_and_handles_stand_for_axes_and_shapes(name: str, mode: engine.ExecutionMode) -> None:
    call = AXIS_CALLS[name]
    assert facts(call(ops.asarray(M), ops.asarray(np.int64(1)))) == facts(call(M, np.int64(1)))


REFUSED: dict[str, Callable[..., Any]] = {
    "a range of axes": lambda x, one: np.sum(x, axis=range(2)),
    "a list of axes": lambda x, one: np.max(x, axis=[0, 1]),
    "an array of axes": lambda x, one: np.squeeze(x, np.array([0, 1])),
    "an axis of a float": lambda x, one: np.sum(x, axis=one * 1.0),
    "a shape of floats": lambda x, one: np.reshape(x, (one * 2.0, 12)),
    "an axis twice": lambda x, one: np.flip(x, np.array([0, 0])),
    "an axis out of bounds": lambda x, one: np.roll(x, 1, np.array([0, 7])),
    "too few axes": lambda x, one: x.transpose(np.array([0, 1])),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_numpy_refuses_is_refused(name: str, mode: engine.ExecutionMode) -> None:
    call = REFUSED[name]
    with pytest.raises(Exception) as wanted:  # noqa: PT011 - the class is compared
        call(M, np.int64(1))
    with pytest.raises(wanted.type):
        call(ops.asarray(M), ops.asarray(np.int64(1))).result()
    engine.clear_errors()


async def test_a_handle_as_an_axis_is_a_sync_point() -> None:
    async with engine.Executor(execution_mode=engine.ASYNC):
        with pytest.raises(engine.BlockingSyncError):
            np.sum(ops.asarray(M), axis=ops.asarray(1))
        with engine.allow_sync():
            assert np.sum(ops.asarray(M), axis=ops.asarray(1)).shape == (2, 4)
