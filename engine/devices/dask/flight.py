"""Steps in flight to one worker: which records are theirs, what ends with what, and how much they are together.

The worker tells the ends of some steps only. What is silent has ended when the first step that needs it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.devices.dask.errors import unpacked_error
from engine.devices.dask.programs import SILENT, QueuedRecord, Reply, Step

MOST_STEPS = 16_384
"""Steps that may be in flight to one worker; further ones wait here, where they can still be dropped."""
MOST_BYTES = 256 << 20
"""Bytes of operands that may be in flight to one worker, but for a single program that has more."""


class _Sent:
    """A step in flight whose end the worker tells."""

    __slots__ = ("nbytes", "passed", "record")

    def __init__(self, record: QueuedRecord, passed: list[int]) -> None:
        self.record: QueuedRecord | None = record
        """None once it has been failed."""
        self.passed = passed
        """Silent steps that have ended when this one has, as it needs them."""
        self.nbytes = 0
        """Bytes of the program, where this is its last step."""


class Failed:
    """The end of a step whose op failed."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


End = tuple[int, QueuedRecord, Any]
"""The number of a step, its record, and what the worker says of its values: None where they are not kept; `Failed`."""


class Flight:
    """The steps in flight. Used under the lock of its link."""

    def __init__(self) -> None:
        self._told: dict[int, _Sent] = {}
        self._silent: dict[int, QueuedRecord] = {}
        self._held: dict[int, int] = {}
        self._bytes = 0

    def __contains__(self, number: int) -> bool:
        return number in self._told

    def is_full(self) -> bool:
        """Tell whether nothing more is to be sent for now."""
        return len(self._told) >= MOST_STEPS or self._bytes >= MOST_BYTES

    def clear(self) -> None:
        """Nothing of it will end."""
        self._told.clear()
        self._silent.clear()
        self._held.clear()
        self._bytes = 0

    def hold(self, number: int, nbytes: int) -> None:
        """Bytes are on their way for a value, and no record."""
        self._held[number] = nbytes
        self._bytes += nbytes

    def add(self, steps: Sequence[Step], records: Sequence[QueuedRecord], nbytes: int) -> None:
        """A program is sent."""
        silent: dict[int, Step] = {}
        sent: _Sent | None = None
        for step, record in zip(steps, records, strict=True):
            number = step[0]
            if step[5] == SILENT:
                silent[number] = step
                self._silent[number] = record
            else:
                sent = self._told[number] = _Sent(record, _claimed(step, silent) if silent else [])
        if sent is not None:
            sent.nbytes = nbytes
            self._bytes += nbytes

    def take(self, reply: Reply) -> list[End]:
        """The records that end by a reply, in the order in which they were dispatched."""
        ends: list[End] = []
        for number, error in reply.failures:
            record = self._failed(number)
            if record is not None:
                ends.append((number, record, Failed(unpacked_error(error))))
        for number, facts in reply.ended:
            self._bytes -= self._held.pop(number, 0)
            sent = self._told.pop(number, None)
            if sent is None:
                continue
            self._bytes -= sent.nbytes
            if sent.record is not None:
                ends.append((number, sent.record, facts))
            for each in sent.passed:
                record = self._silent.pop(each, None)
                if record is not None:
                    ends.append((each, record, None))
        ends.sort(key=_number_of)
        return ends

    def _failed(self, number: int) -> QueuedRecord | None:
        record = self._silent.pop(number, None)
        sent = self._told.get(number)
        if record is None and sent is not None:
            record, sent.record = sent.record, None
        return record


def _number_of(end: End) -> int:
    return end[0]


def _claimed(step: Step, silent: dict[int, Step]) -> list[int]:
    """The silent steps that a step needs, directly or not, and that no step before it needed; taken out of `silent`."""
    claimed: list[int] = []
    stack = [step]
    while stack:
        for number in stack.pop()[2]:
            needed = silent.pop(number, None)
            if needed is not None:
                claimed.append(number)
                stack.append(needed)
    return claimed
