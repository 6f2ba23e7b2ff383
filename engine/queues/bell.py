"""Bells, which wake threads that are blocked."""

from __future__ import annotations

from queue import Empty, SimpleQueue


class Bell:
    """Rung from any thread, heard by one. Unlike `threading.Event`, an interrupt of who waits leaves it whole."""

    __slots__ = ("_rings",)

    def __init__(self) -> None:
        self._rings: SimpleQueue[None] = SimpleQueue()

    def ring(self) -> None:
        """Wake the thread that waits."""
        if self._rings.empty():
            self._rings.put(None)

    def wait(self, seconds: float) -> None:
        """Wait until it has been rung since the last wait, so many seconds at most."""
        try:
            self._rings.get(timeout=seconds)
        except Empty:
            return


class Bells:
    """The bells of the threads that listen to one queue."""

    __slots__ = ("_bells",)

    def __init__(self) -> None:
        self._bells: set[Bell] = set()

    def listen(self, bell: Bell, listening: bool) -> None:
        """Have a bell rung from now on, or no longer."""
        if listening:
            self._bells.add(bell)
        else:
            self._bells.discard(bell)

    def ring(self) -> None:
        """An op of the queue has ended, or can be run now."""
        if self._bells:
            for bell in list(self._bells):
                bell.ring()

    def clear(self) -> None:
        """In a forked child: none of those threads is left."""
        self._bells.clear()
