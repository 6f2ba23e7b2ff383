"""Graphs: ops called in graph mode become nodes, in the order of the calls, and what they return are symbols."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from itertools import count
from types import CodeType, FrameType
from typing import Any, Self

import numpy as np

from engine.base.errors import MAKE_ANOTHER, SymbolError
from engine.base.op import Op, Params, ShapeDtype
from engine.devices.base import Device
from engine.devices.cpu import holds_objects
from engine.dispatch.executor import Core, State
from engine.dispatch.records import cells_of, handle_of, make_record
from engine.failures import Ledger, site
from engine.graph.dispatch import GraphDispatcher
from engine.graph.drawing import nodes_of, to_dot, to_svg
from engine.graph.node import Node, Operation, home_of, is_node, slot_of
from engine.graph.steps import PLACEHOLDER, Step
from engine.queues.base import Queue
from engine.runtime.defaults import defaults
from engine.settings.scope import Scope, entered, scope_var
from engine.settings.switch import program
from handles.cell import Cell
from handles.symbol import Symbol

DEFAULT_DEVICE = Device("CPU:0")


class Graph:
    """A program written down: nodes, each an op with its operands. Sessions run it.

    Making one, and asking for one, makes no graph in the sense of `enable_eager_execution`; adding an op does.

    >>> graph = engine.Graph()
    >>> with graph.as_default():
    ...     x = engine.placeholder("float64", (2,), name="x")
    ...     y = x * 2
    >>> [operation.name for operation in graph.operations]
    ['x', 'multiply']
    """

    def __init__(self) -> None:
        self.initial: list[Any] = []
        """The slots before a run: constants, and None where results go."""
        self.records: list[Cell | None] = []
        """For each slot the node whose first result it holds, if it is one."""
        self._names: dict[str, count[int]] = {}
        self._taken: set[str] = set()
        self._homes: dict[Device, Node] = {}
        self._lock = threading.Lock()
        self._dispatcher = GraphDispatcher(self, None)

    # What users see

    @contextmanager
    def as_default(self) -> Iterator[Self]:
        """Inside the block ops are added to this graph, also where eager execution is on; blocks nest, per task."""
        with entered(graph=self):
            yield self

    @property
    def operations(self) -> tuple[Operation, ...]:
        """All operations, in the order in which they were made."""
        return tuple(Operation(record) for record in self.records if record is not None)

    def to_dot(self) -> str:
        """The graph in the language of Graphviz, a colour for each device."""
        return to_dot(nodes_of(self.records))

    def _repr_svg_(self) -> str:
        """The picture that a notebook shows; it needs no other package. Of a large graph it has the first nodes."""
        return to_svg(nodes_of(self.records))

    def _repr_html_(self) -> str:
        return f"<div><b>{escape(repr(self))}</b></div>{self._repr_svg_()}"

    def __repr__(self) -> str:
        return f"<{self.description} with {len(self.operations)} operations>"

    @property
    def description(self) -> str:
        """The graph in the words of an error."""
        return "default graph" if program.graphs.default() is self else "graph"

    # How nodes are made

    def dispatcher(self, scope: Scope) -> GraphDispatcher:
        """The dispatcher of ops that are called in this scope."""
        if scope.device is None:
            return self._dispatcher
        known = scope.dispatcher
        if isinstance(known, GraphDispatcher) and known.graph is self:
            return known
        scope.dispatcher = made = GraphDispatcher(self, scope.device)
        return made

    def begin(self, frame: FrameType) -> None:
        """Remember where a graph was first made in this process."""
        if program.graph_begun is None:
            program.graph_begun = site(frame.f_code, frame.f_lasti)

    def placeholder(self, dtype: object, shape: object, name: str | None, frame: FrameType) -> Symbol:
        """A node whose value each run is fed."""
        if name is not None and not isinstance(name, str):
            raise TypeError(f"placeholder: name must be a str or None, but got {name!r}")
        its = ShapeDtype(placeholder_shape(shape), np.dtype(dtype))  # type: ignore[arg-type, call-overload]
        if holds_objects(its.dtype):
            raise TypeError("placeholder: arrays of Python objects are not supported")
        self.begin(frame)
        record = self.add(PLACEHOLDER, [], None, scope_var.get().device, frame.f_code, frame.f_lasti, (its,), name)
        return handle_of(record, Symbol)

    def add(
        self,
        op: Op,
        operands: list[object],
        params: Params | None,
        device: Device | None,
        code: CodeType | None,
        lasti: int,
        inferred: tuple[ShapeDtype, ...],
        name: str | None = None,
    ) -> Cell:
        """Append a node; its operands are cells, arrays that only the engine can write to, and scalars."""
        home = self._home(device or _device_of(operands))
        record = make_record(op, tuple(operands), params, home, code, lasti)
        with self._lock:
            inputs = tuple([self._slot(each) for each in operands])
            slot = len(self.initial)
            self.initial.extend([None] * op.outputs)
            self.records.extend([record] + [None] * (op.outputs - 1))
            step = Step(op, inputs, params, slot, code, lasti, device, self._unique(name or op.name))
        record.extend().node = step
        for output, its in zip(cells_of(record), inferred, strict=True):
            output.extend().inferred = its
        return record

    def _slot(self, value: object) -> int:
        if is_node(value) and home_of(value).graph is self:
            return slot_of(value)
        self.initial.append(value)
        self.records.append(None)
        return len(self.initial) - 1

    def _unique(self, name: str) -> str:
        numbers = self._names.setdefault(name, count(1))
        candidate = name
        while candidate in self._taken:
            candidate = f"{name}_{next(numbers)}"
        self._taken.add(candidate)
        return candidate

    def _home(self, device: Device) -> Node:
        home = self._homes.get(device)
        if home is None:
            home = self._homes.setdefault(device, Node(self, device))
        return home

    def adopt(self, cell: Cell) -> Cell:
        """Take an operand that is a cell. Raises `SymbolError` for one that is not this graph's own."""
        home = cell.home
        if not isinstance(home, Node):
            return self.capture(cell)
        if home.graph is not self:
            raise SymbolError(
                f"{home.subject(cell)} belongs to another graph than the one that ops are added to here: call the op "
                "inside `with symbol.graph.as_default():`, or run the other graph first and feed its result"
            )
        return cell

    def capture(self, cell: Cell) -> Cell:
        """Take a result from outside all graphs. Raises `SymbolError`: only a function may hold one."""
        handle = f"the handle of op {cell.op.name!r}, dispatched at {site(cell.code, cell.lasti)},"
        in_a_graph = (
            "feed it through a placeholder, pass its array (`await handle`, or `handle.numpy()` in SYNC mode), or use "
            "engine.function, which captures handles as constants"
        )
        if scope_var.get().graph is not None:
            raise SymbolError(f"{handle} is used in a graph, but it is a result of eager execution: {in_a_graph}")
        raise SymbolError(
            f"{handle} is a result of eager execution, which is not in force here: {_way_back(cell)}. Here ops build "
            f"a graph; to use the handle in that, {in_a_graph}"
        )

    def refusal(self, subject: str, what: str) -> str:
        """Say that a symbol has no value, and what to do; `what` is what needs one."""
        mode = "execution_mode=engine.ASYNC" if what == "await" else ""
        return (
            f"{what} needs a value, but {subject} has none: it stands for what a session will compute. "
            "Use session.run(symbol) or symbol.eval(), choose between values with ops.where, "
            f"or call engine.enable_eager_execution({mode}) at program startup to compute at once (in a notebook where "
            "the graph was a slip, engine.testing.reset() first)"
        )

    # As the owner of homes

    timeout: float | None = None

    ledger = Ledger()

    def restorer(self) -> Callable[..., object]:
        raise AssertionError("a symbol has no value to restore")


def _way_back(cell: Cell) -> str:
    """How to call an op of an eager result where neither its executor nor eager execution is current."""
    core = cell.home.owner if isinstance(cell.home, Queue) else None
    if not isinstance(core, Core) or core in defaults.cores:
        return "call engine.enable_eager_execution() at program startup"
    if core.state is State.OPEN:
        return "call the op inside `with executor.as_default():`, of the executor that the handle comes from"
    return f"the executor that it comes from is {core.state.value}, so {MAKE_ANOTHER}"


def _device_of(operands: list[object]) -> Device:
    """The device of a node that no scope has placed: its first input's."""
    device: Device = next((each.home.device for each in operands if isinstance(each, Cell)), DEFAULT_DEVICE)
    return device


def placeholder_shape(shape: object) -> tuple[int | None, ...] | None:
    """A shape as a placeholder has it: None where the rank may be any, in it None where a length may be any."""
    if shape is None:
        return None
    lengths: tuple[object, ...] = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)  # type: ignore[arg-type]
    checked: list[int | None] = []
    for length in lengths:
        if length is None:
            checked.append(None)
        elif isinstance(length, bool) or not isinstance(length, int | np.integer) or length < 0:
            raise ValueError(f"placeholder: shape must have lengths, 0 or more, or None, but got {shape!r}")
        else:
            checked.append(int(length))
    return tuple(checked)
