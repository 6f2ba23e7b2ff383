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


def has_gpu() -> bool:
    try:
        return bool(runtime().count())
    except engine.UnknownDeviceError:
        return False


def test_it_has_the_names_that_are_written_down() -> None:
    written = FILE.read_text(encoding="utf-8").splitlines()
    if written[0] != f"# CuPy {cupy.__version__}":
        pytest.skip(f"{written[0]} is written down, and this is {cupy.__version__}")
    assert list(described(cupy)) == written


@pytest.mark.parametrize(
    "name",
    [
        *("Device", "MemoryPool", "Stream", "alloc_pinned_memory", "using_allocator", "nvrtc.getVersion"),
        *("driver.CUDADriverError", "runtime.CUDARuntimeError", "runtime.check_status", "runtime.driverGetVersion"),
        *("runtime.eventCreateWithFlags", "runtime.eventDestroy", "runtime.eventQuery", "runtime.eventRecord"),
        *("runtime.eventSynchronize", "runtime.getDeviceCount", "runtime.getDeviceProperties", "runtime.memGetInfo"),
        *("runtime.runtimeGetVersion", "runtime.streamWaitEvent", "MemoryPool.malloc", "Graph.launch"),
        *("Stream.begin_capture", "Stream.end_capture", "Stream.synchronize"),
        *("MemoryPointer.copy_from_device_async", "MemoryPointer.copy_from_host_async"),
        "MemoryPointer.copy_to_host_async",
    ],
)
def test_what_the_adapter_calls_is_there(name: str) -> None:
    found: Any = cupy.cuda
    for part in name.split("."):
        found = getattr(found, part)
    assert callable(found)


def test_the_adapter_gives_arguments_that_are_there() -> None:
    inspect.signature(cupy.cuda.Stream.__init__).bind(None, non_blocking=True)


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
    libraries = cupy.cuda.cublas.CUBLASError
    assert runtime().fate(libraries(3)) is Fate.MEMORY  # a status of its own, which CUDA has for something else


def test_without_a_driver_there_is_no_gpu() -> None:
    if has_gpu():
        pytest.skip("there is a GPU")
    with pytest.raises(engine.UnknownDeviceError, match="CUDA"):
        engine.Executor(engine.Config(device_count={"GPU": 1})).__enter__()


async def test_a_gpu_computes() -> None:
    if not has_gpu():
        pytest.skip("there is no GPU")
    async with engine.Executor(engine.Config(device_count={"GPU": 1}), execution_mode=engine.ASYNC):
        x = ops.asarray(np.arange(6.0).reshape(2, 3), device="GPU:0")
        assert np.allclose(await (ops.tanh(x) * 2 + 1), np.tanh(np.arange(6.0).reshape(2, 3)) * 2 + 1)
