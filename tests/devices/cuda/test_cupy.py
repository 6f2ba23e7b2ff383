"""CuPy itself, where it is installed: its names, and the calls that are made of it. Some of this needs a GPU."""

import inspect
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.devices import lost
from engine.devices.cuda.backend import CudaBackend
from engine.devices.cuda.runtime import Fate
from tests.devices.cuda.describe_cupy import FILE, described

cupy = pytest.importorskip("cupy", reason="CuPy is not installed")


def runtime() -> Any:
    return CudaBackend(lost).runtime()


def test_it_has_the_names_that_are_written_down() -> None:
    written = FILE.read_text(encoding="utf-8").splitlines()
    if written[0] != f"# CuPy {cupy.__version__}":
        pytest.skip(f"{written[0]} is written down, and this is {cupy.__version__}")
    assert list(described(cupy)) == written


@pytest.mark.parametrize(
    "name",
    [
        *("Device", "Event", "MemoryPool", "Stream", "alloc_pinned_memory", "using_allocator"),
        *("driver.CUDADriverError", "runtime.CUDARuntimeError", "runtime.driverGetVersion", "runtime.eventQuery"),
        *("runtime.getDeviceCount", "runtime.getDeviceProperties", "runtime.runtimeGetVersion"),
        *("Event.record", "Event.synchronize", "MemoryPool.malloc", "Graph.launch"),
        *("Stream.begin_capture", "Stream.end_capture", "Stream.synchronize", "Stream.wait_event"),
        *("MemoryPointer.copy_from_device_async", "MemoryPointer.copy_from_host_async"),
        "MemoryPointer.copy_to_host_async",
    ],
)
def test_what_the_adapter_calls_is_there(name: str) -> None:
    found: Any = cupy.cuda
    for part in name.split("."):
        found = getattr(found, part)
    assert callable(found)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("Stream", {"non_blocking": True}), ("Event", {"block": True, "disable_timing": True})],
)
def test_the_adapter_gives_arguments_that_are_there(name: str, arguments: dict[str, Any]) -> None:
    inspect.signature(getattr(cupy.cuda, name).__init__).bind(None, **arguments)


@pytest.mark.parametrize(
    "method",
    ["astype", "copy", "max", "min", "ravel", "reshape", "sum", "view", "base", "data", "imag", "nbytes", "real"],
)
def test_arrays_have_what_the_rules_ask_of_them(method: str) -> None:
    assert hasattr(cupy.ndarray, method)


def test_errors_are_told_apart() -> None:
    errors = cupy.cuda.runtime.CUDARuntimeError
    assert runtime().fate(errors(700)) is Fate.LOST
    assert runtime().fate(errors(1)) is Fate.OP
    assert runtime().fate(errors(2)) is Fate.MEMORY
    assert runtime().fate(cupy.cuda.memory.OutOfMemoryError(10, 10)) is Fate.MEMORY
    assert runtime().fate(ValueError("shape")) is Fate.OP


def test_without_a_driver_there_is_no_gpu() -> None:
    if runtime().count():
        pytest.skip("there is a GPU")
    with pytest.raises(engine.UnknownDeviceError, match="CUDA finds no device"):
        engine.Executor(engine.Config(device_count={"GPU": 1})).__enter__()


async def test_a_gpu_computes() -> None:
    if not runtime().count():
        pytest.skip("there is no GPU")
    async with engine.Executor(engine.Config(device_count={"GPU": 1}), execution_mode=engine.ASYNC):
        x = ops.asarray(np.arange(6.0).reshape(2, 3), device="GPU:0")
        assert np.allclose(await (ops.tanh(x) * 2 + 1), np.tanh(np.arange(6.0).reshape(2, 3)) * 2 + 1)
