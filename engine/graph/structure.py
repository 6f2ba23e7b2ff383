"""Nested structures of tuples, lists and dicts: taken apart into leaves, and put together again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class Leaf:
    """In the outline of a structure: the next leaf."""

    __slots__ = ()


LEAF = Leaf()


def flatten(value: Any, leaves: list[Any]) -> Any:
    """Append the leaves of a structure, in order, and return its outline."""
    if isinstance(value, list | tuple):
        return _sequence(value, [flatten(each, leaves) for each in value])
    if isinstance(value, Mapping):
        return {key: flatten(each, leaves) for key, each in value.items()}
    leaves.append(value)
    return LEAF


def pack(outline: Any, leaves: Iterator[Any]) -> Any:
    """The structure of this outline with these leaves."""
    if outline is LEAF:
        return next(leaves)
    if isinstance(outline, list | tuple):
        return _sequence(outline, [pack(each, leaves) for each in outline])
    return {key: pack(each, leaves) for key, each in outline.items()}


def _sequence(like: Any, values: list[Any]) -> Any:
    if isinstance(like, list):
        return values
    return type(like)(*values) if hasattr(like, "_fields") else tuple(values)
