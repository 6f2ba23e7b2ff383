"""Traced functions on GPUs made of threads: when they are captured, and what a captured one computes."""

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.devices import Device
from engine.devices.cuda import graphs as module
from engine.devices.cuda.backend import CudaBackend
from engine.devices.cuda.graphs import LEAST_SAVED, MOST_BYTES, Graphs, Way, way_of
from engine.devices.cuda.kernels import Elementwise
from engine.runtime.current import current_core
from handles import Handle
from tests.devices.cuda.host_runtime import GpuError, HostArray, HostRuntime, HostStream

Serve = Callable[[HostRuntime], HostRuntime]
ENOUGH = 2 + LEAST_SAVED


@pytest.mark.parametrize(
    ("calls", "captured", "steps", "nbytes", "way"),
    [
        (0, None, ENOUGH, 100, Way.STEPS),
        (1, None, ENOUGH, 100, Way.CAPTURE),
        (1, None, ENOUGH - 1, 100, Way.STEPS),
        (1, None, ENOUGH, MOST_BYTES + 1, Way.STEPS),
        (1, None, ENOUGH, MOST_BYTES, Way.CAPTURE),
        (2, True, ENOUGH, 100, Way.REPLAY),
        (9, False, ENOUGH, 100, Way.STEPS),
    ],
)
def test_the_way_is_decided_by_what_it_saves(
    calls: int, captured: bool | None, steps: int, nbytes: int, way: Way
) -> None:
    assert way_of(calls=calls, captured=captured, steps=steps, arrays=2, nbytes=nbytes) is way


def executor() -> engine.Executor:
    return engine.Executor(engine.Config(device_count={"GPU": 1}), execution_mode=engine.ASYNC)


def graphs() -> Graphs:
    core = current_core()
    backend = core.devices[Device("GPU:0")]
    assert isinstance(backend, CudaBackend)
    return backend._units[Device("GPU:0")].graphs


def chain(x: Any) -> Any:
    for _ in range(10):
        x = ops.tanh(x) * 2 + 0.5
    return x


def expected(x: Any) -> Any:
    for _ in range(10):
        x = np.tanh(x) * 2 + 0.5
    return x


def test_a_function_is_captured_at_its_second_call_and_gives_the_same(gpus: HostRuntime) -> None:
    model = engine.function(chain)
    with executor():
        handles = []
        for number in range(6):
            x = np.arange(8.0) + number
            handles.append((model(ops.asarray(x, device="GPU:0")), x))
        for handle, x in handles:  # results of earlier calls stay what they are
            assert handle.result().tobytes() == expected(x).tobytes()
        assert graphs().launches == 5
        other = np.ones((2, 3), np.float32)
        assert np.allclose(model(ops.asarray(other, device="GPU:0")).result(), expected(other))
        assert graphs().launches == 5  # of other shapes it is another graph


def test_a_call_is_one_record(gpus: HostRuntime) -> None:
    model = engine.function(chain)
    with executor() as running:
        x = ops.asarray(np.ones(3), device="GPU:0")
        x.result()
        before = running.statistics().completed
        model(x).result()
        assert running.statistics().completed == before + 1


def test_several_results_constants_and_scalars(gpus: HostRuntime) -> None:
    weights = np.arange(6.0).reshape(2, 3)

    @engine.function
    def model(x: Any, scale: float) -> Any:
        y = x @ weights
        for _ in range(10):
            y = y * scale + 1
        return y, ops.sum(y), x, {"total": ops.max(y)}

    with executor():
        for number in range(4):
            x = np.full((4, 2), float(number))
            y, total, same, rest = model(ops.asarray(x, device="GPU:0"), 0.5)
            mine = x @ weights
            for _ in range(10):
                mine = mine * 0.5 + 1
            assert np.array_equal(y.result(), mine)
            assert total.result() == mine.sum()
            assert np.array_equal(same.result(), x)
            assert rest["total"].result() == mine.max()
        assert graphs().launches == 3


def test_what_cannot_be_captured_is_launched_step_by_step(serve: Serve) -> None:
    serve(HostRuntime(captures=False))
    model = engine.function(chain)
    with executor():
        x = np.arange(8.0)
        for _ in range(4):
            assert model(ops.asarray(x, device="GPU:0")).result().tobytes() == expected(x).tobytes()
        assert graphs().launches == 0


@pytest.mark.parametrize(
    ("step", "why"),
    [
        (lambda x: ops.take(x, ops.astype(ops.abs(x) * 0, np.int64)), "capturing"),
        (lambda x: x[x > -1e9], "capturing"),
        (lambda x: ops.real(ops.fft.ifft(ops.fft.fft(x))), "'fft.fft' keeps memory"),
    ],
    ids=["indices that are looked at", "a mask", "transforms"],
)
def test_what_looks_at_values_or_shares_memory_is_launched_step_by_step(
    gpus: HostRuntime, step: Callable[[Any], Any], why: str
) -> None:
    model = engine.function(lambda x: step(chain(x)))
    with executor():
        for number in range(4):
            x = np.arange(8.0) + number
            theirs = step(chain(ops.asarray(x))).result()
            assert np.allclose(model(ops.asarray(x, device="GPU:0")).result(), theirs)
        assert graphs().launches == 0
        assert why in str(graphs().refused)


def test_large_operands_are_not_copied_for_a_graph(gpus: HostRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 1000)
    model = engine.function(chain)
    with executor():
        x = np.ones(1000 // 8)
        for _ in range(3):
            assert model(ops.asarray(x, device="GPU:0")).result()[0] == expected(np.ones(1))[0]
        assert graphs().launches == 0


def test_graphs_are_bounded(gpus: HostRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRAPHS", 3)
    model = engine.function(chain)
    with executor():
        for length in range(1, 6):
            x = ops.asarray(np.ones(length), device="GPU:0")
            model(x)
            assert len(model(x).result()) == length
        assert len(graphs()._recent) == 3
        x = ops.asarray(np.ones(1), device="GPU:0")  # its graph has gone; it is made again
        assert model(x).result() == expected(np.ones(1))


def test_an_error_in_a_step_says_which(gpus: HostRuntime) -> None:
    @engine.function
    def model(x: Any) -> Any:
        y = x
        for _ in range(8):
            y = y + 1
        return ops.reshape(y[y > 9], (3,))

    with executor():
        with pytest.raises(ValueError, match="reshape") as caught:
            model(ops.asarray(np.arange(3.0), device="GPU:0")).result()
        notes = "\n".join(caught.value.__notes__)
        assert "op 'reshape', called at" in notes
        assert "test_graphs.py" in notes


def test_functions_of_users_inside_are_computed_by_the_host(gpus: HostRuntime) -> None:
    seen: list[type] = []

    @engine.op
    def double(x: Any) -> Any:
        seen.append(type(x))
        return x * 2

    @engine.function
    def model(x: Any) -> Any:
        return ops.tanh(double(x + 1))

    with executor():
        handle: Handle = model(ops.asarray(np.ones(2), device="GPU:0"))
        assert str(handle.device) == "GPU:0"
        assert np.allclose(handle.result(), np.tanh([4.0, 4.0]))
    assert seen == [np.ndarray]


async def test_a_function_is_awaited_as_elsewhere(gpus: HostRuntime) -> None:
    model = engine.function(chain)
    async with executor():
        x = ops.asarray(np.ones(4), device="GPU:0")
        for _ in range(3):
            assert np.array_equal(await model(x), expected(np.ones(4)))
        with engine.device("CPU:0"):
            assert np.array_equal(await model(x), expected(np.ones(4)))


def test_a_capture_that_there_is_no_memory_for_fails_no_op_and_is_tried_again(
    gpus: HostRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSE", 2)
    short = [True, True]
    capture = HostStream.capture

    def sometimes(self: HostStream, work: Callable[[], Any]) -> Any:
        if short and short.pop():
            raise MemoryError("Out of memory allocating 8 bytes.")
        return capture(self, work)

    monkeypatch.setattr(HostStream, "capture", sometimes)
    model = engine.function(chain)
    with executor():
        for number in range(12):
            x = np.arange(8.0) + number
            assert model(ops.asarray(x, device="GPU:0")).result().tobytes() == expected(x).tobytes()
        assert not short
        assert graphs().launches > 0


def test_a_context_that_is_lost_in_a_capture_is_a_lost_device(
    gpus: HostRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = engine.function(chain)
    with executor():
        x = ops.asarray(np.arange(8.0), device="GPU:0")
        model(x).result()
        capture = HostStream.capture

        def lose(self: HostStream, work: Callable[[], Any]) -> Any:
            def first() -> Any:
                gpus.gpus[0].error = GpuError(700)
                return work()

            return capture(self, first)

        monkeypatch.setattr(HostStream, "capture", lose)
        with pytest.raises(engine.DeviceLostError, match="GPU:0 was lost: GpuError: status 700"):
            model(x).result()
        with pytest.raises(engine.DeviceLostError):
            (x + 1).result()
        assert (ops.ones(2) + 1).result().tolist() == [2.0, 2.0]
        engine.clear_errors()


def test_no_memory_for_the_operands_of_a_graph_fails_no_op(gpus: HostRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    allocate = HostStream.allocate

    def refused(self: HostStream, shape: Any, dtype: Any, true: Any = None) -> Any:
        if true is None and shape == (8,) and self is gpus.gpus[0].streams[0]:
            raise MemoryError("Out of memory allocating 64 bytes.")
        return allocate(self, shape, dtype, true)

    model = engine.function(chain)
    with executor():
        x = ops.asarray(np.arange(8.0), device="GPU:0")
        x.result()
        monkeypatch.setattr(HostStream, "allocate", refused)
        for _ in range(4):
            assert model(x).result().tobytes() == expected(np.arange(8.0)).tobytes()
        assert "memory" in str(graphs().refused)


def test_graphs_of_functions_that_are_gone_are_let_go_of(gpus: HostRuntime) -> None:
    with executor():
        x = ops.asarray(np.ones(4), device="GPU:0")
        for _ in range(3):
            model = engine.function(lambda x: chain(x))
            for _ in range(3):
                model(x).result()
            del model
            gc.collect()
        assert len(graphs()._recent) == 1


def test_shapes_of_a_function_whose_lengths_may_be_any_are_bounded(
    gpus: HostRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHAPES", 3)
    model = engine.function(chain, input_signature=[engine.ShapeDtype((None,), np.dtype(np.float64))])
    with executor():
        for length in [*range(1, 9), 1, 1]:
            x = ops.asarray(np.ones(length), device="GPU:0")
            for _ in range(2):
                assert len(model(x).result()) == length
        assert [len(shaped) <= 3 for shaped in graphs()._shaped.values()] == [True]
        assert len(graphs()._recent) <= 3


def test_the_call_before_a_capture_compiles_what_the_capture_needs(
    gpus: HostRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CuPy compiles a kernel of its own for operands that are not packed; those of a graph are."""
    steps: list[bool] = []
    call = HostStream.call

    def watched(self: HostStream, rule: Any, arguments: Any, params: Any) -> Any:
        if isinstance(rule, Elementwise):
            steps.extend(each.memory.flags.c_contiguous for each in arguments if isinstance(each, HostArray))
        return call(self, rule, arguments, params)

    model = engine.function(chain)
    with executor():
        x = ops.matrix_transpose(ops.asarray(np.arange(6.0).reshape(2, 3), device="GPU:0"))
        x.result()
        monkeypatch.setattr(HostStream, "call", watched)
        result = model(x).result()
        assert np.array_equal(result, expected(np.arange(6.0).reshape(2, 3).T))
    assert len(steps) == 30
    assert all(steps)
