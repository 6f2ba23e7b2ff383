"""Documentation of the methods and attributes of handles, put together when the namespace is imported.

Each has a sentence of its own where it is defined; `handles` itself knows nothing of the engine, so what ops and
methods have in common is added here.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import FunctionType
from typing import NamedTuple

import numpy as np

from engine.ops.texts import compose, methods
from handles.base import Handle


class Row(NamedTuple):
    """A row: the texts of one method or attribute."""

    result: str
    errors: tuple[str, ...]
    example: str


def rows() -> Iterator[tuple[str, Row]]:
    """The rows, by the names of the methods."""
    lines = methods.ROWS.splitlines()
    for head, example, result in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
        name, returns, errors = head.split(" | ")
        yield name, Row(returns, () if errors == "-" else tuple(errors.split()), f"    {example}\n    {result}")


_MEANINGS = {**compose.PARAMETERS, **methods.PARAMETERS}
_ARRAY = "    >>> h = ops.asarray([[3.0, 1.0], [2.0, 4.0]])"


def composed(name: str, attribute: FunctionType | property, row: Row) -> str:
    """The whole documentation of a method or an attribute; its own sentence comes first."""
    lines = [(attribute.__doc__ or "").rstrip().replace("\n        ", "\n")]
    if hasattr(np.ndarray, name):
        lines.append(f"\nNumPy calls it `numpy.ndarray.{name}`.")
    if isinstance(attribute, FunctionType) and (said := list(_parameters(name, attribute))):
        lines += ["\nParameters:", *said]
    returns = methods.RESULTS.get(row.result) or compose.RESULTS.get(row.result) or row.result
    lines.append(f"\nReturns:\n    {returns.replace('`x`', 'this one')}")
    if row.errors:
        lines += ["\nRaises:", *(f"    * {methods.ERRORS.get(each) or compose.ERRORS[each]}" for each in row.errors)]
    return "\n".join(lines) + f"\n\nExample:\n{_ARRAY}\n{row.example}\n"


def _parameters(name: str, method: FunctionType) -> Iterator[str]:
    code = method.__code__
    names, keywords = code.co_varnames, code.co_argcount + code.co_kwonlyargcount
    several = keywords + (code.co_flags & inspect.CO_VARARGS != 0)
    more = several + (code.co_flags & inspect.CO_VARKEYWORDS != 0)
    order = (*names[1 : code.co_argcount], *names[keywords:several], *names[code.co_argcount : keywords])
    for each in (*order, *names[several:more]):
        yield f"    * `{each}`: {_MEANINGS.get(f'{name}.{each}') or _MEANINGS[each]}"


def document() -> None:
    """Give each method and attribute of handles its documentation."""
    attributes = {name: value for base in reversed(Handle.__mro__) for name, value in vars(base).items()}
    for name, row in rows():
        attribute = attributes[name]
        attribute.__doc__ = composed(name, attribute, row)
