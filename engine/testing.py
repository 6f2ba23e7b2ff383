"""Aids for tests of programs that use the engine."""

from __future__ import annotations

import threading
from typing import Any

from engine.ambient import program
from engine.context import current, reset_defaults
from engine.dispatch import warned
from engine.graph.graph import Graph, graphs
from engine.planning.op import Op
from handles.base import Handle


def reset() -> None:
    """Put the process back to a fresh start: eager execution off, nothing enabled, in flight, frozen or reported.

    What is queued is dropped; call it where no op is being awaited.
    """
    reset_defaults()
    program.options = None
    program.in_use = None
    warned.clear()
    program.graph_begun = None
    graphs.graph = Graph()


class GateOp:
    """An op whose kernel waits until `open()`: holds a device still, so that tests can put things in order.

    `gate(x)` dispatches it and returns a handle of the value of `x`. In SYNC mode the call itself waits.
    """

    def __init__(self) -> None:
        self._opened = threading.Event()
        self._entered = threading.Event()
        self._op = Op("gate", self._kernel, infer=lambda x: x, ns=None, view=True, external=True)

    def _kernel(self, value: Any) -> Any:
        self._entered.set()
        self._opened.wait()
        return value

    def __call__(self, x: Any, /) -> Handle:
        return current().dispatch(self._op, x)

    def open(self) -> None:
        """Let the kernel go on, now and in every later call."""
        self._opened.set()

    def wait_entered(self, timeout: float | None = None) -> bool:
        """Block until a kernel of this gate has begun; False when `timeout` seconds went by first."""
        return self._entered.wait(timeout)
