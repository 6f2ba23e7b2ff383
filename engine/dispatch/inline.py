"""The dispatcher of SYNC mode: runs ops inline and returns concrete handles, or raises."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from types import FrameType
from typing import Any

import numpy as np

from engine.base.modes import DevicePolicy
from engine.base.op import Op, Params
from engine.base.sites import hide_frames, hide_traceback, render_apart
from engine.base.warned import REFUSES, call_at, forget_refusal, is_refusal
from engine.devices.base import Device
from engine.devices.cpu import checked, holds_objects
from engine.dispatch.copies import TRANSFER, copying_op, keep_copy, living_copy
from engine.dispatch.dispatcher import ABSENT, OPEN, Dispatcher, check_open, note
from engine.dispatch.executor import Core
from engine.dispatch.records import handle_of, handles_of, make_record, new
from engine.failures import throw, user_frame
from engine.queues.base import ARRAY, check_may_block
from engine.queues.hooks import hooks
from engine.queues.operands import SCALARS, operand
from engine.queues.waiting import block_until
from engine.settings.scope import scope_var
from handles.base import Handle
from handles.cell import PENDING, Cell, Failure, Group, pending_cell
from handles.eager import EagerHandle

__warningregistry__ = REFUSES  # the fast path calls kernels in this module


class SyncDispatcher(Dispatcher):
    """Runs the op inline and returns a concrete handle, or raises the op's error."""

    def __init__(self, core: Core, policy: DevicePolicy, device: Device | None, group: Group | None) -> None:
        super().__init__(core, policy, device, group)
        self.queue = core.inline[core.default_device]
        config = core.config
        self._simple = (
            device is None
            and not config.log_device_placement
            and len(core.devices) == 1
            and config.intra_op_parallelism_threads == 0
        )
        self.look_at_hooks()

    def look_at_hooks(self) -> None:
        """Leave the fast way while there is a listener: `_run_observed` takes the times."""
        super().look_at_hooks()
        self.plain = self._simple and self.tell is None

    def dispatch(self, op: Op, left: Any, right: Any = ABSENT, params: Params | None = None) -> Handle:
        queue = self.queue
        x1, x2 = left, right
        if x1.__class__ is EagerHandle:
            cell = x1._cell
            x1 = cell.value
            near = x1.__class__ is ARRAY and (cell.home is queue or self.is_here(cell))
        else:
            near = x1.__class__ in SCALARS or (x1.__class__ is ARRAY and self._takes(op, x1))
        if x2.__class__ is EagerHandle:
            cell = x2._cell
            x2 = cell.value
            near = near and x2.__class__ is ARRAY and (cell.home is queue or self.is_here(cell))
        elif x2 is not ABSENT:
            near = near and (x2.__class__ in SCALARS or (x2.__class__ is ARRAY and self._takes(op, x2)))
        if near and self.plain and op.plain and self.core.state is OPEN:
            kernel = op.guarded
            try:
                if params is not None:
                    value = kernel(x1, **params) if x2 is ABSENT else kernel(x1, x2, **params)
                else:
                    value = kernel(x1) if x2 is ABSENT else kernel(x1, x2)
                if value.__class__ is not ARRAY:
                    value = checked(np.asarray(value))
            except Exception as error:  # noqa: BLE001 - `_after` raises it
                value = self._after(error, op, (x1,) if x2 is ABSENT else (x1, x2), params, user_frame(2))
            cell = Cell()
            cell.op = op
            cell.args = ()
            cell.params = cell.code = cell.waiters = cell.group = cell.rare = None
            cell.home = queue
            cell.lasti = 0
            cell.value = value
            handle = new(EagerHandle)
            handle._cell = cell
            return handle
        if (
            near
            and self._simple
            and self.tell is not None
            and op.plain
            and self.group is None
            and self.core.state is OPEN
        ):
            frame = user_frame(2)
            if right is ABSENT:
                return self._run_observed(op, (left,), (x1,), params, frame)
            return self._run_observed(op, (left, right), (x1, x2), params, frame)
        return self.dispatch_slowly(op, (left,) if right is ABSENT else (left, right), params, user_frame(2))[0]

    def dispatch_any(self, op: Op, args: tuple[object, ...], params: Params | None = None) -> Handle:
        values = self._values(op, args) if self.plain and op.plain and self.core.state is OPEN else None
        if values is None:
            return self.dispatch_slowly(op, args, params, user_frame(2))[0]
        cell = pending_cell(op, (), None, self.queue, None, 0)
        cell.value = self._run(op, tuple(values), params)
        return handle_of(cell, EagerHandle)

    def _run(self, op: Op, values: tuple[object, ...], params: Params | None, frame: FrameType | None = None) -> Any:
        try:
            value = op.guarded(*values) if params is None else op.guarded(*values, **params)
            return value if value.__class__ is ARRAY else checked(np.asarray(value))
        except Exception as error:  # noqa: BLE001 - `_after` raises it
            return self._after(error, op, values, params, user_frame(2) if frame is None else frame)

    def _after(
        self, error: Exception, op: Op, values: Sequence[Any], params: dict[str, Any] | None, frame: FrameType
    ) -> Any:
        """The value where the kernel was only to warn: it does so at the place of dispatch. Else raise the error."""
        try:
            if not is_refusal(error):
                raise error
            value = call_at(frame.f_code, frame.f_lasti, op.kernel, values, params or {}, frame.f_globals)
            return value if value.__class__ is ARRAY else checked(np.asarray(value))
        except Exception as raised:
            forget_refusal(raised)
            raised.add_note(note(op, self.queue.device, frame))
            hide_frames()
            hide_traceback(raised.__traceback__)
            render_apart(raised)
            raise
        finally:
            del error  # its traceback has this frame

    def _run_observed(
        self, op: Op, args: tuple[object, ...], values: tuple[object, ...], params: Params | None, frame: FrameType
    ) -> Handle:
        """Run an op that needs nothing but its operands, and tell listeners of it."""
        called = perf_counter()
        cell = pending_cell(op, (), None, self.queue, frame.f_code, frame.f_lasti)
        began = perf_counter()
        try:
            cell.value = self._run(op, values, params, frame)
        except Exception as error:
            cell.value = Failure(error)
            raise
        finally:
            hooks.called(cell, args, cell.value, called, began, perf_counter())
            if hooks.deliver is not None:
                hooks.deliver()
        return handle_of(cell, EagerHandle)

    def _takes(self, op: Op, array: Any) -> bool:
        """Tell whether an op may be given an array of the caller's as it is: nothing of it is left in the result."""
        return self.queue.on_host and not op.memory.view and not holds_objects(array.dtype)

    def _values(self, op: Op, args: tuple[object, ...]) -> list[object] | None:
        """Take the values of the operands; None where one is not there, is elsewhere, or has to be converted."""
        values: list[object] = []
        for value in args:
            if value.__class__ is EagerHandle:
                cell = value._cell
                value = cell.value
                if value.__class__ is not ARRAY or not (cell.home is self.queue or self.is_here(cell)):
                    return None
            elif value.__class__ not in SCALARS and not (value.__class__ is ARRAY and self._takes(op, value)):
                return None
            values.append(value)
        return values

    def dispatch_slowly(
        self, op: Op, args: tuple[object, ...], params: Params | None, frame: FrameType
    ) -> tuple[Handle, ...]:
        check_open(self.core, op)
        keep = op.memory.view or not op.known  # a kernel of unknown code gets them locked
        operands = [operand(value, keep=keep) for value in args]
        queue = self.core.inline[self._place(op, operands, frame)]
        if not queue.on_host:
            operands = [operand(each, keep=True) for each in operands]  # a backend may keep what it gets
        values = [_ready_value(each, op) if each.__class__ is Cell else each for each in operands]
        record = make_record(op, (), params, queue, frame.f_code, frame.f_lasti, keeps_context=not op.known)
        self._log(op, queue.device)
        handles = handles_of(record, EagerHandle)
        queue.run(record, values, operands)
        if record.value.__class__ is Failure:
            throw(record.value, at_call=True)
        return handles

    def transfer(self, handle: Handle, device: Device, frame: FrameType) -> Handle:
        check_open(self.core, TRANSFER)
        cell = operand(handle, keep=True)
        return handle_of(self.copy(cell, self.core.resolve(device, (cell.home.device,)), frame), EagerHandle)

    def copy(self, cell: Cell, device: Device, frame: FrameType) -> Cell:
        queue = self.core.inline[device]
        copy = living_copy(cell, (queue, None))
        if copy is None:
            op, params = copying_op(cell, queue)
            copy = make_record(op, (), params, queue, frame.f_code, frame.f_lasti, keeps_context=not op.known)
            self._log(TRANSFER, device)
            queue.run(copy, [_ready_value(cell, TRANSFER)], [cell])
            if copy.value.__class__ is Failure:
                throw(copy.value, at_call=True)
            keep_copy(cell, (queue, None), copy)
        return copy


def _ready_value(cell: Cell, op: Op) -> Any:
    """Read an operand of a SYNC op; wait for it where it is not ready."""
    if cell.value is PENDING:
        if scope_var.get().kernel is not None:
            check_may_block(cell, f"{op.name}()")
        home: Any = cell.home
        block_until(cell, home.owner.timeout)
    value = cell.value
    if isinstance(value, Failure):
        throw(value)
    return value
