"""Notebook cells in a real kernel: interrupting those that await the engine, and what their errors look like."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from engine.base.loops import kept_turning

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_SECONDS = 30
SETUP = """
import asyncio
import engine
engine.enable_eager_execution(execution_mode=engine.ASYNC)
"""
# `call_soon` prints when the loop turns, that is when the cell waits.
WAIT = """
gate = engine.testing.GateOp()
asyncio.get_running_loop().call_soon(lambda: print("waiting", flush=True))
"""


@dataclass
class Ran:
    """What one cell did."""

    printed: str = ""
    errors: list[str] = field(default_factory=list)
    traceback: str = field(default="", compare=False)
    """What the notebook shows of the errors, without colours."""
    count: int = field(default=0, compare=False)
    """The number of the cell."""


@dataclass
class Kernel:
    """A kernel and its client."""

    manager: KernelManager
    client: BlockingKernelClient

    def run(self, code: str, *, interrupt: bool = False) -> Ran:
        """Run a cell; `interrupt` it as soon as it prints."""
        ran, identity = Ran(), self.client.execute(code)
        while True:
            message = self.client.get_iopub_msg(timeout=TIMEOUT_SECONDS)
            if message["parent_header"].get("msg_id") != identity:
                continue
            content: dict[str, Any] = message["content"]
            match message["msg_type"]:
                case "stream":
                    ran.printed += content["text"]
                    if interrupt:
                        interrupt = False
                        self.manager.interrupt_kernel()
                case "error":
                    ran.errors.append(content["ename"])
                    ran.traceback += re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(content["traceback"]))
                case "execute_input":
                    ran.count = content["execution_count"]
                case "status" if content["execution_state"] == "idle":
                    return ran


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """A kernel that has enabled ASYNC mode."""
    folder = tmp_path_factory.mktemp("kernel")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "IPYTHONDIR": str(folder / "ipython")}
    manager = KernelManager(kernel_name="python3", connection_file=str(folder / "kernel.json"))
    manager.start_kernel(env=environment)
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=TIMEOUT_SECONDS)
        kernel = Kernel(manager, client)
        assert kernel.run(SETUP) == Ran()
        yield kernel
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


@pytest.mark.parametrize(
    "wait",
    [
        "await gate(1)",
        "await gate(1).wait_ready()",
        "await engine.gather(gate(1), gate(2))",
        "gate(1)\nawait engine.synchronize()",
        "async with engine.scope():\n    gate(1)",
    ],
    ids=["handle", "wait_ready", "gather", "synchronize", "scope"],
)
def test_an_awaiting_cell_can_be_interrupted(kernel: Kernel, wait: str) -> None:
    ran = kernel.run(WAIT + wait, interrupt=True)
    assert ran.printed == "waiting\n"
    assert ran.errors
    assert set(ran.errors) <= {"CancelledError", "KeyboardInterrupt"}
    # The engine is as good as before: what was held goes on, and so does what comes after it.
    assert kernel.run("gate.open()\nprint(await engine.ops.add(1, 2))") == Ran(printed="3\n")


def test_an_op_whose_waiting_was_interrupted_goes_on(kernel: Kernel) -> None:
    kernel.run(WAIT + "held = gate(5)\nawait held", interrupt=True)
    assert kernel.run("gate.open()\nprint(await held)") == Ran(printed="5\n")


@pytest.mark.parametrize("wait", ["await held", "await held.wait_ready()", "await held.numpy()"])
def test_an_interrupted_cell_says_what_became_of_the_op(kernel: Kernel, wait: str) -> None:
    ran = kernel.run(WAIT + "held = gate(5)\n" + wait, interrupt=True)
    assert f"waiting for op 'gate' on CPU:0, dispatched at Cell In[{ran.count}], line 3" in ran.traceback
    assert "await its handle again" in ran.traceback
    assert kernel.run("gate.open()\nprint(await held)") == Ran(printed="5\n")


# Errors

FAILING = """
import numpy as np
def bad(mode=engine.ASYNC):
    with engine.execution_mode(mode):
        return engine.ops.ones(3) + engine.ops.ones(4)
@engine.op
def divide(x):
    return x / 0
"""


# Of a handle whose shape was asked for, the op fails after that.
CLEAN = """
try:
    await engine.synchronize()
except ValueError:
    pass
"""


@pytest.mark.parametrize(
    ("cell", "line"),
    [
        ("x = engine.ops.ones(3)\ny = x + np.ones(4)\nawait y", 2),
        ("y = engine.ops.ones(3) + np.ones(4)\n\nawait y.numpy()", 1),
        ("a = 1\n\ny = divide(1)\nawait engine.gather(y, y)", 3),
        ("divide(1)\nawait engine.synchronize()", 1),
        ("y = np.linalg.inv(engine.ops.zeros((2, 2)))\nawait y.wait_ready()", 1),
        ("(engine.ops.ones(3) + np.ones(4)).shape", 1),
        ("with engine.execution_mode(engine.SYNC):\n    engine.ops.ones(3) + np.ones(4)", 2),
        ("with engine.execution_mode(engine.SYNC):\n    engine.ops.add(engine.ops.ones(3), engine.ops.ones(4))", 2),
        ("with engine.execution_mode(engine.SYNC):\n    np.linalg.inv(engine.ops.zeros((2, 2)))", 2),
        ("with engine.execution_mode(engine.SYNC):\n    divide(1)", 2),
    ],
)
def test_errors_name_the_cell_and_hide_the_engine(kernel: Kernel, cell: str, line: int) -> None:
    kernel.run(FAILING)
    ran = kernel.run(cell)
    assert len(ran.errors) == 1
    assert f"dispatched at Cell In[{ran.count}], line {line}" in ran.traceback
    shown = re.findall(r"^(?:File|Cell) .*", ran.traceback, re.MULTILINE)
    assert f"Cell In[{ran.count}], line {line}" in shown
    assert not [place for place in shown if "/engine/" in place or "/handles/" in place]
    lines = cell.splitlines()
    assert re.search(rf"^-+> {line} {re.escape(lines[line - 1].rstrip())}$", ran.traceback, re.MULTILINE)
    assert kernel.run(CLEAN) == Ran()


def test_a_library_that_needs_a_value_is_told_where_the_cell_called_it(kernel: Kernel) -> None:
    ran = kernel.run("import statistics\nx = engine.ops.ones(3)\nstatistics.mean(x)")
    assert ran.errors == ["BlockingSyncError"]
    assert f"called at Cell In[{ran.count}], line 3" in ran.traceback
    assert f"dispatched at Cell In[{ran.count}], line 2" in ran.traceback
    assert kernel.run("print(statistics.mean(await x))") == Ran(printed="1.0\n")


class FakeLoop:
    """Keeps what it is to call later."""

    def __init__(self) -> None:
        self.later: list[Callable[[], None]] = []

    def call_later(self, delay: float, callback: Callable[[], None], context: object) -> None:
        assert delay > 0
        self.later.append(callback)


def test_one_timer_turns_a_loop_as_long_as_anybody_waits() -> None:
    loop: Any = FakeLoop()
    with kept_turning(loop):
        with kept_turning(loop):
            assert len(loop.later) == 1
        loop.later.pop()()
        assert len(loop.later) == 1
    loop.later.pop()()
    assert not loop.later
    with kept_turning(loop):
        assert len(loop.later) == 1
