"""The arguments of a call of a chain, made by straight-line code written for that chain.

A call of compiled code takes a microsecond on small arrays. Going through lists of operands, outputs and scalars would
take several times as long; so code is written that names each of them. It makes the new arrays, and writes down what
changes in a frame. It holds no text of users.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine.base.sites import INTERNAL
from engine.fusion.chains.layout import Layout
from engine.memory.buffers import buffers

Array = np.ndarray[Any, Any]
Prepared = tuple[bytes, list[Any], list[Array]]
"""The head of a frame; for each step its result, or its shape and dtype; and the results of reductions, by blocks."""
Prepare = Callable[[Sequence[Array], Sequence[Any]], Prepared]
"""Prepares a call, given the arrays and the scalars of the chain."""


def prepare(layout: Layout, arrays: int, scalars: int, blocks: int) -> Prepare:
    """Write the code that prepares the calls of a chain of so many arrays and scalars, cut into so many blocks."""
    names: dict[str, Any] = {"empty": np.empty, "pack": layout.pack, "ordered": buffers.array, "int64": np.int64}
    made = {step: f"r{step}" for step, *_ in layout.outputs}
    lines = ["def prepare(arrays, scalars):"]
    lines += [f"    {each} = {given}" for each, given in _unpacked(arrays, scalars)]
    for step, shape, dtype, order in layout.outputs:
        names |= {f"shape{step}": shape, f"dtype{step}": dtype, f"order{step}": order}
        lines.append(
            f"    r{step} = empty(shape{step}, dtype{step})"
            if order is None
            else f"    r{step} = ordered(shape{step}, dtype{step}, order{step})"
        )
    partials = [f"p{number}" for number in range(len(layout.description.structure.reductions))]
    lines += [f"    {each} = empty({blocks}, int64)" for each in partials]
    walked = [*(f"x{number}" for number in layout.inputs), *made.values(), *partials]
    packed = [*(f"id({each})" for each in walked), *(f"s{number}" for number in layout.scalars)]
    names |= {f"o{step}": outcome for step, outcome in enumerate(layout.outcomes)}
    outcomes = [made.get(step, f"o{step}") for step in range(len(layout.outcomes))]
    lines.append(f"    return pack({', '.join(packed)}), [{', '.join(outcomes)}], [{', '.join(partials)}]")
    exec(compile("\n".join(lines), "<call of a chain>", "exec"), names)
    written: Prepare = names.pop("prepare")
    return written


Call = Callable[..., Any]
"""Computes the one result of a chain, given its arrays one by one."""


def call_in_place(
    layout: Layout, arrays: int, constants: Sequence[Array], scalars: Sequence[Any], around: dict[str, Any]
) -> Call:
    """Write the code that computes a chain of one result, given so many arrays; the others, and scalars, are constants.

    `around` has the names of the code that is called, `direct`, and the rest of its frame, `tail`; and what is told of
    a call: `chain`, `entry`, `natives`. It also has `otherwise`, which is called where the code is not there any more,
    or says that NumPy would have warned.
    """
    ((_, shape, dtype, order),) = layout.outputs
    names = around | {"empty": np.empty, "pack": layout.pack, "ordered": buffers.array, INTERNAL: True}
    names |= {"shape": shape, "dtype": dtype, "order": order}
    names |= {f"x{arrays + number}": constant for number, constant in enumerate(constants)}
    names |= {f"s{number}": scalar for number, scalar in enumerate(scalars)}
    packed = [*(f"id(x{number})" for number in layout.inputs), "id(result)", *(f"s{each}" for each in layout.scalars)]
    arguments = "".join(f"x{number}, " for number in range(arrays))
    lines = [
        f"def call({arguments}):",
        " code = entry.code",  # held as long as it is called
        f" if code is None: return otherwise({arguments})",
        f" result = {'empty(shape, dtype)' if order is None else 'ordered(shape, dtype, order)'}",
        f" if direct(pack({', '.join(packed)}) + tail, 0, None):",
        "  chain.failures += 1",
        f"  return otherwise({arguments})",
        " chain.failures = 0",
        " entry.used = True",
        " natives.hits += 1",
        " return result",
    ]
    exec(compile("\n".join(lines), "<call of a chain>", "exec"), names)
    written: Call = names.pop("call")
    return written


def _unpacked(arrays: int, scalars: int) -> list[tuple[str, str]]:
    """Names for the arrays and the scalars, and where they come from."""
    given = [("".join(f"x{number}, " for number in range(arrays)), "arrays")]
    given.append(("".join(f"s{number}, " for number in range(scalars)), "scalars"))
    return [(names, source) for names, source in given if names]
