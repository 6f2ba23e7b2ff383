"""The chains that this process has seen: counted, planned in the background when they come again, and let go of.

A chain that comes for the second time is planned and compiled by the compiling thread; until that has happened, and
where it cannot be, those who ask compute it op by op. No lock: tables are read and replaced by single operations, and
two threads that meet plan a chain twice at worst.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import Enum
from functools import partial
from types import CodeType
from typing import Any

from engine.fusion.chains.chain import BusyError, Chain
from engine.fusion.chains.key import ChainKey
from engine.fusion.native.natives import Natives, natives
from engine.fusion.native.structure import UnsupportedError

LIMIT = 512
"""Keys that are remembered."""
SIGHTINGS = 2
"""How often a chain is seen before it is planned."""


REST = 64
"""How often a place that a refused chain came from is not looked at, before it is again."""

Site = tuple[CodeType | None, int]
"""The code that dispatched the first op of a chain, and in it the instruction."""


class State(Enum):
    """Stands for a chain that is not there."""

    COMING = "coming"
    REFUSED = "refused"


class Chains:
    """A cache of chains."""

    def __init__(self, compiled: Natives, sightings: int = SIGHTINGS) -> None:
        self._natives = compiled
        self._sightings = sightings
        self._known: dict[ChainKey, Chain | State | int] = {}
        self._at: dict[Site, Chain] = {}
        """The chain that was last found by its key, for the place where its first op was dispatched."""
        self._resting: dict[Site, int] = {}
        """How often more a place is not looked at, as a chain that was refused came from there."""

    @property
    def active(self) -> bool:
        """True if chains are compiled at all."""
        return self._natives.enabled and self._natives.available

    def at(self, site: Site) -> Chain | None:
        """The chain that may come from a place in the program; None where no chain came from there lately."""
        known = self._at.get(site)
        if known is None or not self._natives.enabled or not known.is_ready:
            return None
        return known

    def rests(self, site: Site) -> bool:
        """Tell whether to look for no chain from a place now: one that was refused came from there lately."""
        left = self._resting.get(site, 0)
        if left > 1:
            self._resting[site] = left - 1
        elif left:
            self._resting.pop(site, None)
        return left > 0

    def rest(self, site: Site) -> None:
        """Look for no chain from a place for some time: what comes from there is none, or none that pays."""
        if len(self._resting) >= LIMIT:
            self._resting.clear()
        self._resting[site] = REST

    def find(self, key: ChainKey, scalars: Sequence[Any], site: Site | None = None) -> Chain | None:
        """A chain that can be computed now; None where it cannot, which it may be next time."""
        known = self._known.get(key, 0)
        if known.__class__ is Chain:
            assert isinstance(known, Chain)
            if known.is_ready:
                if site is not None:
                    if len(self._at) >= LIMIT:
                        self._at.clear()
                    self._at[site] = known
                return known
            self._without_code(known, scalars)
            return None
        if known is State.REFUSED and site is not None:
            self.rest(site)
        if isinstance(known, int):
            self._remember(key, known + 1)
            if known + 1 >= self._sightings:
                self.plan(key, scalars)
                again = self._known.get(key)
                return again if isinstance(again, Chain) and again.entry.code is not None else None
        return None

    def refuses(self, key: ChainKey) -> bool:
        """Tell whether a chain was looked at, and cannot be computed by one call."""
        return self._known.get(key) is State.REFUSED

    def plan_once(self, key: ChainKey, scalars: Sequence[Any]) -> None:
        """Have a chain planned that is certain to come, unless it is known."""
        if isinstance(self._known.get(key, 0), int):
            self.plan(key, scalars)

    def plan(self, key: ChainKey, scalars: Sequence[Any], *, careful: bool = False) -> None:
        """Have a chain planned and compiled in the background, for the next time."""
        if not self.active:
            return
        self._remember(key, State.COMING)
        job = partial(self._plan, key, list(scalars), careful)
        if self._natives.at_once:
            job()
        elif not self._natives.background.submit(job):
            self._known.pop(key, None)

    def _plan(self, key: ChainKey, scalars: Sequence[Any], careful: bool) -> None:
        planned: Chain | State
        try:
            planned = Chain(key, scalars, self._natives, careful=careful)
        except UnsupportedError:
            planned = State.REFUSED
        except BusyError:
            self._known.pop(key, None)
            return
        except Exception:  # noqa: BLE001 - a defect of the planning: it is computed op by op, and comes out right
            planned = State.REFUSED
        self._remember(key, planned)

    def _without_code(self, chain: Chain, scalars: Sequence[Any]) -> None:
        """Deal with a chain that cannot be computed: its code is to come, was let go of, or is of no use."""
        key = chain.key
        if chain.is_hopeless:
            if chain.structure.minds_nans and not chain.structure.careful:
                self.plan(key, scalars, careful=True)  # NaNs may be the reason: look at them closer
            else:
                self._remember(key, State.REFUSED)
        elif chain.entry.refused:
            self._remember(key, State.REFUSED)
        elif not chain.entry.coming:
            self.plan(key, scalars)

    def _remember(self, key: ChainKey, known: Chain | State | int) -> None:
        if key not in self._known and len(self._known) >= LIMIT:
            for old in list(self._known)[: LIMIT // 4]:
                self._known.pop(old, None)
        self._known[key] = known

    def forget_coming(self) -> None:
        """In a forked child: what the compiling thread was about to plan is planned when it is seen again."""
        for key in [key for key, known in list(self._known.items()) if known is State.COMING]:
            self._known.pop(key, None)


chains = Chains(natives)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=chains.forget_coming)
