"""The executor that users make: eager execution inside a block, also in a program that has not enabled it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from types import TracebackType
from typing import Self

from engine.base.config import Config, check_config
from engine.base.errors import MAKE_ANOTHER, BlockingSyncError, ExecutorClosedError
from engine.base.loops import AbstractEventLoop, Task, current_task, running_loop
from engine.base.modes import DevicePolicy, ExecutionMode, check_mode, check_policy
from engine.devices.base import Device
from engine.devices.registry import make_devices
from engine.dispatch.executor import Core, State, Statistics
from engine.queues.waiting import Settled, block_until
from engine.runtime.defaults import report_failures
from engine.settings.scope import Block, dissolve, entered, forget_dispatchers
from engine.settings.switch import Options, program
from handles.display import table_html


class Executor:
    """An executor of one's own: inside its block ops are eager and go to it, under any settings of the program.

    `async with` on a running event loop, `with` in plain code. Leaving the block waits for its work and raises what
    failed and was not reported, one error as itself, several as an `ExceptionGroup`. Leaving it by an exception cancels
    what has not started. After that it refuses work with `ExecutorClosedError`.

    Options that are None are those of the program where eager execution is enabled, else `Config()`, `SILENT` and
    `SYNC`. Raises what `enable_eager_execution` raises for values that are not options.

    >>> config = engine.Config(max_pending_ops=1_000)
    >>> async with engine.Executor(config, execution_mode=engine.ASYNC) as executor:
    ...     total = ops.sum(ops.ones(1_000))
    >>> await total, executor.state
    (np.float64(1000.0), 'closed')
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
        options = program.options or Options()
        self._config = config or options.config
        self._policy = device_policy or options.policy
        self._mode = execution_mode or options.mode
        self._core: Core | None = None
        self._block: Block | None = None
        self._task: Task[object] | None = None
        """The task that entered the block."""

    @property
    def state(self) -> str:
        """`not entered yet`, `open` or `closed`."""
        return State.NEW.value if self._core is None else self._core.state.value

    @property
    def devices(self) -> tuple[Device, ...]:
        """The devices that ops can run on."""
        return tuple(self._core.devices if self._core is not None else make_devices(self._config))

    def statistics(self) -> Statistics:
        """Count what the executor has done and is doing now."""
        if self._core is None:
            return Statistics(State.NEW.value, 0, 0, 0, 0, 0, 0)
        return self._core.statistics()

    def __repr__(self) -> str:
        counts = self.statistics()
        return f"<Executor {self.state}, {self._mode.name}: {counts.pending} pending, {counts.running} running>"

    def _repr_html_(self) -> str:
        """The HTML that a notebook shows; never waits."""
        numbers = asdict(self.statistics())
        devices = " ".join(map(str, self.devices)) if self._core is not None else dict(self._config.device_count)
        facts: dict[str, object] = {"devices": devices, "mode": self._mode.name, "policy": self._policy.name}
        return table_html("Executor", facts | {name.replace("_", " "): fact for name, fact in numbers.items()})

    @contextmanager
    def as_default(self) -> Iterator[Self]:
        """Ops inside the block go to this executor, which must be open; leaving the block does not close it.

        For code that does not inherit the context in which the executor was entered: request handlers of a server
        whose lifespan entered it, other threads, other notebook cells. Entering it raises `ExecutorClosedError` where
        the executor is not open.
        """
        with entered(**in_force(self)):
            yield self

    def _open(self, loop: AbstractEventLoop | None) -> None:
        if self._core is not None:
            enter_again = "to use it elsewhere, `with executor.as_default():`"
            what_to_do = enter_again if self._core.state is State.OPEN else MAKE_ANOTHER
            raise ExecutorClosedError(f"an executor is entered once, and this one is {self.state}: {what_to_do}")
        self._core = Core(self._config, loop)
        self._task = current_task(loop) if loop is not None else None
        self._block = Block(**in_force(self), session=None)

    def _leave(self) -> tuple[Core, Block]:
        assert self._core is not None
        assert self._block is not None
        self._block.leave()
        return self._core, self._block

    def _is_left_behind(self, error: BaseException | None) -> bool:
        """True if the loop closes an async generator that held the block, while its consumer goes on.

        The consumer's ops came here too, so what is in flight is its work: it is finished, not dropped.
        """
        task = self._task
        return isinstance(error, GeneratorExit) and task is not None and task is not current_task() and not task.done()

    def __enter__(self) -> Self:
        loop = running_loop()
        if loop is not None and self._mode is ExecutionMode.ASYNC:
            raise BlockingSyncError("leaving this block would block the running event loop: use `async with`")
        self._open(None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        core, block = self._leave()
        try:
            while error is None and (barriers := core.barriers()):
                for barrier in barriers:
                    block_until(barrier, core.timeout)
        finally:
            _close(core, block, "its executor was closed")
        if error is None:
            core.raise_failures()

    async def __aenter__(self) -> Self:
        self._open(running_loop())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        core, block = self._leave()
        loop = core.loop
        finishes = error is None or self._is_left_behind(error)
        try:
            while finishes and (barriers := core.barriers()):
                for barrier in barriers:
                    await Settled(barrier)
        except BaseException:
            _close(core, block, "its executor was closed")
            report_failures(core, loop)
            raise
        _close(core, block, "its executor was left by an exception")
        if error is None:
            core.raise_failures()
        report_failures(core, loop)


def in_force(executor: Executor) -> dict[str, object]:
    """The settings in force where ops go to this executor, which must be open."""
    core = executor._core
    if core is None or core.state is not State.OPEN:
        what_to_do = "enter it with `async with` or `with` first" if core is None else MAKE_ANOTHER
        raise ExecutorClosedError(f"the executor is {executor.state}: {what_to_do}")
    return options_of(core, executor._mode, executor._policy)


def options_given(executor: Executor) -> Options:
    """The options that an executor was made with."""
    return Options(executor._mode, executor._policy, executor._config)


def options_of(core: Core, mode: ExecutionMode, policy: DevicePolicy) -> dict[str, object]:
    """The settings in force where ops go to this core; the caller may change them."""
    return {
        "executor": core,
        "mode": mode,
        "policy": policy,
        "device": None,
        "group": None,
        "graph": None,
        "priority": 0,
    }


def _close(core: Core, block: Block, why: str) -> None:
    """Close an executor whose block has been left. Where it is still in force, ops go to the executor around it.

    Where there is none around, they are refused, as they would make a graph.
    """
    core.cancel_pending(why)
    core.close()
    scope = block.scope
    around = scope.outer
    if around is not None and (around.executor is not None or program.options is not None):
        dissolve(scope)
    else:
        forget_dispatchers(scope)
