"""Parts of the check: each is a process with a limit of its own, so that one that hangs or dies costs itself only.

They come in the order of what they tell. The decisions are pure; `__main__` starts the processes.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from engine.testing.gpu.cases import Case, all_cases
from engine.testing.gpu.edges import EDGES

LIMIT_SECONDS = 230.0
"""Seconds for all parts together, the look for a GPU included; what comes before and after is quick."""
LEAST_SECONDS = 8.0
"""Seconds that a part needs at least: CuPy is imported and a context is made first."""
NOTICE_SECONDS = 3.0
"""So long before its limit a part says where it is, and ends by itself."""


CHECK_SECONDS = 20.0
"""Seconds of one check at most: one that hangs costs no more, as the process is started again after it."""


@dataclass(frozen=True)
class Part:
    """A part: its name, its seconds at most, and the processes that share it out."""

    name: str
    seconds: float
    processes: int = 1


PRESENCE = Part("presence", 40.0)
"""The look for a GPU: a process, too, as CUDA may not answer."""


def all_parts(processes: int) -> tuple[Part, ...]:
    """All parts in their order; so many processes share out the cases."""
    return (
        Part("facilities", 60.0),
        Part("behaviour", 35.0),
        Part("figures", 45.0),
        Part("cases", 90.0, processes),
        Part("heartbeat", 20.0),
        Part("programs", 35.0),
        Part("ends", 35.0),
    )


def limit_of(part: Part, spent: float, rest: int) -> float:
    """Seconds that a part may take, when so many were spent and so many parts come after it; 0 for none at all."""
    left = LIMIT_SECONDS - spent
    limit = min(part.seconds, left - LEAST_SECONDS * rest)
    if limit < LEAST_SECONDS:  # not all can be begun: this one, then
        limit = min(part.seconds, left)
    return limit if limit >= LEAST_SECONDS else 0.0


def everything() -> Iterator[Case]:
    """All cases, and their edges."""
    yield from all_cases()
    for chapter in EDGES:
        yield from chapter()


def in_order(cases: Iterable[Case]) -> list[Case]:
    """The cases, mixed, but the first one of each op before the second one of any."""
    mixed = list(cases)
    random.Random(0).shuffle(mixed)
    met: Counter[str] = Counter()
    numbered = []
    for case in mixed:
        name = case.name.partition("(")[0]
        numbered.append((met[name], case))
        met[name] += 1
    return [case for _, case in sorted(numbered, key=lambda each: each[0])]


def share(cases: list[Case], number: int, of: int) -> list[Case]:
    """The cases of one of some processes."""
    return cases[number::of]
