"""Invoking a plan in one of four ways: as one op, step by step, on the queues as in ASYNC mode, or into a graph."""

from __future__ import annotations

from collections.abc import Sequence
from types import FrameType
from typing import Any

import numpy as np

from engine.base.op import Op
from engine.devices.cpu import lock
from engine.dispatch.dispatcher import Dispatcher
from engine.dispatch.inline import SyncDispatcher
from engine.dispatch.queueing import AsyncDispatcher
from engine.dispatch.records import cells_of, handle_of, make_value
from engine.failures import throw
from engine.graph.dispatch import GraphDispatcher
from engine.graph.node import is_node
from engine.graph.optimize import Plan
from engine.graph.replay import Ready, Replay
from engine.graph.run import GraphRun
from engine.queues.device_queue import DeviceQueue
from engine.queues.operands import operand
from engine.queues.waiting import block_until
from engine.settings.scope import scope_var
from engine.settings.switch import program
from handles.base import Handle
from handles.cell import Failure
from handles.eager import EagerHandle
from handles.pending import AsyncHandle
from handles.symbol import Symbol


def invoke(replay: Replay, arrays: list[Any], dispatcher: Dispatcher, *, apart: bool) -> Sequence[Handle]:
    """Compute the outputs of a plan on the executor in force; `apart` says that arguments may be on several devices."""
    on_host = replay.follows_inputs and _is_on_host(replay, arrays, dispatcher)
    are_apart = apart and _are_apart(arrays, dispatcher)
    if not on_host or are_apart:
        if not are_apart and _is_taken_whole(replay, arrays, dispatcher) and replay.traced is not None:
            return _dispatch_whole(replay, replay.traced, arrays, dispatcher)
        return run_steps(replay.unmerged, arrays, dispatcher)
    whole = replay.quick(arrays)
    if whole is None:
        if isinstance(dispatcher, SyncDispatcher) and replay.is_large and may_use_queues(dispatcher):
            return run_on_queues(replay.merged, arrays, dispatcher)
        whole = replay.whole
        if whole is None or not (replay.is_small or isinstance(dispatcher, SyncDispatcher)):
            return run_steps(replay.merged, arrays, dispatcher)
    return _dispatch_whole(replay, whole, arrays, dispatcher)


def _dispatch_whole(replay: Replay, whole: Op, arrays: list[Any], dispatcher: Dispatcher) -> Sequence[Handle]:
    operands = (*arrays, *[replay.plan.initial[slot] for slot in replay.captured])
    if whole.outputs == 1:
        return (dispatcher.dispatch_any(whole, operands),)
    return dispatcher.dispatch_several(whole, operands)


def _is_taken_whole(replay: Replay, arrays: list[Any], dispatcher: Dispatcher) -> bool:
    """True if the device that a call goes to takes it as one record."""
    core = dispatcher.core
    device = dispatcher.device
    if device is None:
        cells = [each._cell for each in arrays if isinstance(each, Handle)]
        cells += [replay.plan.initial[slot] for slot in replay.captured]
        device = cells[0].home.device if cells else core.default_device
    backend = core.devices.serving(device)
    return backend is not None and replay.is_taken_by(backend)


def _is_on_host(replay: Replay, arrays: list[Any], dispatcher: Dispatcher) -> bool:
    """True if the host runs the steps, so that several may be made one: no other device has a part in it."""
    core = dispatcher.core
    if core.devices.on_host:
        return True
    if dispatcher.device is not None:
        backend = core.devices.serving(dispatcher.device)
        return backend is None or backend.on_host  # a missing device is CPU:0
    cells = [each._cell for each in arrays if isinstance(each, Handle)]
    cells += [replay.plan.initial[slot] for slot in replay.captured]
    return all(cell.home.on_host for cell in cells)


def _are_apart(arrays: list[Any], dispatcher: Dispatcher) -> bool:
    """True if the arguments are on several devices, and ops go to their first input's."""
    if dispatcher.device is not None:
        return False
    return len({each._cell.home.device for each in arrays if isinstance(each, Handle)}) > 1


def run_steps(ready: Ready, arrays: list[Any], dispatcher: Dispatcher) -> list[Handle]:
    """Dispatch steps one by one."""
    slots = ready.initial.copy()
    for index, array in enumerate(arrays):
        value = operand(array, keep=True)
        if value.__class__ is np.ndarray:
            lock(value)
        slots[index] = value
    run = GraphRun(dispatcher, ready.schedule, slots)
    try:
        run.push_all()
    except BaseException:
        run.cancel("a later op of its function could not be dispatched")
        raise
    cls = AsyncHandle if isinstance(dispatcher, AsyncDispatcher) else EagerHandle
    computed = range(len(arrays), len(slots))
    return [
        handle_of(slots[slot], cls)
        if slot in computed and ready.initial[slot] is None
        else program.namespace.asarray(arrays[slot] if slot not in computed else ready.initial[slot])
        for slot in ready.outputs
    ]


def may_use_queues(dispatcher: Dispatcher) -> bool:
    """True if a SYNC replay may go through the queues: not in a kernel, nor behind what may wait for this thread."""
    return scope_var.get().kernel is None and dispatcher.core.in_flight() == 0


def run_on_queues(ready: Ready, arrays: list[Any], dispatcher: Dispatcher) -> list[Handle]:
    """Run steps as in ASYNC mode, which fuses chains of large ops, and wait for their results."""
    core = dispatcher.core
    queued = run_steps(ready, arrays, AsyncDispatcher(core, dispatcher.policy, dispatcher.device, dispatcher.group))
    results: list[Handle] = []
    for handle in queued:
        cell = handle._cell
        block_until(cell, core.timeout)
        if isinstance(cell.value, Failure):
            throw(cell.value)
        if isinstance(handle, AsyncHandle) and isinstance(cell.home, DeviceQueue):
            done = make_value(cell.op, cell.value, core.inline[cell.home.device], cell.code, cell.lasti)
            handle = handle_of(done, EagerHandle)
        results.append(handle)
    return results


def inline(plan: Plan, arrays: list[Any], dispatcher: GraphDispatcher, frame: FrameType) -> list[Handle]:
    """Add the steps of a plan to the current graph; returns its outputs there."""
    graph = dispatcher.graph
    slots = plan.initial.copy()
    for value in slots:
        if is_node(value):
            graph.adopt(value)
    slots[: len(arrays)] = map(dispatcher.operand, arrays)
    graph.begin(frame)
    for step in plan.steps:
        operands = list(step.getter(slots))
        record = dispatcher.add(step.op, operands, step.params, step.device or dispatcher.device, step.code, step.lasti)
        slots[step.slot : step.slot + step.op.outputs] = cells_of(record)
    return [
        handle_of(slots[slot], Symbol)
        if is_node(slots[slot])
        else program.namespace.asarray(arrays[slot] if slot < len(arrays) else slots[slot])
        for slot in plan.outputs
    ]
