"""Fetches: what a run is asked to compute, taken apart into slots of its graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.base.errors import SymbolError
from engine.base.pytree import flatten
from engine.graph.graph import Graph
from engine.graph.node import Operation, home_of, slot_of
from handles.cell import Cell
from handles.symbol import Symbol


@dataclass(frozen=True)
class Fetches:
    """The fetches of a run, taken apart."""

    outline: object
    leaves: tuple[int | None, ...]
    """For each leaf its slot; None for an operation, of which only the running is asked for."""
    roots: tuple[Cell, ...]
    """The nodes that run whether or not their results are fetched."""


def take_fetches(graph: Graph, fetches: object) -> Fetches:
    """Take fetches apart.

    Raises `SymbolError` for a symbol or an operation of another graph, and `TypeError` for what cannot be fetched.
    """
    leaves: list[Any] = []
    outline = flatten(fetches, leaves)
    slots: list[int | None] = []
    roots = []
    for leaf in leaves:
        if isinstance(leaf, Symbol):
            slots.append(slot_of(_own_cell(graph, leaf)))
        elif isinstance(leaf, Operation):
            if leaf.graph is not graph:
                raise SymbolError(f"{leaf!r} cannot be fetched: it belongs to another graph than the session's")
            slots.append(None)
            roots.append(leaf._record)
        else:
            raise TypeError(
                "a fetch must be a symbol, an operation, or a tuple, list or dict of them, "
                f"but got {type(leaf).__name__}: {leaf!r}"
            )
    return Fetches(outline, tuple(slots), tuple(roots))


def _own_cell(graph: Graph, symbol: Symbol) -> Cell:
    cell = symbol._cell
    home = home_of(cell)
    if home.graph is not graph:
        raise SymbolError(
            f"{home.subject(cell)} cannot be fetched: it belongs to another graph than the session's; "
            "make the session with engine.Session(symbol.graph)"
        )
    return cell
