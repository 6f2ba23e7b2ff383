"""Failures that no reader and no barrier has been told of yet, and the words that say where an op was dispatched."""

from __future__ import annotations

import atexit
import copy
import sys
import threading
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn

from engine.base.sites import (
    INTERNAL as INTERNAL,
    describe_op as describe_op,
    hide_frames,
    is_engines,
    located,
    render_apart,
    user_frame as user_frame,
)
from engine.devices.base import Device
from engine.settings.scope import scope_var
from handles.cell import PENDING, Cell, Failure
from handles.display import site as site

KEPT = 1_000
"""Failures that a ledger keeps in full; further ones are counted."""


class Ledger:
    """The failures of one executor, each reported once: by a reader, by a barrier, or at the end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures: list[tuple[Device, Failure]] = []
        self._dropped = 0
        self._tidy_at = 8

    def start_over(self) -> None:
        """In a forked child: no thread holds the lock."""
        self._lock = threading.Lock()

    def add(self, device: Device, failure: Failure) -> None:
        with self._lock:
            if len(self._failures) >= self._tidy_at:  # what was read is let go of, and so are the arrays it refers to
                self._failures = [entry for entry in self._failures if not entry[1].seen]
                self._tidy_at = min(max(8, 2 * len(self._failures)), KEPT)
            if len(self._failures) >= KEPT:
                self._dropped += 1
            else:
                self._failures.append((device, failure))
            _outstanding.add(self)

    def acknowledge(self, told: Callable[[Failure], bool]) -> list[BaseException]:
        """The errors, of those not told of before, that count as reported from now on."""
        with self._lock:
            unseen = [failure for _, failure in self._failures if not failure.seen and told(failure)]
        for failure in unseen:
            failure.seen = True
        return [failure.error for failure in unseen]

    def take(self, device: Device | None = None) -> list[BaseException]:
        """The errors (of one device, or of all) not told of before; from now on they count as reported."""
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
                errors.append(located(failure))
        if dropped:
            errors.append(RuntimeError(f"{dropped} further ops failed; only the first {KEPT} errors are kept"))
        return errors

    def drain(self) -> list[Failure]:
        """The failures not told of before, for a caller that tells of them in its own way."""
        with self._lock:
            taken, self._failures, self._dropped = self._failures, [], 0
            _outstanding.discard(self)
        unseen = [failure for _, failure in taken if not failure.seen]
        for failure in unseen:
            failure.seen = True
        return unseen


_outstanding: set[Ledger] = set()


def raise_together(errors: list[BaseException], message: str) -> None:
    """Raise one error as itself, several as a group."""
    if errors:
        hide_frames()
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise BaseExceptionGroup(message, errors)


def report_at_exit() -> None:
    """Write the failures that the program was never told of to stderr."""
    for ledger in list(_outstanding):
        for error in ledger.take():
            sys.stderr.write("eagerloop: an op failed and its result was never read:\n")
            traceback.print_exception(error)


atexit.register(report_at_exit)


def describe(cell: Cell) -> str:
    """The op, its device and where it was dispatched, in the words of an error's note."""
    return describe_op(cell.op.name, cell.home.device, cell.code, cell.lasti)


class Place(str):
    """The note that the engine adds to an error, so that it can tell it from the notes of others."""

    __slots__ = ()

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)


def failed(cell: Cell, error: BaseException) -> Failure:
    """The failure of a cell's op: its error, with a note of what failed and where it was dispatched.

    An error that another op raised inside the kernel of this one keeps the place of that op, and gets both. One error
    object raised by two ops is copied, where it can be, so that each has its own place.
    """
    given = vars(error).get("__notes__")
    notes: list[str] = list(given) if isinstance(given, list) else []
    if any(isinstance(each, Place) for each in notes):
        passed = cell.rare is not None and cell.rare.passed is error
        error = _twin(error)
        notes = [each for each in notes if passed or not isinstance(each, Place)]
    if cell.rare is not None:
        cell.rare.passed = None
    error.with_traceback(_of_kernel(error.__traceback__))  # an assignment asks classes that may be frozen
    vars(error)["__notes__"] = [*notes, Place(describe(cell))]  # add_note() asks classes that may be frozen
    failure = Failure(error)
    failure.record = cell
    return failure


def _of_kernel(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the kernel on: the frames of the engine would keep the operands, and the cell, alive."""
    while trace is not None and is_engines(trace.tb_frame):
        trace = trace.tb_next
    return trace


def _twin(error: BaseException) -> BaseException:
    """A copy of the error, or the error itself where copying makes another one of it."""
    try:
        twin = copy.copy(error)
        if type(twin) is not type(error) or twin.args != error.args or str(twin) != str(error):
            return error
        # Of its own: copies that tblib makes, which Dask loads, share it with the error.
        BaseException.__setattr__(twin, "__dict__", dict(vars(error)))
        twin.__cause__, twin.__context__ = error.__cause__, error.__context__
        twin.__suppress_context__ = error.__suppress_context__
        return twin.with_traceback(error.__traceback__)
    except Exception:  # noqa: BLE001 - copying runs the code of the exception's class
        return error


def throw(failure: Failure, *, at_call: bool = False) -> NoReturn:
    """Raise the error of an op, to a reader or in the kernel of another op; `at_call` where the op was dispatched."""
    kernel = scope_var.get().kernel
    if kernel is not None and kernel.value is PENDING:
        kernel.extend().passed = failure.error
    failure.seen = True
    hide_frames()
    if not at_call:
        raise located(failure)
    render_apart(failure.error)
    raise failure.restored()
