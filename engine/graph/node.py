"""Nodes: the cells of a graph's results, the place where they live, and how users see them.

A node is a cell that is never completed; its home is a `Node`, which has no values. So a symbol is a handle like any
other, with all operators and methods, and what needs a value ends in an error that names the symbol.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeGuard

import numpy as np

from engine.base.errors import SymbolError
from engine.base.op import ShapeDtype
from engine.devices.base import Device
from engine.devices.cpu import CpuBackend
from engine.dispatch.records import cells_of, handle_of
from engine.failures import site
from engine.graph.steps import step_of
from engine.queues.base import Queue
from engine.queues.records import record_of
from engine.settings.scope import scope_var
from handles.cell import CancelOutcome, Cell
from handles.symbol import Symbol

if TYPE_CHECKING:
    from engine.graph.graph import Graph

Array = np.ndarray[Any, Any]

_BACKEND = CpuBackend()


class Operation:
    """A node of a graph: an op, where its operands come from, and the symbols of its results."""

    __slots__ = ("_record",)

    def __init__(self, record: Cell) -> None:
        self._record = record

    @property
    def name(self) -> str:
        """The name of the operation, unique in its graph."""
        return step_of(self._record).name

    @property
    def type(self) -> str:
        """The name of the op."""
        return step_of(self._record).op.name

    @property
    def graph(self) -> Graph:
        """The graph that the operation belongs to."""
        return home_of(self._record).graph

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
        return tuple(handle_of(each, Symbol) for each in self._record.args if is_node(each))

    @property
    def outputs(self) -> tuple[Symbol, ...]:
        """The symbols of the results."""
        return tuple(handle_of(each, Symbol) for each in cells_of(self._record))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Operation) and other._record is self._record

    def __hash__(self) -> int:
        return hash(self._record)

    def __repr__(self) -> str:
        return f"<Operation {self.name!r} op={self.type} made at {self.place}>"


class Node(Queue):
    """The home of the nodes of one graph that will run on one device: it has no values, and says so."""

    def __init__(self, graph: Graph, device: Device) -> None:
        super().__init__(graph, device, _BACKEND)
        self.graph = graph

    def subject(self, cell: Cell) -> str:
        """A symbol in the words of an error."""
        return f"symbol {self.name_of(cell)!r} (made at {self.place_of(cell)})"

    def name_of(self, cell: Cell) -> str:
        """The name of the operation; with the number of the result where it has several."""
        record = record_of(cell)
        name = step_of(record).name
        if record is cell:
            return name
        return f"{name}:{cells_of(record).index(cell)}"

    def place_of(self, cell: Cell) -> str:
        """Where the symbol was made, `file:line`."""
        return site(cell.code, cell.lasti)

    def operation_of(self, cell: Cell) -> Operation:
        """The operation whose result a symbol is."""
        return Operation(record_of(cell))

    def evaluate(self, symbol: Symbol, session: Any, feed_dict: Mapping[Any, object] | None) -> Any:
        """Run the session, or the one in force, for the value of a symbol."""
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
        return known_of(cell)


def is_node(value: object) -> TypeGuard[Cell]:
    """True for the cell of a symbol."""
    return value.__class__ is Cell and value.home.__class__ is Node


def home_of(cell: Cell) -> Node:
    """The home of a symbol's cell."""
    home = cell.home
    assert isinstance(home, Node)
    return home


def known_of(cell: Cell) -> ShapeDtype:
    """Shape and dtype of a node's result, as far as they are known."""
    return cell.extend().inferred  # type: ignore[no-any-return]


def slot_of(cell: Cell) -> int:
    """The slot of a node's result."""
    record = record_of(cell)
    slot = step_of(record).slot
    return slot if record is cell else slot + cells_of(record).index(cell)
