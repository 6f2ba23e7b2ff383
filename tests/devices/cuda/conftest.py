"""GPUs of threads for every test here; a test that needs a real one says so."""

from collections.abc import Callable, Iterator

import pytest

from engine.devices import lost, register_backend
from engine.devices.cuda.backend import CudaBackend
from tests.devices.cuda.host_runtime import HostRuntime


@pytest.fixture
def serve() -> Iterator[Callable[[HostRuntime], HostRuntime]]:
    """Has the devices GPU:0 and GPU:1 driven by a runtime of threads, until the end of the test."""
    made: list[HostRuntime] = []

    def use(runtime: HostRuntime) -> HostRuntime:
        made.append(runtime)
        register_backend("GPU", lambda: CudaBackend(lost, lambda: runtime))
        return runtime

    yield use
    for runtime in made:
        runtime.gate.end()


@pytest.fixture
def gpus(serve: Callable[[HostRuntime], HostRuntime]) -> HostRuntime:
    """Two GPUs that work at once."""
    return serve(HostRuntime())
