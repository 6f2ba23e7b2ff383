"""Observers: what they are told, in which order, by when; and what becomes of one that raises."""

import asyncio
import gc
import logging
import os
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest

import engine
from engine import ops
from engine.observe import Observer, OpRecord
from engine.queues.hooks import hooks

ROOT = Path(__file__).resolve().parents[2]


class Heard(Observer):
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, OpRecord]] = []
        self.stalls: list[tuple[float, str]] = []

    def dispatched(self, op: OpRecord) -> None:
        self.events.append(("dispatched", op))

    def started(self, op: OpRecord) -> None:
        self.events.append(("started", op))

    def finished(self, op: OpRecord) -> None:
        self.events.append(("finished", op))

    def stalled(self, seconds: float, site: str) -> None:
        self.stalls.append((seconds, site))

    def of(self, name: str) -> list[str]:
        return [what for what, op in self.events if op.name == name]

    def last(self, name: str) -> OpRecord:
        return [op for what, op in self.events if op.name == name][-1]


WHOLE = ["dispatched", "started", "finished"]


@engine.op
def doubled(x: np.ndarray) -> np.ndarray:
    return x * 2


@engine.op
async def tripled(x: np.ndarray) -> np.ndarray:
    await asyncio.sleep(0)
    return x * 3


async def test_what_was_waited_for_has_been_told_of(mode: engine.ExecutionMode) -> None:
    with engine.observe.using(Heard()) as heard:
        for handle in (ops.add(1, 2), ops.sort(np.ones(500_000)), doubled(1.0), tripled(1.0)):
            await handle
            assert heard.of(handle._cell.op.name) == WHOLE
        await engine.synchronize()
    for _, op in heard.events:
        times = [each for each in (op.dispatched, op.started, op.finished) if each is not None]
        assert times == sorted(times)
    assert heard.last("add").outcome == "done"
    assert heard.last("add").nbytes == 8


async def test_what_was_there_already_has_been_told_of_when_it_is_read(mode: engine.ExecutionMode) -> None:
    with engine.observe.using(Heard()) as heard:
        for count in range(1, 21):
            handle = doubled(1.0)
            while not handle.is_ready():  # noqa: ASYNC110 - a worker has it ready, and no task has waited
                await asyncio.sleep(0)
            await handle
            assert heard.of("doubled").count("finished") == count


def test_a_blocking_wait_tells_too(mode: engine.ExecutionMode) -> None:
    with engine.observe.using(Heard()) as heard:
        assert doubled(2.0).result() == 4.0
        assert heard.of("doubled") == WHOLE
        ops.sort(np.ones(500_000)).result()
        assert heard.of("sort") == WHOLE


async def test_failed_poisoned_and_cancelled(mode: engine.ExecutionMode) -> None:
    if mode is engine.SYNC:
        with engine.observe.using(Heard()) as heard, pytest.raises(np.linalg.LinAlgError):
            ops.linalg.inv(ops.zeros((2, 2)))
        assert heard.last("linalg.inv").outcome == "failed"
        return
    with engine.observe.using(Heard()) as heard:
        poisoned = ops.linalg.inv(ops.zeros((2, 2))) + 1
        with pytest.raises(np.linalg.LinAlgError):
            await poisoned
        with engine.testing.hold():
            dropped = ops.multiply(2, 3)
            dropped.cancel()
        with pytest.raises(engine.OpCancelledError):
            await dropped
    root, dependent = heard.last("linalg.inv"), heard.last("add")
    assert (root.outcome, root.root, dependent.outcome, dependent.root) == ("failed", True, "failed", False)
    assert root.error == dependent.error == "LinAlgError: Singular matrix"
    assert root.note is not None
    assert __file__ in root.note
    assert heard.last("multiply").outcome == "cancelled"
    assert heard.last("multiply").started is None


def test_a_failure_of_a_plain_op_in_sync_mode_is_told_of() -> None:
    engine.enable_eager_execution()
    left, right = ops.ones(2), ops.ones(3)
    with engine.observe.using(Heard()) as heard, pytest.raises(ValueError, match="broadcast"):
        ops.add(left, right)
    assert heard.of("add") == WHOLE
    assert heard.last("add").outcome == "failed"


async def test_the_site_is_the_line_of_the_program(mode: engine.ExecutionMode) -> None:
    with engine.observe.using(Heard()) as heard:
        await ops.add(1, 2)
        line = sys._getframe().f_lineno - 1
    assert heard.last("add").site == f"{__file__}:{line}"


async def test_operands_are_named(mode: engine.ExecutionMode) -> None:
    with engine.observe.using(Heard()) as heard:
        left = ops.ones(3)
        right = ops.zeros(3)
        await ops.where(left > right, left + right, right)
    ids = {op.name: op.id for _, op in heard.events}
    assert set(heard.last("where").operands) == {ids["greater"], ids["add"], ids["zeros"]}
    assert set(heard.last("add").operands) == {ids["ones"], ids["zeros"]}


async def test_results_of_ops_with_several_outputs_are_operands(mode: engine.ExecutionMode) -> None:
    with engine.observe.using(Heard()) as heard:
        quotient, rest = ops.linalg.qr(ops.ones((3, 3)))
        await (quotient @ rest)
        await ops.negative(rest)
    made = heard.last("linalg.qr").id
    assert heard.last("matmul").operands == (made, made)
    assert heard.last("negative").operands == (made,)


async def test_scopes_have_numbers_of_their_own_also_when_they_are_gone(mode: engine.ExecutionMode) -> None:
    x = ops.ones(3)
    with engine.observe.using(Heard()) as heard:
        for _ in range(20):
            async with engine.scope():
                ops.sin(x)
                await ops.tanh(x)
            await ops.cos(x)
    scopes = {
        name: [op.scope for what, op in heard.events if op.name == name and what == "finished"]
        for name in ("sin", "tanh", "cos")
    }
    assert scopes["sin"] == scopes["tanh"]
    assert len(set(scopes["sin"])) == 20
    assert scopes["cos"] == [None] * 20


async def test_a_task_that_outlives_its_scope_is_outside_of_it(mode: engine.ExecutionMode) -> None:
    left = asyncio.Event()

    async def later() -> None:
        await left.wait()
        await ops.cos(1.0)

    with engine.observe.using(Heard()) as heard:
        async with engine.scope():
            async with engine.scope():
                task = asyncio.create_task(later())
                ops.sin(1.0)
            left.set()
            await task
    around, inside = heard.last("cos").scope, heard.last("sin").scope
    assert around is not None
    assert inside is not None
    assert around < inside


async def test_one_that_raises_is_removed_and_the_rest_goes_on(
    mode: engine.ExecutionMode, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Observer):
        def finished(self, op: OpRecord) -> None:
            raise RuntimeError("broken")

    broken = Broken()
    with engine.observe.using(Heard()) as heard, caplog.at_level(logging.ERROR, "engine.observe"):
        engine.observe.add(broken)
        assert await ops.add(1, 2) == 3
        assert await ops.add(3, 4) == 7
        assert heard.of("add") == WHOLE * 2
        engine.observe.remove(broken)
    assert caplog.text.count("is removed") == 1
    assert not hooks.listeners


async def test_the_last_one_that_raises_turns_observing_off(
    mode: engine.ExecutionMode, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Observer):
        def dispatched(self, op: OpRecord) -> None:
            raise RuntimeError("broken")

    with caplog.at_level(logging.ERROR, "engine.observe"):
        engine.observe.add(Broken())
        assert await ops.add(1, 2) == 3
    assert not hooks.listeners
    assert await ops.add(1, 2) == 3


async def test_ops_that_an_observer_dispatches_are_not_told_of(mode: engine.ExecutionMode) -> None:
    class Busy(Heard):
        def finished(self, op: OpRecord) -> None:
            super().finished(op)
            ops.add(1, 2)

    with engine.observe.using(Busy()) as heard:
        await ops.multiply(2, 3)
        await engine.synchronize()
    assert heard.of("add") == []
    assert heard.of("multiply") == WHOLE


async def test_ops_that_an_observer_dispatches_in_a_scope_say_nothing_of_later_ones(mode: engine.ExecutionMode) -> None:
    class Busy(Heard):
        def finished(self, op: OpRecord) -> None:
            super().finished(op)
            doubled(1.0)

    with engine.observe.using(Busy()) as heard:
        async with engine.scope():
            for _ in range(20):
                await doubled(1.0)
        for _ in range(100):
            await ops.sin(1.0)
    assert {op.scope for _, op in heard.events if op.name == "sin"} == {None}


def test_what_is_no_observer_is_refused() -> None:
    with pytest.raises(TypeError, match=r"instance of a subclass of engine\.observe\.Observer"):
        engine.observe.add(print)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="the class Heard: make one"):
        engine.observe.add(Heard)  # type: ignore[arg-type]
    heard = Heard()
    with engine.observe.using(heard), pytest.raises(ValueError, match="observes already"):
        engine.observe.add(heard)
    engine.observe.remove(heard)  # it is not there: no error


def test_nothing_is_left_when_no_one_observes() -> None:
    before = threading.active_count()
    with engine.observe.using(Heard()):
        assert any(thread.name == "eagerloop-observe" for thread in threading.enumerate())
    assert not hooks.listeners
    assert hooks.deliver is None
    assert threading.active_count() == before


async def test_observing_keeps_no_value_alive() -> None:
    @engine.op
    def large() -> np.ndarray:
        array = np.ones(1000)
        finalizers.append(weakref.finalize(array, lambda: None))
        return array

    finalizers: list[weakref.finalize] = []  # type: ignore[type-arg]
    async with engine.Executor(execution_mode=engine.ASYNC):
        with engine.observe.using(Heard()), engine.profile() as profile:
            await large()
            await engine.synchronize()
            await asyncio.sleep(0.05)
            gc.collect()
            assert not finalizers[0].alive
    assert [op.name for op in profile.ops] == ["large"]


async def test_a_loop_that_stands_still_is_told_of_with_its_line() -> None:
    async with engine.Executor(execution_mode=engine.ASYNC):
        with engine.observe.using(Heard()) as heard:
            await ops.add(1, 2)
            while not heard.stalls:
                time.sleep(0.25)  # noqa: ASYNC251 - that is what is to be found
                line = sys._getframe().f_lineno - 1
                await asyncio.sleep(0.05)
    seconds, site = heard.stalls[0]
    assert seconds >= 0.1
    assert site == f"{__file__}:{line}"


async def test_a_stall_that_lasts_until_the_end_is_told_of() -> None:
    with engine.observe.using(Heard()) as heard:
        await asyncio.sleep(0.05)
        time.sleep(0.3)  # noqa: ASYNC251
    assert heard.stalls


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_goes_on_observing(tmp_path: Path) -> None:
    program = """
import os, engine, warnings
from engine import ops
warnings.simplefilter("ignore")
class Counts(engine.observe.Observer):
    count = 0
    def finished(self, op): self.count += 1
engine.enable_eager_execution(execution_mode=engine.ASYNC)
counts = Counts()
engine.observe.add(counts)
ops.add(1, 2).result()
before = counts.count
pid = os.fork()
ops.add(1, 2).result()
assert counts.count == before + 1, counts.count
if pid:
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
else:
    os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


OPTIONAL = ("matplotlib", "opentelemetry", "prometheus_client", "starlette", "tqdm", "uvicorn")


def test_importing_the_engine_imports_no_optional_library() -> None:
    program = f"import engine, sys; print([name for name in {OPTIONAL!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


async def test_many_threads_and_observers_lose_nothing() -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)
    heard = [Heard(), Heard()]
    for each in heard:
        engine.observe.add(each)

    def work() -> None:
        total = ops.asarray(0.0)
        for _ in range(200):
            total = total + 1.0
        assert total.result() == 200.0

    await asyncio.gather(*(asyncio.to_thread(work) for _ in range(4)))
    for each in heard:
        engine.observe.remove(each)
        assert each.of("add").count("finished") == 800
        assert len({op.id for what, op in each.events if what == "dispatched"}) == each.of("add").count(
            "dispatched"
        ) + each.of("asarray").count("dispatched")
