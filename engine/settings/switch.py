"""The program's switch: what `enable_eager_execution` put in force, in every thread, task and notebook cell."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from engine.base.config import Config, check_config
from engine.base.modes import DevicePolicy, ExecutionMode, check_mode, check_policy


@dataclass(frozen=True)
class Options:
    """The arguments of `enable_eager_execution`, with the automatic choices made."""

    mode: ExecutionMode = ExecutionMode.SYNC
    policy: DevicePolicy = DevicePolicy.SILENT
    config: Config = field(default_factory=Config)


class Program:
    """The process-wide state of the engine: the switch, and the parts that the layers above have registered."""

    def __init__(self) -> None:
        self.options: Options | None = None
        self.in_use: Config | None = None
        """The configuration that the first op of the program froze."""
        self.graph_begun: str | None = None
        """Where a graph was first made or run."""
        self.graphs: Any = None
        """The holder of the default graph, which ops go to while eager execution is off."""
        self.namespace: Any = None
        """The array API namespace, for handles' operators."""
        self._when_disabled: list[Callable[[], None]] = []

    def register(self, *, namespace: Any, graphs: Any) -> None:
        """Name the parts that lower layers need of higher ones. The package calls it, once all of it is imported."""
        self.namespace, self.graphs = namespace, graphs

    def when_disabled(self, callback: Callable[[], None]) -> None:
        """Have `callback` called whenever eager execution is taken back."""
        self._when_disabled.append(callback)

    def disable(self) -> None:
        """Take the switch back, where it is on."""
        if self.options is not None:
            self.options = None
            for callback in self._when_disabled:
                callback()


program = Program()

lock = threading.RLock()
"""Guards the switch, and the making of default executors."""
os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)


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

    >>> engine.enable_eager_execution(execution_mode=engine.ASYNC)
    >>> await ops.add(1, 2)
    np.int64(3)
    """
    check_config(config)
    check_policy(device_policy)
    check_mode(execution_mode)
    with lock:
        options = program.options
        if options is not None:
            _check_same(options, config, device_policy, execution_mode)
            return
        if program.graph_begun is not None:
            raise ValueError(
                f"enable_eager_execution must be called at program startup: a graph was begun at "
                f"{program.graph_begun}. Restart the program and enable eager execution before the first op; in a "
                "notebook, where the graph was a slip, call engine.testing.reset() first"
            )
        options = Options(
            execution_mode or ExecutionMode.SYNC, device_policy or DevicePolicy.SILENT, config or Config()
        )
        _check_frozen(options.config)
        program.options = options


def disable_eager_execution() -> None:
    """Take the switch back: ops outside an executor's block make a graph again. Work in flight goes on.

    Eager execution can be enabled again then, with another mode and policy, and with a config of other limits; the
    counts of devices and threads are those of the program's first op.

    >>> engine.disable_eager_execution()
    >>> engine.executing_eagerly()
    False
    """
    with lock:
        program.disable()


def _check_same(
    options: Options, config: Config | None, policy: DevicePolicy | None, mode: ExecutionMode | None
) -> None:
    """Raise `ValueError` for what was asked for and differs from what is in force; of a config, field by field."""
    pairs: list[tuple[str, object, object]] = [
        ("device_policy", options.policy, policy),
        ("execution_mode", options.mode, mode),
    ]
    if config is not None:
        names = [entry.name for entry in fields(config)]
        pairs += [(f"config.{name}", getattr(options.config, name), getattr(config, name)) for name in names]
    conflicts = {
        name: f"{name} is {in_force!r} and cannot be changed to {asked!r}"
        for name, in_force, asked in pairs
        if asked is not None and asked != in_force
    }
    if conflicts:
        ways = dict.fromkeys(_OTHERWISE[name.partition(".")[0]] for name in conflicts)
        frozen = program.in_use is not None and any(f"config.{name}" in conflicts for name in _FROZEN)
        anew = _RESTART if frozen else "to choose anew for all of it, call engine.disable_eager_execution() first"
        raise ValueError(
            "enable_eager_execution was called before, and what it was given is in force: "
            f"{'; '.join(conflicts.values())}. For a part of the program use {' and '.join(ways)}; {anew}"
        )


_OTHERWISE = {
    "device_policy": "`with engine.device_policy(...):`",
    "execution_mode": "`with engine.execution_mode(...):`",
    "config": "`async with engine.Executor(config):`",
}
"""How options are set for a part of the program."""


_FROZEN = ("device_count", "intra_op_parallelism_threads", "inter_op_parallelism_threads")
"""Fields of a configuration that the program's first op freezes."""

_RESTART = (
    "to choose anew for all of it, restart the program and enable eager execution before the first op; in a notebook "
    "or a test, call engine.testing.reset() first"
)


def _check_frozen(config: Config) -> None:
    used = program.in_use
    for name in _FROZEN if used is not None else ():
        if getattr(config, name) != getattr(used, name):
            raise RuntimeError(
                f"Config.{name} cannot be modified after initialization: the program's first op ran with "
                f"{getattr(used, name)!r}, now {getattr(config, name)!r} was asked for. For a part of the program use "
                f"{_OTHERWISE['config']}; {_RESTART}"
            )
