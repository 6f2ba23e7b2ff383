"""Where there is no CuPy, or no GPU: a clear error, or soft placement; and no import that was not asked for."""

import logging
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.devices import SteppedBackend, lost, registered
from engine.devices.cuda import backend as module
from engine.devices.cuda.backend import CudaBackend
from engine.testing.gpu import speed
from engine.testing.gpu.__main__ import NO_GPU, main
from engine.testing.gpu.facilities import OnTheRuntime
from tests.devices.cuda.host_runtime import HostRuntime

ROOT = Path(__file__).resolve().parents[3]
CONFIG = engine.Config(device_count={"GPU": 1})


@pytest.fixture
def no_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy is not installed."""
    monkeypatch.setattr(module, "find_spec", lambda name: None)


@pytest.mark.parametrize("soft", [True, False])
def test_a_configuration_that_asks_for_one_says_what_is_missing(no_cupy: None, soft: bool) -> None:
    config = engine.Config(device_count={"GPU": 1}, allow_soft_placement=soft)
    with pytest.raises(engine.UnknownDeviceError, match=r"CuPy.* is not installed: pip install 'eagerloop\[cuda\]'"):
        engine.Executor(config).__enter__()


def test_the_program_goes_on_without_it(no_cupy: None, mode: engine.ExecutionMode) -> None:
    with pytest.raises(engine.UnknownDeviceError), engine.Executor(CONFIG):
        pass
    assert (ops.ones(2) + 1).result().tolist() == [2.0, 2.0]


@pytest.mark.parametrize("count", [0, 1])
def test_there_are_as_many_as_cuda_finds(count: int) -> None:
    runtime = HostRuntime(count=count)
    with registered("GPU", lambda: CudaBackend(lost, lambda: runtime)):
        config = engine.Config(device_count={"GPU": count + 1})
        expected = "CUDA finds no device" if not count else "asks for 2 GPU device.* this machine has 1"
        with pytest.raises(engine.UnknownDeviceError, match=expected):
            engine.Executor(config).__enter__()
    runtime.gate.end()


@pytest.mark.parametrize("error", [ImportError, OSError, ValueError, RuntimeError])
def test_a_cupy_that_cannot_be_imported_says_why(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def broken(name: str) -> Any:
        if name.endswith("cupy_runtime"):
            raise error("libcudart.so.12: cannot open shared object file")
        return import_module(name)

    monkeypatch.setattr(module, "find_spec", lambda name: object())
    monkeypatch.setattr(module, "import_module", broken)
    with pytest.raises(engine.UnknownDeviceError, match="cannot be imported: libcudart"):
        engine.Executor(CONFIG).__enter__()


@pytest.mark.parametrize("soft", [True, False])
def test_a_scope_that_names_one_falls_back_or_fails(
    mode: engine.ExecutionMode, soft: bool, caplog: pytest.LogCaptureFixture
) -> None:
    config = engine.Config(allow_soft_placement=soft)
    with engine.Executor(config, execution_mode=mode), engine.device("GPU:0"):
        if soft:
            with caplog.at_level(logging.WARNING, "engine.placement"):
                assert str(ops.ones(2).device) == "CPU:0"
            assert any("GPU:0 does not exist, using CPU:0" in message for message in caplog.messages)
        else:
            with pytest.raises(engine.UnknownDeviceError, match="GPU:0 does not exist"):
                ops.ones(2)


def test_a_backend_of_ones_own_takes_its_place(no_cupy: None) -> None:
    with registered("GPU", lambda: SteppedBackend(automatic=True)), engine.Executor(CONFIG, execution_mode=engine.SYNC):
        assert (ops.asarray(np.ones(2), device="GPU:0") + 1).tolist() == [2.0, 2.0]
    with pytest.raises(engine.UnknownDeviceError, match="CuPy"), engine.Executor(CONFIG):
        pass


IMPORTS = """
import sys
import numpy as np
import engine
from engine import ops

with engine.Executor(engine.Config(device_count={"CPU": 2}), execution_mode=engine.ASYNC):
    with engine.device("GPU:0"):
        assert (ops.ones(3) + 1).tolist() == [2.0] * 3
engine.list_devices()
assert not [name for name in sys.modules if name.partition(".")[0].startswith("cupy")]
assert "engine.devices.cuda.unit" not in sys.modules
"""


def test_cupy_is_not_imported_where_no_gpu_is_asked_for() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------------------------------------------------------------
# The script


def test_the_script_says_that_there_is_no_gpu(
    no_cupy: None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["--json", str(tmp_path / "gpu.json")]) == NO_GPU
    assert "no GPU was checked: " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(find_spec("cupy") is not None, reason="CuPy is installed")
def test_the_script_is_a_program(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "engine.testing.gpu"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stdout) == (NO_GPU, "")
    assert "pip install 'eagerloop[cuda]'" in done.stderr


def test_what_it_measures_runs(gpus: HostRuntime) -> None:
    figures = list(speed.measured(OnTheRuntime(gpus), rounds=1, scale=0.001))
    assert [figure.ratio > 0 for figure in figures] == [True] * 4
    assert [figure.as_row()["is_met"] == (figure.ratio <= figure.aim) for figure in figures] == [True] * 4
    lag = speed.heartbeat(0.05, 16)
    assert lag["beats"] >= 1
    assert lag["median_ms"] <= lag["p99_ms"] <= lag["longest_ms"]
