"""Binds the arguments of NumPy's functions to the names of their parameters, by NumPy's own signatures.

This is the one place that knows at which position a parameter stands. All that looks for an argument of a NumPy call
(`out`, `axis`, `copy`, ...) asks for it by name here, so a call means the same however its arguments are passed.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class Parameters(NamedTuple):
    """The parameters of a function that can be given by position."""

    names: tuple[str, ...]
    any_number: bool
    """True if more arguments may follow by position, as the operands of `einsum` do."""


_UNTOLD: dict[str, str] = {
    "bincount": "x weights minlength",
    "busday_count": "begindates enddates weekmask holidays busdaycal out",
    "busday_offset": "dates offsets roll weekmask holidays busdaycal out",
    "can_cast": "from_ to casting",
    "concat": "arrays axis out",
    "concatenate": "arrays axis out",
    "copyto": "dst src casting where",
    "datetime_as_string": "arr unit timezone casting",
    "dot": "a b out",
    "empty_like": "prototype dtype order subok shape",
    "inner": "a b",
    "is_busday": "dates weekmask holidays busdaycal out",
    "lexsort": "keys axis",
    "may_share_memory": "a b max_work",
    "min_scalar_type": "a",
    "packbits": "a axis bitorder",
    "putmask": "a mask values",
    "ravel_multi_index": "multi_index dims mode order",
    "shares_memory": "a b max_work",
    "unpackbits": "a axis count bitorder",
    "unravel_index": "indices shape order",
    "vdot": "a b",
    "where": "condition x y",
}
"""The functions written in C, whose signatures NumPy tells from version 2.4 on."""

_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@functools.cache
def parameters(function: Callable[..., object]) -> Parameters:
    """The parameters of a function that can be given by position, in order."""
    try:
        told = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return Parameters(tuple(_UNTOLD.get(getattr(function, "__name__", ""), "").split()), False)
    any_number = any(each.kind is each.VAR_POSITIONAL for each in told)
    return Parameters(tuple(each.name for each in told if each.kind in _BY_POSITION), any_number)


def bind(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """The arguments by the names of their parameters.

    None where some have no name (the operands of `einsum`) or two have the same one. An argument that is NumPy's mark
    for "not given" is left out.
    """
    names = parameters(function).names
    if len(args) > len(names):
        return None
    given = dict(zip(names, args, strict=False))
    if kwargs:
        if not given.keys().isdisjoint(kwargs):
            return None
        given.update(kwargs)
    if MISSING in map(type, given.values()):
        return {name: value for name, value in given.items() if type(value) is not MISSING}
    return given


MISSING = type(np._NoValue)


def named(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Arguments:
    """The same call with that argument, and all that follow it, passed by name."""
    names = parameters(function).names
    if name not in names:
        return args, kwargs
    place = names.index(name)
    if len(args) <= place:
        return args, kwargs
    return args[:place], {**dict(zip(names[place:], args[place:], strict=False)), **kwargs}


def without(kwargs: dict[str, Any], *names: str) -> dict[str, Any]:
    """Keyword arguments without those of these names."""
    return {name: value for name, value in kwargs.items() if name not in names}


def first_name(function: Callable[..., object]) -> str:
    """The name of the first parameter of a function."""
    return parameters(function).names[0]
