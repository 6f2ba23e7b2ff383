"""Programs: records that are pending together, as one message to a worker. Pure, but for what it remembers of a worker.

A program is a list of steps in dispatch order. A step names its op by a number; what the op is was sent with the first
program that uses it. Operands are numbers, too: of values that the worker holds, of earlier steps, or, below zero, of
the constants of the program. Large constants are sent once, and forgotten by the worker when the array is gone here.

The messages of both directions are tuples, pickled with their large buffers apart: copied by no pickler.
"""

from __future__ import annotations

import itertools
import pickle
import weakref
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any, NamedTuple, Protocol, TypeAlias

import cloudpickle
import numpy as np

from engine.base.traced import Traced
from engine.devices.base import Array, Record
from engine.devices.dask.rows import name_of
from engine.devices.dask.values import RemoteValue

APART = 16_384
"""Bytes from which a buffer travels apart from the pickle."""
SENT_ONCE = 65_536
"""Bytes from which an array is sent once, however many records read it."""


class Cell(Protocol):
    """The part of a record's cell that a program is made of."""

    op: Any
    rare: Any


class QueuedRecord(Record, Protocol):
    """A record as the queues make them, with what a program needs beyond what any backend gets."""

    cell: Cell

    def complete(self, value: Any, *, more: bool = False) -> None:
        """End it with its value. `more` says that another record is ended at once: only the last one wakes."""

    def fail(self, error: BaseException, *, more: bool = False) -> None:
        """End it with an error."""

    def end(self, outcome: Any, *, more: bool = False) -> None:
        """End it with an outcome that needs no check."""


Step: TypeAlias = "tuple[int, int, tuple[int, ...], dict[str, Any] | None, dict[str, Any] | None, int]"
"""One op of a program, as a plain tuple, since there is one for each op.

* The number of its value; of several values the first one's, the others follow.
* The number of its op.
* Its operands.
* Its parameters, None where there are none.
* The error state that `np.errstate` set where it was dispatched; None for NumPy's defaults.
* Its fate. `KEPT`: its values stay on the worker; `TOLD`: they do not, and its end is told; `SILENT`: neither.
"""

SILENT, TOLD, KEPT = range(3)


class Message(NamedTuple):
    """A message to a worker: what to forget, what to give up, new ops, and a program."""

    drops: Sequence[int] = ()
    cancels: Sequence[int] = ()
    ops: Sequence[tuple[int, str | bytes]] = ()
    """Ops by their numbers: the name of a row, or a pickled definition."""
    constants: Sequence[Any] = ()
    steps: Sequence[Step] = ()
    values: Sequence[tuple[int, Array]] = ()
    """Arrays to hold."""
    reads: Sequence[int] = ()
    """Values to send here."""
    pulls: Sequence[tuple[int, str, str, int]] = ()
    """Values to get from other workers: number here, address there, session there, number there."""


class Reply(NamedTuple):
    """A message from a worker."""

    failures: Sequence[tuple[int, Any]] = ()
    """Steps whose op failed, and how."""
    ended: Sequence[tuple[int, Any]] = ()
    """Steps that have ended: for each of their values shape, dtype and perhaps the array; None where there is none."""
    values: Sequence[tuple[int, Array | None]] = ()
    """Values that were asked for; None for one that came from another worker."""
    refused: Sequence[tuple[int, Any]] = ()
    """Values that were asked for and cannot be had, and why."""


class Package(NamedTuple):
    """A message as it travels."""

    head: bytes
    buffers: list[pickle.PickleBuffer]

    @property
    def nbytes(self) -> int:
        """Its bytes, all told."""
        return len(self.head) + sum(buffer.raw().nbytes for buffer in self.buffers)

    def parts(self) -> list[bytes | memoryview]:
        """The parts to write: the head, and the buffers as they are."""
        return [self.head, *(each.raw() for each in self.buffers)]


def packed(message: Message | Reply, *, plain: bool = False) -> Package:
    """A message as bytes, and the buffers that travel beside them. Raises what pickling raises.

    `plain` says that nothing in it needs more than pickle: no function, no object of a class of the program's.
    """
    buffers: list[pickle.PickleBuffer] = []

    def in_band(buffer: pickle.PickleBuffer) -> bool:
        if buffer.raw().nbytes < APART:
            return True
        buffers.append(buffer)
        return False

    dumps = pickle.dumps if plain else cloudpickle.dumps
    return Package(dumps(tuple(message), protocol=5, buffer_callback=in_band), buffers)


def is_plain(value: Any) -> bool:
    """Tell whether pickle alone makes the same of a value in another process."""
    kind = value.__class__
    if kind in _PLAIN:
        return True
    if kind is tuple or kind is list:
        return all(map(is_plain, value))
    if kind is slice:
        return is_plain((value.start, value.stop, value.step))
    if kind is type:
        return issubclass(value, np.generic)
    if kind is np.ndarray or isinstance(value, np.generic):
        value = value.dtype
    return isinstance(value, np.dtype) and not value.hasobject


_PLAIN = frozenset({bool, int, float, complex, str, bytes, type(None), type(...)})


def unpacked(parts: Sequence[Any]) -> tuple[Any, ...]:
    """The fields of a message that was read."""
    fields: tuple[Any, ...] = pickle.loads(parts[0], buffers=parts[1:])
    return fields


class Unsendable(Exception):
    """A record that cannot be sent, and why."""

    def __init__(self, record: QueuedRecord, error: BaseException) -> None:
        super().__init__(record, error)
        self.record = record
        self.error = error


class Encoder:
    """Makes programs for one worker, and remembers what that worker has been told. Used by one thread at a time."""

    def __init__(self, where: str, drop: Callable[[int], None]) -> None:
        self._where = where
        self._drop = drop
        self._numbers = itertools.count(1)
        self._ops: dict[int, tuple[int, Any]] = {}
        self._op_numbers = itertools.count(1)
        self._arrays: dict[int, tuple[weakref.ref[Array], int]] = {}
        self._new_ops: list[tuple[int, str | bytes]] = []
        """Ops that the next program tells the worker of."""
        self._new_values: list[tuple[int, Array]] = []

    def number(self, count: int = 1) -> int:
        """A number for a value, the first of `count`."""
        first = next(self._numbers)
        if count > 1:
            for _ in range(count - 1):
                next(self._numbers)
        return first

    def program(self, records: Sequence[QueuedRecord], drops: Sequence[int] = ()) -> tuple[Package, list[Step]]:
        """The message of these records, with values to forget, and their steps.

        Raises `Unsendable` for a record whose function or arguments cannot be pickled.
        """
        writer = _Writer(self)
        steps = writer.steps(records)
        message = Message(drops, (), self._new_ops, writer.constants, steps, self._new_values)
        try:
            package = packed(message, plain=writer.plain)
        except Exception:
            for record in records:
                self._check(record)
            raise
        self._new_ops, self._new_values = [], []
        return package, steps

    def op_number(self, record: QueuedRecord) -> int:
        """The number of a record's op, which the worker is told of where it does not know it."""
        op = record.cell.op
        known = self._ops.get(id(op))
        if known is not None and known[1] is op:
            return known[0]
        try:
            definition = name_of(op) or cloudpickle.dumps(_definition(op), protocol=5)
        except Exception as error:
            raise Unsendable(record, self._cannot_be_sent(op.name, error)) from error
        number = next(self._op_numbers)
        self._ops[id(op)] = (number, op)
        self._new_ops.append((number, definition))
        if len(self._ops) > _OPS_KEPT:
            self._forget_ops()
        return number

    def _forget_ops(self) -> None:
        """Forget the older half: those of functions that are made anew for each call."""
        for key in list(self._ops)[: _OPS_KEPT // 2]:
            del self._ops[key]

    def array_number(self, array: Array) -> int:
        """The number of a large array, which is sent where the worker does not have it."""
        key = id(array)
        known = self._arrays.get(key)
        if known is not None and known[0]() is array:
            return known[1]
        number = self.number()
        self._new_values.append((number, array))

        def gone(_: weakref.ref[Array]) -> None:
            self._drop(number)
            entry = self._arrays.get(key)
            if entry is not None and entry[1] == number:
                del self._arrays[key]

        self._arrays[key] = (weakref.ref(array, gone), number)
        return number

    def _check(self, record: QueuedRecord) -> None:
        """Raise `Unsendable` where the parameters of a record cannot be pickled."""
        try:
            cloudpickle.dumps(record.params, protocol=5)
        except Exception as error:
            raise Unsendable(record, self._cannot_be_sent(record.name, error)) from error

    def _cannot_be_sent(self, name: str, error: Exception) -> TypeError:
        problem = TypeError(
            f"{name!r} cannot be sent to {self._where}: {type(error).__name__}: {error}; "
            "its function, what that refers to, and its arguments have to be picklable "
            "(open files, locks and connections are not: open them inside the function)"
        )
        problem.__cause__ = error
        return problem


_OPS_KEPT = 4_096


def _definition(op: Any) -> dict[str, Any]:
    """The recipe that makes the op anew on a worker: all but its limit, which this process sees to."""
    if isinstance(op.kernel, Traced):
        return _definition_of_function(op.kernel)
    cost, memory, fusion = op.cost, op.memory, op.fusion
    return {
        "name": op.name,
        "kernel": op.kernel,
        "known": op.known,
        "computes": op.computes,
        "outputs": op.outputs,
        "pure": op.pure,
        "infer": op.infer if op.known else None,
        "estimate": cost.estimate if op.known else None,
        "small": cost.small,
        "blas": cost.blas,
        "parallel": cost.parallel,
        "block": fusion.block,
        "variant": fusion.variant,
        "updates": fusion.updates,
        "view": memory.view,
        "overwrite": memory.overwrite,
        "into": memory.into,
    }


def _definition_of_function(function: Traced) -> dict[str, Any]:
    """The recipe of a traced function: its steps, whose ops are names of rows or recipes."""
    steps = function.steps
    slots = {*function.inputs, *function.constants, *(slot for step in steps for slot in step.outputs)}
    return {
        "steps": [
            (name_of(step.op) or _definition(step.op), step.inputs, step.params or None, step.outputs[0])
            for step in steps
        ],
        "initial": [function.constants.get(slot) for slot in range(max(slots) + 1)],
        "arguments": function.inputs,
        "outputs": function.outputs,
        "places": [step.explain() for step in steps],
    }


class _Writer:
    """Writes the steps of one program, and collects its constants."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.constants: list[Any] = []
        self.plain = True
        """True if pickle alone is enough for the constants and the parameters."""
        self._constant_numbers: dict[int, int] = {}
        self._errors: dict[tuple[Any, ...], dict[str, Any]] = {}

    def steps(self, records: Sequence[QueuedRecord]) -> list[Step]:
        encoder = self._encoder
        numbers: dict[Any, int] = {}
        kind = records[0].__class__
        read = {each for record in records for each in record.operands if each.__class__ is kind}
        steps: list[Step] = []
        for record in records:
            op = encoder.op_number(record)
            number = numbers[record] = encoder.number(record.outputs)
            operands = []
            for each in record.operands:
                if each.__class__ is kind:
                    operands.append(numbers[each])
                elif each.__class__ is RemoteValue:
                    operands.append(each.number)
                else:
                    operands.append(self._constant(each))
            params = record.params or None
            if params is not None and self.plain:
                self.plain = all(map(is_plain, params.values()))
            rare = record.cell.rare
            errors = None if rare is None or rare.context is None else self._error_state(rare.context)
            fate = KEPT if record.kept else SILENT if record in read and _may_be_silent(record.cell.op) else TOLD
            steps.append((number, op, tuple(operands), params, errors, fate))
        return steps

    def _constant(self, value: Any) -> int:
        if isinstance(value, np.ndarray) and value.nbytes >= SENT_ONCE:
            self.plain = self.plain and is_plain(value)
            return self._encoder.array_number(value)
        index = self._constant_numbers.get(id(value))
        if index is None:
            self.constants.append(value)
            self.plain = self.plain and is_plain(value)
            index = self._constant_numbers[id(value)] = len(self.constants)
        return -index

    def _error_state(self, context: Context) -> dict[str, Any] | None:
        errors: dict[str, Any] = {**context.run(np.geterr)}
        if errors == _DEFAULT_ERRORS:
            return None
        return self._errors.setdefault(tuple(errors.items()), errors)


def _may_be_silent(op: Any) -> bool:
    """Tell whether the end of a step need not be told: a traced function, or one of the user's, does more than that."""
    return op.known and op.kernel.__class__ is not Traced


_DEFAULT_ERRORS = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
