"""Every test starts from a fresh process state; async tests run on each event loop, behaviour tests in each mode."""

import asyncio
import asyncio.constants
import gc
import math
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, settings

import engine
import engine.testing
from engine.dispatch.executor import Core, State
from engine.queues import forking
from engine.queues.device_queue import DeviceQueue
from engine.testing import GateOp
from tests.common import SWEEP_SEED, sampled

os.environ["SCIPY_ARRAY_API"] = (
    "1"  # read when SciPy is imported, which is when the first test that needs it is collected
)

ended: weakref.WeakSet[DeviceQueue] = weakref.WeakSet()
"""Queues of closed executors that were found whole and empty; they live until the collector comes by."""

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")  # a test asserts no time, and machines are slow at times


class GuardedUvloop(uvloop.Loop):
    """A loop of uvloop as programs use it: not in debug mode, yet refusing calls from threads that are not its own.

    The loop of asyncio runs each test in debug mode, in which every future and callback keeps a traceback.
    """

    owner = 0
    """The thread that runs it. It is noted here rather than where the loop begins to run: the caller of a task's
    first frame is the loop, not this file."""

    def set_debug(self, enabled: bool) -> None:
        pass

    def call_soon(self, *args: Any, **kwargs: Any) -> asyncio.Handle:  # type: ignore[override]
        self._check_caller()
        return super().call_soon(*args, **kwargs)

    def call_later(self, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:  # type: ignore[override]
        self._check_caller()
        return super().call_later(*args, **kwargs)

    def call_at(self, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:  # type: ignore[override]
        self._check_caller()
        return super().call_at(*args, **kwargs)

    def _check_caller(self) -> None:
        here = threading.get_ident()
        if not self.is_running() or asyncio._get_running_loop() is self:
            self.owner = here
        elif self.owner != here:
            raise RuntimeError("a loop was called from a thread that is not its own, and not thread-safely")


# A callback remembers the frame that scheduled it: ten frames take longer than most tests.
asyncio.constants.DEBUG_STACK_DEPTH = 1  # type: ignore[misc]


def patient_loop() -> asyncio.AbstractEventLoop:
    """Make a loop of asyncio that logs no slow callbacks in debug mode: on a busy machine, any is slow."""
    loop = asyncio.SelectorEventLoop()
    loop.slow_callback_duration = math.inf
    return loop


EVENT_LOOPS: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": patient_loop,
    "uvloop": GuardedUvloop,
}


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run each async test once per loop; ``pytest.mark.asyncio(loop_factories=["asyncio"])`` picks one."""
    return EVENT_LOOPS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which cases of the slow sweeps were chosen."""
    terminalreporter.write_line(f"slow sweeps were sampled with SWEEP_SEED={SWEEP_SEED}; SWEEP=all runs all of them")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Let Hypothesis draw by the seed of the sweeps, which is printed: a run can be had again."""
    if config.getoption("hypothesis_seed") is None:
        config.option.hypothesis_seed = SWEEP_SEED


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Start one process more than there are cores: the tests that wait for other programs leave theirs to it."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep a sample of the cases of each test that is marked as a sweep; all of one that is named on the command line.

    It comes before other choices, such as of what failed last: the sample depends on the seed alone.
    """
    if any("::" in argument for argument in config.args):
        return
    sweeps: dict[tuple[str, int], list[pytest.Item]] = {}
    for item in items:
        if (marker := item.get_closest_marker("sweep")) is not None:
            sweep = item.nodeid.partition("[")[0], marker.kwargs.get("one_in", 3)
            sweeps.setdefault(sweep, []).append(item)
    left_out: set[pytest.Item] = set()
    for (name, one_in), cases in sweeps.items():
        left_out.update(cases)
        left_out.difference_update(sampled(cases, math.ceil(len(cases) / one_in), name))
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True, scope="module")
def settled_heap() -> None:
    """Take what lives already out of the collector's sight: tests of leaks collect often, and pytest keeps much."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def fresh_engine() -> Iterator[None]:
    """Undo whatever an earlier test enabled, and what this one did."""
    engine.testing.reset()
    yield
    engine.testing.reset()


@pytest.fixture(autouse=True)
def whole_backlogs(fresh_engine: None) -> Iterator[None]:
    """Every test leaves the backlog of every queue as its invariants have it, whatever is still on its way."""
    yield
    queues = [queue for queue in forking.queues if queue not in ended]
    with ExitStack() as held:
        for queue in queues:  # of all of them: an operand of another queue must not end while it is looked at
            if not queue.lock.acquire(timeout=1.0):
                return  # a thread is in a slice that does not end
            held.callback(queue.lock.release)
        for queue in queues:
            queue.demands.take()
            queue.backlog.check()
    ended.update(queue for queue in queues if has_ended(queue))


def has_ended(queue: DeviceQueue) -> bool:
    """Tell whether nothing can come to a queue any more, and nothing is there."""
    return isinstance(queue.owner, Core) and queue.owner.state is State.CLOSED and not queue.unfinished()


@pytest.fixture(params=[engine.SYNC, engine.ASYNC], ids=lambda mode: mode.name)
def mode(request: pytest.FixtureRequest, fresh_engine: None) -> engine.ExecutionMode:
    """Eager execution enabled for the whole process, in each mode in turn."""
    execution_mode: engine.ExecutionMode = request.param
    # A scope would be lost: fixtures and async tests need not share a context.
    engine.enable_eager_execution(execution_mode=execution_mode)
    return execution_mode


@pytest.fixture
def asynchronous(fresh_engine: None) -> None:
    """ASYNC mode for the whole program."""
    engine.enable_eager_execution(execution_mode=engine.ASYNC)


@pytest.fixture
def gate() -> Iterator[GateOp]:
    """A gate that is open at the end of the test, whatever happened."""
    gate = GateOp()
    yield gate
    gate.open()
