"""Groups of a worker that were planned before: a chain found again, by its key, in the records ahead of the worker.

Planning a fusion group takes about as long as computing it on a hundred thousand elements. What is found here needs
none. A group in which a result may be written over an operand, or that is not a chain, is planned as before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set as AbstractSet
from typing import Any

from engine.fusion.chains.chain import Chain
from engine.fusion.chains.chains import chains
from engine.fusion.groups import LONGEST, TOGETHER, Chooser
from engine.queues.finding import Found, found_among, may_be_written_over
from engine.queues.records import entry_of
from engine.queues.states import Entry
from handles.cell import Cell

_HELD = 3
"""Places that refer to a record here: the queue or its entry, the records ahead, and the list of those found."""


class ChainedGroup:
    """A group that a worker computes as one chain."""

    def __init__(self, head: Entry, found: Found, chain: Chain) -> None:
        self.head = head
        self.found = found
        self._chain = chain

    def computed(self, threads: int) -> list[Any] | None:
        """The results of its records; None where they have to be run one by one."""
        operands = self.found.operands
        try:
            return self._chain.compute_on(threads, operands.arrays, operands.scalars)
        except Exception:  # noqa: BLE001 - no memory, or a defect of the engine: one by one they come out right
            return None


def chained_group(
    head: Entry, records: Sequence[Cell], favour: Callable[[Entry], Chooser], early: AbstractSet[int]
) -> ChainedGroup | None:
    """The group that begins with the first record, whose operands are ready, if it is known as a chain.

    `favour` makes what chooses records for a group; `early` are the identities of records that were set aside and stand
    on the queue nevertheless.
    """
    if not chains.active:
        return None
    found = _found(records, favour(head))
    if len(found.cells) < 2 or found.cells[0] is not records[0]:
        return None
    chain = chains.find(found.key(_HELD, _further_places(found, early)), found.operands.scalars)
    if chain is None or chain.failures or may_be_written_over(found, chain.layout.successors):
        return None
    return ChainedGroup(head, found, chain)


def _found(records: Sequence[Cell], chooser: Chooser) -> Found:
    """The records that belong together with the first one; all that are allowed where arrays come from memory."""
    found = found_among(_offered(records, chooser), running=True, joined=chooser.joined)
    if found.is_whole() or found.elements() >= TOGETHER:
        return found
    return found_among(found.first_part(), running=True)


def _further_places(found: Found, early: AbstractSet[int]) -> Counter[int]:
    """How many places more refer to some records: the queue to one that was demanded, an entry to what it lacks."""
    places = Counter(early)
    for cell in found.cells:
        entry: Entry | None = entry_of(cell)
        if entry is not None and entry.missing is not None:
            places[id(entry.missing)] += 1
    return places


def _offered(records: Sequence[Cell], chooser: Chooser) -> Iterator[Cell]:
    """The records that may be in the group: the first one, and those that the chooser allows."""
    for number in range(min(len(records), LONGEST)):
        if number == 0 or chooser.allows(records[number]):
            yield records[number]
