"""What wakes a thread that is blocked."""

from __future__ import annotations

from queue import Empty, SimpleQueue


class Bell:
    """Rung from any thread, heard by one. Unlike `threading.Event`, an interrupt of who waits leaves it whole."""

    __slots__ = ("_rings",)

    def __init__(self) -> None:
        self._rings: SimpleQueue[None] = SimpleQueue()

    def ring(self) -> None:
        if self._rings.empty():
            self._rings.put(None)

    def wait(self, seconds: float) -> None:
        """Wait until it has been rung since the last wait, so many seconds at most."""
        try:
            self._rings.get(timeout=seconds)
        except Empty:
            return
