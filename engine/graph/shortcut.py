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
from engine.base.pytree import LEAF, pack
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
    """The short way of calls whose arguments are those of one trace, all of whose steps are one op that runs in place.

    `chain` is the compiled chain that the op calls, if it is one.
    """

    __slots__ = ("_op", "_outline", "_recognize", "_results", "chain")

    def __init__(
        self, chain: Chain | None, takes: Sequence[Kind], op: Op, outline: object, results: Sequence[int]
    ) -> None:
        """A call gives these results of the op, in a pytree of this outline."""
        self.chain = chain
        self._op = op
        self._recognize = recognizer(takes, laid_out=chain is not None)
        self._outline, self._results = outline, results

    def dispatch(self, args: Sequence[object]) -> Any:
        """Dispatch a call that user code made through one function; None, and nothing done, where it is another one."""
        cells = self._recognize(args)
        if cells is None:
            return None
        chain = self.chain
        if chain is not None and not (chain.is_ready and natives.enabled and chain.ns <= LONGEST_NS):
            return None
        dispatcher = current()
        if dispatcher.__class__ is not AsyncDispatcher:
            return None
        handles = dispatcher.dispatch_cells(self._op, cells)
        if handles is None:
            return None
        if self._outline is LEAF:
            return handles[0]
        return pack(self._outline, iter([handles[each] for each in self._results]))


def recognizer(kinds: Sequence[Kind], *, laid_out: bool) -> Recognize:
    """Write the code that recognizes handles of arrays of these kinds; `laid_out` compares their strides as well."""
    names: dict[str, Any] = {"AsyncHandle": AsyncHandle, "array": np.ndarray}
    unpacked = "".join(f"h{number}, " for number in range(len(kinds)))
    lines = ["def recognize(args):", f" if len(args) != {len(kinds)}: return None", f" {unpacked} = args"]
    for number, (dtype, shape, strides) in enumerate(kinds):
        names |= {f"dtype{number}": dtype, f"shape{number}": shape, f"strides{number}": strides}
        lines += [
            f" if h{number}.__class__ is not AsyncHandle: return None",
            f" c{number} = h{number}._cell",
            f" v = c{number}.value",
            f" if v.__class__ is not array or v.dtype is not dtype{number} or v.shape != shape{number}: return None",
        ]
        if laid_out:
            lines.append(f" if v.strides != strides{number} or not v.flags.aligned: return None")
        if number:
            lines.append(f" if c{number}.home is not c0.home: return None")
    lines.append(f" return {''.join(f'c{number}, ' for number in range(len(kinds)))}")
    exec(compile("\n".join(lines), "<arguments of engine.function>", "exec"), names)
    written: Recognize = names.pop("recognize")
    return written
