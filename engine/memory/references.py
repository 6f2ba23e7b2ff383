"""Counting what else refers to an object: whether a result has to be kept, and whose memory may be written over.

All counting is done here, and each number that it is compared with is measured at import, by functions of the shape of
those that count: newer interpreters lend arguments and names instead of counting them. A number that is too low makes
the engine copy, or keep, what it need not; where measuring gives no sense, everything counts as referred to.
"""

from __future__ import annotations

from sys import getrefcount

HELD_BY_GROUP = 2
"""Places of the engine that refer to a record of a fusion group: the step, and the entry of the backlog."""
HELD_BY_BATCH = 3
"""Places of the engine that refer to a record of a batch for a device: the record that the device gets, the entry of
the backlog, and the table of the batch."""
HELD_BY_INPUTS = 1
"""The list of the inputs of a group, or of the operands that a worker was given."""
HELD_BY_CELL = 1
"""The cell of a value, or the tuple of operands of a record."""
HELD_BY_VIEW = 1
"""The view of what an array is a view of."""
HELD_BY_RESULT = 1
"""The sequence in which a kernel returned it."""
HELD_BY_TASK = 1
"""The task of a coroutine, to the result of it."""


def others(thing: object, known: int) -> bool:
    """Tell whether anything refers to a thing but `known` places and the one name that the caller has for it."""
    return getrefcount(thing) > _OWN + known


def _of_one_name() -> int:
    """How many references a call of `others` counts where the caller's name is all there is."""
    thing = object()
    return _count(thing)


def _count(thing: object) -> int:
    return getrefcount(thing)


def _of_own_name() -> int:
    """How many references `getrefcount` counts, called by the function itself whose one name refers to a thing."""
    thing = object()
    return getrefcount(thing)


def _counts_each() -> bool:
    """Tell whether each reference more counts as one more, and each one less as one less."""
    thing = object()
    alone = _count(thing)
    held = [thing]
    once = _count(thing)
    held.append(thing)
    twice = _count(thing)
    held.clear()
    return (once - alone, twice - alone, _count(thing) - alone) == (1, 2, 0)


def _calibrated() -> int:
    """Measure what one name counts; a number that nothing is below where that fails."""
    own = _of_one_name()
    return own if 0 < own < _MOST and _counts_each() else _REFUSED


_MOST = 100
"""References that a call could count to a thing of one name; more is no count."""
_REFUSED = -(1 << 30)
_OWN = _calibrated()
"""References that a call of `others` counts to a thing that the caller's one name refers to."""
HELD_BY_NAME = _of_own_name() if _OWN > 0 else _REFUSED
"""What `getrefcount` counts of the one name, where code that is written for it calls that instead of `others`."""
