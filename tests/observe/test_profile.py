"""`engine.profile()`: its records, its tables, and what it refuses."""

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot

import engine
from engine import ops
from engine.queues.hooks import hooks
from engine.testing import GateOp

THIS = Path(__file__).name


@engine.op
def napped(x: np.ndarray) -> np.ndarray:
    time.sleep(0.01)
    return x


async def test_each_op_has_a_record(mode: engine.ExecutionMode) -> None:
    async with engine.profile() as profile:
        x = ops.ones(500_000)
        line = sys._getframe().f_lineno - 1
        handles = [ops.sort(x), napped(1.0), ops.add(1, 2)]
        for handle in handles:
            await handle.wait_ready()
    names = [op.name for op in profile.ops]
    assert names == ["ones", "sort", "napped", "add"]
    ones = profile.ops[0]
    assert (ones.device, ones.site, ones.outcome) == ("CPU:0", f"{__file__}:{line}", "done")
    begin, end = profile.span
    for op in profile.ops:
        assert op.started is not None
        assert op.finished is not None
        assert begin <= op.dispatched <= op.started <= op.finished <= end
        assert op.operand_wait >= 0
        assert op.slot_wait >= 0
        assert op.operand_wait + op.slot_wait == pytest.approx(op.started - op.dispatched)
        assert op.thread
    assert profile.ops[1].nbytes == 4_000_000
    assert profile.ops[1].operands == (ones.id,)
    assert profile.ops[2].seconds >= 0.01


async def test_what_was_computed_together_has_one_number() -> None:
    async with engine.Executor(execution_mode=engine.ASYNC):
        x = ops.ones(1_000_000)
        await engine.synchronize()
        async with engine.profile() as profile:
            with engine.testing.hold():
                result = ops.sqrt(ops.abs(x * 2.0))
            await result
            await ops.sort(x)
    groups = {op.name: op.run for op in profile.ops}
    assert groups["multiply"] is not None
    assert groups["multiply"] == groups["abs"] == groups["sqrt"]
    assert groups["sort"] is None
    assert "1 x  multiply, abs, sqrt" in profile.summary()


async def test_waiting_for_operands_and_for_a_slot_are_told_apart(gate: GateOp) -> None:
    config = engine.Config(inter_op_parallelism_threads=1)
    async with engine.Executor(config, execution_mode=engine.ASYNC), engine.profile() as profile:
        first = gate(1.0)
        dependent = napped(first)
        await asyncio.to_thread(gate.wait_entered)
        behind = napped(2.0)
        gate.open()
        await engine.gather(dependent, behind)
    _, waited, stood = profile.ops
    first_ends = profile.ops[0].finished
    assert first_ends is not None
    assert waited.operand_wait == pytest.approx(first_ends - waited.dispatched)
    assert stood.operand_wait == 0
    assert stood.slot_wait > 0


async def test_who_waited_for_what(mode: engine.ExecutionMode) -> None:
    if mode is engine.SYNC:
        pytest.skip("in SYNC mode no task waits")
    async with engine.profile() as profile:
        handle = napped(1.0)
        await asyncio.create_task(_await(handle), name="reader")
    demanded = next(op.demanded_by for op in profile.ops if op.name == "napped")
    assert demanded is not None
    assert demanded.startswith(f"task reader at {__file__}:")
    assert "task reader" in profile.summary()


async def _await(handle: object) -> None:
    await handle  # type: ignore[misc]


async def test_inside_the_block_it_says_what_there_is_so_far(mode: engine.ExecutionMode) -> None:
    async with engine.profile() as profile:
        await ops.add(1, 2)
        assert [op.name for op in profile.ops] == ["add"]
        assert "running" in repr(profile)
        await ops.multiply(1, 2)
    assert [op.name for op in profile.ops] == ["add", "multiply"]
    assert "2 ops" in repr(profile)


async def test_what_has_not_ended_is_in_it_as_far_as_it_came(gate: GateOp) -> None:
    async with engine.Executor(execution_mode=engine.ASYNC):
        async with engine.profile() as profile:
            blocked = gate(1.0)
            dependent = blocked + 1.0
            await asyncio.to_thread(gate.wait_entered)
        gate.open()
        assert await dependent == 2.0
    running, waiting = profile.ops
    assert (running.outcome, running.finished, running.seconds) == (None, None, 0.0)
    assert running.started is not None
    assert waiting.started is None
    assert "2 in flight" in profile.summary()
    assert profile._repr_html_()


async def test_ops_from_before_are_not_in_it(gate: GateOp) -> None:
    async with engine.Executor(execution_mode=engine.ASYNC):
        before = gate(1.0)
        await asyncio.to_thread(gate.wait_entered)
        async with engine.profile() as profile:
            gate.open()
            await before
            await ops.add(1, 2)
    assert [op.name for op in profile.ops] == ["add"]


async def test_profiles_nest(mode: engine.ExecutionMode) -> None:
    with engine.profile() as outer:
        await ops.add(1, 2)
        with engine.profile() as inner:
            await ops.multiply(1, 2)
        await ops.subtract(1, 2)
    assert [op.name for op in outer.ops] == ["add", "multiply", "subtract"]
    assert [op.name for op in inner.ops] == ["multiply"]
    assert not hooks.listeners


async def test_a_bound_on_the_ops_is_kept_and_said(mode: engine.ExecutionMode) -> None:
    with engine.profile(most_ops=10) as profile:
        for _ in range(500):
            await ops.add(1, 2)
    assert 0 < len(profile.ops) <= 40
    assert profile.dropped >= 460
    assert f"{profile.dropped} further ops were not recorded" in profile.summary()


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_a_bound_that_is_none_is_refused(value: int, error: type[Exception]) -> None:
    with pytest.raises(error, match="most_ops must be"):
        engine.profile(value)


def test_a_profile_is_entered_once() -> None:
    profile = engine.profile()
    assert "not entered" in repr(profile)
    with profile:
        pass
    with pytest.raises(RuntimeError, match="entered once"), profile:
        pass


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda profile: profile.save(None), TypeError, "path must be the name of a file"),
        (lambda profile: profile.save(7), TypeError, "path must be the name of a file"),
        (lambda profile: profile.plot("axes"), TypeError, "ax must be axes of matplotlib"),
        (lambda profile: profile.plot(pyplot), TypeError, "ax must be axes of matplotlib"),
        (lambda profile: profile.summary(0), ValueError, "limit must be a positive integer"),
        (lambda profile: profile.summary("all"), ValueError, "limit must be a positive integer"),
    ],
    ids=["save None", "save 7", "plot axes", "plot pyplot", "summary 0", "summary all"],
)
def test_bad_arguments_are_named(
    call: Callable[[engine.observe.Profile], object], error: type[Exception], words: str
) -> None:
    with engine.profile() as profile:
        pass
    with pytest.raises(error, match=words):
        call(profile)


def test_a_profile_that_was_not_entered_lasted_no_time() -> None:
    profile = engine.profile()
    assert profile.span == (0.0, 0.0)
    assert profile.summary().startswith("0 ops in 0\n")


def test_a_profile_of_one_op_counts_one_op(mode: engine.ExecutionMode) -> None:
    with engine.profile() as profile:
        ops.add(1, 2).result()
    assert profile.summary().startswith("1 op in ")
    assert repr(profile).startswith("<Profile ended, 1 op in ")


def test_an_empty_profile_shows_itself(tmp_path: Path) -> None:
    with engine.profile() as profile:
        pass
    assert profile.ops == ()
    assert profile.summary().startswith("0 ops in")
    assert "no op has run" in profile._repr_html_()
    profile.save(tmp_path / "trace.json")
    profile.plot()


async def test_the_summary_has_ops_and_lines(mode: engine.ExecutionMode) -> None:
    async with engine.profile() as profile:
        for _ in range(3):
            await napped(1.0)  # a remark
        line = sys._getframe().f_lineno - 1
    lines = profile.summary().splitlines()
    row = next(each for each in lines if each.startswith("napped"))
    assert row.split()[1] == "3"
    row = next(each for each in lines if f"{THIS}:{line}" in each)
    assert row.endswith("await napped(1.0)  # a remark")


async def test_a_failure_is_counted() -> None:
    async with engine.Executor(execution_mode=engine.ASYNC), engine.profile() as profile:
        with pytest.raises(np.linalg.LinAlgError):
            await ops.linalg.inv(ops.zeros((2, 2)))
    assert "1 done, 1 failed" in profile.summary()
    assert 'stroke="#d00000"' in profile._repr_html_()


async def test_a_still_loop_is_in_the_summary(mode: engine.ExecutionMode) -> None:
    async with engine.profile() as profile:
        await ops.add(1, 2)
        await asyncio.sleep(0.05)
        time.sleep(0.3)  # noqa: ASYNC251
        await asyncio.sleep(0.05)
    assert profile.stalls
    assert max(lag.seconds for lag in profile.lags) >= 0.1
    assert "the event loop stood still for" in profile.summary()


def test_ops_of_all_threads_are_in_it() -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)

    def work() -> None:
        ops.add(1, 2).result()

    with engine.profile() as profile:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [op.name for op in profile.ops] == ["add"] * 4


def test_a_thread_is_called_by_its_own_name_not_by_that_of_one_that_has_ended() -> None:
    def work() -> None:
        with engine.Executor(execution_mode=engine.SYNC):
            ops.add(1, 2)

    with engine.profile() as profile:
        for number in range(20):  # the system gives the number of a thread that has ended to the next
            thread = threading.Thread(target=work, name=f"worker {number}")
            thread.start()
            thread.join()
    assert [op.thread for op in profile.ops] == [f"worker {number}" for number in range(20)]


async def test_transfers_say_from_where(mode: engine.ExecutionMode) -> None:
    config = engine.Config(device_count={"CPU": 2})
    async with engine.Executor(config, execution_mode=mode), engine.profile() as profile:
        await ops.ones(4).to_device("CPU:1").wait_ready()
    moved = profile.ops[-1]
    assert (moved.name, moved.source, moved.device) == ("to_device", "CPU:0", "CPU:1")


async def test_the_profile_of_a_graph_has_its_steps() -> None:
    graph = engine.Graph()
    with graph.as_default():
        x = engine.placeholder(np.float64, (3,))
        y = ops.sqrt(x * 2.0)
    with engine.profile() as profile:
        await engine.Session(graph).run_async(y, {x: np.ones(3)})
    assert {op.name for op in profile.ops} >= {"multiply", "sqrt"}


async def test_results_are_the_same_with_a_profile(mode: engine.ExecutionMode) -> None:
    x = np.linspace(0.0, 9.0, 300_000)

    async def compute() -> np.ndarray:
        h = ops.asarray(x)
        for _ in range(3):
            h = ops.sqrt(ops.abs(ops.sin(h) * 2.0) + 1.0)
        return np.asarray(await (h - h.mean()))

    plain = await compute()
    with engine.profile():
        profiled = await compute()
    assert plain.tobytes() == profiled.tobytes()


def test_a_path_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    with engine.profile() as profile:
        pass
    with pytest.raises(FileNotFoundError):
        profile.save(tmp_path / "missing" / "trace.json")
    with pytest.raises(IsADirectoryError):
        profile.save(tmp_path)
    assert profile.summary()


def test_without_matplotlib_plot_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with engine.profile() as profile:
        pass
    with pytest.raises(ImportError, match=r"pip install 'eagerloop\[observe\]'"):
        profile.plot()
