"""`engine.function`: arguments are bound by the signature, so that calls which mean the same share a trace."""

import functools
import inspect
import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import engine
from engine.graph.binding import Parameters

ops: Any = engine.ops


def plain(x: Any, y: Any = 2, mode: Any = "a") -> Any:
    return x * y + len(mode)


def by_name_only(x: Any, *, y: Any = 2, mode: Any = "a") -> Any:
    return x * y + len(mode)


def by_position_only(x: Any, y: Any = 2, /, mode: Any = "a") -> Any:
    return x * y + len(mode)


def with_more(x: Any, y: Any = 2, mode: Any = "a", *more: Any, **named: Any) -> Any:
    return x * y + len(mode) + sum(more) + sum(named.values())


FUNCTIONS: list[Callable[..., Any]] = [plain, by_name_only, by_position_only, with_more]


def forms(fn: Callable[..., Any], values: dict[str, Any]) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """All ways to say these arguments: by position, by name in any order, with what equals its default left out."""
    parameters = inspect.signature(fn).parameters
    found = []
    for names in itertools.permutations(values):
        for count, left_out in itertools.product(range(len(values) + 1), (False, True)):
            args = list(values.values())[:count]
            rest = [name for name in names if name not in list(values)[:count]]
            kwargs = {
                name: values[name] for name in rest if not (left_out and parameters[name].default is values[name])
            }
            try:
                inspect.signature(fn).bind(*args, **kwargs)
            except TypeError:
                continue
            found.append((tuple(args), kwargs))
    return found


@pytest.mark.parametrize("fn", FUNCTIONS)
@pytest.mark.parametrize("rest", [{"y": 2, "mode": "a"}, {"y": 3, "mode": "a"}, {"y": 2, "mode": "bc"}], ids=str)
def test_calls_that_mean_the_same_share_a_trace(
    mode: engine.ExecutionMode, fn: Callable[..., Any], rest: dict[str, Any]
) -> None:
    function = engine.function(fn)
    calls = forms(fn, {"x": np.arange(3.0), **rest})
    assert len(calls) > 5
    for args, kwargs in calls:
        assert function(*args, **kwargs).result().tolist() == fn(*args, **kwargs).tolist()
    assert function.statistics().traces == 1


@pytest.mark.parametrize("fn", FUNCTIONS)
def test_calls_that_differ_have_traces_of_their_own(mode: engine.ExecutionMode, fn: Callable[..., Any]) -> None:
    function = engine.function(fn)
    x = np.arange(3.0)
    for y, text in itertools.product((2, 3, 2.0), ("a", "bc")):
        for args, kwargs in forms(fn, {"x": x, "y": y, "mode": text}):
            assert function(*args, **kwargs).result().tolist() == (x * y + len(text)).tolist()
    assert function.statistics().traces == 6


WRONG: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((), {}),
    ((), {"y": 1}),
    ((1, 2, "a", 4), {}),
    ((1,), {"x": 1}),
    ((1,), {"z": 1}),
    ((1, 2), {"y": 2}),
]


@pytest.mark.parametrize("fn", FUNCTIONS)
@pytest.mark.parametrize(("args", "kwargs"), WRONG)
def test_wrong_arguments_are_refused_as_python_refuses_them(
    mode: engine.ExecutionMode, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    function = engine.function(fn)
    try:
        fn(*args, **kwargs)
    except TypeError:
        with pytest.raises(TypeError, match=rf"engine.function '{fn.__name__}': "):
            function(*args, **kwargs)
        assert function.statistics().traces == 0
    else:
        function(*args, **kwargs)


def test_arrays_may_be_defaults(mode: engine.ExecutionMode) -> None:
    weights = np.ones(3)

    @engine.function
    def weighted(x: Any, w: Any = weights, *, b: Any = weights) -> Any:
        return x * w + b

    x = np.arange(3.0)
    for args, kwargs in forms(weighted.python_function, {"x": x}):
        assert weighted(*args, **kwargs).result().tolist() == [1, 2, 3]
    assert weighted(x, weights, b=weights).result().tolist() == [1, 2, 3]
    weights[:] = 2  # a default is read at each call, as Python does
    assert weighted(x).result().tolist() == [2, 4, 6]
    assert weighted.statistics().traces == 1


def test_a_default_that_is_not_hashable_may_be_left_out(mode: engine.ExecutionMode) -> None:
    @engine.function
    def total(x: Any, axes: Any = {0, 1}, *, scale: Any = {2}) -> Any:  # noqa: B006
        return ops.sum(x, axis=tuple(axes)) * max(scale)

    for _ in range(2):
        assert total(np.ones((2, 2))).result() == 8
        assert total(x=np.ones((2, 2))).result() == 8
    assert total.statistics().traces == 1
    with pytest.raises(TypeError, match=r"argument 1 of function 'total' .* hashable, but set"):
        total(np.ones((2, 2)), {0})


def test_named_arguments_that_a_function_collects_keep_their_order(mode: engine.ExecutionMode) -> None:
    function = engine.function(lambda **named: list(named.values()))
    first, second = np.ones(1), np.zeros(1)
    assert [float(each.result()[0]) for each in function(a=first, b=second)] == [1, 0]
    assert [float(each.result()[0]) for each in function(b=second, a=first)] == [0, 1]


def test_what_a_wrapper_says_of_itself_is_not_believed(mode: engine.ExecutionMode) -> None:
    def documented(x: Any, scale: Any) -> Any: ...

    @engine.function
    @functools.wraps(documented)
    def doubled(*args: Any) -> Any:
        return args[0] * 2

    assert doubled(np.ones(2)).result().tolist() == [2, 2]


def test_functions_that_do_not_tell_their_signature_take_what_they_are_given(mode: engine.ExecutionMode) -> None:
    class Silent:
        __signature__ = "none"

        def __call__(self, x: Any, y: Any) -> Any:
            return x + y

    assert engine.function(Silent())(np.ones(2), y=np.ones(2)).result().tolist() == [2, 2]


def test_an_input_signature_is_of_the_arrays_that_are_passed(mode: engine.ExecutionMode) -> None:
    vector = engine.ShapeDtype((None,), np.dtype("f8"))

    @engine.function(input_signature=[vector, vector])
    def scaled(x: Any, y: Any, rate: float = 0.5) -> Any:
        return x + y * rate

    for args, kwargs in forms(scaled.python_function, {"x": [2.0], "y": [4.0]}):
        assert scaled(*args, **kwargs).result().tolist() == [4]
    assert scaled.statistics().traces == 1
    with pytest.raises(TypeError, match=re.escape("engine.function 'scaled': got an unexpected keyword argument 'z'")):
        scaled([2.0], [4.0], z=[4.0])


@pytest.mark.parametrize("fn", FUNCTIONS)
@pytest.mark.parametrize("bound", [False, True])
def test_what_is_bound_is_what_python_binds(fn: Callable[..., Any], bound: bool) -> None:
    signature = inspect.signature(fn)
    if bound:
        signature = signature.replace(parameters=list(signature.parameters.values())[1:])
    parameters = Parameters(fn, "fn", bound=bound)
    places: list[tuple[Any, ...]] = [(), (1,), (1, "b"), (1, 2, "b"), (1, 2, "b", 4)]
    names: list[dict[str, Any]] = [{}, {"x": 5}, {"y": 6}, {"mode": "c"}, {"mode": "c", "y": 6}, {"z": 7}]
    for args, kwargs in itertools.product(places, names):
        try:
            expected = signature.bind(*args, **kwargs)
        except TypeError as error:
            with pytest.raises(TypeError, match=re.escape(str(error))):
                parameters.bind(args, kwargs)
            continue
        expected.apply_defaults()
        assert parameters.bind(args, kwargs) == (expected.args, expected.kwargs)
