"""The context: what is enabled, which scopes surround the caller, and so which dispatcher an op goes to."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import Token
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from engine.ambient import NOTHING, Options, Scope, program, scope_var
from engine.config import Config, check_config
from engine.devices.base import Device
from engine.devices.registry import make_devices
from engine.dispatch import AsyncDispatcher, Dispatcher, SyncDispatcher
from engine.errors import BlockingSyncError, EagerNotEnabledError, ExecutorClosedError
from engine.executor import Core, State, Statistics
from engine.loops import AbstractEventLoop, on_shutdown, report, running_loop, seat_of
from engine.modes import DevicePolicy, ExecutionMode, check_mode, check_policy
from engine.queues.waiting import Settled, block_until

# ---------------------------------------------------------------------------------------------------------------------
# The program-wide switch

_lock = threading.RLock()
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def enable_eager_execution(
    config: Config | None = None,
    device_policy: DevicePolicy | None = None,
    execution_mode: ExecutionMode | None = None,
) -> None:
    """Enable eager execution for the lifetime of the program, in every thread, task and notebook cell.

    `None` means automatic: `Config()`, `DevicePolicy.SILENT`, `ExecutionMode.SYNC`. Calling it again is fine with
    options that are None or equal to those in force.

    Raises `TypeError` for a config that is not an `engine.Config`; `ValueError` for a mode or policy that is not a
    member, for an option that differs from the one in force, and after a graph was made or run; `RuntimeError` for
    thread or device counts other than those that the first op of the program froze. A failed call changes nothing.

    The rules are those of TensorFlow's function of this name.
    """
    check_config(config)
    check_policy(device_policy)
    check_mode(execution_mode)
    with _lock:
        options = program.options
        if options is not None:
            _check_same("config", config, options.config)
            _check_same("device_policy", device_policy, options.policy)
            _check_same("execution_mode", execution_mode, options.mode)
            return
        if program.graph_begun is not None:
            raise ValueError(
                f"enable_eager_execution must be called at program startup: a graph was begun at {program.graph_begun}"
            )
        config = config or Config()
        _check_frozen(config)
        program.options = Options(
            mode=execution_mode or ExecutionMode.SYNC, policy=device_policy or DevicePolicy.SILENT, config=config
        )


def disable_eager_execution() -> None:
    """Take the switch back: ops outside an executor's block make a graph again. Work in flight goes on."""
    with _lock:
        if program.options is not None:
            program.options = None
            defaults.forget()


def executing_eagerly() -> bool:
    """Whether an op called here runs eagerly. Asking makes no graph."""
    scope = scope_var.get()
    return scope.graph is None and (program.options is not None or scope.executor is not None)


def get_execution_mode() -> ExecutionMode | None:
    """The execution mode in force here; None where eager execution is off."""
    scope = scope_var.get()
    if not executing_eagerly():
        return None
    if scope.mode is not None:
        return scope.mode
    return None if program.options is None else program.options.mode


def get_device_policy() -> DevicePolicy | None:
    """The device policy in force here; None where eager execution is off."""
    scope = scope_var.get()
    if not executing_eagerly():
        return None
    if scope.policy is not None:
        return scope.policy
    return None if program.options is None else program.options.policy


def get_config() -> Config | None:
    """The configuration in force here; None where eager execution is off."""
    scope = scope_var.get()
    if scope.executor is not None:
        return scope.executor.config  # type: ignore[no-any-return]
    return None if program.options is None else program.options.config


def _check_same(name: str, asked: object, in_force: object) -> None:
    if asked is not None and asked != in_force:
        raise ValueError(
            f"enable_eager_execution was called before with {name}={in_force!r}, which is in force; "
            f"it cannot be changed to {asked!r}"
        )


_FROZEN = ("device_count", "intra_op_parallelism_threads", "inter_op_parallelism_threads")


def _check_frozen(config: Config) -> None:
    used = program.in_use
    for name in _FROZEN if used is not None else ():
        if getattr(config, name) != getattr(used, name):
            raise RuntimeError(
                f"Config.{name} cannot be modified after initialization: the program's first op ran with "
                f"{getattr(used, name)!r}, now {getattr(config, name)!r} was asked for"
            )


# ---------------------------------------------------------------------------------------------------------------------
# Default executors: one for each running loop, and for each thread without one


_NO_THREAD = object()


class _Here:
    """Where the ops of a thread go: the executor that it used last, of which loop that is, and the dispatcher."""

    __slots__ = ("core", "dispatcher", "loop", "seat", "thread")

    def __init__(self, core: Core | None = None, loop: AbstractEventLoop | None = None) -> None:
        self.core = core
        self.loop = loop
        self.seat = seat_of(None)
        self.thread: object = _NO_THREAD
        """What `seat` said when the loop was last seen running here: an object that no other run of a loop has."""
        self.dispatcher: Any = None

    def settle(self, dispatcher: Dispatcher) -> None:
        """From now on ops go there as long as the loop says that it runs on this thread: `seat` is only known then."""
        self.dispatcher = dispatcher
        self.seat = seat_of(self.loop)
        self.look()

    def look(self) -> None:
        """The loop runs on this thread now."""
        if self.seat._thread_id is not None:
            self.thread = self.seat._thread_id


class _Defaults(threading.local):
    """This thread's `_Here`, and the executor that it has where no loop runs on it, also after one did."""

    now = _Here()
    own: Core | None = None


class Executors:
    """Executors made as needed: those of loops live until their loop shuts down, those of threads as the thread does.

    `freezes` says whether the first one settles how many threads and devices the program has; `on_loops` whether a
    running loop has one of its own, or shares that of its thread.
    """

    def __init__(self, *, freezes: bool = False, on_loops: bool = True) -> None:
        self._freezes = freezes
        self._on_loops = on_loops
        self.here = _Defaults()
        self._by_loop: weakref.WeakKeyDictionary[AbstractEventLoop, tuple[Core, object]] = weakref.WeakKeyDictionary()
        self.cores: weakref.WeakSet[Core] = weakref.WeakSet()

    def core(self, options: Options) -> Core:
        """The executor of this thread's running loop, or of this thread."""
        here = self.here.now
        if here.core is not None and here.seat._thread_id is here.thread:
            return here.core  # as `current` decides: a loop that is run inside another one shares its executor
        loop = running_loop() if self._on_loops else None
        if here.core is not None and here.loop is loop:
            return here.core
        with _lock:
            known = self._by_loop.get(loop, (None,))[0] if loop is not None else self.here.own
            core = known if known is not None else self._make(options.config, loop)
            if loop is None:
                self.here.own = core
            if self._freezes:
                program.in_use = program.in_use or options.config  # a configuration that failed freezes nothing
            self.here.now = _Here(core, loop)
        return core

    def _make(self, config: Config, loop: AbstractEventLoop | None) -> Core:
        core = Core(config, loop)
        self.cores.add(core)
        if loop is not None:
            self._by_loop[loop] = (core, on_shutdown(loop, lambda: self._end(core, loop)))
        return core

    def _end(self, core: Core, loop: AbstractEventLoop) -> None:
        self._by_loop.pop(loop, None)
        report_failures(core, loop)
        core.detach()

    def forget(self) -> None:
        """Have new executors made from now on."""
        with _lock:
            self.here = _Defaults()
            self._by_loop.clear()

    def close(self, why: str) -> list[Core]:
        """Close them all, dropping what is queued."""
        cores = list(self.cores)
        for core in cores:
            core.cancel_pending(why)
            core.close()
        self.forget()
        return cores


defaults = Executors(freezes=True)
os.register_at_fork(after_in_child=defaults.forget)  # what ran on the parent's loop and threads stayed with them


def reset_defaults() -> None:
    """Close all default executors, dropping what is queued and forgetting what failed."""
    for core in defaults.close("the engine was reset"):
        core.ledger.take()


def report_failures(core: Core, loop: AbstractEventLoop | None) -> None:
    """Tell the loop's exception handler of the failures that nobody saw; without a loop they wait for the exit."""
    if loop is not None:
        for error in core.ledger.take():
            report(loop, "an op failed and nobody read its result", error)


# ---------------------------------------------------------------------------------------------------------------------
# Where an op goes


def current() -> Dispatcher:
    """The dispatcher for an op called here."""
    scope = scope_var.get()
    here = defaults.here.now
    if scope is NOTHING:
        dispatcher: Dispatcher | None = here.dispatcher
        # The loop may have ended, or run on another thread by now.
        if dispatcher is not None:
            if here.seat._thread_id is here.thread:
                return dispatcher
            if here.loop is running_loop():
                here.look()
                return dispatcher
    else:
        dispatcher = scope.dispatcher
        if dispatcher is not None and (
            scope.executor is not None or (dispatcher.core is here.core and here.loop is running_loop())
        ):
            return dispatcher
    return _find_dispatcher(scope)


def current_core() -> Core:
    """The executor that an op called here goes to."""
    core: Core | None = scope_var.get().executor
    return core if core is not None else defaults.core(_options())


def _find_dispatcher(scope: Scope) -> Dispatcher:
    core, mode, policy = scope.executor, scope.mode, scope.policy
    if scope.graph is not None or (core is None and program.options is None):
        graph = scope.graph or program.graphs.default()
        return graph.dispatcher(scope)  # type: ignore[no-any-return]
    if core is None:
        options = _options()
        core = defaults.core(options)
        mode, policy = mode or options.mode, policy or options.policy
    assert policy is not None
    cls = SyncDispatcher if mode is ExecutionMode.SYNC else AsyncDispatcher
    dispatcher = cls(core, policy, scope.device, scope.group and scope.group.innermost_open())
    if scope is NOTHING:
        defaults.here.now.settle(dispatcher)
    else:
        scope.dispatcher = dispatcher
    return dispatcher


def _options() -> Options:
    options = program.options
    if options is None:
        raise EagerNotEnabledError(
            "eager execution is not enabled: call engine.enable_eager_execution() at program startup, "
            "or run ops inside `async with engine.Executor(): ...` (in plain code: `with engine.Executor(): ...`)"
        )
    return options


# ---------------------------------------------------------------------------------------------------------------------
# Scopes


@contextmanager
def entered(**changes: Any) -> Iterator[None]:
    """Change what is in force inside the block."""
    before = scope_var.get()
    token = scope_var.set(replace(before, **changes))
    try:
        yield
    finally:
        leave(token, before)


def leave(token: Token[Scope], before: Scope) -> None:
    """Put the scope back, also where the block is left in another context than it was entered in."""
    try:
        scope_var.reset(token)
    except ValueError:
        scope_var.set(before)


def execution_mode(mode: ExecutionMode) -> AbstractContextManager[None]:
    """Ops inside the block run in this mode. Raises `ValueError` for what is not a member."""
    if not isinstance(mode, ExecutionMode):
        raise ValueError(f"mode must be one of engine.SYNC, engine.ASYNC, but got {mode!r}")
    return entered(mode=mode)


def device_policy(policy: DevicePolicy) -> AbstractContextManager[None]:
    """Ops inside the block are placed under this policy. Raises `ValueError` for what is not a member."""
    if policy is None:
        raise ValueError("policy must be an engine.DevicePolicy, but got None")
    check_policy(policy)
    return entered(policy=policy)


def device(name: str | Device) -> AbstractContextManager[None]:
    """Ops inside the block run on this device ("CPU:1", "/device:CPU:1", an `engine.Device`); the innermost counts.

    Raises `ValueError` for a name that is not one of a device; a device that does not exist is an error of the op.
    """
    return entered(device=Device(name))


def allow_sync() -> AbstractContextManager[None]:
    """Inside the block, blocking syncs are permitted on a running event loop."""
    return entered(consent=True)


def list_devices() -> tuple[Device, ...]:
    """The devices of the executor in force here. Asking makes no graph and starts nothing."""
    scope = scope_var.get()
    if scope.executor is not None:
        return tuple(scope.executor.devices)
    config = program.options.config if program.options is not None else Config()
    return tuple(make_devices(config.device_count))


# ---------------------------------------------------------------------------------------------------------------------
# The executor that users make


class Executor:
    """An executor of one's own: inside its block ops are eager and go to it, whatever the program enabled.

    `async with` on a running event loop, `with` in plain code. Leaving the block waits for its work and raises what
    failed and nobody saw, one error as itself, several as an `ExceptionGroup`. Leaving it by an exception cancels what
    has not started. After that it refuses work with `ExecutorClosedError`.

    Options that are None are those of the program where eager execution is enabled, else `Config()`, `SILENT` and
    `SYNC`. Raises what `enable_eager_execution` raises for values that are not options.
    """

    def __init__(
        self,
        config: Config | None = None,
        device_policy: DevicePolicy | None = None,
        execution_mode: ExecutionMode | None = None,
    ) -> None:
        check_config(config)
        check_policy(device_policy)
        check_mode(execution_mode)
        options = program.options or Options(ExecutionMode.SYNC, DevicePolicy.SILENT, Config())
        self._config = config or options.config
        self._policy = device_policy or options.policy
        self._mode = execution_mode or options.mode
        self._core: Core | None = None
        self._entered: tuple[Token[Scope], Scope] | None = None

    @property
    def state(self) -> str:
        """`not entered yet`, `open` or `closed`."""
        return State.NEW.value if self._core is None else self._core.state.value

    @property
    def devices(self) -> tuple[Device, ...]:
        """The devices that ops can run on."""
        return tuple(self._core.devices if self._core is not None else make_devices(self._config.device_count))

    def statistics(self) -> Statistics:
        """What the executor has done and is doing now."""
        if self._core is None:
            return Statistics(State.NEW.value, 0, 0, 0, 0, 0, 0)
        return self._core.statistics()

    @contextmanager
    def as_default(self) -> Iterator[Self]:
        """Ops inside the block go to this executor, which must be open; leaving the block does not close it.

        For code that does not inherit the context in which the executor was entered: request handlers of a server
        whose lifespan entered it, other threads, other notebook cells.
        """
        core = self._core
        if core is None or core.state is not State.OPEN:
            raise ExecutorClosedError(f"the executor is {self.state}; enter it with `async with` or `with` first")
        with entered(executor=core, mode=self._mode, policy=self._policy, device=None, group=None, graph=None):
            yield self

    def _open(self, loop: AbstractEventLoop | None) -> None:
        if self._core is not None:
            raise ExecutorClosedError(f"an executor is entered once; this one is {self.state}")
        self._core = Core(self._config, loop)
        before = scope_var.get()
        scope = Scope(
            executor=self._core, mode=self._mode, policy=self._policy, consent=before.consent, kernel=before.kernel
        )
        self._entered = scope_var.set(scope), before

    def _leave(self) -> Core:
        assert self._core is not None
        assert self._entered is not None
        leave(*self._entered)
        return self._core

    def __enter__(self) -> Self:
        loop = running_loop()
        if loop is not None and self._mode is ExecutionMode.ASYNC:
            raise BlockingSyncError("leaving this block would block the running event loop: use `async with`")
        self._open(None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        core = self._leave()
        try:
            while error is None and (barriers := core.barriers()):
                for barrier in barriers:
                    block_until(barrier, core.timeout)
        finally:
            core.cancel_pending("its executor was closed")
            core.close()
        if error is None:
            core.raise_failures()

    async def __aenter__(self) -> Self:
        self._open(running_loop())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        core = self._leave()
        loop = core.loop
        try:
            while error is None and (barriers := core.barriers()):
                for barrier in barriers:
                    await Settled(barrier)
        except BaseException:
            core.cancel_pending("its executor was closed")
            core.close()
            report_failures(core, loop)
            raise
        core.cancel_pending("its executor was left by an exception")
        core.close()
        if error is None:
            core.raise_failures()
        report_failures(core, loop)
