"""Lengths that are not known yet: what results have in common for all that can be.

A rule that cannot do with an unknown length is asked with several, and what all answers agree on is told. One answer
tells nothing: another length that fits may not have been among those tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from engine.base.op import ShapeDtype

Facts = tuple[ShapeDtype, ...]

_VARIED = 4
"""Unknown lengths that are tried apart from the others."""

_TRIED = 24
"""Lengths that are tried at most."""


def facts_in_common(
    rule: Callable[[Sequence[object]], Facts], operands: Sequence[object], mentioned: Iterable[int]
) -> Facts | None:
    """Keep what a rule says of each result for all lengths that fit; an unknown length stays None.

    `mentioned` are the lengths that shapes and arguments speak of, which are tried beside a few others. None where too
    few lengths fit, or where the number of dimensions depends on them. Where none fits, the first error is raised.
    """
    unknown = sum(each.shape.count(None) for each in operands if isinstance(each, ShapeDtype))
    lengths = _to_try(mentioned)
    fitting: dict[int, Facts] = {}
    problems: list[Exception] = []
    for length in lengths:
        try:
            fitting[length] = rule(_with(operands, [length] * unknown))
        except Exception as error:  # noqa: BLE001 - does not fit this length, maybe others
            problems.append(error)
    if not fitting:
        raise problems[0]
    found = list(fitting.values())
    for length in list(fitting)[:1] if unknown > 1 else ():  # some may be other than the rest
        for place in range(min(unknown, _VARIED)):
            for other in lengths:
                each = [length] * place + [other] + [length] * (unknown - place - 1)
                try:
                    found.append(rule(_with(operands, each)))
                except Exception:  # noqa: BLE001 - the same
                    continue
    if len(found) < 2 or len({tuple(len(its.shape) for its in facts) for facts in found}) > 1:
        return None
    return tuple(map(_common, zip(*found, strict=True)))


def _to_try(mentioned: Iterable[int]) -> list[int]:
    asked = sorted(set(mentioned))
    lengths = [2, 1, 3, 7, 12, 101, *asked, *(each for n in asked for each in (2 * n, n + 7))]
    return list(dict.fromkeys(lengths))[:_TRIED]


def _with(operands: Sequence[object], lengths: Sequence[int]) -> list[object]:
    """The operands with these in place of the unknown lengths."""
    left = iter(lengths)
    return [
        ShapeDtype(tuple([next(left) if n is None else n for n in each.shape]), each.dtype)
        if isinstance(each, ShapeDtype)
        else each
        for each in operands
    ]


def _common(results: Sequence[ShapeDtype]) -> ShapeDtype:
    lengths = (set(each) for each in zip(*(its.shape for its in results), strict=True))
    return ShapeDtype(tuple(each.pop() if len(each) == 1 else None for each in lengths), results[0].dtype)
