"""Running one kernel: in its context, and with its result made safe to keep."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import Context, ContextVar, copy_context
from dataclasses import replace
from functools import partial
from typing import Any
from weakref import getweakrefcount

import numpy as np

from engine.base.errors import OpCancelledError
from engine.base.loops import CancelledError, done_elsewhere, run_apart
from engine.base.modes import ExecutionMode
from engine.base.op import Op
from engine.base.warned import REFUSES, call_at, forget_refusal, is_refusal
from engine.devices.base import Array, Backend, Device
from engine.devices.cpu import HOST, checked
from engine.failures import failed
from engine.fusion.liveness import is_whole
from engine.memory.buffers import unlocked
from engine.memory.references import HELD_BY_CELL, HELD_BY_INPUTS, HELD_BY_RESULT, others
from engine.parallel.lanes import place_for
from engine.queues.reading import MOVE, checked_value, is_elsewhere
from engine.settings.scope import scope_var
from engine.threads.offload import offload
from engine.threads.slots import Slots
from handles.base import Handle
from handles.cell import Cell, Failure, settle

__warningregistry__ = REFUSES  # known ops are called in this module


def execute(cell: Cell, values: Sequence[Any], device: Device, backend: Backend[Any]) -> Any:
    """Run the op of `cell`: its value, a tuple of them, or the `Failure`. Interrupts of this thread pass through."""
    try:
        if not backend.on_host:
            return _through_host(cell, values, device, backend)
        if cell.op.known:
            return _checked(cell.op, _call(cell, values))
        return adopt_results(cell, [_call(cell, values)])
    except Exception as error:  # noqa: BLE001 - any error of a kernel is the op's failure
        return failed(cell, error)


def execute_guarded(cell: Cell, values: Sequence[Any], device: Device, backend: Backend[Any]) -> Any:
    """As `execute`, on a thread of the engine's own: what else is raised there is the op's doing too."""
    try:
        return execute(cell, values, device, backend)
    except CancelledError as error:
        # A reader must not take it for a cancellation of its own task.
        cancelled = OpCancelledError(f"the kernel of {cell.op.name!r} raised CancelledError")
        cancelled.__cause__ = error
        return failed(cell, cancelled)
    except BaseException as error:  # noqa: BLE001
        return failed(cell, error)


def run_coroutine(cell: Cell, values: Sequence[Any], device: Device, backend: Backend[Any]) -> Any:
    """Run an async op to its end on a loop of its own, where there is no loop to run it on."""
    context = (cell.rare and cell.rare.context) or copy_context()
    context.run(enter_kernel, cell)
    try:
        coroutine = context.run(start_coroutine, cell, values, device, backend)
        box = [run_apart(coroutine, context)]
        return adopt_results(cell, box) if backend.on_host else box[0]
    except Exception as error:  # noqa: BLE001
        return failed(cell, error)


def finish(cell: Cell, outcome: Any) -> bool:
    """Settle a record, and its outputs where it has several; False when it was settled before."""
    rare = cell.rare
    if rare is None:
        return settle(cell, outcome)
    # What is let go of goes last: where an interrupt comes before, the record is settled, or even run, another time.
    if rare.outputs:
        failed = isinstance(outcome, Failure)
        for index, output in enumerate(rare.outputs):
            settle(output, outcome if failed else outcome[index])
        rare.outputs = ()
        outcome = outcome if failed else ()
    settled = settle(cell, outcome)
    rare.context = None  # it refers to the cell, as the kernel that it is inside of
    return settled


holding: ContextVar[frozenset[Slots]] = ContextVar("eagerloop_holding", default=frozenset())
"""The limits of the functions whose calls this code is inside of: a call of itself is part of the call."""


def enter_kernel(cell: Cell) -> None:
    """In the context of a kernel: ops run inline there, and waiting for the engine is refused."""
    _hold(cell)
    scope_var.set(replace(scope_var.get(), mode=ExecutionMode.SYNC, kernel=cell, group=None, graph=None))


def is_part_of_call(cell: Cell) -> bool:
    """Tell whether an op was dispatched inside a call of its own function, and so is a part of that call."""
    context = cell.rare.context if cell.rare is not None else None
    return context is not None and cell.op.limit in context.get(holding, ())


def _hold(cell: Cell) -> None:
    if cell.op.limit is not None:
        holding.set(holding.get() | {cell.op.limit})


def enter_async_kernel(cell: Cell) -> None:
    """In the context of an async kernel: ops stay what they are, but it must not wait for itself."""
    _hold(cell)
    scope_var.set(replace(scope_var.get(), kernel=cell, group=None, graph=None))


def kernel_values(values: Sequence[Any]) -> list[Any]:
    """The operands as code that we do not know gets them: arrays that it cannot write to."""
    return [HOST.to_host(value) if value.__class__ is np.ndarray else value for value in values]


def _call(cell: Cell, values: Sequence[Any]) -> Any:
    op, params = cell.op, cell.params or {}
    kernel, again = op.guarded, op.kernel
    if op.memory.overwrite is not None and _is_given_up(cell, values):
        kernel, values = None, [unlocked(values[0]), *values[1:]]
        again = op.memory.overwrite  # what it writes over is gone, so it is called once, at its place
    elif op.memory.into is not None and (place := place_for(op, values, params)) is not None:
        kernel = again = partial(op.memory.into, out=place)
    context: Any = cell.rare.context if cell.rare is not None else None
    if not op.known:
        return context.run(_enter_and_call, cell, op.kernel, kernel_values(values), params)
    if kernel is not None:
        try:
            return kernel(*values, **params) if context is None else context.run(kernel, *values, **params)
        except TypeError as error:
            if not is_refusal(error):
                raise
    return _call_in(context, cell, again, values, params)


def _call_in(context: Context | None, cell: Cell, kernel: Any, values: Sequence[Any], params: dict[str, Any]) -> Any:
    if context is None:
        return call_at(cell.code, cell.lasti, kernel, values, params)
    return context.run(call_at, cell.code, cell.lasti, kernel, values, params)


def value_after(error: Exception, cell: Cell, values: Sequence[Any]) -> Any:
    """The result of a known op of one result, or its failure, after calling `op.guarded` for it raised an error.

    Where the kernel was only to warn, it does so at the place of dispatch.
    """
    if not is_refusal(error):
        return failed(cell, error)
    try:
        value = call_at(cell.code, cell.lasti, cell.op.kernel, values, cell.params or {})
        return value if value.__class__ is np.ndarray else checked(np.asarray(value))
    except Exception as raised:  # noqa: BLE001 - any error of a kernel is the op's failure
        forget_refusal(raised)
        return failed(cell, raised)


def _is_given_up(cell: Cell, values: Sequence[Any]) -> bool:
    """Tell whether nothing but this record refers to its first operand, nor to the memory of it."""
    first = cell.args[0] if cell.args else None
    if first.__class__ is not Cell or others(first, HELD_BY_CELL):
        return False
    value = values[0]
    return (
        value.__class__ is np.ndarray
        and not others(value, HELD_BY_CELL + HELD_BY_INPUTS)
        and is_whole(value)
        and getweakrefcount(first) == 0  # a copy on another device, which its original still finds
    )


def _enter_and_call(cell: Cell, kernel: Any, values: list[Any], params: dict[str, Any]) -> Any:
    enter_kernel(cell)
    return call_at(cell.code, cell.lasti, kernel, values, params)


def _checked(op: Op, result: Any) -> Any:
    """Make arrays of the results of a known op."""
    if op.outputs == 1:
        return result if result.__class__ is np.ndarray else checked(np.asarray(result))
    return tuple(np.asarray(each) for each in result)


def adopt_results(cell: Cell, box: list[Any], known: int = 0) -> Any:
    """Adopt what unknown code returned, which is all that `box` holds: values that only the engine can write to.

    `known` places refer to it besides. The caller has no name for it, and keeps none (see `CpuBackend.adopt`).
    """
    op = cell.op
    if op.outputs == 1:
        return _value_of(box[0]) if isinstance(box[0], Handle) else HOST.adopt(box, known)
    result = box.pop()
    if not isinstance(result, tuple | list) or len(result) != op.outputs:
        got = f"{len(result)} of them" if isinstance(result, tuple | list) else f"{type(result).__name__}"
        raise TypeError(
            f"{op.name!r} was declared with num_outputs={op.outputs} and must return a tuple, but gave {got}"
        )
    # A list that its function keeps gives its arrays away, too.
    held = None if others(result, known) else HELD_BY_RESULT
    boxes = [[each] for each in result]
    return tuple(_value_of(box[0]) if isinstance(box[0], Handle) else HOST.adopt(box, held) for box in boxes)


def _value_of(handle: Handle) -> Any:
    cell = handle._cell
    array = cell.home.host(cell)  # raises what failed
    return cell.value if cell.home.on_host else array


# On behalf of a device that is not the host's


def _through_host(cell: Cell, values: Sequence[Any], device: Device, backend: Backend[Any]) -> Any:
    """Compute, on a worker, what is moved to a device or what its backend does not compute."""
    op = cell.op
    if op is MOVE:
        return op.kernel(*values, **cell.params or {})
    arrays = _on_host(values, backend)
    result = call_elsewhere(cell, op.kernel, arrays, cell.params or {}, cell.extend().context)
    return _on_device(cell, result, device, backend)


def _on_host(values: Sequence[Any], backend: Backend[Any]) -> list[Any]:
    return [HOST.to_host(backend.to_host(value)) if is_elsewhere(value) else value for value in values]


def _on_device(cell: Cell, result: Any, device: Device, backend: Backend[Any]) -> Any:
    """The results of a kernel of the host as values of a device."""
    if cell.op.outputs == 1:
        return checked_value(device, backend.from_host(device, HOST.to_host(result)))
    return tuple(checked_value(device, backend.from_host(device, HOST.to_host(each))) for each in result)


def call_elsewhere(
    cell: Cell, kernel: Any, arrays: Sequence[Any], params: dict[str, Any], context: Context | None
) -> Array | tuple[Array, ...]:
    """Call a kernel on arrays that are no operands of the host: an ndarray, or a tuple of them."""
    if cell.op.known:
        return _checked(cell.op, _call_plainly(cell, kernel, arrays, params, context))  # type: ignore[no-any-return]
    return adopt_results(cell, [_call_plainly(cell, kernel, arrays, params, context)])  # type: ignore[no-any-return]


def _call_plainly(cell: Cell, kernel: Any, arrays: Sequence[Any], params: dict[str, Any], context: Any) -> Any:
    if cell.op.known:
        return _call_in(context, cell, kernel, arrays, params)
    values = [_read_only(each) if isinstance(each, np.ndarray) else each for each in arrays]
    return (context or copy_context()).run(_enter_and_call, cell, kernel, values, params)


def _read_only(array: Array) -> Array:
    view = array.view()
    view.setflags(write=False)
    return view


def start_coroutine(cell: Cell, values: Sequence[Any], device: Device, backend: Backend[Any]) -> Any:
    """The coroutine of an async op; its operands come to the host, and its results go to the device."""
    if backend.on_host:
        return cell.op.kernel(*kernel_values(values), **cell.params or {})
    return _coroutine_through_host(cell, values, device, backend)


async def _coroutine_through_host(cell: Cell, values: Sequence[Any], device: Device, backend: Backend[Any]) -> Any:
    kernel, params = cell.op.kernel, cell.params or {}
    arrays = await done_elsewhere(offload.submit, partial(_on_host, values, backend))
    results = adopt_results(cell, [await kernel(*arrays, **params)])
    return await done_elsewhere(offload.submit, partial(_on_device, cell, results, device, backend))


def wrong_value(cell: Cell, device: Device, value: Any) -> TypeError | None:
    """Say what is wrong with what a backend gave for a record; None where nothing is."""
    outputs = cell.op.outputs
    if outputs != 1 and (not isinstance(value, tuple | list) or len(value) != outputs):
        got = f"{len(value)} of them" if isinstance(value, tuple | list) else type(value).__name__
        return TypeError(f"the backend of {device} must give {outputs} values for {cell.op.name!r}, but gave {got}")
    try:
        for each in (value,) if outputs == 1 else value:
            checked_value(device, each)
    except TypeError as error:
        return error
    return None
