"""Nested tuples, lists and dicts (pytrees): taken apart into leaves, put together again, and mapped leaf by leaf."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any


class Leaf:
    """Stands in the outline of a pytree for the next leaf."""

    __slots__ = ()


LEAF = Leaf()


def flatten(value: Any, leaves: list[Any]) -> Any:
    """Append the leaves of a pytree, in order, and return its outline."""

    def take(leaf: Any) -> Leaf:
        leaves.append(leaf)
        return LEAF

    return map_leaves(take, value)


def pack(outline: Any, leaves: Iterator[Any]) -> Any:
    """Build the pytree of this outline with these leaves."""
    return map_leaves(lambda _: next(leaves), outline)


def map_leaves(function: Callable[[Any], Any], value: Any) -> Any:
    """Build the pytree with `function(leaf)` in place of each leaf; namedtuples stay what they are."""
    if isinstance(value, list):
        return [map_leaves(function, each) for each in value]
    if isinstance(value, tuple):
        values = [map_leaves(function, each) for each in value]
        return type(value)(*values) if hasattr(value, "_fields") else tuple(values)
    if isinstance(value, Mapping):
        return {key: map_leaves(function, each) for key, each in value.items()}
    return function(value)
