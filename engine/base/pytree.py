"""Pytrees: nested tuples, lists and dicts, taken apart into leaves and put together again.

Two kinds of nesting are walked by one function, `map_leaves`. A structure that the engine returns (results of a traced
function, fetches of a session) may be made of any mapping and of named tuples. Arguments of a call go to a kernel as
they came, so there only lists, tuples and dicts themselves are opened: an object of a subclass is a leaf.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from handles.base import Handle

Tree = TypeVar("Tree")


def map_leaves(function: Callable[[object], object], value: object, *, exact: bool = False) -> Any:
    """Build the pytree with `function(leaf)` in place of each leaf.

    With `exact`, only objects whose class is list, tuple or dict are opened; without, lists of subclasses become
    lists, mappings dicts, and named tuples stay what they are.
    """
    cls = type(value)
    if cls is list or cls is tuple:
        return cls([map_leaves(function, each, exact=exact) for each in value])  # type: ignore[attr-defined]
    if cls is dict:
        return {key: map_leaves(function, each, exact=exact) for key, each in value.items()}  # type: ignore[attr-defined]
    if exact:
        return function(value)
    if isinstance(value, list):
        return [map_leaves(function, each) for each in value]
    if isinstance(value, tuple):
        values = [map_leaves(function, each) for each in value]
        return type(value)(*values) if hasattr(value, "_fields") else tuple(values)
    if isinstance(value, Mapping):
        return {key: map_leaves(function, each) for key, each in value.items()}
    return function(value)


# ---------------------------------------------------------------------------------------------------------------------
# Structures that are returned


class Leaf:
    """Stands in the outline of a pytree for the next leaf."""

    __slots__ = ()


LEAF = Leaf()


def flatten(value: object, leaves: list[object]) -> object:
    """Append the leaves of a pytree, in order, and return its outline."""

    def append(leaf: object) -> Leaf:
        leaves.append(leaf)
        return LEAF

    return map_leaves(append, value)


def pack(outline: object, leaves: Iterator[object]) -> object:
    """Build the pytree of this outline with these leaves."""
    return map_leaves(lambda _: next(leaves), outline)


# ---------------------------------------------------------------------------------------------------------------------
# Arguments of a call


class Slot:
    """In the arguments of a call, or in a key: the place of the operand of that number."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


def take(value: Tree, operands: list[Any], convert: Callable[[object], object] | None = None) -> Tree:
    """Take the arrays out of arguments: they are appended to `operands`, to be snapshotted and placed as such.

    Returns the arguments with a `Slot` in place of each array or handle. `convert` is asked first what a leaf is
    taken as.
    """
    if convert is not None:
        value = map_leaves(convert, value, exact=True)

    def taken(leaf: object) -> object:
        if isinstance(leaf, Handle | np.ndarray):
            operands.append(leaf)
            return Slot(len(operands) - 1)
        return leaf

    return map_leaves(taken, value, exact=True)  # type: ignore[no-any-return]


def fill(value: Tree, operands: Sequence[object]) -> Tree:
    """Put operands back into the slots that `take` left."""

    def filled(leaf: object) -> object:
        return operands[leaf.number] if leaf.__class__ is Slot else leaf

    return map_leaves(filled, value, exact=True)  # type: ignore[no-any-return]
