"""The dispatcher, and the executor, that an op called here goes to."""

from __future__ import annotations

from engine.base.errors import MAKE_ANOTHER, EagerNotEnabledError, ExecutorClosedError
from engine.base.loops import running_loop
from engine.base.modes import ExecutionMode
from engine.dispatch.dispatcher import Dispatcher
from engine.dispatch.executor import Core, State
from engine.dispatch.inline import SyncDispatcher
from engine.dispatch.queueing import AsyncDispatcher
from engine.runtime.defaults import defaults
from engine.settings.in_force import mode_in_force
from engine.settings.scope import NOTHING, Scope, scope_var
from engine.settings.switch import Options, program


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


def queueing_core() -> Core | None:
    """The executor whose queues an op called here would go to, where there is one already."""
    scope = scope_var.get()
    if scope.graph is not None or mode_in_force() is not ExecutionMode.ASYNC:
        return None
    if scope.executor is not None or program.options is None:
        return scope.executor  # type: ignore[no-any-return]
    return defaults.known()


def _find_dispatcher(scope: Scope) -> Dispatcher:
    core, mode, policy = scope.executor, scope.mode, scope.policy
    if scope.graph is not None or (core is None and program.options is None):
        graph = scope.graph or program.graphs.default()
        return graph.dispatcher(scope)  # type: ignore[no-any-return]
    if core is None:
        options = _options()
        core = defaults.core(options)
        mode, policy = mode or options.mode, policy or options.policy
    elif core.state is State.CLOSED:
        raise ExecutorClosedError(f"an op was dispatched to an executor that is {core.state.value}: {MAKE_ANOTHER}")
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
            "or run ops inside `async with engine.Executor(): ...` (in plain code: `with engine.Executor(): ...`; "
            "where an executor was entered elsewhere: `with executor.as_default(): ...`)"
        )
    return options
