"""Running one kernel: in its context, with its BLAS threads, and with its result made safe to keep."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from contextvars import copy_context
from dataclasses import replace
from typing import Any

import numpy as np

from engine.ambient import scope_var
from engine.devices.base import Backend, Device
from engine.devices.blas import blas_threads, core_count
from engine.failures import failed
from engine.loops import run_apart
from engine.modes import ExecutionMode
from handles.base import Handle
from handles.cell import Cell, Failure, settle


def execute(cell: Cell, values: Sequence[Any], device: Device, backend: Backend, threads: int) -> Any:
    """Run the op of `cell`: its value, a tuple of them, or the `Failure`. Interrupts of this thread pass through."""
    try:
        return _results(cell, _call(cell, values, device, backend, threads), backend)
    except Exception as error:  # noqa: BLE001 - whatever a kernel raises is the op's failure
        return failed(cell, error)


def execute_guarded(cell: Cell, values: Sequence[Any], device: Device, backend: Backend, threads: int) -> Any:
    """As `execute`, on a thread of the engine's own: what else is raised there is the op's doing too."""
    try:
        return execute(cell, values, device, backend, threads)
    except BaseException as error:  # noqa: BLE001
        return failed(cell, error)


def run_coroutine(cell: Cell, values: Sequence[Any], device: Device, backend: Backend, threads: int) -> Any:
    """Run an async op to its end on a loop of its own, where there is no loop to run it on."""
    op = cell.op
    context = (cell.rare and cell.rare.context) or copy_context()
    context.run(enter_kernel, cell)
    try:
        coroutine = context.run(op.kernel, *kernel_values(values, device, backend), **cell.params or {})
        return adopt_results(cell, run_apart(coroutine, context), backend)
    except Exception as error:  # noqa: BLE001
        return failed(cell, error)


def finish(cell: Cell, outcome: Any) -> bool:
    """Settle a record, and its outputs where it has several; False when it was settled before."""
    rare = cell.rare
    if rare is None or not rare.outputs:
        return settle(cell, outcome)
    outputs, rare.outputs = rare.outputs, ()
    failed = isinstance(outcome, Failure)
    for index, output in enumerate(outputs):
        settle(output, outcome if failed else outcome[index])
    return settle(cell, outcome if failed else ())


def enter_kernel(cell: Cell) -> None:
    """In the context of a kernel: ops run inline there, and waiting for the engine is refused."""
    scope_var.set(replace(scope_var.get(), mode=ExecutionMode.SYNC, kernel=cell, group=None))


def enter_async_kernel(cell: Cell) -> None:
    """In the context of an async kernel: ops stay what they are, but it must not wait for itself."""
    scope_var.set(replace(scope_var.get(), kernel=cell, group=None))


def kernel_values(values: Sequence[Any], device: Device, backend: Backend) -> list[Any]:
    """The operands as code that we do not know gets them: arrays that it cannot write to."""
    if not backend.on_host:
        return list(values)
    return [backend.to_host(value) if value.__class__ is np.ndarray else value for value in values]


def _call(cell: Cell, values: Sequence[Any], device: Device, backend: Backend, threads: int) -> Any:
    op, params = cell.op, cell.params or {}
    kernel = op.kernel
    if not backend.on_host:
        kernel = backend.kernel(op.name, kernel)
        values = [backend.from_host(device, value) if isinstance(value, np.ndarray) else value for value in values]
    limited = (op.blas or not op.known) and threads < core_count()
    context: Any = cell.rare.context if cell.rare is not None else None
    with blas_threads.limited(threads) if limited else nullcontext():
        if op.known:
            return kernel(*values, **params) if context is None else context.run(kernel, *values, **params)
        return context.run(_enter_and_call, cell, kernel, kernel_values(values, device, backend), params)


def _enter_and_call(cell: Cell, kernel: Any, values: list[Any], params: dict[str, Any]) -> Any:
    enter_kernel(cell)
    return kernel(*values, **params)


def _results(cell: Cell, result: Any, backend: Backend) -> Any:
    op = cell.op
    if op.known and op.outputs == 1:
        return result if result.__class__ is np.ndarray or not backend.on_host else np.asarray(result)
    if op.known:
        return tuple(np.asarray(each) if backend.on_host else each for each in result)
    return adopt_results(cell, result, backend)


def adopt_results(cell: Cell, result: Any, backend: Backend) -> Any:
    """What unknown code returned, as values that only the engine can write to."""
    op = cell.op
    if op.outputs == 1:
        if isinstance(result, Handle):
            return _value_of(result)
        return backend.adopt(result, 3)
    if not isinstance(result, tuple | list) or len(result) != op.outputs:
        got = f"{len(result)} of them" if isinstance(result, tuple | list) else f"{type(result).__name__}"
        raise TypeError(
            f"{op.name!r} was declared with num_outputs={op.outputs} and must return a tuple, but gave {got}"
        )
    return tuple(_value_of(each) if isinstance(each, Handle) else backend.adopt(each, 3) for each in result)


def _value_of(handle: Handle) -> Any:
    cell = handle._cell
    cell.home.host(cell)  # raises what failed
    return cell.value
