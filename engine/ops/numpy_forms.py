"""Which function of the namespace a NumPy call means, where one does: NumPy's parameters, in the namespace's names.

A form says the parameters of a NumPy function in order: operands, then `/`, then what is passed on by keyword. `-name`
is a parameter that the row does not have (`-name=value`: beside None that value will do, it is NumPy's default), and
`name=other` one that it calls differently. A call that gives a parameter
that the row lacks does not fit; it is dispatched as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

_PLAIN = frozenset({str, int, bool})

MISSING: Any = np._NoValue


class Form:
    """How the arguments of one NumPy function become those of a row."""

    __slots__ = ("defaults", "known", "operands", "order", "row")

    def __init__(self, row: Callable[..., Any], spec: str) -> None:
        self.row = row
        positional, _, keywords = spec.partition("/")
        self.operands = len(positional.split())
        self.known: dict[str, str | None] = {}
        self.defaults: dict[str, str] = {}
        for entry in [*positional.split(), *keywords.split()]:
            name, _, other = entry.removeprefix("-").partition("=")
            if entry.startswith("-"):
                self.known[name] = None
                self.defaults[name] = other
            else:
                self.known[name] = other or name
        self.order = tuple(self.known)

    def fit(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]] | None:
        """The row's arguments; None where the row cannot do what is asked for."""
        if len(args) > len(self.order):
            return None
        given = dict(zip(self.order, args, strict=False))
        for name, value in kwargs.items():
            if name in given or name not in self.known:
                return None
            given[name] = value
        for name in [name for name, value in given.items() if value is MISSING]:
            del given[name]
        for name, default in self.defaults.items():
            value = given.get(name)
            if value is not None and not (value.__class__ in _PLAIN and str(value) == default):
                return None
        wanted = self.order[: self.operands]
        if any(name not in given for name in wanted):
            return None
        keywords = {other: given[name] for name, other in self.known.items() if other is not None and name in given}
        return [keywords.pop(str(self.known[name])) for name in wanted], keywords


FORMS: dict[Any, Form] = {}
"""The form of each NumPy function that the namespace has a row for."""


def form(function: Any, row: Callable[..., Any], spec: str) -> None:
    """Say that calls of a NumPy function mean this row."""
    FORMS[function] = Form(row, spec)
