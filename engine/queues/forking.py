"""What a fork does to queues: it finds them still, and in the child what their threads were doing starts over."""

from __future__ import annotations

import os
import weakref
from typing import Protocol

from handles.cell import Cell


class Forkable(Protocol):
    """A queue as a fork sees it."""

    def hold_still(self) -> bool:
        """Let no thread be in the middle of a slice; False when one does not end."""

    def unfinished(self) -> list[Cell]:
        """The records in flight, oldest first where that is known."""

    def go_on(self) -> None:
        """In the parent, after `hold_still`."""

    def start_over(self) -> None:
        """In the child: threads and loop stayed behind, so what ran there is to be run again, by whoever asks."""


queues: weakref.WeakSet[Forkable] = weakref.WeakSet()
"""All that live."""
_held: list[Forkable] = []


def _before() -> None:
    _held.extend(queue for queue in list(queues) if queue.hold_still())


def _after_in_parent() -> None:
    while _held:
        _held.pop().go_on()


def _after_in_child() -> None:
    _held.clear()
    for queue in list(queues):
        queue.start_over()


os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
