"""One GPU as an executor uses it: what is launched, what has landed, and arrays on their way to and from it.

Purpose: records come in batches and are launched one after the other on one stream. Launching returns before anything
is computed, so the records are completed later: a watcher, on a worker, waits for the events behind them.

Invariants: a record is completed when the event behind it has passed, and not before. Memory that another stream
allocated is referred to until then. Results that only records of their batch read are let go of as soon as the last of
those is launched: their memory goes back to the stream that still uses it, which is safe because it works in order.

`_launching` is held while a batch is launched. Flights and transfers have locks of their own. No method is called on
the thread of a running event loop.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine.base.traced import Traced
from engine.devices.base import Array, Device, Record
from engine.devices.cuda.flights import RECORDS, Flight, Flights
from engine.devices.cuda.graphs import Graphs
from engine.devices.cuda.health import Health
from engine.devices.cuda.kernels import rule_of
from engine.devices.cuda.runtime import Event, Gpu, GpuArray, Runtime, Stream
from engine.devices.cuda.transfers import Line
from engine.devices.cuda.values import CudaValue
from engine.threads.pool import workers

_eagerloop_internal = True  # its frames are not the user's

GLANCES = 20
"""Looks at an event before the watcher sleeps: what takes microseconds is seen without a switch of threads.

CuPy looks with the interpreter lock held, and CUDA may make a look wait for another call, such as a launch that waits
for room in a full queue, or a kernel that is being loaded. So none is taken while the unit launches; sleeping needs no
lock.
"""
KINDS = "biufc"
"""The kinds of dtypes that a GPU has."""
WIDEST = {"f": 8, "c": 16}
"""Bytes of the widest floating-point numbers that it has."""


def check_dtype(dtype: np.dtype[Any]) -> None:
    """Raise `TypeError` for a dtype that a GPU does not have."""
    if dtype.kind not in KINDS or not dtype.isnative or dtype.itemsize > WIDEST.get(dtype.kind, 8):
        raise TypeError(
            f"a GPU has bools and numbers of up to 64 bits (complex: 128) in native byte order, but no {dtype}: "
            "compute it on the host, with engine.device('CPU:0') or handle.to_device('CPU:0')"
        )


def last_reads(records: Sequence[Record]) -> list[list[Record]]:
    """For each record those before it in the batch whose results nothing in the batch reads after it. Pure."""
    seen: set[Any] = set()
    freed: list[list[Record]] = []
    for record in reversed(records):
        read = {each for each in record.operands if each.__class__ is record.__class__}
        freed.append([each for each in read if each not in seen])
        seen |= read
    freed.reverse()
    return freed


class Unit:
    """One GPU of one executor."""

    def __init__(self, device: Device, runtime: Runtime, lost: Callable[[str], None]) -> None:
        self.device = device
        self.health = Health(device, runtime, lost)
        """Tells whether the GPU can be used, and what errors mean."""
        self._gpu: Gpu = runtime.gpu(device.index)
        self._launching = threading.RLock()
        self._launches = False
        """True while a thread launches a batch."""
        self._compute: Stream | None = None
        self._flights = Flights()
        self._up, self._down = Line(self._gpu), Line(self._gpu)
        self._strays: list[GpuArray] = []
        """Arrays of other streams that the next flight has to hold."""
        self.graphs = Graphs(runtime, self._settled, self._gpu.stream)
        """Traced functions."""

    # Launching

    def submit(self, records: Sequence[Record]) -> None:
        """Launch records in order; each is completed when it is computed, and failed where it cannot be launched."""
        self.health.guarded("launch", lambda: self._launch_all(records))

    def _launch_all(self, records: Sequence[Record]) -> None:
        with self._launching, self._opened().active():
            batch = Batch(self, records)
            self._launches = True
            try:
                for number in range(len(records)):
                    batch.launch(number)
            finally:
                self._launches = False
                batch.depart()  # after an interrupt, too: what was launched is on its way

    def launch(self, record: Record, batch: Batch) -> tuple[Any, list[Any]]:
        """Launch one record: its result as arrays, and the arguments that it was launched with.

        Where memory is short, wait for what is on its way, and try again. Raises the op's error, or `DeviceLostError`.
        """
        try:
            try:
                return self._call(record, batch)
            except Exception as error:
                if not self.health.is_memory(error):
                    raise
            batch.depart()
            self._opened().record().wait()
            self._flights.land()  # which lets go of what was held for it
            self.graphs.forget()
            return self._call(record, batch)
        except Exception as error:  # noqa: BLE001 - it is raised again
            self.health.throw(error, record.name)

    def _call(self, record: Record, batch: Batch) -> tuple[Any, list[Any]]:
        kernel, params = record.kernel, record.params
        arguments = batch.arguments(record)
        if isinstance(kernel, Traced):
            return self.graphs.compute(kernel, arguments, self._opened()), arguments
        if params and isinstance(params.get("dtype"), np.dtype):
            check_dtype(params["dtype"])
        return self._opened().call(rule_of(record.name, kernel), arguments, params), arguments

    def argument(self, operand: Any, flight: Flight) -> Any:
        """An array or a scalar of the host as the runtime takes it."""
        if isinstance(operand, np.ndarray):
            array = self.constant(operand)
            flight.held.append(array)
            return array
        if isinstance(operand, np.generic):
            check_dtype(operand.dtype)
        return operand

    def constant(self, array: Array) -> GpuArray:
        """An array of the host, on its way to the GPU: what is launched from now on finds it there."""
        check_dtype(array.dtype)
        copied, there = self._up.upload(array)
        self._opened().follow(there)
        return copied

    def _settled(self, array: Array) -> GpuArray:
        """An array of the host in memory of the stream that computes: it may be let go of at any time."""
        copied = self.constant(array)
        self._strays.append(copied)
        stream = self._opened()
        own = stream.allocate(array.shape, array.dtype)
        stream.pull(copied, own)
        return own

    def depart(self, flight: Flight) -> None:
        """Record the event behind what was launched, and have it watched."""
        flight.held += self._strays
        self._strays.clear()
        try:
            flight.event = self._opened().record()
        except Exception as error:  # noqa: BLE001 - the records end with any error of the runtime
            flight.crash(self.health.met(error, "record"))
            return
        if self._flights.depart(flight):
            try:
                workers.submit(self._watch)
            except BaseException as error:  # no thread can be started, or an interrupt: the next flight starts one
                self._flights.unwatched()
                if not isinstance(error, Exception):
                    raise
                flight.crash(error)  # what it holds stays until the event has passed

    # Landing

    def _watch(self) -> None:
        """Complete what has been computed, as long as anything is on its way: on a worker."""
        while (event := self._flights.next()) is not None:
            try:
                self._await(event)
            except Exception as error:  # noqa: BLE001 - the records end with any error of the runtime
                met = self.health.met(error, "what was launched")
                if self.health.is_lost:
                    self._flights.abandon()
                else:
                    self._flights.crash_at(event, met)
            else:
                self._flights.land_at(event)
            del event

    def _await(self, event: Event) -> None:
        """Wait for an event: with some looks first, then asleep."""
        for _ in range(GLANCES):
            if self._launches:
                break
            if event.passed():
                return
            time.sleep(0)  # the loop's thread may have the interpreter meanwhile
        event.wait()

    def close(self) -> None:
        """No record will come: let go of captured functions."""
        if self.health.is_forked:
            return  # a thread that held the lock stayed behind
        with self._launching:
            self.graphs.forget()

    # Transfers

    def to_host(self, value: CudaValue) -> Array:
        """Copy a value to the host."""
        array = value.array
        if array is None:
            raise RuntimeError(f"the value was of use to its batch only: {value!r}")
        return self.health.guarded("to_host", lambda: self._down.download(array))

    def from_host(self, array: Array) -> CudaValue:
        """Copy an array of the host to the GPU."""
        check_dtype(array.dtype)

        def copy() -> GpuArray:
            copied, there = self._up.upload(array)
            there.wait()
            return copied

        return CudaValue(self.device, self.health.guarded("from_host", copy))

    def pull(self, value: CudaValue, source: Unit) -> CudaValue:
        """Copy a value of another GPU here."""
        array = value.array
        assert array is not None
        packed, ready = source.health.guarded("to_device", lambda: source._down.pack(array))
        return CudaValue(self.device, self.health.guarded("to_device", lambda: self._up.pull(packed, ready)))

    def _opened(self) -> Stream:
        if self._compute is None:
            self._compute = self._gpu.stream()
        return self._compute


class Batch:
    """A batch while it is launched."""

    def __init__(self, unit: Unit, records: Sequence[Record]) -> None:
        self._unit = unit
        self._records = records
        self._frees = last_reads(records)
        self._read = {each for frees in self._frees for each in frees}
        """Records whose results others of the batch read."""
        self._results: dict[Any, _Result] = {}
        self.flight = Flight()
        """Records that were launched since the last event."""

    def launch(self, number: int) -> None:
        """Launch the record of that number, unless an operand of it was not."""
        record = self._records[number]
        try:
            if record.abandoned:
                raise RuntimeError("it was cancelled, so it was not launched")
            result, arguments = self._unit.launch(record, self)
            if record in self._read:
                self._results[record] = _Result(result, _is_foreign(result, arguments))
            self.flight.landings.append((record, self._value(record, result)))
        except Exception as error:  # noqa: BLE001 - the op fails with it
            record.fail(error)
        for each in self._frees[number]:
            freed = self._results.pop(each, None)
            if freed is not None and freed.foreign:
                self.flight.held.append(freed.array)
        if len(self.flight.landings) >= RECORDS:
            self.depart()

    def arguments(self, record: Record) -> list[Any]:
        """The operands as the runtime takes them. Arrays that other streams allocated are held until the flight lands.

        Raises where one of them is a record that was not launched.
        """
        arguments: list[Any] = []
        for operand in record.operands:
            cls = operand.__class__
            if cls is CudaValue:
                array: Any = operand.array  # type: ignore[union-attr]
                self.flight.held.append(array)
                arguments.append(array)
            elif cls is record.__class__:  # `isinstance` would look at all that a record has
                if operand not in self._results:
                    raise RuntimeError("an operand of it has failed, so it was not launched")
                arguments.append(self._results[operand].array)
            else:
                arguments.append(self._unit.argument(operand, self.flight))
        return arguments

    def depart(self) -> None:
        """Give an event to the records that were launched since the last one."""
        flight, self.flight = self.flight, Flight()
        if flight.landings or flight.held:
            self._unit.depart(flight)

    def _value(self, record: Record, result: Any) -> Any:
        device = self._unit.device
        if record.outputs != 1:
            return tuple(CudaValue(device, each, keep=record.kept) for each in result)
        return CudaValue(device, result, keep=record.kept)


class _Result:
    """A result inside of its batch."""

    __slots__ = ("array", "foreign")

    def __init__(self, array: Any, foreign: bool) -> None:
        self.array = array
        self.foreign = foreign
        """True if its memory may be another stream's: it is held until the event behind its last reader has passed."""


def _is_foreign(result: Any, arguments: Sequence[Any]) -> bool:
    """Tell whether a result may lie in memory of another stream: it is a view, or an argument as it came."""
    if result.__class__ is tuple:
        return False  # of several results none is read inside of the batch
    return result.base is not None or any(each is result for each in arguments)
