"""Interrupts: Ctrl-C at any moment loses no op, runs none twice, and leaves what comes later as it was.

As in a notebook, where the program goes on after one. Each case interrupts a program at every `STRIDE`-th place where
CPython looks for signals, from another first one on, and asks then for all that the program had dispatched.
"""

from collections.abc import Callable
from contextvars import copy_context
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.queues.records import NEVER
from engine.threads.slots import core_slots
from handles.cell import PENDING
from tests.interrupts import Interrupt

STRIDE = 40
LARGE = np.arange(300_000.0)
MIDDLE = np.arange(100_000.0)

Kept = dict[str, Any]
"""What a program has dispatched by the time of the interrupt."""
Program = Callable[[Kept], None]

runs: list[str] = []
"""The functions that have run."""


@engine.op
def tell(x: Any) -> Any:
    """An op of the user, which is to run once."""
    runs.append("tell")
    return x + 1


@engine.op(num_outputs=2)
def tell_twice(x: Any) -> Any:
    """One with two results."""
    runs.append("tell_twice")
    return x + 1, x * 2


@engine.op(max_concurrency=1)
def tell_alone(x: Any) -> Any:
    """One of which no two may run at once."""
    return x + 1


@engine.op
async def tell_later(x: Any) -> Any:
    """One that is a coroutine."""
    runs.append("tell_later")
    return x + 1


@engine.batched(max_wait=0.0)
def doubled(rows: Any) -> Any:
    return rows * 2


@engine.function
def traced(x: Any) -> Any:
    return ops.sum((ops.sin(x) + 1) * x)


def functions(kept: Kept) -> None:
    kept["h"] = tell(LARGE)
    kept["k"] = ops.add(kept["h"], 1)
    kept["k"].result()


def several_results(kept: Kept) -> None:
    kept["h"], kept["twice"] = tell_twice(LARGE)
    kept["k"] = ops.subtract(kept["h"], -1)
    kept["k"].result()


def limited(kept: Kept) -> None:
    kept["h"] = tell_alone(LARGE)
    kept["k"] = tell_alone(kept["h"])
    kept["k"].result()


def coroutines(kept: Kept) -> None:
    kept["h"] = tell_later(LARGE)
    kept["k"] = ops.add(kept["h"], 1)
    kept["k"].result()


def large_ops(kept: Kept) -> None:
    kept["sines"] = ops.sin(LARGE)
    kept["product"] = ops.matmul(np.ones((200, 200)), np.ones((200, 200)))
    kept["chain"] = kept["sines"] * 2 + 1
    engine.wait()
    kept["sum"] = ops.sum(kept["chain"])
    float(kept["sum"])


def small_ops(kept: Kept) -> None:
    x = y = ops.asarray([1.0, 2.0, 3.0])
    for _ in range(4):
        y = y + x
    kept["y"] = y
    kept["total"] = ops.sum(y)
    float(kept["total"])
    repr(y)


def written_elements(kept: Kept) -> None:
    x = ops.asarray(np.ones(200_000))
    kept["before"] = x * 2
    x[3:5] = 7
    kept["written"] = x + 0
    kept["written"].result()


def devices(kept: Kept) -> None:
    x = ops.asarray(MIDDLE)
    with engine.device("CPU:1"):
        kept["there"] = ops.sin(x)
    kept["here"] = ops.add(kept["there"], 1)
    kept["here"].result()


def batches(kept: Kept) -> None:
    kept["row"] = doubled.call(np.ones(3))
    kept["row"] = doubled.call(np.ones(3))


def traces(kept: Kept) -> None:
    kept["traced"] = traced(LARGE)
    float(kept["traced"])


def cancellations(kept: Kept) -> None:
    first = tell(LARGE)
    second = ops.add(first, 1)
    kept["y"] = ops.asarray([5.0, 10.0, 15.0]) + 0
    second.cancel()
    first.cancel()


SINES = np.sin(LARGE)
EXPECTED: dict[str, Any] = {
    "h": LARGE + 1,
    "k": LARGE + 2,
    "twice": LARGE * 2,
    "sines": SINES,
    "product": np.full((200, 200), 200.0),
    "chain": SINES * 2 + 1,
    "sum": np.sum(SINES * 2 + 1),
    "y": np.array([5.0, 10.0, 15.0]),
    "total": np.float64(30.0),
    "before": np.full(200_000, 2.0),
    "written": np.where((np.arange(200_000) > 2) & (np.arange(200_000) < 5), 7.0, 1.0),
    "there": np.sin(MIDDLE),
    "here": np.sin(MIDDLE) + 1,
    "row": np.full(3, 2.0),
    "traced": np.sum((SINES + 1) * LARGE),
}
PROGRAMS: tuple[Program, ...] = (
    *(functions, several_results, limited, coroutines, large_ops, small_ops),
    *(written_elements, devices, batches, traces, cancellations),
)


def look(kept: Kept) -> None:
    """Check what was dispatched before an interrupt, and that the engine is as good as new after it."""
    for name, value in kept.items():
        assert np.array_equal(np.asarray(value), EXPECTED[name]), name
    engine.wait()
    assert len(runs) <= 1, runs
    assert NEVER.value is PENDING, "what never comes has a value"
    assert np.array_equal(doubled.call(np.ones(3)), np.full(3, 2.0))
    assert np.array_equal(tell_alone(MIDDLE).result(), MIDDLE + 1)
    assert np.array_equal((ops.sin(LARGE) * 2 + 1).result(), EXPECTED["chain"])
    engine.wait()
    core_slots.check()


@pytest.mark.filterwarnings("ignore:.*coroutine.*tell_later")  # it was made when the interrupt came
@pytest.mark.sweep(one_in=10)
@pytest.mark.parametrize("first", range(1, STRIDE + 1))
@pytest.mark.parametrize("mode", [engine.ASYNC, engine.SYNC], ids=["async", "sync"])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda each: each.__name__)
def test_an_interrupt_loses_nothing_and_does_nothing_twice(
    program: Program, mode: engine.ExecutionMode, first: int
) -> None:
    config = engine.Config(device_count={"CPU": 2}, operation_timeout_in_ms=30_000)  # what is stuck is named
    at = first
    while True:
        runs.clear()
        kept: Kept = {}
        with engine.Executor(config, execution_mode=mode):  # which waits for what is left, when it is closed
            # In a context of its own: where an interrupt comes as a block is left, its settings stay.
            with Interrupt(at) as interrupt:
                copy_context().run(program, kept)
            try:
                look(kept)
            except Exception as error:
                error.add_note(f"interrupted at place {at}: {interrupt.came}")
                raise
        if not interrupt.came:
            return
        at += STRIDE
