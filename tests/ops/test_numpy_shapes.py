"""Shapes of NumPy's functions on handles, known before anything has run."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy
import pytest

import engine
from engine import ops
from engine.ops import numpy_shapes
from engine.ops.numpy_forms import FORMS
from engine.ops.numpy_shapes_table import UNTOLD, WAYS
from tests.common import sampled
from tests.ops import numpy_conformance
from tests.ops.test_numpy_arguments import ARRAYS, FUNCTIONS, Call, arrays_in, as_handles, calls, copied, show

np: Any = numpy  # its stubs know of no arrays but its own

pytestmark = pytest.mark.filterwarnings("ignore")


def described(result: Any) -> Any:
    """Shape and dtype of each array of a result; None where they cannot be told, or the class of an error."""
    if isinstance(result, tuple | list):
        return [described(each) for each in result]
    try:
        return result.shape, result.dtype
    except engine.UnknownShapeError:
        return None
    except Exception as error:  # noqa: BLE001 - is compared
        return error


def differences(said: Any, real: Any) -> bool:
    """Whether what was said of a result is not so. An unknown length may be any."""
    if isinstance(said, list):
        return not isinstance(real, tuple | list) or any(map(differences, said, real))
    if said is None:
        return False
    if isinstance(said, Exception):
        return True
    shape, dtype = said
    if shape is None:
        return False
    real = np.asarray(real)
    return bool(
        dtype not in (None, real.dtype)
        or len(shape) != real.ndim
        or any(n is not None and n != m for n, m in zip(shape, real.shape, strict=True))
    )


def larger(array: Any) -> Any:
    """An array of longer axes: equal lengths stay equal."""
    return np.resize(array, [n if n == 1 else n + 6 for n in array.shape])


def wider(array: Any) -> Any:
    """An array of longer axes, each of another length."""
    return np.resize(
        array, [n if n == 1 else n + 6 + 10 * place for place, n in enumerate(reversed(array.shape))][::-1]
    )


def enlarged(call: Call, how: Any) -> Call:
    return Call(
        tuple(arrays_in(each, how) for each in call.args),
        {name: arrays_in(value, how) for name, value in call.kwargs.items()},
    )


SIZES: list[Callable[[Call], Any]] = [
    copied,
    lambda call: enlarged(call, larger),
    lambda call: enlarged(call, wider),
]
"""Each function is swept with operands of one of these; with all of them where sweeps are whole."""


def real_result(function: Any, call: Call) -> Any:
    """What NumPy gives; None where it refuses the call."""
    args, kwargs = copied(call)
    try:
        with np.errstate(all="ignore"):
            return function(*args, **kwargs)
    except Exception:  # noqa: BLE001 - the sweep of arguments compares these
        return None


def all_calls(function: Any) -> Iterator[tuple[Call, Any]]:
    """The calls that NumPy accepts, with operands of several shapes, and what it gives."""
    for how in sampled(SIZES, 1, function.__name__):
        for call in map(how, calls(function)):
            real = real_result(function, call)
            if real is not None:
                yield call, real


@pytest.mark.sweep
@pytest.mark.parametrize("name", ARRAYS)
async def test_what_is_said_before_it_runs_is_so(name: str) -> None:
    function, wrong = FUNCTIONS[name], []
    async with engine.Executor(execution_mode=engine.ASYNC):
        for call, real in all_calls(function):
            args, kwargs = as_handles(function, call)
            with engine.allow_sync():
                result = function(*args, **kwargs)
            if isinstance(result, bool):
                continue  # it was answered at once
            said = described(result)
            if differences(said, real):
                wrong.append(f"{show(name, call)}\n    said {said}\n    is {real!r}")
        engine.cancel_pending()
    assert not wrong, "\n".join(wrong)


@pytest.mark.sweep
@pytest.mark.parametrize("name", [name for name in ARRAYS if name not in ("poly", "roots")])  # they need values
def test_what_a_graph_says_is_so(name: str) -> None:
    """With lengths that are known, or with none."""
    wrong = [
        line for unknown in sampled([False, True], 1, f"lengths of {name}") for line in wrong_in_a_graph(name, unknown)
    ]
    assert not wrong, "\n".join(wrong)


def wrong_in_a_graph(name: str, unknown: bool) -> Iterator[str]:
    """The calls of a function of which a graph does not say what NumPy gives."""
    function = FUNCTIONS[name]

    def symbol(array: Any) -> Any:
        return engine.placeholder(array.dtype, tuple(None if unknown else n for n in array.shape))

    for call, real in all_calls(function):
        with engine.Graph().as_default():
            try:
                args, kwargs = as_handles(function, call, symbol)
                result = function(*args, **kwargs)
            except engine.SymbolError:  # it needs a value
                continue
            except ValueError as error:
                if unknown and "not known" in str(error):
                    continue
                raise
        said = described(result)
        if differences(said, real):
            yield f"{show(name, call)}\n    said {said}\n    is {real!r}"


def test_every_function_has_a_rule_or_a_reason() -> None:
    """A function that a new NumPy brings is in one of the tables, or is a function of the namespace."""
    missing = [name for name in ARRAYS if FUNCTIONS[name] not in {**FORMS, **WAYS, **UNTOLD}]
    assert not missing
    assert not WAYS.keys() & UNTOLD.keys()


def test_the_table_of_the_page_is_what_the_sweep_finds() -> None:
    written = numpy_conformance.parts()[1]
    version = ".".join(np.__version__.split(".")[:2])
    if f"that NumPy {version} dispatches" not in written:
        pytest.skip(f"the page speaks of another NumPy than {version}")
    assert written == numpy_conformance.table(), "run python -m tests.ops.numpy_conformance"


# ---------------------------------------------------------------------------------------------------------------------
# What the rules must not do


def test_nothing_of_the_size_of_the_operands_is_computed() -> None:
    """The shapes are told of arrays that no machine has room for."""
    with engine.Graph().as_default():
        huge = engine.placeholder("f8", (1 << 20, 1 << 20))
        line = engine.placeholder("f8", (1 << 40,))
        n = 1 << 20
        calls: list[tuple[Any, Any]] = [
            (np.hstack([huge, huge]), (n, 2 * n)),
            (np.median(huge, axis=0), (n,)),
            (np.pad(huge, 7), (n + 14, n + 14)),
            (np.kron(huge, huge), (n * n, n * n)),
            (np.outer(line, line), (1 << 40, 1 << 40)),
            (np.linalg.pinv(huge), (n, n)),
            (np.linalg.norm(huge), ()),
            (np.gradient(huge, axis=0), (n, n)),
            (np.linspace(line, 1.0, n), (n, 1 << 40)),
            (np.vander(line, n), (1 << 40, n)),
            (np.interp(line, line, line), (1 << 40,)),
            (np.array_split(line, 3)[0], ((1 << 40) // 3 + 1,)),
            (np.diag(line), (1 << 40, 1 << 40)),
            (np.convolve(line, line), ((1 << 41) - 1,)),
        ]
        for symbol, shape in calls:
            assert symbol.shape == shape


def test_no_function_of_the_user_is_called_to_know_a_shape() -> None:
    def refuse(*args: Any) -> Any:
        raise AssertionError("it was called")

    with engine.Graph().as_default():
        x = engine.placeholder("f8", (3, 4))
        assert np.piecewise(x, [x > 1], [refuse, refuse]).shape == (3, 4)
        assert np.pad(x, 1, refuse).shape == (5, 6)
        assert np.apply_along_axis(refuse, 0, x).shape is None
        assert np.apply_over_axes(refuse, x, [0]).shape is None


def test_an_answer_is_remembered() -> None:
    with engine.Graph().as_default():
        x = engine.placeholder("f8", (3, 400))
        before = numpy_shapes._remembered.cache_info()
        shapes = {np.percentile(x, [25, 75], axis=1).shape for _ in range(5)}
        after = numpy_shapes._remembered.cache_info()
    assert shapes == {(2, 3)}
    assert after.hits - before.hits >= 4


async def test_arguments_of_equal_numbers_are_asked_apart() -> None:
    async with engine.Executor(execution_mode=engine.ASYNC):
        x = ops.ones((3, 4))
        assert np.percentile(x, 25, keepdims=True).shape == (1, 1)
        assert np.percentile(x, 25, keepdims=False).shape == ()
        assert np.round(x, 1).dtype == np.float64
        assert np.average(x.astype("f4"), axis=1).dtype == np.float32


async def test_values_that_decide_are_not_guessed() -> None:
    async with engine.Executor(execution_mode=engine.ASYNC):
        x, two = ops.ones((3, 4)), ops.asarray(2)
        calls: list[Callable[[], Any]] = [lambda: np.pad(x, two), lambda: np.diagflat(x, two)]
        for call in calls:
            with pytest.raises(engine.UnknownShapeError, match="await"):
                call().shape  # noqa: B018


WRONG: dict[str, tuple[Callable[[Any], Any], type[Exception]]] = {
    "an axis": (lambda x: np.median(x, axis=7), np.exceptions.AxisError),
    "joined": (lambda x: np.hstack([x, np.ones((7, 7))]), ValueError),
    "a product": (lambda x: np.dot(x, np.ones(77)), ValueError),
    "parts": (lambda x: np.split(x, 7), ValueError),
    "nothing": (lambda x: np.convolve(x[0], np.ones(0)), ValueError),
}


@pytest.mark.parametrize("name", WRONG)
async def test_what_shapes_prove_wrong_is_said(name: str) -> None:
    call, error = WRONG[name]
    async with engine.Executor(execution_mode=engine.ASYNC):
        for x in (ops.ones((3, 4)), ops.ones((300, 400))):
            handle = call(x)
            handle = handle[0] if isinstance(handle, list) else handle
            with pytest.raises(error):
                handle.shape  # noqa: B018
            with pytest.raises(error):
                await handle


UFUNCS = [
    name
    for name in dir(np)
    if isinstance(getattr(np, name), np.ufunc) and getattr(np, name).__name__ == name and name != "matmul"
]


@pytest.mark.sweep
@pytest.mark.parametrize("name", UFUNCS)
async def test_the_shape_of_every_ufunc_is_known(name: str) -> None:
    """Each ufunc, on numbers of every kind that it takes, as a matrix and a vector."""
    ufunc = getattr(np, name)
    shapes: dict[str, list[Any]] = {"matvec": [(5, 2, 3), (3,)], "vecmat": [(5, 2), (2, 3)], "vecdot": [(5, 3), (3,)]}
    several = shapes.get(name, [(5, 3), (3,)])[: ufunc.nin]
    found = 0
    async with engine.Executor(execution_mode=engine.ASYNC):
        for dtype in ("?", "i4", "f4", "f8", "c16", "M8[D]", "m8[s]", "U3"):
            operands = [np.ones(shape, dtype) if dtype[0] != "M" else np.zeros(shape, dtype) for shape in several]
            try:
                with np.errstate(all="ignore"):
                    real = ufunc(*operands)
            except TypeError:
                continue
            said = described(ufunc(*map(ops.asarray, operands)))
            found += 1
            assert said is not None
            assert not differences(said, real), (dtype, said, real)
        engine.cancel_pending()
    assert found
