"""Chains in place: elementwise records that stand on the queue, computed by the thread that drives, in one call.

A chain that has been compiled takes little more than reading its operands once, so it is worth it for arrays far too
small for a worker, and pays for much larger ones than a single op may have in place. What is not compiled yet, or
takes too long, goes the way of single ops.

Under the queue's lock. What is kept is completed first, in dispatch order. So where an interrupt comes in between, the
records that are left still have operands, and are computed op by op.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.base.op import WATCHED
from engine.fusion.chains.chain import Chain
from engine.fusion.chains.chains import Chains, Site, chains
from engine.queues.finding import Found, found_among
from engine.queues.hooks import hooks
from handles.cell import Cell, settle

if TYPE_CHECKING:
    from engine.queues.device_queue import DeviceQueue

FEWEST = WATCHED
"""Elements of the largest operand from which a chain is looked for, where there are two records at least."""
SEVERAL = 6
"""Records of a chain that pays for smaller operands, too, as computing them one by one would take longer."""
FEWEST_OF_SEVERAL = 1 << 9
"""Elements of the largest operand from which it does."""
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
        self._pending = queue.pending
        self._chains = known
        self._passed = 0
        """Records that are not looked at, as they are of a chain that cannot be computed in one call now."""

    def may_take(self, nanoseconds: float) -> bool:
        """Tell whether the chain that may begin with the first record on the queue may take so long."""
        known = self._chains.at(self._site()) if len(self._pending) > 1 else None
        return known is not None and known.ns > nanoseconds

    def run(self) -> bool:
        """Compute the chain that the first record on the queue begins; False, and nothing done, where there is none.

        Its records are completed and taken off the queue. No name of a caller may refer to one: references are counted.
        """
        if self._passed:
            self._passed -= 1
            return False
        if len(self._pending) < 2:
            return False
        site = self._site()
        known = self._chains.at(site)
        match = None if known is None else known.match(self._pending)
        if known is not None and match is not None:
            if self._compute_matched(known, *match):
                return True
            self._passed = len(match[0]) - 1
            return False
        return not self._chains.rests(site) and self._is_worthwhile(FEWEST) and self._look_up(site)

    def run_several(self) -> bool:
        """The same for a chain of several records, whose operands may be smaller; what is none is seldom looked at."""
        pending = self._pending
        site = pending[0].code, pending[0].lasti
        known = self._chains.at(site)
        if known is not None:
            match = known.match(pending)
            if match is None or self._compute_matched(known, *match):
                return match is not None
            if prod(known.layout.group.shape) >= FEWEST:  # `run` is asked for each of its records
                self._passed = len(match[0])
            return False
        aside = site[0], ~site[1]  # where larger operands come from the same place, they are looked at nevertheless
        if self._chains.rests(aside):
            return False
        if self._is_worthwhile(FEWEST_OF_SEVERAL, FEWEST - 1) and self._look_up(site, SEVERAL):
            return True
        self._passed = 0
        self._chains.rest(aside)
        return False

    def _look_up(self, site: Site, least: int = 2) -> bool:
        """Compute the chain of at least so many records where it is found by its key.

        Where that is not possible, its records are not looked at any more.
        """
        if not self._chains.active:
            return False
        found = self._found()
        if len(found.cells) < least:
            return False
        operands = found.operands
        chain = self._chains.find(found.key(_HELD), operands.scalars, site)
        outcomes = None if chain is None else self._compute(chain, operands.arrays, operands.scalars)
        if outcomes is None:
            self._passed = len(found.cells) - 1
            return False
        self._complete_found(found.cells, outcomes)
        found.let_go()
        self._queue.slice.take_off_ended()
        return True

    def _site(self) -> Site:
        """Where the first record on the queue comes from."""
        head = self._pending[0]
        return head.code, head.lasti

    def _is_worthwhile(self, fewest: int, most: int = MOST) -> bool:
        """Tell whether the first record on the queue may begin a chain, as far as its own operands tell."""
        head = self._pending[0]
        if head.rare is not None or not head.op.fusion.fusable:
            return False
        size = 0
        for value in head.args:
            if value.__class__ is Cell:
                value = value.value
            if value.__class__ is _ARRAY and value.size > size:
                size = value.size
        return fewest <= size <= most

    def _found(self) -> Found:
        found = found_among(self._first())
        return found if found.is_whole() else found_among(found.first_part())

    def _first(self) -> list[Cell]:
        """The first records on the queue, which other threads may add to."""
        while True:
            with suppress(RuntimeError):  # one has, between the two calls
                return list(islice(self._pending, LENGTH))

    def _compute(self, chain: Chain, arrays: Sequence[Any], scalars: Sequence[Any]) -> list[Any] | None:
        return chain.compute(arrays, scalars) if chain.may_hold_loop() else None

    def _compute_matched(
        self, chain: Chain, cells: Sequence[Cell], arrays: Sequence[Any], scalars: Sequence[Any]
    ) -> bool:
        """Compute a chain whose records are the first ones on the queue.

        Nothing refers to those that are not kept: they go without a value. Where an interrupt comes in between, those
        that are left still have their operands, and are computed op by op.
        """
        outcomes = self._compute(chain, arrays, scalars)
        if outcomes is None:
            return False
        if hooks.listeners:
            self._tell_and_complete(cells, outcomes)
            self._queue.slice.take_off_ended()
            return True
        for number in chain.kept:
            settle(cells[number], outcomes[number])
        take_off = self._pending.popleft
        for cell, outcome in zip(cells, outcomes, strict=True):
            if cell.group is not None or cell.waiters is not None:  # a scope counts each of its ops
                settle(cell, outcome)
            take_off()
        self._queue.completions.completed += len(cells)
        return True

    def _complete_found(self, cells: Sequence[Cell], outcomes: Sequence[Any]) -> None:
        """Complete what is kept, in dispatch order; then what is not, which no other record may read any more."""
        if hooks.listeners:
            self._tell_and_complete(cells, outcomes)
            return
        for cell, outcome in zip(cells, outcomes, strict=True):
            if outcome.__class__ is _ARRAY:
                self._queue.completions.completed += 1
                settle(cell, outcome)
        for cell, outcome in zip(reversed(cells), reversed(outcomes), strict=True):
            if outcome.__class__ is not _ARRAY:
                self._queue.completions.completed += 1
                settle(cell, outcome)

    def _tell_and_complete(self, cells: Sequence[Cell], outcomes: Sequence[Any]) -> None:
        completions = self._queue.completions
        for cell in cells:
            hooks.started(cell)
        hooks.tell("grouped", list(cells))
        numbers = range(len(cells))
        kept = [number for number in numbers if outcomes[number].__class__ is _ARRAY]
        rest = [number for number in reversed(numbers) if outcomes[number].__class__ is not _ARRAY]
        for number in kept + rest:
            completions.completed += 1
            completions.complete(cells[number], outcomes[number])
