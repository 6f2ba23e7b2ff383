"""The service of one client: a core of this engine, whose one device runs the client's programs as its own.

Programs become records on the queue of that core, so they are fused, scheduled and cancelled as any are. A step that
only others of its program read is a record that nothing else refers to: so it is never written to memory where it is
part of a fusion group.

The number of a step stands in its cell in place of the instruction that dispatched it: what failed is found by it.
`take` is called on one thread, `reply` perhaps on another: `_told` and `_answers` are the only things between them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from engine.base.config import Config
from engine.base.modes import DevicePolicy, ExecutionMode
from engine.base.op import Op
from engine.devices.base import Array, Device
from engine.devices.cpu import HOST, lock
from engine.devices.dask.errors import packed_error
from engine.devices.dask.programs import KEPT, SILENT, Message, Package, Reply, Step, packed
from engine.dispatch.executor import Core
from engine.dispatch.records import cells_of, make_record
from engine.failures import INTERNAL, Place
from engine.queues.records import pending_operands, record_of
from engine.queues.waiting import Countdown
from engine.remote.functions import ARRIVED, Function, place_within, step_number, understood
from engine.settings.scope import Scope, scope_var
from engine.threads.slots import Slots
from handles.cell import PENDING, Cell, Failure, add_waiter, pending_cell, settle

vars()[INTERNAL] = True  # loaded after the package has marked its modules

SENT_ALONG = 16_384
"""Bytes up to which an array is sent with the message that says that it was computed: most are read sooner or later."""
UNBOUNDED = 1 << 40
AT_ONCE = 0.002
"""Seconds that the thread of the service itself runs the small ops of a message, before it reads the next one: to have
another thread woken takes as long as some hundred of them."""


class Service:
    """The programs and the values of one client."""

    def __init__(self, where: str, *, calls: int, cores: int, wake: Callable[[], None]) -> None:
        self._where = where
        self._wake = wake
        # The client bounds what is in flight.
        config = Config(intra_op_parallelism_threads=cores, max_pending_ops=UNBOUNDED, max_pending_bytes=UNBOUNDED)
        self._core = Core(config, None)
        self._queue = self._core.queues[Device("CPU:0")]
        self._queue.driver.add_guest(self)  # the client waits: workers drive at once
        self._calls = Slots(calls)
        self._context = Context()
        scope = Scope(executor=self._core, mode=ExecutionMode.ASYNC, policy=DevicePolicy.SILENT)
        self._context.run(scope_var.set, scope)
        self._contexts: dict[tuple[Any, ...], Context] = {(): self._context}
        self._ops: dict[int, Op | Function] = {}
        self._values: dict[int, Cell] = {}
        self._running: dict[int, _Running] = {}
        """Steps whose end is to be told, by their numbers."""
        self._told: deque[int] = deque()
        self._answers: deque[tuple[str, int, Any]] = deque()

    # On the thread of the service

    def take(self, message: Message) -> None:
        """Do what a message asks for."""
        for number in message.drops:  # first, as what is computed next may have their memory
            self._values.pop(number, None)
        for number, definition in message.ops:
            self._ops[number] = understood(definition, self._calls)
        for number, array in message.values:
            self.hold(number, array)
            self._answers.append(("ended", number, None))
        if message.steps:
            self._push_all(message.steps, message.constants)
            self._queue.drive(AT_ONCE, patient=True)
            self._queue.driver.schedule_next()
        for number in message.cancels:
            if number in self._running:
                self._cancel(number)
        for number in message.reads:
            self._read(number)

    def hold(self, number: int, array: Array) -> None:
        """Keep an array that came from elsewhere."""
        lock(array)
        cell = self._values[number] = pending_cell(ARRIVED, (), None, self._queue, None, number)
        settle(cell, array)

    def _read(self, number: int) -> None:
        value = self._values[number].value if number in self._values else PENDING
        if isinstance(value, np.ndarray):
            self.answer(number, HOST.to_host(value))
        else:
            self.refuse(number, packed_error(LookupError(f"there is no value {number}"), self._where))

    def _push_all(self, steps: Sequence[Step], constants: Sequence[Any]) -> None:
        """Put the records of a program on the queue. None is run before all are there, and known by the queue alone."""
        for each in constants:
            if isinstance(each, np.ndarray):
                lock(each)
        made: dict[int, Cell] = {}
        with self._queue.lock:
            for step in steps:
                self._push(step, constants, made)
            made.clear()

    def _push(self, step: Step, constants: Sequence[Any], made: dict[int, Cell]) -> None:
        number, op_number, operands, params, errors, fate = step
        op = self._ops[op_number]
        args = tuple(
            [
                constants[-each - 1] if each < 0 else made[each] if each in made else self._values[each]
                for each in operands
            ]
        )
        if op.__class__ is Function:
            results = op.push(args, self._queue, number, partial(self._context_for, errors))
            self._running[number] = _Running(results, results, op)
            Countdown(map(record_of, results), partial(self._ended, number))
        else:
            assert isinstance(op, Op)
            cell = make_record(op, args, params, self._queue, None, number)
            if not op.known or errors is not None:
                cell.extend().context = self._context_of(errors)
            results = cells_of(cell)
            if fate != SILENT:
                self._running[number] = _Running((cell,), results, None)
                add_waiter(cell, self._record_ended)
            self._queue.push(cell)
        for index, each in enumerate(results):
            made[number + index] = each
            if fate == KEPT:
                self._values[number + index] = each

    def _context_for(self, errors: dict[str, Any] | None, op: Op) -> Context | None:
        return None if op.known and errors is None else self._context_of(errors)

    def _cancel(self, number: int) -> None:
        """Cancel a step: of a traced function, all that has not ended."""
        stack = list(map(record_of, self._running[number].waited))
        while stack:
            record = stack.pop()
            if record.value is PENDING and step_number(record) == number:
                stack.extend(pending_operands(record))
                self._queue.cancel(record, "its client cancelled it")

    def _context_of(self, errors: dict[str, Any] | None) -> Context:
        """The context of a kernel: this core's, with the error state of the client."""
        key = tuple(errors.items()) if errors else ()
        context = self._contexts.get(key)
        if context is None:
            context = self._contexts[key] = self._context.copy()
            context.run(np.seterr, **errors or {})
        return context.copy()

    def close(self) -> None:
        """The client is gone: drop what has not started, forget what is here."""
        self._queue.driver.remove_guest(self)
        self._core.cancel_pending("its client is gone")
        self._core.ledger.drain()
        self._core.close()
        self._values.clear()
        self._running.clear()

    # On any thread

    def _record_ended(self, record: Cell) -> None:
        self._ended(record.lasti)

    def _ended(self, number: int) -> None:
        self._told.append(number)
        self._wake()

    def answer(self, number: int, array: Array | None) -> None:
        """Say that a value is there, or send it."""
        self._answers.append(("values", number, array))
        self._wake()

    def refuse(self, number: int, error: Any) -> None:
        """Say that a value cannot be had."""
        self._answers.append(("refused", number, error))
        self._wake()

    def packed_value(self, number: int) -> Package:
        """A value, for another worker. Raises `LookupError` where there is none."""
        cell = self._values.get(number)
        if cell is None or not isinstance(cell.value, np.ndarray):
            raise LookupError("the value is not there any more")
        return packed((cell.value,))  # type: ignore[arg-type]

    # On one thread at a time

    def reply(self) -> Package | None:
        """The message that there is to send; None where there is nothing."""
        answers: dict[str, list[tuple[int, Any]]] = {"ended": [], "values": [], "refused": []}
        for _ in range(len(self._answers)):
            kind, number, what = self._answers.popleft()
            answers[kind].append((number, what))
        told = [self._told.popleft() for _ in range(len(self._told))]
        failures = self._failures(told)
        ended = [self._facts(each) for each in told]
        if not (ended or failures or any(answers.values())):
            return None
        reply = Reply(failures, [*answers["ended"], *ended], answers["values"], answers["refused"])
        return packed(reply, plain=not _has_objects(reply))

    def _failures(self, told: Sequence[int]) -> list[tuple[int, Any]]:
        """The failures that were not told of yet; the ledger knows all but what was too much for it."""
        failures = self._core.ledger.drain()
        for number in told:
            for cell in self._running[number].waited:
                if isinstance(cell.value, Failure) and not cell.value.seen:
                    cell.value.seen = True
                    failures.append(cell.value)
        return [(step_number(each.record), self._packed(each)) for each in failures if each.record is not None]

    def _facts(self, number: int) -> tuple[int, list[tuple[Any, ...]] | None]:
        """The report of a step's end: shape and dtype of each value, and small arrays themselves."""
        numbers = range(number, number + len(self._running.pop(number).results))
        if number not in self._values:
            return number, None
        cells = [self._values[each] for each in numbers if each in self._values]
        if len(cells) < len(numbers) or any(isinstance(each.value, Failure) for each in cells):
            for each in numbers:
                self._values.pop(each, None)
            return number, None
        return number, [self._fact(each.value) for each in cells]

    def _within(self, record: Cell | None) -> list[str]:
        """The place of an op inside a traced function, as a note."""
        if record is None or (index := place_within(record)) is None:
            return []
        running = self._running.get(step_number(record))
        return [] if running is None or running.function is None else [running.function.places[index]]

    def _fact(self, array: Array) -> tuple[Any, ...]:
        along = array if array.nbytes <= SENT_ALONG else None
        return array.shape, array.dtype, along

    def _packed(self, failure: Failure) -> Any:
        error = failure.error
        notes = [each for each in failure.notes if not isinstance(each, Place)]
        vars(error)["__notes__"] = [*notes, *self._within(failure.record)]
        return packed_error(error.with_traceback(failure.traceback), self._where)


class _Running(NamedTuple):
    """A step whose end is to be told."""

    waited: tuple[Cell, ...]
    """It has ended when these have."""
    results: tuple[Cell, ...]
    function: Function | None
    """The traced function that it calls, if it calls one."""


def _has_objects(reply: Reply) -> bool:
    """Tell whether an array of the reply holds objects, whose classes may be the program's own."""
    dtypes = [dtype for _, facts in reply.ended for _, dtype, _ in facts or ()]
    dtypes += [array.dtype for _, array in reply.values if array is not None]
    return any(dtype.hasobject for dtype in dtypes)
