"""The default graph of the process, and the graph that is in force here."""

from __future__ import annotations

from engine.failures import user_frame
from engine.graph.dispatch import GraphDispatcher
from engine.graph.graph import Graph
from engine.runtime.current import current
from engine.settings.scope import scope_var
from handles.symbol import Symbol


class _Graphs:
    """The default graph of the process, until it is reset."""

    def __init__(self) -> None:
        self.graph = Graph()

    def default(self) -> Graph:
        """The graph that ops are added to where no scope names one and eager execution is off."""
        return self.graph


graphs = _Graphs()


def get_default_graph() -> Graph:
    """The graph of the innermost `as_default()` here, else the default graph of the process. Asking makes no graph.

    >>> with engine.Graph().as_default() as graph:
    ...     assert engine.get_default_graph() is graph
    """
    return scope_var.get().graph or graphs.graph


def reset_default_graph() -> None:
    """Begin a new default graph; symbols of the old one keep theirs. Raises `RuntimeError` inside `as_default()`.

    >>> before = engine.get_default_graph()
    >>> engine.reset_default_graph()
    >>> engine.get_default_graph() is before
    False
    """
    if scope_var.get().graph is not None:
        raise RuntimeError(
            "reset_default_graph() replaces the default graph of the process: leave the block of "
            "as_default(), or of the session, first"
        )
    graphs.graph = Graph()


def placeholder(dtype: object, shape: int | tuple[int | None, ...] | None = None, name: str | None = None) -> Symbol:
    """A symbol whose value each run is fed: `session.run(fetches, feed_dict={symbol: value})`.

    `shape` may be None (any), or have None for lengths that may be any. Raises `RuntimeError` under eager execution,
    where there is nothing to feed; `TypeError` for a dtype of Python objects and for a name that is no str;
    `ValueError` for a negative length.

    >>> with engine.Graph().as_default():
    ...     x = engine.placeholder("float64", (None, 3), name="x")
    ...     total = ops.sum(x, axis=0)
    >>> total.shape
    (3,)
    """
    dispatcher = current()
    frame = user_frame(1)
    if not isinstance(dispatcher, GraphDispatcher):
        raise RuntimeError(
            "placeholder() is not compatible with eager execution: pass the value itself, or make the placeholder "
            "inside `with engine.Graph().as_default():`"
        )
    return dispatcher.graph.placeholder(dtype, shape, name, frame)
