"""Counting what else refers to an object: whether a result has to be kept, and whose memory may be written over."""

from __future__ import annotations

from sys import getrefcount


def others(thing: object, known: int) -> bool:
    """Whether anything refers to a thing but `known` places and the one name that the caller has for it."""
    return getrefcount(thing) > _OWN + known


def _of_one_name() -> int:
    """How many references a call of `others` counts where the caller's name is all there is."""
    thing = object()
    return _count(thing)


def _count(thing: object) -> int:
    return getrefcount(thing)


_OWN = _of_one_name()
"""Measured, because newer interpreters lend arguments instead of counting them."""
