"""Dispatch to a graph: an op that is called becomes a node, and its results are symbols."""

from __future__ import annotations

from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.base.modes import DevicePolicy
from engine.base.op import Op, Params
from engine.devices.base import Device
from engine.devices.cpu import lock, snapshot
from engine.dispatch.copies import TRANSFER
from engine.dispatch.dispatcher import Dispatcher
from engine.dispatch.records import handle_of, handles_of
from engine.graph.inference import infer_node
from engine.queues.operands import operand
from handles.base import Handle
from handles.cell import Cell
from handles.symbol import Symbol

if TYPE_CHECKING:
    from engine.graph.graph import Graph


class GraphDispatcher(Dispatcher):
    """Adds the op to a graph and returns its symbols."""

    def __init__(self, graph: Graph, device: Device | None) -> None:
        core: Any = graph  # never the executor of a thread: what is cached for those is not used here
        super().__init__(core, DevicePolicy.SILENT, device, None)
        self.graph = graph

    def dispatch_slowly(
        self, op: Op, args: tuple[object, ...], params: Params | None, frame: FrameType
    ) -> tuple[Handle, ...]:
        operands = [self.operand(each) for each in args]
        record = self.add(op, operands, params, self.device, frame.f_code, frame.f_lasti)
        self.graph.begin(frame)
        return handles_of(record, Symbol)

    def add(
        self,
        op: Op,
        operands: list[object],
        params: Params | None,
        device: Device | None,
        code: CodeType | None,
        lasti: int,
    ) -> Cell:
        """Append a node for operands that the graph may hold. Raises what the op would where they do not fit."""
        return self.graph.add(op, operands, params, device, code, lasti, infer_node(op, operands, params))

    def operand(self, value: object) -> object:
        """Convert an operand to what a node may hold: a cell of its graph, a scalar, or an array that never changes."""
        if isinstance(value, np.ndarray):
            value = snapshot(value)
        elif not isinstance(value, Handle):
            value = operand(value, keep=True)
        if isinstance(value, Handle):
            value = value._cell
        if isinstance(value, Cell):
            return self.graph.adopt(value)
        if value.__class__ is np.ndarray:
            lock(value)
        return value

    def transfer(self, handle: Handle, device: Device, frame: FrameType) -> Handle:
        record = self.add(TRANSFER, [self.operand(handle)], None, device, frame.f_code, frame.f_lasti)
        self.graph.begin(frame)
        return handle_of(record, Symbol)
