"""Batches of records as one graph of Dask each, and arrays on their way between this process and the cluster.

A batch is built lazily, record by record, and handed over at once; only what something outside the batch refers to is
kept in the memory of the cluster. A record ends when all its chunks are there, or when one has failed.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from concurrent.futures import TimeoutError as NotYet
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
from dask.array.core import slices_from_chunks
from distributed import as_completed, futures_of

from engine.base.errors import DeviceLostError
from engine.devices.base import Array
from engine.devices.cluster.functions import compute
from engine.devices.cluster.values import ClusterValue
from engine.devices.dask.programs import QueuedRecord
from engine.devices.dask.session import Session
from engine.devices.dask.values import PASSED
from engine.threads.offload import offload

CHUNK_BYTES = 64 << 20
LOOK = 0.5
"""Seconds between looks at whether the cluster is still there, where a thread waits for it."""


class Batches:
    """Hands batches to one cluster."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._client = session.client

    def submit(self, records: Sequence[QueuedRecord]) -> None:
        """Hand records over as one graph; each ends when its chunks have."""
        self._session.check_there()
        built: dict[Any, Any] = {}
        with self._client.as_current():  # some functions of Dask ask the cluster for shapes
            kept = [record for record in records if self._build(record, built)]
        arrays = [each for record in kept for each in _several(built[record])]
        lasting = iter(self._client.persist(arrays) if arrays else ())
        pending = [_Pending(record, [next(lasting) for _ in _several(built[record])]) for record in kept]
        for record in records:
            if record in built and record not in kept and "dask_array" not in record.params:
                record.complete(_passed(record))
        if pending:
            offload.submit(partial(_watch, pending, self._session))

    def _build(self, record: QueuedRecord, built: dict[Any, Any]) -> bool:
        """Add a record to what is built; whether it is to be handed over. One that cannot be built ends here."""
        operands = [built.get(each, each) if each.__class__ is record.__class__ else each for each in record.operands]
        if any(each.__class__ is record.__class__ for each in operands):
            record.complete(_passed(record))  # an operand has failed, so this has
            return False
        values = [each.array if isinstance(each, ClusterValue) else each for each in operands]
        try:
            result = compute(record.cell.op, values, record.params)
            arrays = tuple(map(_of_known_shape, _several(result)))
        except Exception as error:  # noqa: BLE001 - what Dask says of operands is the op's failure
            record.fail(error)
            return False
        if "dask_array" in record.params:  # it stays as lazy as it is: only what is made of it is kept there
            record.complete(ClusterValue(arrays[0]))
            built[record] = arrays[0]
            return False
        built[record] = arrays if record.outputs != 1 else arrays[0]
        return record.kept

    def to_host(self, array: Any) -> Array:
        """Gather an array."""
        future: Any = self._client.compute(array)
        while True:
            self._session.check_there()
            try:
                return np.asarray(future.result(timeout=LOOK))
            except (TimeoutError, NotYet):
                if future.status == "error":
                    raise

    def from_host(self, array: Array) -> ClusterValue:
        """Spread an array over the cluster in chunks."""
        self._session.check_there()
        chunks: Any = da.core.normalize_chunks("auto", array.shape, limit=self._limit(array), dtype=array.dtype)
        slices = slices_from_chunks(chunks)
        futures = self._client.scatter([np.asarray(array[each], order="C") for each in slices], hash=False)
        blocks = np.empty(tuple(map(len, chunks)), dtype=object)
        parts = [
            da.from_delayed(future, shape=array[each].shape, dtype=array.dtype)
            for future, each in zip(futures, slices, strict=True)
        ]
        if array.ndim == 0:
            return ClusterValue(parts[0])
        for index, part in zip(np.ndindex(blocks.shape), parts, strict=True):
            blocks[index] = part
        return ClusterValue(self._client.persist(da.block(blocks.tolist())))

    def _limit(self, array: Array) -> int:
        """Bytes of a chunk: so many that each worker gets some."""
        workers = max(1, len(self._session.workers))
        return max(1 << 16, min(CHUNK_BYTES, array.nbytes // workers + 1))


class _Pending:
    """A record whose chunks are on their way."""

    def __init__(self, record: QueuedRecord, arrays: list[Any]) -> None:
        self.record = record
        self.arrays = arrays
        self.futures = [future for array in arrays for future in futures_of(array)]
        self.left = len(self.futures)
        """Chunks that are not there; none once the record has ended."""

    def done(self, future: Any, session: Session) -> None:
        """A chunk is there, or has failed: the record ends with the last one, or with the first that failed."""
        if self.left <= 0:
            return
        self.left = self.left - 1 if future.status == "finished" else 0
        if self.left:
            return
        if future.status != "finished":
            self.record.fail(_error_of(future, session))
            return
        values = tuple(map(ClusterValue, self.arrays))
        self.record.complete(values[0] if self.record.outputs == 1 else values)


def _watch(pending: list[_Pending], session: Session) -> None:
    """End records as their chunks come: on a thread that blocks meanwhile. Where the cluster is lost, the queue has."""
    owners: dict[str, list[_Pending]] = {}
    futures = []
    for each in pending:
        for future in each.futures:
            owners.setdefault(future.key, []).append(each)
            futures.append(future)
    try:
        for future in as_completed(futures, loop=session.client.loop, raise_errors=False):
            for each in owners.pop(future.key, ()):
                each.done(future, session)
    except Exception as error:  # noqa: BLE001 - Dask may raise anything here, and no record may stay behind
        for each in pending:
            if each.left > 0:
                each.left = 0
                each.record.fail(error)


def _error_of(future: Any, session: Session) -> BaseException:
    """The error that failed in a chunk, with the worker's traceback as a note."""
    if future.status != "error":
        return DeviceLostError(f"the chunks of the array were lost: {session.lost or future.status}")
    error: BaseException = future.exception(timeout=10)
    trace = "".join(traceback.format_tb(future.traceback(timeout=10)))
    error.add_note(f"traceback on a worker of the cluster:\n{trace}")
    return error.with_traceback(None)


def _several(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _passed(record: QueuedRecord) -> Any:
    return PASSED if record.outputs == 1 else (PASSED,) * record.outputs


def _of_known_shape(array: Any) -> Any:
    """An array of Dask whose shape is known: where it depends on values, it is computed now."""
    chunked = da.asarray(array)
    if any(np.isnan(length) for length in chunked.shape):
        chunked.compute_chunk_sizes()
    return chunked
