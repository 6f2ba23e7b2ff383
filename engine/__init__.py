"""eagerloop: asynchronous eager execution for NumPy, native to asyncio."""

import sys as _sys
from typing import TYPE_CHECKING as _TYPE_CHECKING

from engine.base import interpreter as _interpreter

_interpreter.check()  # before anything that counts references is imported

from engine import (
    asgi as asgi,
    devices as devices,
    observe as observe,
    ops as ops,
    random as random,
    testing as testing,
)
from engine.base.config import Config
from engine.base.errors import (
    BlockingSyncError,
    DeviceLostError,
    DevicePlacementError,
    EagerNotEnabledError,
    ExecutorClosedError,
    FeedError,
    OpCancelledError,
    QueueFullError,
    SymbolError,
    UnknownDeviceError,
    UnknownShapeError,
)
from engine.base.hints import raise_missing as _raise_missing
from engine.base.modes import (
    ASYNC,
    DEVICE_PLACEMENT_EXPLICIT,
    DEVICE_PLACEMENT_SILENT,
    DEVICE_PLACEMENT_SILENT_FOR_INT32,
    DEVICE_PLACEMENT_WARN,
    SYNC,
    DevicePolicy,
    ExecutionMode,
)
from engine.base.op import ShapeDtype
from engine.base.version import VERSION as _VERSION
from engine.base.warned import guard_modules as _guard_modules
from engine.custom.batched import batched
from engine.custom.batches import BatchStatistics
from engine.custom.functions import op
from engine.devices.base import Device
from engine.dispatch.executor import Statistics
from engine.failures import INTERNAL as _INTERNAL
from engine.fusion.native.natives import fusion_statistics
from engine.fusion.native.statistics import FusionStatistics
from engine.graph.default_graph import get_default_graph, graphs as _graphs, placeholder, reset_default_graph
from engine.graph.function import FunctionStatistics, function
from engine.graph.graph import Graph
from engine.graph.node import Operation
from engine.graph.session import Session
from engine.memory.buffers import BufferStatistics, buffer_statistics, clear_buffers
from engine.observe import profile
from engine.runtime.executor import Executor
from engine.scopes import scope
from engine.settings.in_force import executing_eagerly, get_config, get_device_policy, get_execution_mode, list_devices
from engine.settings.scope import allow_sync, device, device_policy, execution_mode
from engine.settings.switch import disable_eager_execution, enable_eager_execution, program as _program
from engine.sync import as_completed, cancel_pending, clear_errors, drain, gather, synchronize, wait
from handles import CancelOutcome

__version__ = _VERSION

__all__ = [
    "ASYNC",
    "DEVICE_PLACEMENT_EXPLICIT",
    "DEVICE_PLACEMENT_SILENT",
    "DEVICE_PLACEMENT_SILENT_FOR_INT32",
    "DEVICE_PLACEMENT_WARN",
    "SYNC",
    "BatchStatistics",
    "BlockingSyncError",
    "BufferStatistics",
    "CancelOutcome",
    "Config",
    "Device",
    "DeviceLostError",
    "DevicePlacementError",
    "DevicePolicy",
    "EagerNotEnabledError",
    "ExecutionMode",
    "Executor",
    "ExecutorClosedError",
    "FeedError",
    "FunctionStatistics",
    "FusionStatistics",
    "Graph",
    "OpCancelledError",
    "Operation",
    "QueueFullError",
    "Session",
    "ShapeDtype",
    "Statistics",
    "SymbolError",
    "UnknownDeviceError",
    "UnknownShapeError",
    "allow_sync",
    "as_completed",
    "asgi",
    "batched",
    "buffer_statistics",
    "cancel_pending",
    "clear_buffers",
    "clear_errors",
    "device",
    "device_policy",
    "devices",
    "disable_eager_execution",
    "drain",
    "enable_eager_execution",
    "executing_eagerly",
    "execution_mode",
    "function",
    "fusion_statistics",
    "gather",
    "get_config",
    "get_default_graph",
    "get_device_policy",
    "get_execution_mode",
    "list_devices",
    "observe",
    "op",
    "ops",
    "placeholder",
    "profile",
    "reset_default_graph",
    "scope",
    "synchronize",
    "testing",
    "wait",
]


def __dir__() -> list[str]:
    return sorted([*__all__, "random", "__version__"])


if not _TYPE_CHECKING:  # for a type checker a name that is not there is an error

    def __getattr__(name: str) -> None:
        if name in ops.__all__:
            raise AttributeError(f"module 'engine' has no attribute {name!r}: did you mean engine.ops.{name}?")
        _raise_missing(__name__, name, __dir__())


_program.register(namespace=ops, graphs=_graphs)

for _name, _module in list(_sys.modules.items()):
    if _name.partition(".")[0] in ("engine", "handles"):
        vars(_module)[_INTERNAL] = True
_guard_modules()
