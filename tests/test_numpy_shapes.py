"""Shapes of NumPy's functions on handles, known before anything has run."""

from collections.abc import Iterator
from typing import Any

import numpy
import pytest

import engine
from tests.test_numpy_arguments import ARRAYS, FUNCTIONS, Call, arrays_in, as_handles, calls, copied, show

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
    for how in (copied, lambda call: enlarged(call, larger), lambda call: enlarged(call, wider)):
        for call in map(how, calls(function)):
            real = real_result(function, call)
            if real is not None:
                yield call, real


@pytest.mark.parametrize("name", ARRAYS)
async def test_what_is_said_before_it_runs_is_so(name: str) -> None:
    function, wrong = FUNCTIONS[name], []
    async with engine.Executor(execution_mode=engine.ASYNC):
        for call, real in all_calls(function):
            args, kwargs = as_handles(function, call)
            with engine.allow_sync():
                result = function(*args, **kwargs)
            said = described(result)
            if differences(said, real):
                wrong.append(f"{show(name, call)}\n    said {said}\n    is {real!r}")
        engine.cancel_pending()
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("unknown", [False, True])
@pytest.mark.parametrize("name", [name for name in ARRAYS if name not in ("poly", "roots")])  # they need values
def test_what_a_graph_says_is_so(name: str, unknown: bool) -> None:
    function, wrong = FUNCTIONS[name], []

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
            wrong.append(f"{show(name, call)}\n    said {said}\n    is {real!r}")
    assert not wrong, "\n".join(wrong)
