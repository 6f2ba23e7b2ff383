"""Failures that nobody has been told of yet, and the words that say where an op was dispatched."""

from __future__ import annotations

import atexit
import copy
import sys
import threading
import traceback
from types import CodeType

from engine.devices.base import Device
from handles.cell import Cell, Failure

KEPT = 1_000
"""Failures that a ledger keeps in full; further ones are counted."""


class Ledger:
    """The failures of one executor, each reported once: by a reader, by a barrier, or at the end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures: list[tuple[Device, Failure]] = []
        self._dropped = 0

    def add(self, device: Device, failure: Failure) -> None:
        with self._lock:
            if len(self._failures) >= KEPT:
                self._failures = [entry for entry in self._failures if not entry[1].seen]
            if len(self._failures) >= KEPT:
                self._dropped += 1
            else:
                self._failures.append((device, failure))
            _outstanding.add(self)

    def take(self, device: Device | None = None) -> list[BaseException]:
        """The errors (of one device, or of all) that nobody was told of; from now on they count as reported."""
        with self._lock:
            taken = [failure for where, failure in self._failures if device is None or where is device]
            self._failures = [entry for entry in self._failures if device is not None and entry[0] is not device]
            dropped, self._dropped = self._dropped, 0
            if not self._failures:
                _outstanding.discard(self)
        errors: list[BaseException] = []
        for failure in taken:
            if not failure.seen:
                failure.seen = True
                errors.append(failure.error.with_traceback(failure.traceback))
        if dropped:
            errors.append(RuntimeError(f"{dropped} further ops failed; only the first {KEPT} errors are kept"))
        return errors


_outstanding: set[Ledger] = set()


def raise_together(errors: list[BaseException], message: str) -> None:
    """Raise one error as itself, several as a group."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise BaseExceptionGroup(message, errors)


def report_at_exit() -> None:
    """Write what nobody was told of to stderr."""
    for ledger in list(_outstanding):
        for error in ledger.take():
            sys.stderr.write("eagerloop: an op failed and nobody read its result:\n")
            traceback.print_exception(error)


atexit.register(report_at_exit)


def site(code: CodeType | None, lasti: int) -> str:
    """`file:line` of the instruction `lasti` of `code`."""
    if code is None:
        return "an unknown place"
    line = next((line for start, end, line in code.co_lines() if start <= lasti < end and line), code.co_firstlineno)
    return f"{code.co_filename}:{line}"


def describe(cell: Cell) -> str:
    """The op, its device and where it was dispatched, in the words of an error's note."""
    function = cell.code.co_qualname if cell.code is not None else ""
    where = f" in {function}" if function else ""
    return f"op {cell.op.name!r} on {cell.home.device}, dispatched at {site(cell.code, cell.lasti)}{where}"


def failed(cell: Cell, error: BaseException) -> Failure:
    """The failure of a cell's op: its error, with a note of what failed and where it was dispatched."""
    if hasattr(error, "__eagerloop_op__"):
        try:
            error = copy.copy(error)  # one exception object raised by two ops: each has its own place
            error.__notes__ = []
        except Exception:  # noqa: BLE001 - an exception that cannot be copied carries both notes
            pass
    error.__eagerloop_op__ = cell.op.name  # type: ignore[attr-defined]
    error.add_note(describe(cell))
    return Failure(error)
