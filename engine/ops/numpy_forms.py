"""Which function of the namespace a NumPy call means, where one does: NumPy's parameters, in the namespace's names.

A form says the parameters of a NumPy function: operands, then `/`, then what is passed on by keyword. `-name` is a
parameter that the row does not have (`-name=value`: that value will do, it is NumPy's default), `name=other` one that
it calls differently, and `name:kind` one whose arguments are of another kind than parameters of that name usually are.

A row takes the plain arguments of each kind, which mean the same to it and to NumPy. A call with any other argument
(a parameter that the row lacks, True for an axis, 1.5 for a shift) does not fit: it is dispatched as it is, and what it
means, or how it fails, is said by NumPy itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from handles.base import Handle

_PLAIN = frozenset({str, int, bool})

UNFIT: object = object()
"""By kind, the function that converts an argument that is not plain."""

Kind = Callable[[Any], Any]


def _one(value: object) -> Any:
    """An integer (a handle of one is waited for by the row), or None."""
    return value if value is None or value.__class__ is int or isinstance(value, np.integer | Handle) else UNFIT


def _integer(value: object) -> object:
    """An integer, where some versions of NumPy refuse None and others do not."""
    return UNFIT if value is None else _one(value)


def _axes(value: object) -> object:
    """An integer, a tuple of them, or None."""
    return _of_several(value) if value.__class__ is tuple else _one(value)


def _sequence(value: object) -> object:
    """An integer, any sequence or array of them, or None."""
    if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes):
        return _of_several(value)
    return _one(value)


def _list(value: object) -> object:
    """An integer, a tuple or list of them, or None."""
    return _of_several(value) if value.__class__ is list else _axes(value)


def _only_sequence(value: object) -> object:
    """A sequence or an array of integers, or None."""
    return UNFIT if isinstance(value, int | np.integer) else _sequence(value)


def _of_several(values: Any) -> object:
    if isinstance(values, np.ndarray):
        return tuple(values.tolist()) if values.ndim == 1 and values.dtype.kind in "iu" else UNFIT
    return tuple(values) if all(each is not None and _one(each) is not UNFIT for each in values) else UNFIT


def _pair(value: object) -> object:
    """A number of axes, or the axes of each of two arrays."""
    if value.__class__ is tuple or value.__class__ is list:
        pair = tuple(_list(each) for each in value)
        return UNFIT if len(pair) != 2 or UNFIT in pair or None in pair else pair
    return _one(value)


def _flag(value: object) -> object:
    return value if value.__class__ is bool or value.__class__ is int else UNFIT


def _flag_or_none(value: object) -> object:
    return value if value is None else _flag(value)


def _number(value: object) -> object:
    return value if isinstance(value, int | float | np.number) and not isinstance(value, bool) else UNFIT


def _text(value: object) -> object:
    return value if value.__class__ is str else UNFIT


def _text_or_default(value: object) -> object:
    """A string, or None, which is NumPy's word for the default."""
    return value if value is None else _text(value)


def _given(value: object) -> object:
    return UNFIT if value is None else value


def _counts(value: object) -> object:
    """An integer, or an array of them."""
    return value if isinstance(value, np.ndarray | list | tuple) else _one(value)


_KINDS: dict[str, Kind] = {
    "axes": _axes,
    "flag_or_none": _flag_or_none,
    "given": _given,
    "integer": _integer,
    "list": _list,
    "number": _number,
    "only_sequence": _only_sequence,
    "pair": _pair,
    "sequence": _sequence,
}
_USUALLY: dict[str, Kind] = {
    **dict.fromkeys(("axis", "k", "n", "offset"), _one),
    **dict.fromkeys(("axes", "destination", "reps", "shape", "shift", "source"), _sequence),
    **dict.fromkeys(("copy", "full_matrices", "include_initial", "invert", "keepdims", "upper"), _flag),
    **dict.fromkeys(("correction", "ddof"), _number),
    "norm": _text_or_default,
    "repeats": _counts,
    "side": _text,
}


class Form:
    """How the arguments of one NumPy function become those of a row."""

    __slots__ = ("defaults", "kinds", "known", "operands", "row")

    def __init__(self, row: Callable[..., object], spec: str) -> None:
        self.row = row
        positional, _, keywords = spec.partition("/")
        self.operands: list[str] = []
        self.known: dict[str, str | None] = {}
        self.defaults: dict[str, str] = {}
        self.kinds: dict[str, Kind] = {}
        for entry in [*positional.split(), *keywords.split()]:
            entry, _, kind = entry.partition(":")
            name, _, other = entry.removeprefix("-").partition("=")
            if len(self.known) < len(positional.split()):
                self.operands.append(name)
            if entry.startswith("-"):
                self.known[name] = None
                self.defaults[name] = other
            else:
                self.known[name] = other or name
                if kind or name in _USUALLY:
                    self.kinds[name] = _KINDS[kind] if kind else _USUALLY[name]

    def fit(self, given: dict[str, object] | None) -> tuple[list[object], dict[str, object]] | None:
        """The row's arguments, of NumPy's by their names; None where the row cannot do what is asked for."""
        if given is None or not given.keys() <= self.known.keys():
            return None
        if any(name not in given for name in self.operands):
            return None
        keywords: dict[str, object] = {}
        for name, value in given.items():
            other = self.known[name]
            if other is None:
                if not _is_default(value, self.defaults[name]):
                    return None
                continue
            kind = self.kinds.get(name)
            if kind is not None:
                value = kind(value)
            if value is UNFIT or other in keywords:  # or two names of one parameter
                return None
            keywords[other] = value
        return [keywords.pop(str(self.known[name])) for name in self.operands], keywords


def _is_default(value: object, default: str) -> bool:
    """Tell whether an argument is what NumPy takes where none is given."""
    return value.__class__ in _PLAIN and str(value) == default if default else value is None


FORMS: dict[Any, Form] = {}
"""The form of each NumPy function that the namespace has a row for."""


def form(function: object, row: Callable[..., object], spec: str) -> None:
    """Say that calls of a NumPy function mean this row."""
    FORMS[function] = Form(row, spec)
