"""`engine.function`: when it traces, what it replays, what it optimizes, and how its errors read."""

import asyncio
import logging
import math
import sys
import threading
import warnings
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import engine
from engine.graph.function import Function
from engine.graph.replay import SEGMENT_STEPS
from engine.random import default_rng
from engine.testing import GateOp
from handles import AsyncHandle, EagerHandle, Handle, Symbol

ops: Any = engine.ops  # what it returns here is a symbol, or a handle of either kind

MODES = {engine.SYNC: EagerHandle, engine.ASYNC: AsyncHandle}


def traced(calls: list[str]) -> Function:
    """A function that tells when it is traced."""

    @engine.function
    def function(x: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append("traced")
        return x + 1

    return function


def value(handle: Any) -> np.ndarray[Any, Any]:
    result: np.ndarray[Any, Any] = handle.result()
    return result


# ---------------------------------------------------------------------------------------------------------------------
# Calls and results


def test_a_call_returns_handles_of_the_mode(mode: engine.ExecutionMode) -> None:
    @engine.function
    def affine(x: Any, y: Any) -> Any:
        return x * 2 + y

    for _ in range(2):
        result: Any = affine(ops.ones(3), np.arange(3.0))
        assert type(result) is MODES[mode]
        assert result.shape == (3,)
        assert result.dtype == np.float64
        assert value(result).tolist() == [2, 3, 4]


Pair = namedtuple("Pair", "first second")


def test_results_come_back_in_their_structure(mode: engine.ExecutionMode) -> None:
    marker = object()

    @engine.function
    def structured(x: Any) -> Any:
        return {"a": [x, (x + 1, None)], "b": Pair(2.5, marker), "c": np.arange(2), "d": "text"}

    for _ in range(2):
        result = structured(ops.ones(2))
        assert value(result["a"][0]).tolist() == [1, 1]
        assert value(result["a"][1][0]).tolist() == [2, 2]
        assert result["a"][1][1] is None
        assert isinstance(result["b"], Pair)
        assert value(result["b"].first) == 2.5
        assert result["b"].second is marker
        assert value(result["c"]).tolist() == [0, 1]
        assert result["d"] == "text"


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_function_may_do_nothing(mode: engine.ExecutionMode, count: int) -> None:
    function = engine.function(lambda *xs: xs)
    given = [ops.ones(2), np.zeros(2)][:count]
    assert [value(each).tolist() for each in function(*given)] == [[1, 1], [0, 0]][:count]
    assert engine.function(lambda: None)() is None


def test_arguments_are_nested_and_named(mode: engine.ExecutionMode) -> None:
    @engine.function
    def total(first: Any, *others: Any, scale: float = 1, **named: Any) -> Any:
        """Documented."""
        return (first["x"] + sum(others[0]) + named["last"]) * scale

    one = ops.ones(2)
    result = total({"x": one}, [one, np.ones(2)], last=one, scale=2)
    assert value(result).tolist() == [8, 8]
    assert total.__doc__ == "Documented."
    assert total.__name__ == "total"


def test_wrong_arguments_are_refused_at_the_call(mode: engine.ExecutionMode) -> None:
    function = engine.function(lambda x, *, y: x + y)
    with pytest.raises(TypeError):
        function(ops.ones(1))
    with pytest.raises(TypeError):
        function(ops.ones(1), z=1)
    assert function.statistics().traces == 0


def test_methods_are_functions_too(mode: engine.ExecutionMode) -> None:
    class Model:
        def __init__(self, scale: float) -> None:
            self.scale = scale

        @engine.function
        def scaled(self, x: Any) -> Any:
            return x * self.scale

    two, three = Model(2.0), Model(3.0)
    assert value(two.scaled(ops.ones(1))) == 2
    assert value(three.scaled(ops.ones(1))) == 3


def test_an_array_argument_is_snapshotted(mode: engine.ExecutionMode) -> None:
    array = np.ones(3)
    result, same = engine.function(lambda x: (x + 1, x))(array)
    array[:] = 7
    assert (value(result).tolist(), value(same).tolist()) == ([2, 2, 2], [1, 1, 1])


async def test_a_function_is_replayed_on_a_loop() -> None:
    function = engine.function(lambda x: (x + 1) * 2)
    async with engine.Executor(execution_mode=engine.ASYNC):
        results = [function(ops.asarray(float(index))) for index in range(100)]
        assert await engine.gather(*results) == [2.0 * index + 2 for index in range(100)]


def test_a_replay_is_one_op() -> None:
    function = engine.function(lambda x: ((x + 1) * 2 - x, x / 3))
    with engine.Executor(execution_mode=engine.ASYNC) as executor:
        x = ops.ones(3).result()
        value(function(x)[0])
        before = executor.statistics().completed
        value(function(x)[0])
        assert executor.statistics().completed == before + 1


# ---------------------------------------------------------------------------------------------------------------------
# Signatures


def test_a_function_is_traced_once_for_each_shape_and_dtype(mode: engine.ExecutionMode) -> None:
    calls: list[str] = []
    function = traced(calls)
    for _ in range(2):
        for array in (np.ones(3), np.ones(4), np.ones(3, "f4"), np.ones((3, 1))):
            assert value(function(array)).dtype == array.dtype
            function(ops.asarray(array))
    statistics = function.statistics()
    assert (len(calls), statistics.traces, statistics.signatures, statistics.calls) == (4, 4, 4, 16)


@pytest.mark.parametrize("devices", [1, 2])
def test_a_function_is_traced_once_for_each_device(devices: int, execution_mode: engine.ExecutionMode) -> None:
    calls: list[str] = []
    function = traced(calls)
    with engine.Executor(engine.Config(device_count={"CPU": devices}), execution_mode=execution_mode):
        for device in list(engine.list_devices()) * 2:
            with engine.device(device):
                x = ops.ones(3)
            assert function(x).device is device
    assert len(calls) == devices


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *((1, 2), (1, 1.0), (1, True), (0.0, -0.0), ("a", "b"), ((1, 2), [1, 2]), (None, 0), ({"a": 1}, {"b": 1})),
        *((math.nan, -math.nan), (0j, -0j), (complex(0, math.nan), complex(0, -math.nan)), ((0.0,), (-0.0,))),
    ],
)
def test_what_is_no_array_is_passed_by_value(mode: engine.ExecutionMode, one: Any, other: Any) -> None:
    calls: list[str] = []
    function = traced(calls)
    for argument in (one, other, one, other):
        function(np.ones(1), argument)
    assert len(calls) == 2


def test_a_sign_of_zero_is_not_lost(mode: engine.ExecutionMode) -> None:
    function = engine.function(lambda x, y: x / y)
    with np.errstate(all="ignore"):
        assert [float(value(function(np.ones(()), zero))) for zero in (0.0, -0.0)] == [np.inf, -np.inf]


def test_signs_of_nans_are_not_lost(mode: engine.ExecutionMode) -> None:
    function = engine.function(lambda x, y: ops.copysign(x, y))
    assert [float(value(function(np.ones(()), nan))) for nan in (math.nan, -math.nan)] == [1, -1]
    both = engine.function(lambda x: (ops.copysign(x, math.nan), ops.copysign(x, -math.nan)))
    assert [float(value(each)) for each in both(np.ones(()))] == [1, -1]
    typed = engine.function(lambda x: (x + np.float32("nan"), x + -np.float32("nan")))
    assert [bool(np.signbit(value(each))) for each in typed(np.ones((), "f4"))] == [False, True]


def test_an_argument_that_cannot_be_compared_is_named(mode: engine.ExecutionMode) -> None:
    with pytest.raises(TypeError, match=r"argument 1 of function 'function' .* hashable, but set"):
        traced([])(np.ones(1), {1, 2})


def test_a_signature_with_unknown_lengths_is_traced_once(mode: engine.ExecutionMode) -> None:
    calls: list[Any] = []

    @engine.function(input_signature=[engine.ShapeDtype((None, 2), np.dtype("f8"))])
    def total(x: Any) -> Any:
        calls.append(x.shape)
        return ops.sum(x, axis=0) + x

    for rows in (1, 5, 100_000):
        result = total(np.ones((rows, 2)))
        assert result.shape == (rows, 2)
        assert value(result)[0].tolist() == [rows + 1, rows + 1]
    assert value(total([[1, 2]])).tolist() == [[2, 4]]
    assert calls == [(None, 2)]


@pytest.mark.parametrize("specification", [((None,), "f8"), ("f8", (None,)), ["f8", None], np.ones(3)], ids=str)
def test_a_signature_is_said_in_many_ways(mode: engine.ExecutionMode, specification: Any) -> None:
    function = engine.function(lambda x: x + 1, input_signature=[specification])
    assert value(function(np.zeros(3))).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("argument", "says"),
    [(np.ones(3), "expects shape"), (np.ones((1, 2), "f4"), "expects dtype float64, but was fed float32")],
)
def test_an_argument_that_does_not_fit_the_signature_is_named(
    mode: engine.ExecutionMode, argument: Any, says: str
) -> None:
    function = engine.function(lambda x: x, input_signature=[engine.ShapeDtype((None, 2), np.dtype("f8"))])
    for given in (argument, ops.asarray(argument)):
        with pytest.raises(engine.FeedError, match=f"argument 0 of function '<lambda>' {says}"):
            function(given)
    with pytest.raises(engine.FeedError, match="takes 1 arrays"):
        function(argument, argument)


@pytest.mark.parametrize("signature", [["f8", 3, 4], [3], ["f8"]])
def test_a_signature_that_is_none_is_refused(signature: Any) -> None:
    with pytest.raises(TypeError):
        engine.function(lambda x: x, input_signature=signature)


async def coroutine_function(x: Any) -> Any:
    return x


@pytest.mark.parametrize("fn", [3, "f", coroutine_function])
def test_only_plain_functions_are_traced(fn: Any) -> None:
    with pytest.raises(TypeError, match=r"engine.function traces"):
        engine.function(fn)


def test_retracing_again_and_again_is_warned_about(
    mode: engine.ExecutionMode, caplog: pytest.LogCaptureFixture
) -> None:
    function = traced([])
    with caplog.at_level(logging.WARNING, "engine.function"):
        for number in range(9):
            function(np.ones(1), number)
        assert not caplog.records
        for number in range(30):
            function(np.ones(1), number)
    assert len(caplog.records) == 1
    assert "'function'" in caplog.text
    assert "traced 10 times" in caplog.text
    assert function.statistics().traces == 30


def test_few_signatures_are_remembered(mode: engine.ExecutionMode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.graph.function.SIGNATURES", 4)
    function = traced([])
    for number in range(9):
        function(np.ones(1), number)
    assert function.statistics().signatures == 4


# ---------------------------------------------------------------------------------------------------------------------
# Optimization


def kept_of(fn: Callable[..., Any], *args: Any) -> int:
    function = engine.function(fn)
    expected = fn(*args)
    assert value(function(*args)).tobytes() == value(expected).tobytes()
    return function.statistics().nodes_kept


def test_what_no_result_needs_is_not_done(mode: engine.ExecutionMode) -> None:
    def wasteful(x: Any) -> Any:
        ops.exp(x) + 1
        return x + 1

    assert kept_of(wasteful, ops.ones(3)) == 1


def test_equal_ops_are_done_once(mode: engine.ExecutionMode) -> None:
    assert kept_of(lambda x: ops.exp(x + 1) * ops.exp(x + 1), ops.ones(3)) == 3
    assert kept_of(lambda x: ops.sum(x, axis=0) + ops.sum(x, axis=0), ops.ones((3, 3))) == 2
    assert kept_of(lambda x: x + np.ones(3) + (x + np.ones(3)), ops.ones(3)) == 2


def test_ops_that_only_look_equal_are_all_done(mode: engine.ExecutionMode) -> None:
    assert kept_of(lambda x: (x + 1) * (x + 1.0) * (x + True), ops.ones(3)) == 5
    assert kept_of(lambda x: ops.copysign(x, 0.0) + ops.copysign(x, -0.0), ops.ones(3)) == 3
    assert kept_of(lambda x: x[0:2] + x[1:3], ops.ones(3)) == 3
    assert kept_of(lambda x: ops.sum(x, axis=0) + ops.sum(x, axis=1), ops.ones((3, 3))) == 3


def test_constants_are_folded(mode: engine.ExecutionMode) -> None:
    assert kept_of(lambda x: x + ops.sqrt(ops.ones(3) * 4), ops.ones(3)) == 1


def test_what_would_warn_or_fail_is_left_for_the_replay(mode: engine.ExecutionMode) -> None:
    warning = engine.function(lambda x: x + ops.divide(ops.ones(1), 0.0))
    failing = engine.function(lambda x: x + ops.linalg.inv(ops.zeros((2, 2))))
    for _ in range(2):
        with np.errstate(divide="raise"), pytest.raises(FloatingPointError):
            value(warning(np.ones(1)))
        with np.errstate(divide="ignore"):
            assert value(warning(np.ones(1))) == np.inf
        with pytest.raises(np.linalg.LinAlgError):
            value(failing(np.ones(1)))


WARNING_CONSTANTS: dict[str, Callable[[Handle], Handle]] = {
    "frames of NumPy's": lambda x: x + ops.mean(ops.zeros(0)),
    "after a parameter": lambda x: x + ops.std(ops.ones(1), correction=1),
    "a function without a row": lambda x: x + np.nanmean(ops.full(2, np.nan)),
    "the kernel's own frame": lambda x: x + ops.full(2, 1j).astype(float),
}


@pytest.mark.parametrize("function", WARNING_CONSTANTS.values(), ids=WARNING_CONSTANTS)
def test_a_constant_that_warns_does_so_at_each_replay_and_never_while_it_is_traced(
    function: Callable[[Handle], Handle], mode: engine.ExecutionMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced = engine.function(function)
    with warnings.catch_warnings(record=True) as expected:
        warnings.simplefilter("always")
        for _ in range(3):
            function(ops.ones(2)).result()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        monkeypatch.delattr(warnings, "catch_warnings")  # which is for the whole process
        for _ in range(3):
            traced(ops.ones(2)).result()
    assert [str(each.message) for each in caught] == [str(each.message) for each in expected] != []


@pytest.mark.parametrize("mode", [engine.SYNC, engine.ASYNC])
def test_ops_with_side_effects_are_always_done_and_in_order(mode: engine.ExecutionMode) -> None:
    in_order = engine.Config(inter_op_parallelism_threads=1)
    engine.enable_eager_execution(in_order, execution_mode=mode)
    seen: list[float] = []

    @engine.op
    def tell(x: Any) -> Any:
        seen.append(float(x))
        return x

    @engine.function
    def telling(x: Any) -> Any:
        tell(x)
        tell(x)
        tell(x + 1)
        return x * 2

    for _ in range(2):
        assert value(telling(np.ones(()))) == 2
        engine.wait()
    assert seen == [1.0, 1.0, 2.0] * 2


def test_random_draws_are_drawn_anew_at_each_replay(mode: engine.ExecutionMode) -> None:
    generator, twin = default_rng(7), np.random.default_rng(7)

    @engine.function
    def noisy(x: Any) -> Any:
        generator.random(3)  # moves the generator on, so it is not left out
        return x + generator.random(3) + generator.random(3)

    for _ in range(2):
        twin.random(3)
        assert value(noisy(np.zeros(3))).tolist() == (twin.random(3) + twin.random(3)).tolist()
        assert value(generator.random(3)).tolist() == twin.random(3).tolist()


def test_python_runs_when_it_is_traced(mode: engine.ExecutionMode) -> None:
    calls: list[str] = []
    function = traced(calls)
    for _ in range(5):
        function(ops.ones(2))
    assert calls == ["traced"]


@pytest.mark.sweep
@pytest.mark.parametrize("steps", [1, 10, 300, 3 * SEGMENT_STEPS])
@pytest.mark.parametrize("size", [4, 100_000])
def test_long_functions_give_the_bits_of_numpy(mode: engine.ExecutionMode, steps: int, size: int) -> None:
    steps = min(steps, 60) if size > 4 else steps

    def chain(x: Any) -> Any:
        first = y = x
        for step in range(steps):
            y = (y + first) * 0.5 if step % 3 else y - 0.25
            if step == steps // 2:
                first = y
        return y, first, y[0] + 1

    array = np.linspace(0.0, 1.0, size)
    results = engine.function(chain)(array)
    for result, expected in zip(results, chain(array), strict=True):
        assert value(result).tobytes() == np.asarray(expected).tobytes()


# ---------------------------------------------------------------------------------------------------------------------
# Captured values, nesting, graphs


def test_a_captured_handle_is_a_constant(mode: engine.ExecutionMode) -> None:
    weights = ops.ones(3) * 2
    function = engine.function(lambda x: x * weights)
    assert value(function(np.ones(3))).tolist() == [2, 2, 2]
    weights[0] = 5  # rebinds the name; the function keeps the array
    assert value(function(np.ones(3))).tolist() == [2, 2, 2]


def test_a_captured_handle_need_not_be_ready() -> None:
    gate = GateOp()
    with engine.Executor(execution_mode=engine.ASYNC):
        weights = gate(np.full(3, 2.0))
        function = engine.function(lambda x: (x * weights, weights, x + 1))
        result, same, other = function(np.ones(3))
        assert same is weights
        assert not result.is_ready()
        gate.open()
        assert value(result).tolist() == [2, 2, 2]
        assert value(other).tolist() == [2, 2, 2]


def test_functions_nest(mode: engine.ExecutionMode) -> None:
    calls: list[str] = []
    inner = traced(calls)

    @engine.function
    def outer(x: Any) -> Any:
        @engine.function
        def closure(y: Any) -> Any:
            return y * x

        return closure(inner(inner(x)))

    for _ in range(2):
        assert value(outer(np.full(2, 3.0))).tolist() == [15, 15]
    assert calls == ["traced"]
    assert outer.statistics().nodes_kept == 3


def test_in_a_graph_a_function_returns_symbols() -> None:
    function = engine.function(lambda x, y: {"sum": x + y, "product": x * y, "x": x})
    with engine.Session() as session:
        x = engine.placeholder("f8", (None,))
        results = function(x, 2.0)
        assert all(isinstance(each, Symbol) for each in results.values())
        assert results["sum"].shape == (None,)
        values = session.run(results, {x: np.ones(2)})
        assert {name: each.tolist() for name, each in values.items()} == {"sum": [3, 3], "product": [2, 2], "x": [1, 1]}
    assert function.statistics().traces == 1


def test_in_a_graph_a_captured_handle_stays_a_constant(mode: engine.ExecutionMode) -> None:
    weights = ops.ones(2) * 3
    function = engine.function(lambda x: x * weights)
    with engine.Graph().as_default(), engine.Session() as session:
        assert session.run(function(ops.ones(2))).tolist() == [3, 3]


def test_a_placeholder_in_a_function_is_refused(mode: engine.ExecutionMode) -> None:
    with pytest.raises(RuntimeError, match="argument"):
        engine.function(lambda x: x + engine.placeholder("f8"))(np.ones(1))


def test_a_symbol_that_left_its_function_is_refused(mode: engine.ExecutionMode) -> None:
    kept: list[Any] = []
    function = engine.function(lambda x: kept.append(x + 1))
    function(np.ones(1))
    with pytest.raises(engine.SymbolError, match="'add'"):
        kept[0] + 1


def test_tracing_is_no_graph_of_the_program() -> None:
    with engine.Executor(execution_mode=engine.SYNC):
        engine.function(lambda x: x + 1)(np.ones(1))
    engine.enable_eager_execution()


# ---------------------------------------------------------------------------------------------------------------------
# Errors


def here() -> int:
    """The line of the caller."""
    return sys._getframe(1).f_lineno


def test_an_error_names_the_line_inside_the_function(mode: engine.ExecutionMode) -> None:
    lines: list[int] = []

    @engine.function
    def inverse(x: Any) -> Any:
        y = x * 1
        lines.append(here() + 1)
        return ops.linalg.inv(y) + 1

    for _ in range(2):
        with pytest.raises(np.linalg.LinAlgError, match="Singular") as caught:
            value(inverse(np.zeros((2, 2))))
        notes = "\n".join(caught.value.__notes__)
        assert f"{__file__}:{lines[0]}" in notes
        assert "linalg.inv" in notes
        assert "'inverse'" in notes
    assert value(inverse(np.eye(2))).tolist() == [[2, 1], [1, 2]]


def test_an_error_in_a_large_function_names_the_line_too(mode: engine.ExecutionMode) -> None:
    def large(x: Any) -> Any:
        for _ in range(5):
            x = x + 1.0
        return ops.linalg.inv(x)

    with pytest.raises(np.linalg.LinAlgError) as caught:
        value(engine.function(large)(np.zeros((400, 400))))
    assert f"{__file__}:{large.__code__.co_firstlineno + 3}" in "\n".join(caught.value.__notes__)


@pytest.mark.parametrize("what", ["bool()", "iterating", "float()", "numpy()"])
def test_a_value_that_is_not_there_yet_is_asked_for(mode: engine.ExecutionMode, what: str) -> None:
    read: dict[str, Callable[[Any], Any]] = {
        "bool()": bool,
        "iterating": list,
        "float()": float,
        "numpy()": lambda x: x.numpy(),
    }
    with pytest.raises(engine.SymbolError, match=r"engine.function 'branching'.*ops.where") as caught:

        @engine.function
        def branching(x: Any) -> Any:
            return read[what](x + 1)

        branching(np.ones(3))
    assert what in str(caught.value)


def test_a_shape_error_is_raised_at_the_call(mode: engine.ExecutionMode) -> None:
    function = engine.function(lambda x: x + np.ones(4))
    with pytest.raises(ValueError, match="broadcast"):
        function(np.ones(3))
    assert function.statistics().traces == 0


def test_a_failed_argument_poisons_the_results() -> None:
    function = engine.function(lambda x: x + 1)
    with engine.Executor(execution_mode=engine.ASYNC):
        failed = ops.linalg.inv(np.zeros((2, 2)))
        results = [function(failed)]
        with pytest.raises(np.linalg.LinAlgError):
            value(failed)
        results.append(function(failed))
        for result in results:
            with pytest.raises(np.linalg.LinAlgError, match="Singular"):
                value(result)


# ---------------------------------------------------------------------------------------------------------------------
# Devices, async ops, threads


def test_arguments_on_several_devices_are_placed_as_eagerly(execution_mode: engine.ExecutionMode) -> None:
    def both(x: Any, y: Any) -> Any:
        return y + 1, x + 1, x + y

    with engine.Executor(engine.Config(device_count={"CPU": 2}), execution_mode=execution_mode):
        x, y = ops.asarray(np.ones(2), device="CPU:0"), ops.asarray(np.ones(2), device="CPU:1")
        expected = [str(each.device) for each in both(x, y)]
        results = engine.function(both)(x, y)
        assert [str(each.device) for each in results] == expected == ["CPU:1", "CPU:0", "CPU:0"]
        with engine.device_policy(engine.DevicePolicy.EXPLICIT), pytest.raises(engine.DevicePlacementError):
            engine.function(both)(x, y)
        with engine.device("CPU:1"):
            assert {str(each.device) for each in engine.function(both)(x, y)} == {"CPU:1"}


def test_device_scopes_inside_a_function_hold(execution_mode: engine.ExecutionMode) -> None:
    @engine.function
    def spread(x: Any) -> Any:
        with engine.device("CPU:1"):
            y = x + 1
        return y * 2, y.to_device("CPU:0")

    with engine.Executor(engine.Config(device_count={"CPU": 2}), execution_mode=execution_mode):
        results = spread(ops.ones(2))
        assert [str(each.device) for each in results] == ["CPU:1", "CPU:0"]
        assert [value(each).tolist() for each in results] == [[4, 4], [2, 2]]


async def test_async_ops_inside_a_function_run_on_the_loop() -> None:
    loops: list[Any] = []

    @engine.op
    async def fetch(x: Any) -> Any:
        await asyncio.sleep(0)
        loops.append(asyncio.get_running_loop())
        return x + 1

    function = engine.function(lambda x: fetch(x * 2) + 1)
    async with engine.Executor(execution_mode=engine.ASYNC):
        assert [float(await function(np.ones(()))) for _ in range(2)] == [4, 4]
    assert loops == [asyncio.get_running_loop()] * 2


def test_threads_share_a_function(mode: engine.ExecutionMode) -> None:
    function = engine.function(lambda x, n: x * n + 1)
    results: list[bool] = []

    def work(number: int) -> None:
        values = [value(function(np.full(3, 2.0), number)).tolist() for _ in range(20)]
        results.extend(each == [2.0 * number + 1] * 3 for each in values)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 120


@pytest.fixture(params=[engine.SYNC, engine.ASYNC], ids=lambda mode: mode.name)
def execution_mode(request: pytest.FixtureRequest) -> engine.ExecutionMode:
    execution_mode: engine.ExecutionMode = request.param
    return execution_mode
