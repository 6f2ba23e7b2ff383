"""Settings in force here: those of the innermost scope that has them, else those of the program's switch."""

from __future__ import annotations

from engine.base.config import Config
from engine.base.modes import DevicePolicy, ExecutionMode
from engine.devices.base import Device
from engine.devices.registry import make_devices
from engine.settings.scope import scope_var
from engine.settings.switch import program


def executing_eagerly() -> bool:
    """True if an op called here runs eagerly. Asking makes no graph.

    >>> engine.executing_eagerly()
    True
    """
    scope = scope_var.get()
    return scope.graph is None and (program.options is not None or scope.executor is not None)


def get_execution_mode() -> ExecutionMode | None:
    """The execution mode in force here; None where eager execution is off.

    >>> engine.get_execution_mode()
    <ExecutionMode.ASYNC: 1>
    """
    return mode_in_force() if executing_eagerly() else None


def get_device_policy() -> DevicePolicy | None:
    """The device policy in force here; None where eager execution is off.

    >>> engine.get_device_policy()
    <DevicePolicy.SILENT: 2>
    """
    scope = scope_var.get()
    if not executing_eagerly():
        return None
    if scope.policy is not None:
        return scope.policy
    return None if program.options is None else program.options.policy


def get_config() -> Config | None:
    """The configuration in force here; None where eager execution is off.

    >>> engine.get_config().max_pending_ops
    32768
    """
    scope = scope_var.get()
    if scope.executor is not None:
        return scope.executor.config  # type: ignore[no-any-return]
    return None if program.options is None else program.options.config


def list_devices() -> tuple[Device, ...]:
    """The devices of the executor in force here. Asking makes no graph and starts nothing.

    Devices on other machines show their addresses, once the first op there has connected to them.

    >>> engine.list_devices()
    (Device('CPU:0'),)
    """
    scope = scope_var.get()
    if scope.executor is not None:
        return tuple(scope.executor.devices)
    config = program.options.config if program.options is not None else Config()
    return tuple(make_devices(config))


def mode_in_force() -> ExecutionMode | None:
    """The mode of an op dispatched here; None where ops are refused."""
    scope = scope_var.get()
    if scope.mode is not None:
        return scope.mode
    options = program.options
    return None if options is None else options.mode


def may_block() -> bool:
    """True if blocking the running loop of this thread is allowed here."""
    return scope_var.get().consent or mode_in_force() is ExecutionMode.SYNC
