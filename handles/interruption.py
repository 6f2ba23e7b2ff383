"""Interruptions that NumPy would lose: it asks for a buffer first, drops any error of that, and asks for an array next.

A wait that Ctrl-C ended in the first question must not begin again in the second. So what ended it is kept, for the
second question of the same thread from the same instruction: nothing of the program can run between the two.
"""

from __future__ import annotations

import sys
import threading
from types import CodeType

from handles.cell import Cell

_kept = threading.local()


def remember(cell: Cell, error: BaseException) -> None:
    """Keep what ended the wait for a cell; called by the method that was asked for a buffer."""
    _kept.place = (id(cell), *_asking())
    _kept.error = (type(error), error.args)


def end_as_before(cell: Cell) -> None:
    """End as the wait for a buffer did, if that was the question before; the method asked for an array calls it."""
    place = vars(_kept).pop("place", None)
    if place is None:
        return
    kind, args = vars(_kept).pop("error")
    if place == (id(cell), *_asking()):
        raise kind(*args)


def _asking() -> tuple[CodeType, int]:
    """The instruction that asks: that of the caller of the method that calls here."""
    frame = sys._getframe(3)
    return frame.f_code, frame.f_lasti
