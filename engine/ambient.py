"""What is in force where an op is dispatched: the program's switch, and the scopes that the task carries."""

from __future__ import annotations

from contextvars import Context, ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.config import Config
from engine.devices.base import Device
from engine.modes import DevicePolicy, ExecutionMode
from handles.cell import Cell


@dataclass(slots=True, eq=False)
class Scope:
    """What the scopes around a piece of code ask for; None where they ask for nothing. Replaced, not changed."""

    executor: Any = None
    mode: ExecutionMode | None = None
    policy: DevicePolicy | None = None
    device: Device | None = None
    group: Any = None
    """The `engine.scope()` that ops are counted in."""
    consent: bool = False
    """Whether blocking a running loop is allowed."""
    kernel: Cell | None = None
    """The record whose kernel this code is."""
    graph: Any = None
    """The graph that ops are added to, in place of running."""
    session: Any = None
    """The session that `symbol.eval()` runs in."""
    dispatcher: Any = field(default=None, init=False)
    """Where ops go from here, once one did."""


NOTHING = Scope()

errstate = np._core.umath._extobj_contextvar.get  # type: ignore[attr-defined]
"""What `numpy.errstate` set here."""
DEFAULT_ERRSTATE = Context().run(errstate)

scope_var: ContextVar[Scope] = ContextVar("eagerloop_scope", default=NOTHING)


@dataclass(frozen=True)
class Options:
    """What `enable_eager_execution` was given, with the automatic choices made."""

    mode: ExecutionMode
    policy: DevicePolicy
    config: Config


class Program:
    """The process-wide switch; it holds in every thread, task and notebook cell."""

    def __init__(self) -> None:
        self.options: Options | None = None
        self.in_use: Config | None = None
        """The configuration that the first op of the program froze."""
        self.graph_begun: str | None = None
        """Where a graph was first made or run."""
        self.graphs: Any = None
        """Where ops go while eager execution is off: what has the default graph; set when graphs are imported."""
        self.namespace: Any = None
        """The array API namespace, for handles' operators; set when it is imported."""


program = Program()


def mode_in_force() -> ExecutionMode | None:
    """The mode of an op dispatched here; None where ops are refused."""
    scope = scope_var.get()
    if scope.mode is not None:
        return scope.mode
    options = program.options
    return None if options is None else options.mode


def may_block() -> bool:
    """Whether blocking the running loop of this thread is allowed here."""
    return scope_var.get().consent or mode_in_force() is ExecutionMode.SYNC
