"""Forcing the planner's hand: every op a worker's, so that chains are fused whatever their size; or nothing fused."""

from __future__ import annotations

import asyncio
import functools
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.base.op import Op, ShapeDtype
from engine.fusion.chains.chains import Chains
from engine.fusion.fused import execute_group
from engine.fusion.groups import FusionGroup
from engine.fusion.native.natives import Natives
from engine.memory import buffers
from engine.parallel import lanes
from engine.queues import slice as slices, worker
from engine.runtime.current import current

Array = np.ndarray[Any, Any]
OFF = Natives(enabled=False)
"""No group is compiled: each is computed by NumPy's ufuncs, whatever ran before."""


@dataclass
class Watched:
    """What was run as groups: for each one, the names of its ops, and which of their results were kept."""

    runs: list[list[tuple[str, bool]]] = field(default_factory=list)
    overwritten: int = 0
    """Operands whose memory became a result's."""

    @property
    def elided(self) -> int:
        """Results that were never written to memory."""
        return sum(not kept for group in self.runs for _, kept in group)


def make_all_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every op be a worker's."""
    monkeypatch.setattr(slices, "IN_PLACE", False)


def force_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """ASYNC mode on three threads: whatever can be cut is, and each large result goes into a leased buffer."""
    engine.enable_eager_execution(engine.Config(intra_op_parallelism_threads=3), execution_mode=engine.ASYNC)
    make_all_large(monkeypatch)
    monkeypatch.setattr(worker, "WORTH_NS", -1)
    monkeypatch.setattr(lanes, "LARGE", 1)
    monkeypatch.setattr(buffers, "LARGE", 1)
    monkeypatch.setattr("engine.threads.slots.core_count", lambda: 1_000)


def force_runs(monkeypatch: pytest.MonkeyPatch, block_bytes: int, compiled: Natives = OFF) -> Watched:
    """Plan whatever can be planned, in blocks of so many bytes; 64 elements are the smallest block there is."""
    make_all_large(monkeypatch)
    monkeypatch.setattr(buffers, "LARGE", 1)
    monkeypatch.setattr("engine.fusion.groups.TOGETHER", 0)
    monkeypatch.setattr("engine.queues.chained.chains", Chains(OFF))  # each group is planned
    watched = Watched()

    def execute(group: FusionGroup, threads: int) -> list[Any]:
        watched.overwritten += sum(step.over is not None for step in group.steps)
        results = execute_group(group, threads, block_bytes, compiled)
        kept = [not isinstance(result, ShapeDtype) for result in results]
        watched.runs.append([(step.op.name, keep) for step, keep in zip(group.steps, kept, strict=True)])
        return results

    monkeypatch.setattr(worker, "execute_group", functools.wraps(execute_group)(execute))
    return watched


def forbid_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every op by itself, on workers."""
    make_all_large(monkeypatch)
    monkeypatch.setattr(worker, "can_begin", lambda op: False)


def enable_runs(monkeypatch: pytest.MonkeyPatch, threads: int) -> Watched:
    """ASYNC mode on two devices, every chain a group, on all of so many cores, in blocks of 64 doubles.

    Each device does one thing at a time, in dispatch order: then it is certain which ops come together.
    """
    monkeypatch.setattr("engine.threads.slots.core_count", lambda: threads)
    config = engine.Config(
        device_count={"CPU": 2}, intra_op_parallelism_threads=threads, inter_op_parallelism_threads=1
    )
    engine.enable_eager_execution(config, execution_mode=engine.ASYNC)
    monkeypatch.setattr("engine.threads.slots.core_count", lambda: 1_000)  # runs that are held take no core from others
    return force_runs(monkeypatch, 512)


class Held:
    """An elementwise op, `x + addend`, whose blocks are written and then wait until `opened` is set: holds a group."""

    def __init__(self, addend: int = 0) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()
        self._addend = addend
        self._op = Op("held", self._kernel, infer=lambda x: x, ns=1e9, block=self._block)  # a worker's, of any size

    def _kernel(self, x: Array) -> Array:
        self.entered.set()
        self.opened.wait()
        return x + self._addend

    def _block(self, out: Array, x: Array) -> Array:
        np.add(x, self._addend, out=out)
        if x.size > 1:  # one element may be tried out first
            self.entered.set()
            self.opened.wait()
        return out

    def __call__(self, x: Any) -> Any:
        return current().dispatch(self._op, x)

    async def running(self) -> None:
        await asyncio.to_thread(self.entered.wait)


def told(call: Callable[[], Any]) -> tuple[Any, list[str]]:
    """Return what a call returns, and the warnings that it gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return call(), sorted({str(each.message) for each in caught})


async def told_by(group: Callable[..., Any], x: Any, y: Any) -> tuple[list[Any], list[str]]:
    """Return the arrays that a group of ops computes, and the warnings that it gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        arrays = [np.asarray(await each) for each in group(ops.asarray(x), ops.asarray(y), ops)]
        return arrays, sorted({str(each.message) for each in caught})
