"""Feeds: what is given to a run in place of what it would compute, checked against the placeholders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engine.base.errors import FeedError, UnknownShapeError
from engine.base.op import ShapeDtype
from engine.devices.cpu import lock, plain, snapshot
from engine.graph.graph import Graph
from engine.graph.inference import UNKNOWN
from engine.graph.node import home_of, known_of, slot_of
from engine.graph.steps import PLACEHOLDER
from handles.base import Handle
from handles.cell import Cell
from handles.symbol import Symbol

Array = np.ndarray[Any, Any]

_KINDS = "biufc"
"""Kinds of dtypes that numbers convert between, from the least to the most general."""


def take_feeds(graph: Graph, feed_dict: Mapping[Any, object] | None) -> tuple[dict[int, Cell | Array], int]:
    """The values by slot, arrays as snapshots, and how many bytes those take.

    Raises `FeedError` for keys that are no symbols of the graph and for values that do not fit them, and `TypeError`
    for what is no mapping.
    """
    if feed_dict is not None and not isinstance(feed_dict, Mapping):
        raise TypeError(f"feed_dict must be a mapping of symbols to values, but got {type(feed_dict).__name__}")
    feeds: dict[int, Cell | Array] = {}
    nbytes = 0
    for key, value in (feed_dict or {}).items():
        if not isinstance(key, Symbol):
            raise FeedError(
                f"the keys of feed_dict must be symbols of the graph, but got {key!r}; {_known_placeholders(graph)}"
            )
        cell = key._cell
        if home_of(cell).graph is not graph:
            raise FeedError(f"{_subject(cell)} cannot be fed: it belongs to another graph than the session's")
        if cell.op.outputs > 1:
            raise FeedError(f"{_subject(cell)} cannot be fed: it is one of several results of one operation")
        fed = feed_value(value, known_of(cell), _subject(cell))
        feeds[slot_of(cell)] = fed
        nbytes += fed.nbytes if isinstance(fed, np.ndarray) else 0
    return feeds, nbytes


def _known_placeholders(graph: Graph) -> str:
    names = [operation.name for operation in graph.operations if operation.type == "placeholder"]
    return f"its placeholders are {', '.join(map(repr, names))}" if names else "it has no placeholders"


def feed_value(value: object, expected: ShapeDtype, subject: str) -> Cell | Array:
    """Convert a value that is fed to what a step reads: the cell of a handle, or an array that stays as it is.

    Python scalars and sequences take the dtype that is expected, where that loses nothing; arrays and handles must
    have it. Raises `FeedError` for a wrong shape or dtype.
    """
    if isinstance(value, Symbol):
        raise FeedError(f"{subject} was fed {value!r}, which has no value itself")
    if isinstance(value, Handle):
        cell = value._cell
        check_fit(_described(cell), expected, subject)
        return cell
    array: Array = plain(value) if isinstance(value, np.ndarray) else np.asarray(value)
    weak = not isinstance(value, np.ndarray | np.generic)
    if weak and _is_known(expected.dtype) and array.dtype != expected.dtype:
        array = _converted(array, expected.dtype, subject)
    check_fit(ShapeDtype(array.shape, array.dtype), expected, subject)
    array = snapshot(array)
    lock(array)
    return array


def _converted(array: Array, dtype: np.dtype[Any], subject: str) -> Array:
    if array.size and (array.dtype.kind not in _KINDS or dtype.kind not in _KINDS or _loses(array, dtype)):
        raise FeedError(f"{subject} expects dtype {dtype}, but was fed {array.dtype} values that do not convert to it")
    return array.astype(dtype)


def _loses(array: Array, dtype: np.dtype[Any]) -> bool:
    """True if Python numbers do not convert: to a lesser kind, or out of the range of an integer type."""
    if _KINDS.index(array.dtype.kind) > _KINDS.index(dtype.kind) and {array.dtype.kind, dtype.kind} != {"i", "u"}:
        return True
    if array.dtype.kind not in "iu" or dtype.kind not in "iu":
        return False
    limits = np.iinfo(dtype)
    return int(array.min()) < limits.min or int(array.max()) > limits.max


def _described(cell: Cell) -> ShapeDtype:
    try:
        return cell.home.infer(cell)  # type: ignore[return-value]
    except UnknownShapeError:
        return UNKNOWN


def check_fit(its: ShapeDtype, expected: ShapeDtype, subject: str) -> None:
    """Raise `FeedError` unless a shape and a dtype are those expected, as far as both are known."""
    if _is_known(its.dtype) and _is_known(expected.dtype) and its.dtype != expected.dtype:
        raise FeedError(f"{subject} expects dtype {expected.dtype}, but was fed {its.dtype}")
    if not (_is_known(its.shape) and _is_known(expected.shape)):
        return
    fits = len(its.shape) == len(expected.shape) and all(
        None in (length, wanted) or length == wanted for length, wanted in zip(its.shape, expected.shape, strict=True)
    )
    if not fits:
        raise FeedError(f"{subject} expects shape {expected.shape}, but was fed shape {its.shape}")


def _is_known(part: object) -> bool:
    """True for the shape, or the dtype, of a node where it is known. By identity: a dtype is equal to None."""
    return part is not None


def _subject(cell: Cell) -> str:
    """A node that is fed, in the words of an error."""
    kind = "placeholder" if cell.op is PLACEHOLDER else "symbol"
    return f"{kind} {home_of(cell).name_of(cell)!r} (made at {home_of(cell).place_of(cell)})"
