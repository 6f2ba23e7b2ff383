"""Wiring: which methods of which observers are called for the events that an assembly reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from engine.observe.assembly import Assembly, Draft, Lag, Stall
from engine.observe.events import Observer


class Call(Protocol):
    """Calls a method of an observer, and takes care of what it raises."""

    def __call__(self, observer: Observer, method: Callable[..., None], *facts: Any) -> None: ...


class Quiet(Observer):
    """An observer of the library's own, which is told now and then, and asks where it needs to know more at once."""

    def began(self, draft: Draft, assembly: Assembly) -> None:
        """An op is computed from now on."""

    def ended(self, draft: Draft, assembly: Assembly) -> None:
        """It has ended. What is wanted of it, `assembly.record(draft)` gives: to make a record of each takes long."""

    def lagged(self, lag: Lag) -> None:
        """A loop has answered."""

    def let_go(self) -> None:
        """It is told no more, because all are let go."""


def connect(assembly: Assembly, observers: tuple[Observer, ...], call: Call) -> Assembly:
    """Have an assembly tell these observers what they have overridden."""

    quiet: list[Quiet] = [each for each in observers if isinstance(each, Quiet)]

    def those(name: str) -> list[tuple[Observer, Callable[..., None]]]:
        return [(each, getattr(each, name)) for each in observers if _overrides(each, name)]

    def on_op(name: str, quietly: str | None = None) -> Callable[[Draft], None] | None:
        listeners = those(name)
        direct = [(one, getattr(one, quietly)) for one in quiet if _overrides(one, quietly)] if quietly else []

        def tell(draft: Draft) -> None:
            for one, method in direct:
                call(one, method, draft, assembly)
            record = assembly.record(draft) if listeners else None
            for observer, method in listeners:
                call(observer, method, record)

        return tell if listeners or direct else None

    def on_stalled(stall: Stall) -> None:
        for observer, method in those("stalled"):
            call(observer, method, stall.seconds, stall.site)

    def on_lag(lag: Lag) -> None:
        for one in quiet:
            call(one, one.lagged, lag)

    assembly.on_dispatched = on_op("dispatched")
    assembly.on_started = on_op("started", "began")
    assembly.on_finished = on_op("finished", "ended")
    assembly.on_stalled = on_stalled
    assembly.on_lag = on_lag if quiet else None
    return assembly


def _overrides(observer: Observer, name: str) -> bool:
    """Tell whether its class has a method of its own of that name."""
    base = Quiet if hasattr(Quiet, name) and isinstance(observer, Quiet) else Observer
    return getattr(type(observer), name) is not getattr(base, name)
