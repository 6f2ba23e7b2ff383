"""Graphs: ops called in graph mode become nodes, and what they return are symbols.

A node is a cell that is never settled; its home is the graph. So a symbol is a handle like any other, with all
operators and methods, and whatever needs a value ends in an error that names the symbol.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from types import FrameType
from typing import Any, NoReturn, Self

import numpy as np

from engine.base.errors import MAKE_ANOTHER, SymbolError
from engine.base.modes import DevicePolicy
from engine.base.op import Op, ShapeDtype
from engine.devices.base import Device
from engine.devices.cpu import CpuBackend, lock, snapshot
from engine.dispatch.dispatcher import TRANSFER, Dispatcher, handle_of
from engine.dispatch.executor import Core, State
from engine.failures import Ledger, site, user_frame
from engine.graph.drawing import nodes_of, to_dot, to_svg
from engine.graph.inference import infer_node
from engine.graph.steps import Step
from engine.queues.base import Queue
from engine.queues.operands import operand
from engine.queues.records import record_of
from engine.runtime.current import current
from engine.runtime.defaults import defaults
from engine.settings.scope import Scope, entered, scope_var
from engine.settings.switch import program
from handles.base import Handle
from handles.cell import CancelOutcome, Cell, pending_cell
from handles.symbol import Symbol

Array = np.ndarray[Any, Any]

_BACKEND = CpuBackend()
DEFAULT_DEVICE = Device("CPU:0")


def _unfed() -> NoReturn:
    raise AssertionError("a placeholder is fed, not run")


PLACEHOLDER = Op("placeholder", _unfed)


class Operation:
    """A node of a graph: an op, where its operands come from, and the symbols of its results."""

    __slots__ = ("_record",)

    def __init__(self, record: Cell) -> None:
        self._record = record

    @property
    def name(self) -> str:
        """The name of the operation, unique in its graph."""
        return str(step_of(self._record).name)

    @property
    def type(self) -> str:
        """The name of the op."""
        return str(self._record.op.name)

    @property
    def graph(self) -> Graph:
        """The graph that the operation belongs to."""
        home = self._record.home
        assert isinstance(home, Node)
        return home.graph

    @property
    def device(self) -> Device | None:
        """The device that a scope asked for; None where the operation follows its inputs."""
        return step_of(self._record).device

    @property
    def place(self) -> str:
        """Where the operation was made, `file:line` in user code."""
        return site(self._record.code, self._record.lasti)

    @property
    def inputs(self) -> tuple[Symbol, ...]:
        """The symbols among the operands."""
        return tuple(_symbol(each) for each in self._record.args if _is_node(each))

    @property
    def outputs(self) -> tuple[Symbol, ...]:
        """The symbols of the results."""
        return tuple(map(_symbol, output_cells(self._record)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Operation) and other._record is self._record

    def __hash__(self) -> int:
        return hash(self._record)

    def __repr__(self) -> str:
        return f"<Operation {self.name!r} op={self.type} made at {self.place}>"


class Graph:
    """A program written down: nodes, each an op with its operands. Sessions run it.

    Making one, and asking for one, makes no graph in the sense of `enable_eager_execution`; adding an op does.
    """

    def __init__(self) -> None:
        self.initial: list[Any] = []
        """What the slots hold before a run: constants, and None where results go."""
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

    def __repr__(self) -> str:
        return f"<{self.description} with {len(self.operations)} operations>"

    @property
    def description(self) -> str:
        """What the graph is, for error texts."""
        return "default graph" if self is graphs.graph else "graph"

    # How nodes are made

    def dispatcher(self, scope: Scope) -> GraphDispatcher:
        """Where ops go that are called in this scope."""
        if scope.device is None:
            return self._dispatcher
        known = scope.dispatcher
        if isinstance(known, GraphDispatcher) and known.graph is self:
            return known
        scope.dispatcher = GraphDispatcher(self, scope.device)
        return scope.dispatcher  # type: ignore[no-any-return]

    def begin(self, frame: FrameType) -> None:
        """Remember where a graph was first made in this process."""
        if program.graph_begun is None:
            program.graph_begun = site(frame.f_code, frame.f_lasti)

    def placeholder(self, dtype: Any, shape: Any, name: str | None, frame: FrameType) -> Symbol:
        """A node whose value each run is fed."""
        its = ShapeDtype(placeholder_shape(shape), np.dtype(dtype))  # type: ignore[arg-type]
        if its.dtype.hasobject:
            raise TypeError("placeholder: arrays of Python objects are not supported")
        self.begin(frame)
        record = self.add(PLACEHOLDER, [], None, scope_var.get().device, frame.f_code, frame.f_lasti, (its,), name)
        return _symbol(record)

    def add(
        self,
        op: Op,
        operands: list[Any],
        params: dict[str, Any] | None,
        device: Device | None,
        code: Any,
        lasti: int,
        inferred: tuple[ShapeDtype, ...],
        name: str | None = None,
    ) -> Cell:
        """Append a node; its operands are cells, arrays that nobody writes to, and scalars."""
        home = self._home(device or _device_of(operands))
        record = pending_cell(op, tuple(operands), params, home, code, lasti)
        with self._lock:
            inputs = tuple([self._slot(each) for each in operands])
            slot = len(self.initial)
            self.initial.extend([None] * op.outputs)
            self.records.extend([record] + [None] * (op.outputs - 1))
            step = Step(op, inputs, params, slot, code, lasti, device, self._unique(name or op.name))
        rare = record.extend()
        rare.node = step
        if op.outputs == 1:
            rare.inferred = inferred[0]
            return record
        outputs = []
        for its in inferred:
            output = pending_cell(op, (record,), None, home, code, lasti)
            rare_output = output.extend()
            rare_output.record, rare_output.inferred = record, its
            outputs.append(output)
        rare.outputs = tuple(outputs)
        return record

    def _slot(self, value: Any) -> int:
        if _is_node(value) and value.home.graph is self:
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
        """An operand that is a cell, as this graph may hold it. Raises `SymbolError` for one that is not its own."""
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
        """A result from outside all graphs. Raises `SymbolError`: only a function may hold one."""
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
        """Why a value that there is not cannot be had, and what to do."""
        return (
            f"{what} needs a value, but {subject} has none: it stands for what a session will compute. "
            "Use session.run(symbol) or symbol.eval(), choose between values with ops.where, "
            "or call engine.enable_eager_execution() at program startup to compute at once (in a notebook where the "
            "graph was a slip, engine.testing.reset() first)"
        )

    # What homes need of an owner

    timeout: float | None = None

    ledger = Ledger()

    def restorer(self) -> Callable[..., Any]:
        raise AssertionError("a symbol has no value to restore")


class Node(Queue):
    """The home of the nodes of one graph that will run on one device: it has no values, and says so."""

    def __init__(self, graph: Graph, device: Device) -> None:
        super().__init__(graph, device, _BACKEND)
        self.graph = graph

    def subject(self, cell: Cell) -> str:
        """A symbol in the words of an error."""
        return f"symbol {self.name_of(cell)!r} (made at {self.place_of(cell)})"

    def name_of(self, cell: Cell) -> str:
        record = record_of(cell)
        name = str(step_of(record).name)
        if record is cell:
            return name
        return f"{name}:{record.extend().outputs.index(cell)}"

    def place_of(self, cell: Cell) -> str:
        return site(cell.code, cell.lasti)

    def operation_of(self, cell: Cell) -> Operation:
        return Operation(record_of(cell))

    def evaluate(self, symbol: Symbol, session: Any, feed_dict: Mapping[Any, Any] | None) -> Any:
        session = session if session is not None else scope_var.get().session
        if session is None:
            raise SymbolError(
                f"eval() of {self.subject(symbol._cell)} needs a session: call it inside "
                "`with engine.Session() as session:`, or pass session=..."
            )
        return session.run(symbol, feed_dict)

    def _refuse(self, cell: Cell, what: str) -> NoReturn:
        raise SymbolError(self.graph.refusal(self.subject(cell), what))

    def wait(self, cell: Cell) -> Generator[Any, None, None]:
        self._refuse(cell, "await")

    def poll(self, cell: Cell) -> bool:
        self._refuse(cell, "await")

    def block(self, cell: Cell, timeout: float | None, what: str) -> None:
        self._refuse(cell, what)

    def host(self, cell: Cell) -> Array:
        self._refuse(cell, "reading it")

    def reduce(self, cell: Cell) -> tuple[Any, ...]:
        self._refuse(cell, "pickling")

    def cancel(self, cell: Cell) -> CancelOutcome:
        self._refuse(cell, "cancel()")

    def keep_going(self, cell: Cell) -> None:
        """Nothing is on its way."""

    def infer(self, cell: Cell, *, tell: bool = True) -> ShapeDtype:
        return cell.extend().inferred  # type: ignore[no-any-return]


class GraphDispatcher(Dispatcher):
    """Adds the op to a graph and returns its symbols."""

    def __init__(self, graph: Graph, device: Device | None) -> None:
        core: Any = graph  # never the executor of a thread: what is cached for those is not used here
        super().__init__(core, DevicePolicy.SILENT, device, None)
        self.graph = graph

    def dispatch_slowly(
        self, op: Op, args: tuple[Any, ...], params: dict[str, Any] | None, frame: FrameType
    ) -> tuple[Handle, ...]:
        operands = [self.operand(each) for each in args]
        inferred = infer_node(op, operands, params)
        self.graph.begin(frame)
        record = self.graph.add(op, operands, params, self.device, frame.f_code, frame.f_lasti, inferred)
        return tuple(map(_symbol, output_cells(record)))

    def operand(self, value: Any) -> Any:
        """What a node holds for an operand: cells of its graph, scalars, and arrays that nobody writes to."""
        if value.__class__ is Symbol:
            return self.graph.adopt(value._cell)
        if isinstance(value, np.ndarray):
            value = snapshot(value)
        elif not isinstance(value, Handle):
            value = operand(value, keep=True)
        if isinstance(value, Handle):
            value = value._cell
        if value.__class__ is Cell:
            return self.graph.adopt(value)
        if value.__class__ is np.ndarray:
            lock(value)
        return value

    def transfer(self, handle: Handle, device: Device, frame: FrameType) -> Handle:
        cell = self.operand(handle)
        self.graph.begin(frame)
        inferred = infer_node(TRANSFER, [cell], None)
        return _symbol(self.graph.add(TRANSFER, [cell], None, device, frame.f_code, frame.f_lasti, inferred))


def step_of(record: Cell) -> Step:
    """The step of a node."""
    return record.rare.node  # type: ignore[union-attr, no-any-return]


def _is_node(value: Any) -> bool:
    return value.__class__ is Cell and value.home.__class__ is Node


def slot_of(cell: Cell) -> int:
    """The slot of a node's result."""
    rare = cell.rare
    assert rare is not None
    if rare.record is None:
        return int(rare.node.slot)
    return int(step_of(rare.record).slot) + rare.record.extend().outputs.index(cell)


def output_cells(record: Cell) -> tuple[Cell, ...]:
    """The cells of a node's results."""
    rare = record.rare
    return rare.outputs if rare is not None and rare.outputs else (record,)


def _way_back(cell: Cell) -> str:
    """How to call an op of an eager result where neither its executor nor eager execution is current."""
    core = cell.home.owner if isinstance(cell.home, Queue) else None
    if not isinstance(core, Core) or core in defaults.cores:
        return "call engine.enable_eager_execution() at program startup"
    if core.state is State.OPEN:
        return "call the op inside `with executor.as_default():`, of the executor that the handle comes from"
    return f"the executor that it comes from is {core.state.value}, so {MAKE_ANOTHER}"


def _symbol(cell: Cell) -> Symbol:
    return handle_of(cell, Symbol)  # type: ignore[return-value]


def _device_of(operands: list[Any]) -> Device:
    """The device of a node that no scope has placed: its first input's."""
    device: Device = next((each.home.device for each in operands if each.__class__ is Cell), DEFAULT_DEVICE)
    return device


def placeholder_shape(shape: Any) -> tuple[int | None, ...] | None:
    if shape is None:
        return None
    lengths = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
    for length in lengths:
        if length is not None and (isinstance(length, bool) or not isinstance(length, int | np.integer) or length < 0):
            raise ValueError(f"placeholder: shape must have lengths, 0 or more, or None, but got {shape!r}")
    return tuple(None if length is None else int(length) for length in lengths)


# ---------------------------------------------------------------------------------------------------------------------
# The default graph


class _Graphs:
    """The default graph of the process, until it is reset."""

    def __init__(self) -> None:
        self.graph = Graph()

    def default(self) -> Graph:
        """The graph that ops are added to where no scope names one and eager execution is off."""
        return self.graph


graphs = _Graphs()


def get_default_graph() -> Graph:
    """The graph of the innermost `as_default()` here, else the default graph of the process. Asking makes no graph."""
    return scope_var.get().graph or graphs.graph


def reset_default_graph() -> None:
    """Begin a new default graph; symbols of the old one keep theirs. Raises `RuntimeError` inside `as_default()`."""
    if scope_var.get().graph is not None:
        raise RuntimeError(
            "reset_default_graph() replaces the default graph of the process: leave the block of "
            "as_default(), or of the session, first"
        )
    graphs.graph = Graph()


def placeholder(dtype: Any, shape: int | tuple[int | None, ...] | None = None, name: str | None = None) -> Symbol:
    """A symbol whose value each run is fed: `session.run(fetches, feed_dict={symbol: value})`.

    `shape` may be None (any), or have None for lengths that may be any. Raises `RuntimeError` under eager execution,
    where there is nothing to feed; `TypeError` for a dtype of Python objects; `ValueError` for a negative length.
    """
    dispatcher = current()
    frame = user_frame(1)
    if not isinstance(dispatcher, GraphDispatcher):
        raise RuntimeError(
            "placeholder() is not compatible with eager execution: pass the value itself, or make the placeholder "
            "inside `with engine.Graph().as_default():`"
        )
    return dispatcher.graph.placeholder(dtype, shape, name, frame)
