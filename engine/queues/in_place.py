"""Chains in place: elementwise records that stand on the queue, computed by the thread that drives, in one call.

A chain that has been compiled takes little more than reading its operands once, so it is worth it for arrays far too
small for a worker, and pays for much larger ones than a single op may have in place. What is not compiled yet, or
takes too long, goes the way of single ops.

Under the queue's lock. What is kept is completed first, in dispatch order; then what is not, the last first. So where
an interrupt comes in between, the records that are left still have operands, and are computed op by op.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.base.op import WATCHED
from engine.fusion.chains.chain import LONGEST_NS, Chain
from engine.fusion.chains.chains import Chains, Site, chains
from engine.queues.finding import Found, found_among
from engine.queues.hooks import hooks
from handles.cell import Cell, call_waiters

if TYPE_CHECKING:
    from engine.queues.device_queue import DeviceQueue

FEWEST = WATCHED
"""Elements of the largest operand from which a chain is looked for: below, single ops take less time than looking."""
MOST = 1 << 20
"""Elements up to which it is looked for: above, it is a worker's in any case."""
LENGTH = 64
"""Records that a chain has at most."""
_HELD = 2
"""Places that refer to a record here: the queue, and the list of the chain's records."""
_ARRAY = np.ndarray


class InPlaceChains:
    """Computes chains of one queue in place."""

    def __init__(self, queue: DeviceQueue, known: Chains = chains) -> None:
        self._queue = queue
        self._chains = known
        self._passed = 0
        """Records that are not looked at, as they are of a chain that cannot be computed in one call now."""

    def run(self) -> bool:
        """Compute the chain that the first record on the queue begins; False, and nothing done, where there is none.

        Its records are completed, and stay on the queue. No name of a caller may refer to one: references are counted.
        """
        if self._passed:
            self._passed -= 1
            return False
        if not self._is_worthwhile():
            return False
        site = self._site()
        if self._chains.rests(site):
            return False
        known = self._chains.at(site)
        if known is not None:
            match = known.match(self._queue.pending)
            if match is not None:
                return self._done(known, *match)
        return self._look_up()

    def _look_up(self) -> bool:
        """Compute the chain where it is found by its key."""
        if not self._chains.active:
            return False
        found = self._found()
        if len(found.cells) < 2:
            return False
        operands = found.operands
        chain = self._chains.find(found.key(_HELD), operands.scalars, self._site())
        return self._done(chain, found.cells, operands.arrays, operands.scalars)

    def _done(self, chain: Chain | None, cells: Sequence[Cell], arrays: Sequence[Any], scalars: Sequence[Any]) -> bool:
        """Compute a chain; where that is not possible, its records are not looked at any more."""
        done = chain is not None and self._compute(chain, cells, arrays, scalars)
        if not done:
            self._passed = len(cells) - 1
        return done

    def _site(self) -> Site:
        """Where the first record on the queue comes from."""
        head = self._queue.pending[0]
        return head.code, head.lasti

    def _is_worthwhile(self) -> bool:
        """Tell whether the first record on the queue may begin a chain, as far as its own operands tell."""
        pending = self._queue.pending
        if len(pending) < 2:
            return False
        head = pending[0]
        if head.rare is not None or not head.op.fusion.fusable:
            return False
        size = 0
        for value in head.args:
            if value.__class__ is Cell:
                value = value.value
            if value.__class__ is _ARRAY and value.size > size:
                size = value.size
        return FEWEST <= size <= MOST

    def _found(self) -> Found:
        found = found_among(islice(self._queue.pending, LENGTH))
        return found if found.is_whole() else found_among(found.first_part())

    def _compute(self, chain: Chain, cells: Sequence[Cell], arrays: Sequence[Any], scalars: Sequence[Any]) -> bool:
        if chain.ns > LONGEST_NS:
            chain.ns *= 0.98  # it may have been slow for another reason: after some time it is tried again
            return False
        outcomes = chain.compute(arrays, scalars)
        if outcomes is None:
            return False
        self._complete(cells, outcomes)
        return True

    def _complete(self, cells: Sequence[Cell], outcomes: Sequence[Any]) -> None:
        """Complete what is kept, in dispatch order; then what is not, which no other record may read any more."""
        if hooks.listeners:
            for cell in cells:
                hooks.started(cell)
            hooks.tell("grouped", list(cells))
        rest = []
        for cell, outcome in zip(cells, outcomes, strict=True):
            if outcome.__class__ is _ARRAY:
                self._complete_one(cell, outcome)
            else:
                rest.append((cell, outcome))
        while rest:
            self._complete_one(*rest.pop())

    def _complete_one(self, cell: Cell, outcome: Any) -> None:
        completions = self._queue.completions
        completions.completed += 1
        if hooks.listeners or cell.waiters is not None or cell.group is not None:
            completions.complete(cell, outcome)
            return
        cell.value = outcome  # as `complete` does for a record that stands on the queue
        cell.args = ()
        cell.params = None
        waiters: object = cell.waiters  # a thread may have begun to wait meanwhile
        if waiters is not None:
            call_waiters(cell)
