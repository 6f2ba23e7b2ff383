"""Tracing: a Python function is run once on symbols, and what it did becomes a plan to replay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NamedTuple

import numpy as np

from engine.base.errors import SymbolError
from engine.base.op import ShapeDtype
from engine.base.pytree import flatten
from engine.devices.base import Device
from engine.dispatch.records import handle_of
from engine.graph.attributes import Look, contents
from engine.graph.graph import DEFAULT_DEVICE, Graph
from engine.graph.node import Node, home_of, slot_of
from engine.graph.optimize import optimize
from engine.graph.replay import Replay
from engine.graph.shortcut import Shortcut
from engine.graph.steps import PLACEHOLDER
from engine.settings.scope import entered
from engine.settings.switch import program
from handles.base import Handle
from handles.cell import Cell
from handles.symbol import Symbol

Array = np.ndarray[Any, Any]


class Kept(NamedTuple):
    """A result that is no array: each call returns the value that the trace did."""

    value: object


class Given(NamedTuple):
    """A result that is an object which the function got, or found in one: each call returns the one of its own."""

    number: int


class Traced(NamedTuple):
    """The trace of a function for one kind of arguments."""

    replay: Replay
    outline: object
    """The structure of the results."""
    results: tuple[int | Kept | Given, ...]
    """For each leaf the number of the plan's output, or a `Kept` or `Given` value."""
    apart: bool
    """True if the arguments may be on several devices."""
    arrays: Sequence[Cell | Array]
    """The arrays among the attributes of objects, as they were."""

    def shortcut(self) -> Shortcut | None:
        """The recognizer of calls that take all of their arguments as this one does; None where there is none, yet."""
        results = [each for each in self.results if isinstance(each, int)]
        return self.replay.shortcut(self.outline, results) if len(results) == len(self.results) else None


class Tracing(Graph):
    """The graph of one trace: it may hold results from outside, as constants."""

    def __init__(self, name: str, outer: Graph | None) -> None:
        super().__init__()
        self._name = name
        self._outer = outer

    @property
    def description(self) -> str:
        return f"engine.function {self._name!r}"

    def begin(self, frame: FrameType) -> None:
        """Tracing a function is no graph of the program's."""

    def placeholder(self, dtype: object, shape: object, name: str | None, frame: FrameType) -> Symbol:
        raise RuntimeError(
            f"placeholder() inside {self.description}: there is no session that could feed it; make it an argument"
        )

    def adopt(self, cell: Cell) -> Cell:
        home = cell.home
        outer: Graph | None = self
        while isinstance(home, Node) and outer is not None:
            if home.graph is outer:
                return cell
            outer = outer._outer if isinstance(outer, Tracing) else None
        return super().adopt(cell)

    def capture(self, cell: Cell) -> Cell:
        return cell

    def refusal(self, subject: str, what: str) -> str:
        return (
            f"{what} needs a value, but {subject} has none: it stands for an array of later calls of "
            f"{self.description}. Choose between values with ops.where, index it with symbol[i], "
            "or do this outside the function; an argument that is no array is passed by value"
        )


class Tracer:
    """Runs a Python function once. `look` says how the objects that it gets were before, if it gets any."""

    def __init__(self, fn: Callable[..., Any], name: str, outer: Graph | None, look: Look | None) -> None:
        self._fn = fn
        self._graph = Tracing(name, outer)
        self._look = look
        self._inputs: list[Cell] = []
        self._devices: list[Device | None] = []

    def inputs(self, arrays: Sequence[object], described: Sequence[ShapeDtype]) -> list[Handle]:
        """Symbols that stand for these arrays in the trace."""
        code = getattr(self._fn, "__code__", None)
        for array, its in zip(arrays, described, strict=True):
            device = array._cell.home.device if isinstance(array, Handle) else None
            self._devices.append(device)
            self._inputs.append(self._graph.add(PLACEHOLDER, [], None, device, code, 0, (its,), "argument"))
        return [handle_of(cell, Symbol) for cell in self._inputs]

    def run(self, name: str, args: Sequence[object], kwargs: dict[str, Any], before: Sequence[Cell | Array]) -> Traced:
        """Call the function, and make a plan of what it did; `before` are the arrays that its objects had."""
        leaves: list[Any] = []
        with entered(graph=self._graph, device=None, group=None):
            outline = flatten(self._fn(*args, **kwargs), leaves)
            results, outputs = self._results(leaves)
        if self._look is not None:
            self._check_no_symbol_stays(self._look)
        plan = optimize(self._graph, [slot_of(cell) for cell in self._inputs], outputs)
        apart = len({device or DEFAULT_DEVICE for device in self._devices}) > 1
        return Traced(Replay(plan, name), outline, results, apart, before)

    def _results(self, leaves: Sequence[object]) -> tuple[tuple[int | Kept | Given, ...], list[int]]:
        """Give each result its number among the outputs, or keep the value; returns the slots of the outputs, too."""
        graph = self._graph
        results: list[int | Kept | Given] = []
        outputs: list[int] = []
        for leaf in leaves:
            if isinstance(leaf, np.ndarray | np.generic | bool | int | float | complex):
                leaf = program.namespace.asarray(leaf)
            if isinstance(leaf, Symbol):
                cell = graph.adopt(leaf._cell)
                if home_of(cell).graph is graph:
                    results.append(len(outputs))
                    outputs.append(slot_of(cell))
                    continue
            number = None if self._look is None else self._look.number(leaf)
            results.append(Kept(leaf) if number is None else Given(number))
        return tuple(results), outputs

    def _check_no_symbol_stays(self, look: Look) -> None:
        """Refuse that the function left a symbol in an object: later calls would not write there again."""
        for owner in look.walked:
            for name, value in contents(owner):
                if isinstance(value, Symbol) and value.graph is self._graph:
                    raise SymbolError(
                        f"{self._graph.description} left {name!r} of {type(owner).__name__} with a symbol, which "
                        "has no value outside: the Python code runs when it is traced, not at each call. Return the "
                        "array, and assign it outside the function"
                    )
