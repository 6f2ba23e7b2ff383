"""Running one kernel: in its context, with its BLAS threads, and with its result made safe to keep."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from sys import getrefcount
from typing import Any
from weakref import getweakrefcount

import numpy as np

from engine.ambient import scope_var
from engine.devices.base import Backend, Device
from engine.devices.blas import blas_threads, core_count
from engine.devices.cpu import checked
from engine.errors import OpCancelledError
from engine.failures import failed
from engine.kernels.buffers import unlocked
from engine.kernels.lanes import place_for
from engine.loops import CancelledError, run_apart
from engine.modes import ExecutionMode
from engine.planning.liveness import is_whole
from engine.references import others
from handles.base import Handle
from handles.cell import Cell, Failure, settle

_HELD = 2
"""References to a kernel's result while it is adopted: from `adopt_results`, and from its caller or the tuple."""


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
    except CancelledError as error:
        # A reader must not take it for a cancellation of its own task.
        cancelled = OpCancelledError(f"the kernel of {cell.op.name!r} raised CancelledError")
        cancelled.__cause__ = error
        return failed(cell, cancelled)
    except BaseException as error:  # noqa: BLE001
        return failed(cell, error)


def run_coroutine(cell: Cell, values: Sequence[Any], device: Device, backend: Backend, threads: int) -> Any:
    """Run an async op to its end on a loop of its own, where there is no loop to run it on."""
    op = cell.op
    context = (cell.rare and cell.rare.context) or copy_context()
    context.run(enter_kernel, cell)
    try:
        coroutine = context.run(op.kernel, *kernel_values(values, device, backend), **cell.params or {})
        result = run_apart(coroutine, context)
        return adopt_results(cell, result, backend)
    except Exception as error:  # noqa: BLE001
        return failed(cell, error)


def finish(cell: Cell, outcome: Any) -> bool:
    """Settle a record, and its outputs where it has several; False when it was settled before."""
    rare = cell.rare
    if rare is None:
        return settle(cell, outcome)
    rare.context = None  # it refers to the cell, as the kernel that it is inside of
    if not rare.outputs:
        return settle(cell, outcome)
    outputs, rare.outputs = rare.outputs, ()
    failed = isinstance(outcome, Failure)
    for index, output in enumerate(outputs):
        settle(output, outcome if failed else outcome[index])
    return settle(cell, outcome if failed else ())


def enter_kernel(cell: Cell) -> None:
    """In the context of a kernel: ops run inline there, and waiting for the engine is refused."""
    scope_var.set(replace(scope_var.get(), mode=ExecutionMode.SYNC, kernel=cell, group=None, graph=None))


def enter_async_kernel(cell: Cell) -> None:
    """In the context of an async kernel: ops stay what they are, but it must not wait for itself."""
    scope_var.set(replace(scope_var.get(), kernel=cell, group=None, graph=None))


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
    elif op.overwrite is not None and _is_given_up(cell, values):
        kernel, values = op.overwrite, [unlocked(values[0]), *values[1:]]
    elif op.into is not None and (place := place_for(op, values, params)) is not None:
        kernel = partial(op.into, out=place)
    limited = (op.blas or not op.known) and threads < core_count()
    context: Any = cell.rare.context if cell.rare is not None else None
    with blas_threads.limited(threads) if limited else nullcontext():
        if op.known:
            return kernel(*values, **params) if context is None else context.run(kernel, *values, **params)
        return context.run(_enter_and_call, cell, kernel, kernel_values(values, device, backend), params)


def _is_given_up(cell: Cell, values: Sequence[Any]) -> bool:
    """Whether nothing but this record refers to its first operand, nor to the memory of it."""
    first = cell.args[0] if cell.args else None
    if first.__class__ is not Cell or others(first, 1):
        return False
    value = values[0]
    return (
        value.__class__ is np.ndarray
        and not others(value, 2)  # the cell and the values
        and is_whole(value)
        and getweakrefcount(first) == 0  # a copy on another device, which its original still finds
    )


def _enter_and_call(cell: Cell, kernel: Any, values: list[Any], params: dict[str, Any]) -> Any:
    enter_kernel(cell)
    return kernel(*values, **params)


def _results(cell: Cell, result: Any, backend: Backend) -> Any:
    op = cell.op
    if op.known and op.outputs == 1:
        return result if result.__class__ is np.ndarray or not backend.on_host else checked(np.asarray(result))
    if op.known:
        return tuple(np.asarray(each) if backend.on_host else each for each in result)
    return adopt_results(cell, result, backend)


def adopt_results(cell: Cell, result: Any, backend: Backend) -> Any:
    """What unknown code returned, which the caller refers to once, as values that only the engine can write to."""
    op = cell.op
    if op.outputs == 1:
        if isinstance(result, Handle):
            return _value_of(result)
        return backend.adopt(result, _HELD)
    if not isinstance(result, tuple | list) or len(result) != op.outputs:
        got = f"{len(result)} of them" if isinstance(result, tuple | list) else f"{type(result).__name__}"
        raise TypeError(
            f"{op.name!r} was declared with num_outputs={op.outputs} and must return a tuple, but gave {got}"
        )
    held = _HELD if getrefcount(result) <= _HELD + 1 else 0  # a list that somebody keeps gives its arrays away, too
    return tuple(_value_of(each) if isinstance(each, Handle) else backend.adopt(each, held) for each in result)


def _value_of(handle: Handle) -> Any:
    cell = handle._cell
    cell.home.host(cell)  # raises what failed
    return cell.value
