"""The rows of the op tables by names that are the same in every process: an op of the engine's own travels as a name.

A row is a variable of a module, or of a function that a module defines: `engine.ops.creation:_ZEROS`, or
`engine.ops.fft:fft.op`. The package has been imported as a whole by the time an op is sent, so the modules are there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from types import FunctionType

from engine.base.op import Op

_DEPTH = 4
"""Functions inside of functions that are looked into."""


@cache
def rows() -> dict[str, Op]:
    """All rows by their names."""
    found: dict[str, Op] = {}
    for module in sorted(name for name in sys.modules if name.partition(".")[0] == "engine"):
        for name, value in list(vars(sys.modules[module]).items()):
            for path, op in _rows_of(value, f"{module}:{name}", _DEPTH):
                found.setdefault(path, op)
    return found


@cache
def _names() -> dict[int, str]:
    return {id(op): name for name, op in rows().items()}


def name_of(op: Op) -> str | None:
    """The name of a row; None of an op that is none, such as one of a user's function."""
    return _names().get(id(op))


def _rows_of(value: object, path: str, depth: int) -> Iterator[tuple[str, Op]]:
    """The rows that a variable leads to."""
    if isinstance(value, Op):
        yield path, value
    elif isinstance(value, FunctionType) and depth and value.__closure__ is not None:
        for name, cell in zip(value.__code__.co_freevars, value.__closure__, strict=True):
            try:
                inside = cell.cell_contents
            except ValueError:  # not set yet
                continue
            yield from _rows_of(inside, f"{path}.{name}", depth - 1)
