"""Exits: programs end in time, with their own return code and a quiet stderr, and Ctrl-C acts at once."""

import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 60
"""Seconds until a program counts as hung."""

LEFT = re.compile(
    r"(eagerloop: at exit (1 op|\d+ ops) (never ran( and \d+ had not ended)?|had not ended)(, the oldest)?: "
    r"op '\w+' on CPU:0, dispatched at .+\n)?"
)
"""All that stderr may hold: one line about ops that never ran, or had not ended, where there were such."""

PREAMBLE = """
import asyncio, os, signal, sys, threading, time
import numpy as np
import engine
from engine import ops
from engine.testing import GateOp

engine.enable_eager_execution(execution_mode=engine.ASYNC)

@engine.op
def sleeps(x):
    started.set()
    time.sleep(3600)
    return x

@engine.op
def fails(x):
    raise KeyError("nobody reads this")

started = threading.Event()

def chain(x, length=5000):
    for _ in range(length):
        x = x + 1
    return x

def interrupt_when(event):
    threading.Thread(target=lambda: (event.wait(), os.kill(os.getpid(), signal.SIGINT)), daemon=True).start()
"""


def play(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program that begins with `PREAMBLE`, with warnings as errors."""
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments, "-c", PREAMBLE + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


QUIET = {
    "nothing was dispatched": "",
    "work is pending": "x = chain(ops.asarray(0))",
    "large work is pending": "x = [ops.sort(ops.asarray(np.random.rand(2_000_000))) for _ in range(3)]",
    "a worker op runs": """
        x = sleeps(np.ones(2)) + 1
        started.wait()
    """,
    "a gate is closed": """
        gate = GateOp()
        x = gate(1.0) + 1
        gate.wait_entered()
    """,
    "work is pending from a thread": """
        thread = threading.Thread(target=lambda: chain(ops.asarray(0)))
        thread.start()
        thread.join()
    """,
    "a daemon thread dispatches": """
        def forever():
            while True:
                chain(ops.asarray(0), 10)
                started.set()
        threading.Thread(target=forever, daemon=True).start()
        started.wait()
    """,
    "a daemon thread waits": """
        gate = GateOp()
        threading.Thread(target=gate(1.0).result, daemon=True).start()
        gate.wait_entered()
    """,
    "asyncio.run ended with work pending": """
        async def main():
            global x
            x = chain(ops.asarray(0))
        asyncio.run(main())
    """,
    "asyncio.run ended with a running op": """
        async def main():
            global x
            x = sleeps(np.ones(2)) + 1
            await asyncio.to_thread(started.wait)
        asyncio.run(main())
    """,
    "asyncio.run ended with an async op": """
        @engine.op
        async def forever(x):
            await asyncio.Event().wait()
        async def main():
            global x
            x = forever(np.ones(2)) + 1
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        asyncio.run(main())
    """,
    "asyncio.run ended with an executor open": """
        async def main():
            global x
            executor = engine.Executor(execution_mode=engine.ASYNC)
            await executor.__aenter__()
            x = chain(ops.asarray(0))
        asyncio.run(main())
    """,
    "an executor was left open": """
        executor = engine.Executor(execution_mode=engine.ASYNC)
        executor.__enter__()
        x = chain(ops.asarray(0))
    """,
    "a loop was closed without shutdown": """
        async def main():
            global x
            x = chain(ops.asarray(0))
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        loop.close()
    """,
    "an error was read": """
        try:
            fails(np.ones(2)).result()
        except KeyError:
            pass
    """,
    "an error was reported by a barrier": """
        x = fails(np.ones(2))
        try:
            engine.wait()
        except KeyError:
            pass
    """,
    "an op was cancelled": """
        gate = GateOp()
        x = gate(1.0)
        gate.wait_entered()
        y = x + 1
        y.cancel(), x.cancel()
    """,
    "a scope timed out around a running op": """
        async def main():
            try:
                async with engine.scope(timeout=0.01):
                    sleeps(np.ones(2))
            except TimeoutError:
                pass
        asyncio.run(main())
    """,
}


def test_an_op_that_saves_something_and_is_dispatched_last_does_not_go_without_a_word() -> None:
    """A worker has been given it when the loop ends, and may or may not have begun."""
    done = play(
        """
        @engine.op
        def save(x):
            time.sleep(3600)
        async def main():
            save(1.0)
        asyncio.run(main())
        """
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert re.match(r"eagerloop: at exit 1 op (never ran|had not ended): op 'save' on CPU:0, dispat", done.stderr)


CERTAIN = {"a worker op runs", "a gate is closed", "asyncio.run ended with a running op"}
"""Cases in which one op runs and the one behind it never ran; in others that depends on which thread was faster."""


@pytest.mark.sweep(one_in=2)
@pytest.mark.parametrize("case", QUIET)
def test_exiting_is_quiet_and_in_time_when(case: str) -> None:
    done = play(QUIET[case])
    assert (done.returncode, done.stdout) == (0, "")
    assert LEFT.fullmatch(done.stderr), done.stderr
    if case in CERTAIN:
        said = "eagerloop: at exit 1 op never ran and 1 had not ended, the oldest: op '"
        assert done.stderr.startswith(said), done.stderr


@pytest.mark.parametrize(
    "program",
    [
        "x = fails(np.ones(2))",
        "fails(np.ones(2))",
        "thread = threading.Thread(target=lambda: fails(np.ones(2))); thread.start(); thread.join()",
    ],
    ids=["with a handle", "without one", "in a thread that ended"],
)
def test_an_error_nobody_read_is_reported_at_exit(program: str) -> None:
    done = play(
        f"""
        import engine.failures
        {program}
        while not engine.failures._outstanding:
            time.sleep(0.001)
        """
    )
    assert done.returncode == 0
    assert done.stdout == ""
    assert done.stderr.count("KeyError: 'nobody reads this'") == 1
    assert "its result was never read" in done.stderr
    assert "dispatched at <string>:" in done.stderr


def test_an_error_nobody_read_goes_to_the_exception_handler_when_its_loop_ends() -> None:
    done = play(
        """
        async def main():
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda loop, context: print(context["message"], repr(context["exception"])))
            x = fails(np.ones(2))
            while not x.is_ready():
                await asyncio.sleep(0)
        asyncio.run(main())
        """
    )
    assert done.returncode == 0
    assert done.stdout == "an op failed and its result was never read KeyError('nobody reads this')\n"
    assert done.stderr == ""


def test_sys_exit_inside_the_loop_keeps_its_code() -> None:
    done = play(
        """
        async def main():
            global x
            x = sleeps(np.ones(2))
            y = chain(ops.asarray(0))
            await asyncio.to_thread(started.wait)
            sys.exit(7)
        asyncio.run(main())
        """
    )
    assert (done.returncode, done.stdout) == (7, "")
    assert LEFT.fullmatch(done.stderr), done.stderr


def test_sys_exit_inside_an_executor_keeps_its_code() -> None:
    done = play(
        """
        with engine.Executor(execution_mode=engine.ASYNC):
            x = sleeps(np.ones(2))
            started.wait()
            sys.exit(7)
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")


@pytest.mark.parametrize(
    "wait",
    [
        "held.result()",
        "behind.result()",
        "engine.wait()",
        "float(behind)",
        "held.result(timeout=3600)",
        "ops.add(gate(1.0), 1).tolist()",
    ],
)
def test_ctrl_c_ends_a_blocking_wait_at_once(wait: str) -> None:
    done = play(
        f"""
        gate = GateOp()
        held = gate(1.0)
        behind = held + 1
        try:
            interrupt_when(gate._entered)
            {wait}
        except KeyboardInterrupt:
            print("interrupted", held.is_ready())
            gate.open()
            print(float(behind))
        """
    )
    assert (done.returncode, done.stdout) == (0, "interrupted False\n2.0\n")
    assert LEFT.fullmatch(done.stderr), done.stderr  # an op that no handle is kept of may not have run at the end


def test_ctrl_c_ends_a_wait_of_sync_mode_at_once() -> None:
    done = play(
        """
        gate = GateOp()
        held = gate(1.0)
        try:
            interrupt_when(gate._entered)
            with engine.execution_mode(engine.SYNC):
                held + 1
        except KeyboardInterrupt:
            print("interrupted")
        """
    )
    assert (done.returncode, done.stdout) == (0, "interrupted\n")
    assert LEFT.fullmatch(done.stderr), done.stderr


@pytest.mark.parametrize("wait", ["await held", "await engine.synchronize()", "await engine.gather(held, held)"])
def test_ctrl_c_ends_an_await_at_once(wait: str) -> None:
    done = play(
        f"""
        gate = GateOp()
        async def main():
            held = gate(1.0)
            interrupt_when(gate._entered)
            try:
                {wait}
            except asyncio.CancelledError:
                print("cancelled", held.is_ready())
                raise
        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            print("interrupted")
        """
    )
    assert (done.returncode, done.stdout) == (0, "cancelled False\ninterrupted\n")
    assert LEFT.fullmatch(done.stderr), done.stderr


def test_ctrl_c_while_leaving_an_executor_closes_it() -> None:
    done = play(
        """
        gate = GateOp()
        executor = engine.Executor(execution_mode=engine.ASYNC)
        try:
            with executor:
                held = gate(1.0)
                interrupt_when(gate._entered)
        except KeyboardInterrupt:
            print(executor.state)
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "closed\n", "")


def test_ctrl_c_that_nobody_catches_ends_the_program() -> None:
    done = play(
        """
        gate = GateOp()
        held = gate(1.0)
        interrupt_when(gate._entered)
        held.result()
        """
    )
    assert done.returncode in (-signal.SIGINT, 128 + signal.SIGINT, 1)
    assert re.search(rf"KeyboardInterrupt\n{LEFT.pattern}$", done.stderr), done.stderr


@pytest.mark.parametrize("before", [True, False], ids=["before the worker has it", "when the worker has it"])
def test_an_interrupt_while_an_op_is_handed_to_a_worker_loses_nothing(before: bool) -> None:
    done = play(
        f"""
        from engine.threads.pool import workers

        x = ops.asarray(np.ones((300, 500)))
        x.result()
        submit, interrupts = workers.submit, []

        def interrupted(job):
            offered = getattr(job, "func", job).__name__ == "_begin"
            if not ({before} and offered and interrupts):
                submit(job)
            if offered and interrupts and threading.current_thread() is threading.main_thread():
                interrupts.pop()
                raise KeyboardInterrupt

        workers.submit = interrupted
        for start in (lambda: x * 2.0, lambda: ops.sort(x)):
            interrupts[:] = [1, 2]
            end = start()
            while True:
                try:
                    print(end.result().sum())
                    break
                except KeyboardInterrupt:
                    pass
        engine.wait()
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "300000.0\n150000.0\n", "")


def test_interrupts_during_a_backlog_lose_nothing() -> None:
    done = play(
        """
        end = chain(ops.asarray(0), 30_000)
        stop = threading.Event()
        def interrupt():
            for _ in range(300):  # on a busy machine, for ever would leave no time between two of them
                if stop.wait(0.001):
                    break
                os.kill(os.getpid(), signal.SIGINT)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        interrupts = 0
        interrupting = threading.Thread(target=interrupt, daemon=True)
        while True:
            try:
                if interrupting.ident is None:
                    interrupting.start()
                value = int(end.result())
                stop.set()
                interrupting.join()
                break
            except KeyboardInterrupt:
                interrupts += 1
        print(value)
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "30000\n", "")
