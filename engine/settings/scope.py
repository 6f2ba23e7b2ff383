"""Scopes: the settings of the blocks around a piece of code, in one context variable, and the blocks that set it.

Purpose: an op finds in one look-up what applies to it: executor, mode, policy, device, group, priority.

Invariants: the scope of a running block is never changed. A block that is left gives its settings back, in any order
and in any context. `_lock` guards how scopes hang together, and so the values of scopes that follow another one; the
context variable itself needs no lock.

A task that is made inside a block keeps what the block asked for, also after the block has been left: that is how
context variables work. The same holds where it is not meant: an async generator that holds a block across `yield`
sets the variable of its consumer, and when the consumer leaves it by `break`, the event loop closes the generator in
a task, and so in a context, of its own. So a block that is left anywhere but in its place is dissolved: its scope
takes the values of the scope around it, and the scopes of blocks inside it follow. Readers need not know.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import Context, ContextVar
from dataclasses import dataclass, field, fields
from typing import Any
from weakref import WeakSet

import numpy as np

from engine.base.modes import DevicePolicy, ExecutionMode, check_policy
from engine.devices.base import Device
from handles.cell import Cell


@dataclass(slots=True, eq=False, weakref_slot=True)
class Scope:
    """The settings of the blocks around a piece of code; None where they have none.

    Blocks replace it; it is changed only where a block around it is dissolved.
    """

    executor: Any = None
    mode: ExecutionMode | None = None
    policy: DevicePolicy | None = None
    device: Device | None = None
    group: Any = None
    """The `engine.scope()` that ops are counted in."""
    consent: bool = False
    """True if blocking a running loop is allowed."""
    kernel: Cell | None = None
    """The record whose kernel this code is."""
    graph: Any = None
    """The graph that ops are added to, in place of running."""
    session: Any = None
    """The session that `symbol.eval()` runs in."""
    priority: int = 0
    """How early work dispatched here goes: larger goes first."""
    dispatcher: Any = field(default=None, init=False)
    """Where ops go from here, once one did."""
    outer: Scope | None = field(default=None, init=False)
    """The scope around the block that set this one; None for a scope that is not of a block."""
    changes: dict[str, object] = field(default_factory=dict, init=False)
    """The settings of the block itself; the other values are those of the scope around it."""
    left: bool = field(default=False, init=False)
    """True once the block has been left in its place, so that its changes are there to stay."""
    inner: WeakSet[Scope] | None = field(default=None, init=False)
    """The scopes that take their other values from this one."""


NOTHING = Scope()

errstate = np._core.umath._extobj_contextvar.get  # type: ignore[attr-defined]
"""Gives the settings of `numpy.errstate` in force here."""
DEFAULT_ERRSTATE = Context().run(errstate)

scope_var: ContextVar[Scope] = ContextVar("eagerloop_scope", default=NOTHING)


_VALUES = tuple(entry.name for entry in fields(Scope) if entry.init)

_lock = threading.RLock()
"""Guards how scopes hang together: `outer`, `changes`, `left` and `inner`."""
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


class Block:
    """One block that changes settings: made where it is entered, left once."""

    __slots__ = ("_token", "scope")

    def __init__(self, **changes: object) -> None:
        before = scope_var.get()
        with _lock:
            self.scope = _changed(before, changes)
            _place(self.scope, before, changes)
        self._token = scope_var.set(self.scope)

    def leave(self) -> None:
        """Put back what was in force, or dissolve the block where it is not left in its place."""
        scope = self.scope
        if scope_var.get() is scope:
            try:
                scope_var.reset(self._token)
            except ValueError:  # another context, that of a task which inherited the scope
                assert scope.outer is not None
                scope_var.set(scope.outer)
            else:
                scope.left = True
                return
        dissolve(scope)


def _changed(before: Scope, changes: dict[str, object]) -> Scope:
    """A scope of the same values, but for the changes. Written out: `dataclasses.replace` takes four times as long."""
    scope = Scope(
        before.executor,
        before.mode,
        before.policy,
        before.device,
        before.group,
        before.consent,
        before.kernel,
        before.graph,
        before.session,
        before.priority,
    )
    for name, value in changes.items():
        setattr(scope, name, value)
    return scope


def _place(scope: Scope, outer: Scope, changes: dict[str, object]) -> None:
    """Hang a new scope below the one around it. Those of blocks that have been left are merged with what they hold.

    Without that, a chain of tasks, each made inside a block of the one before, would keep all their scopes.
    """
    while outer.left and outer.outer is not None:
        outer, changes = outer.outer, outer.changes | changes
    while outer.outer is not None and outer.outer.left:
        passed = outer.outer
        _hang(outer, passed.outer, passed.changes | outer.changes)
    _hang(scope, outer, changes)


def _hang(scope: Scope, outer: Scope | None, changes: dict[str, object]) -> None:
    scope.outer, scope.changes = outer, changes
    if outer is not None and outer.outer is not None:  # a scope that is not of a block is never dissolved
        if outer.inner is None:
            outer.inner = WeakSet()
        outer.inner.add(scope)


def dissolve(scope: Scope) -> None:
    """The block of this scope is over: what it asked for holds no longer, wherever the scope is still in force."""
    with _lock:
        scope.left, scope.changes = True, {}
        _follow(scope)


def _follow(scope: Scope) -> None:
    for name in _VALUES:
        setattr(scope, name, scope.changes[name] if name in scope.changes else getattr(scope.outer, name))
    scope.dispatcher = None
    for inner in list(scope.inner or ()):
        _follow(inner)


def forget_dispatchers(scope: Scope) -> None:
    """Have the next op here, and in the blocks inside, look anew where it goes."""
    with _lock:
        scope.dispatcher = None
        for inner in list(scope.inner or ()):
            forget_dispatchers(inner)


@contextmanager
def entered(**changes: object) -> Iterator[None]:
    """Change what is in force inside the block."""
    block = Block(**changes)
    try:
        yield
    finally:
        block.leave()


def execution_mode(mode: ExecutionMode) -> AbstractContextManager[None]:
    """Ops inside the block run in this mode. Raises `ValueError` for what is not a member.

    >>> with engine.execution_mode(engine.SYNC):
    ...     h = ops.add(1, 2)
    >>> h.is_ready()
    True
    """
    if not isinstance(mode, ExecutionMode):
        raise ValueError(f"mode must be one of engine.SYNC, engine.ASYNC, but got {mode!r}")
    return entered(mode=mode)


def device_policy(policy: DevicePolicy) -> AbstractContextManager[None]:
    """Ops inside the block are placed under this policy. Raises `ValueError` for what is not a member.

    >>> config = engine.Config(device_count={"CPU": 2})
    >>> async with engine.Executor(config, execution_mode=engine.ASYNC):
    ...     here, there = ops.ones(3, device="CPU:0"), ops.ones(3, device="CPU:1")
    ...     with engine.device_policy(engine.DevicePolicy.EXPLICIT):
    ...         total = here + there.to_device("CPU:0")  # `here + there` raises DevicePlacementError
    >>> await total
    array([2., 2., 2.])
    """
    if policy is None:
        raise ValueError("policy must be an engine.DevicePolicy, but got None")
    check_policy(policy)
    return entered(policy=policy)


def device(name: str | Device | None) -> AbstractContextManager[None]:
    """Ops inside the block run on this device: "CPU:1", "/device:CPU:1", an `engine.Device`; the innermost counts.

    "DASK" is any worker of the cluster: an op goes to the one that its inputs are on, else to the least loaded one.

    With None no device is asked for inside the block, even if blocks around it ask for one: ops follow their inputs.
    Raises `ValueError` for a name that is not one of a device and `TypeError` for what is no name; a device that does
    not exist is an error of the op.

    >>> with engine.device("CPU:0"):
    ...     h = ops.ones(3)
    >>> h.device
    Device('CPU:0')
    """
    return entered(device=None if name is None else Device(name))


def allow_sync() -> AbstractContextManager[None]:
    """Inside the block, blocking syncs are permitted on a running event loop, which stands still meanwhile.

    >>> with engine.allow_sync():
    ...     total = float(ops.sum(ops.ones(3)))
    >>> total
    3.0
    """
    return entered(consent=True)
