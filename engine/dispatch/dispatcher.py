"""Dispatch: from an op and its operands to a record on a queue (ASYNC) or a result (SYNC), and a handle of it.

Purpose: decide where an op runs, convert its operands, make its record, and hand that to a queue. There is one
dispatcher for each combination of executor, mode, device policy, device and group in force; `runtime.current` finds it.

Invariants: a call makes one record, or raises and makes none. Operands are snapshots, so no later write changes what
the op sees. `dispatch` and `dispatch_any` are fast paths for what nearly every op is, with operands that are handles of
the same queue or Python scalars; on all else they call `dispatch_slowly`, and give the same results as it would.

Any number of threads may call one dispatcher: it has no state of its own that a call changes. A record goes to a queue
by one append, which is atomic; what has to be counted (bytes, groups) is guarded by its counter. No lock is taken here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from sys import _getframe as frame_at
from time import perf_counter
from types import CodeType, FrameType
from typing import Any

import numpy as np

from engine.base.errors import ExecutorClosedError, UnknownShapeError, closed_message
from engine.base.inference import infer_cell
from engine.base.modes import DevicePolicy
from engine.base.op import Op, Params
from engine.base.sites import hide_frames, hide_traceback, render_apart
from engine.base.warned import REFUSES, call_at, forget_refusal, is_refusal
from engine.devices.base import Device
from engine.devices.cpu import checked, snapshot
from engine.dispatch.copies import TRANSFER, copying_op, keep_copy, living_copy
from engine.dispatch.executor import Core, State
from engine.dispatch.placement import Placement, check_copies, describe_copy, place
from engine.dispatch.records import handle_of, handles_of, make_record, new
from engine.failures import INTERNAL, describe_op, site, throw, user_frame
from engine.queues.base import ARRAY, Queue, check_may_block
from engine.queues.device_queue import DeviceQueue
from engine.queues.hooks import hooks
from engine.queues.operands import SCALARS, operand
from engine.queues.waiting import block_until
from engine.settings.scope import DEFAULT_ERRSTATE, errstate, scope_var
from handles.base import Handle
from handles.cell import PENDING, Cell, Failure, Group, pending_cell
from handles.eager import EagerHandle
from handles.pending import AsyncHandle

logger = logging.getLogger("engine.placement")

__warningregistry__ = REFUSES  # the fast path of SYNC mode calls kernels in this module

BYTES_COUNTED = 4096
"""Snapshots from this size on count against `max_pending_bytes`; smaller ones are bounded by the number of ops."""

ABSENT: Any = object()
"""Stands for the second operand of an op that has one only."""

OPEN = State.OPEN


class Dispatcher:
    """Where ops go that are called in one particular set of scopes."""

    def __init__(self, core: Core, policy: DevicePolicy, device: Device | None, group: Group | None) -> None:
        self.core = core
        self.policy = policy
        self.device = device
        self.group = group

        self.plain = False
        """True if an op that needs nothing but its operands may go the fast way."""
        self.tell: Callable[[Cell, Sequence[Any]], None] | None = None
        """Tells listeners of each record; None while there is no listener."""
        hooks.register(self)

    def look_at_hooks(self) -> None:
        """Have listeners told of every record from now on, or nothing told while there is none."""
        self.tell = hooks.dispatched if hooks.listeners else None

    def dispatch(self, op: Op, left: Any, right: Any = ABSENT, params: Params | None = None) -> Handle:
        """Dispatch an op of one operand or two and one result, that user code called through one function."""
        return self.dispatch_any(op, (left,) if right is ABSENT else (left, right), params)

    def dispatch_any(self, op: Op, args: tuple[object, ...], params: Params | None = None) -> Handle:
        """The same for any number of operands."""
        return self.dispatch_slowly(op, args, params, user_frame(2))[0]

    def dispatch_slowly(
        self, op: Op, args: tuple[object, ...], params: Params | None, frame: FrameType
    ) -> tuple[Handle, ...]:
        """Dispatch any op: convert and place its operands, keep its context, tell its group."""
        raise NotImplementedError

    def dispatch_several(self, op: Op, args: tuple[object, ...], params: Params | None = None) -> tuple[Handle, ...]:
        """Dispatch an op of several results."""
        return self.dispatch_slowly(op, args, params, user_frame(2))

    # What both modes share

    def _place(self, op: Op, operands: list[Any], frame: FrameType) -> Device:
        """Decide the device; replace operands that are elsewhere by copies."""
        core = self.core
        inputs = [each.home.device if each.__class__ is Cell else None for each in operands]
        known = [None if where is None else core.resolve(where) for where in inputs]
        requested = None if self.device is None else core.resolve(self.device, known)
        placement = place(known, requested, core.default_device)
        if placement.copies:
            check_copies(op.name, placement, known, self.policy, lambda index: _is_int32(operands[index]))
            for index in placement.copies:
                if self.policy is DevicePolicy.WARN:
                    self._warn(op, placement, known, index, frame)
                operands[index] = self.copy(operands[index], placement.device, frame)
        if Queue.any_elsewhere:
            self._bring_strays(operands, placement.device, frame)
        return placement.device

    def _bring_strays(self, operands: list[Any], device: Device, frame: FrameType) -> None:
        """Copy the values of other executors' devices that have the same name as one of this executor's.

        Such a device is not the same one, so no policy speaks of it.
        """
        backend = self.core.devices[device]
        for index, each in enumerate(operands):
            home: Any = each.home if each.__class__ is Cell else None
            if home is not None and not home.on_host and home.backend is not backend:
                operands[index] = self.copy(each, device, frame)

    def copy(self, cell: Cell, device: Device, frame: FrameType) -> Cell:
        """Bring the cell's value to another device; a copy that still lives is used again."""
        raise NotImplementedError

    def transfer(self, handle: Handle, device: Device, frame: FrameType) -> Handle:
        """Make a handle of the value on another device, under any policy."""
        raise NotImplementedError

    def _warn(self, op: Op, placement: Placement, inputs: list[Device | None], index: int, frame: FrameType) -> None:
        call = (frame.f_code, frame.f_lasti, index)
        if call in warned:
            return
        warned.add(call)
        logger.warning(
            "before computing %r at %s %s. This triggers a copy, which can be a performance bottleneck.",
            op.name,
            site(frame.f_code, frame.f_lasti),
            describe_copy(placement, inputs, index),
        )

    def _log(self, op: Op, device: Device) -> None:
        if self.core.config.log_device_placement:
            logger.info("%s: %s", op.name, device)


warned: set[tuple[CodeType, int, int]] = set()
"""Call sites that a placement warning was given for."""


def _is_int32(operand: Cell) -> bool:
    """True if an input is of dtype int32; of an op that fails there is nothing to copy, and its error comes later."""
    try:
        return infer_cell(operand, tell=False).dtype == np.int32
    except UnknownShapeError:
        return False
    except Exception:  # noqa: BLE001 - the failure of an op is raised where a result is read, not here
        return True


class AsyncDispatcher(Dispatcher):
    """Queues the op and returns a non-ready handle."""

    def __init__(self, core: Core, policy: DevicePolicy, device: Device | None, group: Group | None) -> None:
        super().__init__(core, policy, device, group)
        self.queue = core.queues[core.default_device]
        self.plain = device is None and not core.config.log_device_placement
        self._device = self.queue.device
        self.look_at_hooks()

    def dispatch(self, op: Op, left: Any, right: Any = ABSENT, params: Params | None = None) -> Handle:
        queue = self.queue
        x1, x2 = left, right
        if x1.__class__ is AsyncHandle:
            x1 = x1._cell
            near = x1.home is queue or self._is_here(x1)
        else:
            near = x1.__class__ in SCALARS
            if x1.__class__ is ARRAY and x1.nbytes < BYTES_COUNTED:
                x1, near = snapshot(x1), True
        if x2.__class__ is AsyncHandle:
            x2 = x2._cell
            near = near and (x2.home is queue or self._is_here(x2))
        elif x2.__class__ is ARRAY and x2.nbytes < BYTES_COUNTED:
            x2 = snapshot(x2)
        elif x2 is not ABSENT:
            near = near and x2.__class__ in SCALARS
        if near and self.plain and op.plain and errstate() is DEFAULT_ERRSTATE:
            frame = frame_at(2)
            while INTERNAL in frame.f_globals and frame.f_back is not None:
                frame = frame.f_back
            cell = Cell()  # filled here, because a call of a function costs as much as all of this
            cell.op = op
            cell.args = (x1,) if x2 is ABSENT else (x1, x2)
            cell.params = params
            cell.home = queue
            cell.code = frame.f_code
            cell.lasti = frame.f_lasti
            cell.value = PENDING
            cell.waiters = cell.group = cell.rare = None
            pending = queue.pending
            group = self.group
            if len(pending) >= queue.room:
                self.core.make_room(queue, op.name, admitted=group is not None)
            if group is not None:
                group.admit(cell)
            tell = self.tell
            if tell is not None:
                tell(cell, cell.args)
            pending.append(cell)
            if not queue.scheduled:
                queue.schedule()
            handle = new(AsyncHandle)
            handle._cell = cell
            return handle
        return self.dispatch_any(op, (left,) if right is ABSENT else (left, right), params)

    def dispatch_any(self, op: Op, args: tuple[object, ...], params: Params | None = None) -> Handle:
        frame = user_frame(2)
        operands, queue = self._all_on_one(args)
        if queue is None or not (self.plain and op.plain and errstate() is DEFAULT_ERRSTATE):
            return self.dispatch_slowly(op, args, params, frame)[0]
        cell = self.put(queue, op, operands, params, frame.f_code, frame.f_lasti)
        if not queue.scheduled:
            queue.schedule()
        return handle_of(cell, AsyncHandle)

    def dispatch_cells(self, op: Op, cells: tuple[Cell, ...]) -> AsyncHandle | None:
        """Dispatch an op of cells of one queue for the caller's caller; None where that takes more than a record."""
        queue = self.queue
        if cells[0].home is not queue or not (queue.on_host and self.plain) or errstate() is not DEFAULT_ERRSTATE:
            return None
        frame = frame_at(3)
        while INTERNAL in frame.f_globals and frame.f_back is not None:
            frame = frame.f_back
        cell = Cell()  # as `put` does
        cell.op = op
        cell.args = cells
        cell.home = queue
        cell.code = frame.f_code
        cell.lasti = frame.f_lasti
        cell.value = PENDING
        cell.params = cell.waiters = cell.group = cell.rare = None
        pending = queue.pending
        if len(pending) >= queue.room:
            self.core.make_room(queue, op.name, admitted=self.group is not None)
        if self.group is not None:
            self.group.admit(cell)
        if self.tell is not None:
            self.tell(cell, cells)
        pending.append(cell)
        if not queue.scheduled:
            queue.schedule()
        handle = new(AsyncHandle)
        handle._cell = cell
        return handle

    def put(
        self,
        queue: DeviceQueue,
        op: Op,
        operands: tuple[object, ...],
        params: Params | None,
        code: CodeType | None,
        lasti: int,
    ) -> Cell:
        """Put an op that needs nothing but its operands on a queue: `dispatch` has a copy of this on its fast path."""
        cell = pending_cell(op, operands, params, queue, code, lasti)
        if len(queue.pending) >= queue.room:
            self.core.make_room(queue, op.name, admitted=self.group is not None)
        if self.group is not None:
            self.group.admit(cell)
        if self.tell is not None:
            self.tell(cell, operands)
        queue.push(cell)
        return cell

    def _is_here(self, cell: Cell) -> bool:
        """Tell whether a value of another executor is in this host's memory already, on a device of the same name."""
        home: Any = cell.home
        return home.device is self._device and home.on_host and cell.value.__class__ is ARRAY

    def _all_on_one(self, args: tuple[object, ...]) -> tuple[tuple[Any, ...], DeviceQueue | None]:
        """Take the cells of the operands, and their queue: the same for all handles; None where they are of several."""
        queue: Any = None
        operands = []
        for value in args:
            if value.__class__ is AsyncHandle:
                value = value._cell
                home: Any = value.home
                if queue is None and home.owner is self.core:
                    queue = home
                elif home is not queue:
                    if queue not in (None, self.queue) or not self._is_here(value):
                        return (), None
                    queue = self.queue
            elif value.__class__ is ARRAY and value.nbytes < BYTES_COUNTED:
                value = snapshot(value)
            elif value.__class__ not in SCALARS:
                return (), None
            operands.append(value)
        return tuple(operands), queue or self.queue

    def dispatch_slowly(
        self, op: Op, args: tuple[object, ...], params: Params | None, frame: FrameType
    ) -> tuple[Handle, ...]:
        check_open(self.core, op)
        operands = [operand(value, keep=True) for value in args]
        queue = self.core.queues[self._place(op, operands, frame)]
        context = not op.known or errstate() is not DEFAULT_ERRSTATE
        record = make_record(op, tuple(operands), params, queue, frame.f_code, frame.f_lasti, keeps_context=context)
        handles = handles_of(record, AsyncHandle)
        self._submit(record, queue, [each for each, given in zip(operands, args, strict=True) if each is not given])
        return handles

    def _submit(self, record: Cell, queue: DeviceQueue, made: Sequence[object]) -> None:
        """Put the record on the queue; `made` are the operands that live only for it."""
        op: Op = record.op
        if len(queue.pending) >= queue.room or self.core.flow.pending_bytes >= self.core.config.max_pending_bytes:
            self.core.make_room(queue, op.name, admitted=self.group is not None)
        nbytes = sum(each.nbytes for each in made if isinstance(each, np.ndarray))
        try:
            if nbytes >= BYTES_COUNTED:
                self.core.flow.hold_bytes(record, nbytes)
            if self.group is not None:
                self.group.admit(record)
            self._log(op, queue.device)
            if self.tell is not None:
                self.tell(record, record.args)
            queue.push(record)
        except BaseException:  # an interrupt, a closed group
            self.core.flow.free_bytes(record)
            raise
        if not queue.scheduled:
            queue.schedule()

    def transfer(self, handle: Handle, device: Device, frame: FrameType) -> Handle:
        cell = operand(handle, keep=True)
        return handle_of(self.copy(cell, self.core.resolve(device, (cell.home.device,)), frame), AsyncHandle)

    def copy(self, cell: Cell, device: Device, frame: FrameType) -> Cell:
        queue = self.core.queues[device]
        # A copy made in a group is dropped with it, so no op outside may depend on it.
        copy = living_copy(cell, (queue, self.group), (queue, None))
        if copy is None:
            op, params = copying_op(cell, queue)
            copy = make_record(op, (cell,), params, queue, frame.f_code, frame.f_lasti, keeps_context=not op.known)
            keep_copy(cell, (queue, self.group), copy)
            self._submit(copy, queue, [])
        return copy


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
            near = x1.__class__ is ARRAY and cell.home is queue
        else:
            near = x1.__class__ in SCALARS
        if x2.__class__ is EagerHandle:
            cell = x2._cell
            x2 = cell.value
            near = near and x2.__class__ is ARRAY and cell.home is queue
        elif x2 is not ABSENT:
            near = near and x2.__class__ in SCALARS
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
        values = self._values(args) if self.plain and op.plain and self.core.state is OPEN else None
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

    def _values(self, args: tuple[object, ...]) -> list[object] | None:
        """Take the values of the operands; None where one is not there, is elsewhere, or has to be converted."""
        values: list[object] = []
        for value in args:
            if value.__class__ is EagerHandle:
                cell = value._cell
                value = cell.value
                if value.__class__ is not ARRAY or cell.home is not self.queue:
                    return None
            elif value.__class__ not in SCALARS:
                return None
            values.append(value)
        return values

    def dispatch_slowly(
        self, op: Op, args: tuple[object, ...], params: Params | None, frame: FrameType
    ) -> tuple[Handle, ...]:
        check_open(self.core, op)
        operands = [operand(value, keep=op.memory.view) for value in args]
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


def check_open(core: Core, op: Op) -> None:
    """Raise `ExecutorClosedError` unless the executor takes work."""
    if core.state is not OPEN:
        raise ExecutorClosedError(closed_message(op.name, core.state.value))


def note(op: Op, device: Device, frame: FrameType) -> str:
    """Word the note of an op that failed inline."""
    return describe_op(op.name, device, frame.f_code, frame.f_lasti)
