"""Aids for tests of programs that use the engine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from engine.base.op import Op
from engine.devices.base import Device
from engine.devices.registry import forget_backends
from engine.dispatch.dispatcher import warned
from engine.dispatch.flow import inline_places
from engine.graph.default_graph import graphs
from engine.graph.graph import Graph
from engine.observe import sums
from engine.observe.hub import hub
from engine.runtime.current import current, current_core
from engine.runtime.defaults import reset_defaults
from engine.settings.switch import program
from handles.base import Handle

__all__ = ["GateOp", "hold", "reset"]


def reset() -> None:
    """Put the process back to a fresh start: eager execution off, nothing enabled, in flight, frozen or reported.

    Kinds of devices that were registered are forgotten, and observers are let go.

    What is queued is dropped; call it where no op is being awaited.

    >>> engine.testing.reset()
    >>> engine.executing_eagerly()
    False
    """
    hub.clear()
    sums.start_over()
    reset_defaults()
    program.options = None
    program.in_use = None
    warned.clear()
    inline_places.clear()
    program.graph_begun = None
    graphs.graph = Graph()
    forget_backends()


@contextmanager
def hold(device: str | Device = "CPU:0") -> Iterator[None]:
    """Keep a device of the executor in force from starting anything inside the block, small ops included.

    What runs already goes on. Waiting inside the block for what is held waits until a timeout, or for ever. In SYNC
    mode there is nothing to hold: an op has run when its call returns. Raises what `engine.device` raises for a name,
    and `UnknownDeviceError`.

    >>> with engine.testing.hold():
    ...     first, second = ops.sin(1.0), ops.sin(2.0)
    ...     assert not first.is_ready()
    """
    core = current_core()
    queue = core.queues[core.resolve(Device(device))]
    queue.hold()
    try:
        yield
    finally:
        queue.resume()


class GateOp:
    """An op whose kernel waits until `open()`, so that tests can put things in order.

    `gate(x)` dispatches it and returns a handle of the value of `x`. What depends on that waits; independent ops pass
    it. In SYNC mode the call itself waits.

    >>> gate = engine.testing.GateOp()
    >>> behind = gate(1) + 1
    >>> behind.is_ready()
    False
    >>> gate.open()
    >>> await behind
    np.int64(2)
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


def __dir__() -> list[str]:
    return sorted(__all__)
