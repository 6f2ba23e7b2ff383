"""Ends of a process that uses a GPU: `python -m engine.testing.gpu.ends NAME SECONDS` has to end with 0 and no word.

What the engine itself says at exit, of ops that never ran, is none that counts.

They are processes of their own, since after each of them nothing more can be done with the GPU.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import numpy as np

from engine.base.errors import DeviceLostError
from engine.base.modes import ExecutionMode
from engine.graph.function import function
from engine.queues.waiting import block_until
from engine.runtime.executor import Executor
from engine.settings.scope import device
from engine.testing.gpu.cases import op
from engine.testing.gpu.conformance import config, raises


@function
def _model(x: Any) -> Any:
    for _ in range(8):
        x = op("sin")(x) + 1.0
    return x


def _capture() -> None:
    """Have a graph, which has to be destroyed at the end, or must not be."""
    x = op("asarray")(np.ones(3), device="GPU:0")
    for _ in range(3):
        _model(x).result()


def with_work_in_flight() -> None:
    """The interpreter ends while the GPU computes, and while a copy is on its way."""
    executor = Executor(config(), execution_mode=ExecutionMode.ASYNC)
    executor.__enter__()
    _capture()
    with device("GPU:0"):
        x = op("ones")((2_000, 2_000))
        block_until(x._cell, None)
        for _ in range(50):
            x = op("matmul")(x, x) / 2_000.0
    x.to_device("CPU:0")


def forked() -> None:
    """A forked child is told that it has no GPU; its parent goes on."""
    with Executor(config(), execution_mode=ExecutionMode.ASYNC):
        _capture()
        x = op("asarray")(np.ones(3), device="GPU:0")
        assert x.tolist() == [1.0] * 3
        child = os.fork()
        if child == 0:
            try:
                problem = raises(DeviceLostError, "spawn", lambda: x + 1)
                if problem is not None:
                    raise AssertionError(problem)
            except BaseException:  # noqa: BLE001 - the child must not return from here
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert status == 0, status
        assert (x + 1).tolist() == [2.0] * 3


def lost() -> None:
    """A kernel writes where it must not: the device is lost, the rest goes on, and the process ends quietly."""
    cupy: Any = import_module("cupy")
    with Executor(config(), execution_mode=ExecutionMode.ASYNC):
        _capture()
        x = op("asarray")(np.ones(3), device="GPU:0")
        assert (x + 1).tolist() == [2.0] * 3
        other = op("asarray")(np.ones(3), device="CPU:0")
        cupy.RawKernel('extern "C" __global__ void bad(int* p) { p[0] = 1; }', "bad")((1,), (1,), (np.intp(64),))
        for _ in range(2):
            problem = raises(DeviceLostError, "GPU:0", lambda: x + 2)
            assert problem is None, problem
        assert (other + 1).tolist() == [2.0] * 3


ENDS: Mapping[str, Callable[[], None]] = {"exit": with_work_in_flight, "fork": forked, "lost": lost}


if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)  # of Python's own, for a fork of a process with threads
    faulthandler.dump_traceback_later(float(sys.argv[2]), exit=True)  # also where the one that started it is gone
    ENDS[sys.argv[1]]()
