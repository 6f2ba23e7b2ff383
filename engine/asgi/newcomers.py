"""Requests that have just begun: those that are still there after a moment are watched, all together.

Most requests are answered within a millisecond or two. To read ahead of each, and to set a timer for each, would cost
more than all else that is done for it; so the loop looks once in a moment at those that began since. A request whose
client goes within the moment is told of it at the end of the moment.

All of it runs on the thread of the loop.
"""

from __future__ import annotations

from typing import Protocol

from engine.base.loops import AbstractEventLoop

MOMENT = 0.001
"""Seconds after which a request is watched, at least."""


class Watched(Protocol):
    """A request that can be watched."""

    def watch(self) -> None:
        """Look out for its client, and for the clock, unless it has ended."""


class Newcomers:
    """The requests that began on one loop since the last look."""

    __slots__ = ("_requests",)

    def __init__(self) -> None:
        self._requests: list[Watched] = []

    def add(self, request: Watched, loop: AbstractEventLoop) -> None:
        """Have a request watched if it is still there after a moment."""
        self._requests.append(request)
        if len(self._requests) == 1:
            loop.call_later(MOMENT, self._look)

    def _look(self) -> None:
        requests, self._requests = self._requests, []
        for request in requests:
            request.watch()
