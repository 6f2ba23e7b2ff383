"""Calls of a function that are recognized by their arguments alone: a service calls one with arrays alike all day.

Binding arguments, making their key and looking for the trace takes longer than a small chain. So straight-line code is
written that compares the arguments with those of a trace: handles of results that are there, of certain dtypes, shapes
and strides, on one queue. What it does not recognize goes the long way, and comes out the same.

The code holds no text of users: dtypes, shapes and strides are names that it finds in its namespace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine.base.op import Op
from engine.dispatch.queueing import AsyncDispatcher
from engine.fusion.chains.chain import LONGEST_NS, Chain
from engine.fusion.chains.key import Kind
from engine.fusion.native.natives import natives
from engine.runtime.current import current
from handles.cell import Cell
from handles.pending import AsyncHandle

Recognize = Callable[[Sequence[object]], "tuple[Cell, ...] | None"]
"""The cells of arguments; None where they are others."""


class Shortcut:
    """The short way of calls whose arguments are those of one trace, and which a compiled chain computes."""

    __slots__ = ("_op", "_recognize", "chain")

    def __init__(self, chain: Chain, takes: Sequence[Kind], op: Op) -> None:
        self.chain = chain
        self._op = op
        self._recognize = recognizer(takes)

    def dispatch(self, args: Sequence[object]) -> AsyncHandle | None:
        """Dispatch a call that user code made through one function; None, and nothing done, where it is another one."""
        cells = self._recognize(args)
        chain = self.chain
        if cells is None or not chain.is_ready or not natives.enabled or chain.ns > LONGEST_NS:
            return None
        dispatcher = current()
        return dispatcher.dispatch_cells(self._op, cells) if dispatcher.__class__ is AsyncDispatcher else None


def recognizer(kinds: Sequence[Kind]) -> Recognize:
    """Write the code that recognizes handles of arrays of these kinds."""
    names: dict[str, Any] = {"AsyncHandle": AsyncHandle, "array": np.ndarray}
    unpacked = "".join(f"h{number}, " for number in range(len(kinds)))
    lines = ["def recognize(args):", f" if len(args) != {len(kinds)}: return None", f" {unpacked} = args"]
    for number, (dtype, shape, strides) in enumerate(kinds):
        names |= {f"dtype{number}": dtype, f"shape{number}": shape, f"strides{number}": strides}
        lines += [
            f" if h{number}.__class__ is not AsyncHandle: return None",
            f" c{number} = h{number}._cell",
            f" v = c{number}.value",
            f" if v.__class__ is not array or v.dtype is not dtype{number} or not v.flags.aligned: return None",
            f" if v.shape != shape{number} or v.strides != strides{number}: return None",
        ]
        if number:
            lines.append(f" if c{number}.home is not c0.home: return None")
    lines.append(f" return {''.join(f'c{number}, ' for number in range(len(kinds)))}")
    exec(compile("\n".join(lines), "<arguments of engine.function>", "exec"), names)
    written: Recognize = names.pop("recognize")
    return written
