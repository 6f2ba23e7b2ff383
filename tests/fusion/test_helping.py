"""The helper: walks that it shares have the same bits, it takes part, and it is not asked where it should not be."""

import asyncio
import ctypes
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.dispatch.executor import Core
from engine.fusion.chains.chain import Chain
from engine.fusion.native import helping
from engine.fusion.native.helping import Helper, helper as shared_helper
from engine.fusion.native.machine import is_available
from engine.fusion.native.natives import natives
from engine.threads.slots import core_slots

pytestmark = [
    pytest.mark.skipif(not is_available(), reason="there is no compiler: llvmlite is not installed"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is no helper on this system"),
]

Array = np.ndarray[Any, Any]
SIZE = 100_000
WALK = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)


def address(walk: Any) -> int:
    return ctypes.cast(walk, ctypes.c_void_p).value or 0


@pytest.fixture(scope="module")
def helper() -> Helper:
    made = Helper()
    made.prepare()
    return made


@pytest.fixture
def started(helper: Helper, monkeypatch: pytest.MonkeyPatch) -> Helper:
    """A helper that is there, whatever the cores of this machine do."""
    monkeypatch.setattr(core_slots, "_capacity", lambda: 4)
    assert helper._address or helper._started()
    return helper


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The walks that the helper of the process is asked for, which are all that may be."""
    shared_helper.prepare()
    monkeypatch.setattr(core_slots, "_capacity", lambda: 4)
    monkeypatch.setattr(helping.Helper, "is_free", lambda self, **_: bool(self._address or self._started()))
    monkeypatch.setattr(Chain, "may_hold_loop", lambda _: True)  # however slow this machine is
    asked: list[int] = []
    walk = helping.Helper.walk

    def noted(self: Helper, *args: Any, **options: Any) -> int:
        asked.append(walk(self, *args, **options))
        return asked[-1]

    monkeypatch.setattr(helping.Helper, "walk", noted)
    return asked


def test_two_threads_take_blocks_from_one_counter(started: Helper) -> None:
    both = threading.Barrier(2)
    seen: list[tuple[int, int | None]] = []

    @WALK  # type: ignore[untyped-decorator]
    def walk(frame: int, scratch: int, counter: int) -> int:
        seen.append((scratch, counter))
        both.wait(30)  # until the other thread is here too
        return scratch

    assert started.walk(address(walk), b"frame", 3, 4, locked=False) == 7
    (first, counter), (second, same) = sorted(seen)
    assert (first, second) == (3, 4)
    assert counter == same is not None


def test_a_walk_that_finds_it_busy_goes_alone(started: Helper) -> None:
    both = threading.Barrier(2)
    counters: list[int | None] = []

    @WALK  # type: ignore[untyped-decorator]
    def inner(frame: int, scratch: int, counter: int | None) -> int:
        counters.append(counter)
        return 10

    @WALK  # type: ignore[untyped-decorator]
    def walk(frame: int, scratch: int, counter: int) -> int:
        repeated = started.walk(address(inner), b"frame", 5, 6, locked=False)
        both.wait(30)
        return repeated

    assert started.walk(address(walk), b"frame", 3, 4, locked=False) == 20
    assert counters == [None, None]
    assert started.walk(address(inner), b"frame", 3, 4, locked=False) in (10, 20)  # whether it came in time, or not


def test_after_a_walk_that_waited_for_long_it_is_left_alone_for_some_time(
    started: Helper, monkeypatch: pytest.MonkeyPatch
) -> None:
    @WALK  # type: ignore[untyped-decorator]
    def walk(frame: int, scratch: int, counter: int | None) -> int:
        return 0

    monkeypatch.setattr(started, "_is_apart", lambda: True)
    assert started.is_free()
    monkeypatch.setattr(helping, "LATE", -1)
    started.walk(address(walk), b"frame", 0, 0, locked=False)
    assert [started.is_free() for _ in range(helping.REST + 1)] == [False] * helping.REST + [True]
    started.walk(address(walk), b"frame", 0, 0, locked=False)
    assert [started.is_free() for _ in range(2 * helping.REST + 1)] == [False] * 2 * helping.REST + [True]
    started._next_rest = helping.REST


def test_it_is_left_alone_where_ops_need_the_cores(started: Helper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(started, "_is_apart", lambda: True)
    monkeypatch.setattr(core_slots, "_capacity", lambda: core_slots.taken + 2)
    assert started.is_free()
    monkeypatch.setattr(core_slots, "_capacity", lambda: core_slots.taken + 1)
    assert not started.is_free()
    assert started.is_free(has_slots=True)


def test_it_is_left_alone_as_long_as_something_refuses_it(started: Helper, monkeypatch: pytest.MonkeyPatch) -> None:
    class Owner:
        pass

    monkeypatch.setattr(started, "_is_apart", lambda: True)
    owner = Owner()
    started.refuse(owner)
    assert not started.is_free()
    del owner
    assert started.is_free()


async def test_an_executor_whose_ops_have_one_thread_refuses_it() -> None:
    config = engine.Config(intra_op_parallelism_threads=1)
    async with engine.Executor(config):
        assert float(await ops.add(1.0, 1.0)) == 2
        assert any(isinstance(each, Core) and each.config is config for each in shared_helper._refused)
        assert not shared_helper.is_free()


def chain(x: Any, y: Any, xp: Any) -> Any:
    t = xp.sqrt(xp.abs(x * 2 + y)) - x
    return xp.maximum(t * t + 1, y) / 3 - y


def in_two_passes(x: Any, y: Any, xp: Any) -> Any:
    return xp.exp(-xp.abs(x)) * y + xp.tanh(x) / 2


def summed(x: Any, y: Any, xp: Any) -> Any:
    return xp.sum((x - y) * 0.5 + xp.abs(x))


@pytest.mark.parametrize(("computed", "code"), [(chain, "f4"), (chain, "f8"), (in_two_passes, "f8"), (summed, "f8")])
async def test_what_it_shares_has_numpys_bits(
    asked: list[int], computed: Callable[[Any, Any, Any], Any], code: str
) -> None:
    source = np.random.default_rng(0)
    x, y = source.normal(size=SIZE).astype(code), source.random(SIZE).astype(code)
    function = engine.function(lambda x, y: computed(x, y, ops))
    expected = computed(x, y, np)
    async with engine.Executor(execution_mode=engine.ASYNC):
        first, second = ops.asarray(x), ops.asarray(y)
        for _ in range(4):
            result = np.asarray(await function(first, second))
            assert result.tobytes() == np.asarray(expected).tobytes()
            await asyncio.to_thread(natives.settle)
    assert asked


async def test_a_block_on_which_numpy_would_warn_is_told_of_by_either_thread(asked: list[int]) -> None:
    x, y = np.ones(SIZE), np.ones(SIZE)
    function = engine.function(lambda x, y: ops.sqrt(x * 0.5 - y) / 3 + y)
    async with engine.Executor(execution_mode=engine.ASYNC):
        first, second = ops.asarray(x), ops.asarray(y)
        for _ in range(3):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = np.asarray(await function(first, second))
            with np.errstate(invalid="ignore"):
                assert result.tobytes() == (np.sqrt(x * 0.5 - y) / 3 + y).tobytes()
            await asyncio.to_thread(natives.settle)
    assert any(asked)


FORKED = """
import ctypes, os, sys
from engine.fusion.native.helping import helper
from engine.threads.slots import core_slots
core_slots._capacity = lambda: 4
walk = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(lambda *_: 1)
address = ctypes.cast(walk, ctypes.c_void_p).value
helper.prepare()
for generation in range(3):
    assert not helper._address and helper._started()
    assert helper.walk(address, b"", 0, 0, locked=False) in (1, 2)
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status))
sys.exit(7)
"""


def test_a_forked_child_has_a_helper_of_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED], timeout=120, capture_output=True, text=True, check=False
    )
    assert done.returncode == 7, done.stderr
