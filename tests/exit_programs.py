"""Random programs that end while the engine still has work: the text of one for each seed.

A program is made of bodies (the main thread's, and those of a few other threads), each of which dispatches some work of
every kind and then ends in its own way: by falling off the end of a thread, of `asyncio.run`, of a loop that is closed
without ceremony, of an executor. None waits for what cannot end.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

PREAMBLE = """\
import asyncio, os, signal, sys, threading, time
import numpy as np
import engine
from engine import ops
from engine.testing import GateOp

engine.enable_eager_execution(engine.Config(device_count={"CPU": 2}), execution_mode=engine.ASYNC)
kept = []
LARGE = np.random.default_rng(0).random(300_000)

@engine.op
def sleeps(x):
    time.sleep(3600)
    return x

@engine.op
def naps(x):
    time.sleep(0.002)
    return x

@engine.op(max_concurrency=1)
def alone(x):
    return x + 1

@engine.op
def fails(x):
    raise KeyError("planned failure")

@engine.op
async def never(x):
    await asyncio.Event().wait()

@engine.op
async def soon(x):
    await asyncio.sleep(0)
    return x

@engine.function
def traced(x):
    return ops.sum(x * 2.0 + 1.0)

def chain(length):
    x = ops.asarray(0)
    for _ in range(length):
        x = x + 1
    return x

def body(*steps):
    for step in steps:
        kept.append(step())
"""

WORK = {
    "a chain": "lambda: chain({n})",
    "large ops": "lambda: [ops.sort(ops.asarray(LARGE)) for _ in range({few})]",
    "a large chain": "lambda: ops.sum(ops.sqrt(ops.asarray(LARGE) * 2.0 + 1.0))",
    "a long user op": "lambda: sleeps(np.ones(2)) + 1",
    "short user ops": "lambda: [naps(np.ones(2)) for _ in range({few})]",
    "one at a time": "lambda: [alone(np.ones(2)) for _ in range({few})]",
    "an async op": "lambda: never(np.ones(2))",
    "short async ops": "lambda: [soon(np.ones(2)) + 1 for _ in range({few})]",
    "a closed gate": "lambda: GateOp()(1.0) + 1",
    "the other device": "lambda: chain(3).to_device('CPU:1') + ops.asarray(LARGE).to_device('CPU:1')",
    "a function": "lambda: traced(LARGE)",
    "a cancelled op": "lambda: chain({n}).cancel()",
    "everything cancelled": "lambda: engine.cancel_pending()",
    "work let go of": "lambda: (chain({n}), None)[1]",
}
FAILING = {"a failure": "lambda: fails(np.ones(2)) + 1"}

ENDS = {
    "a plain body": "body({steps})",
    "asyncio.run": "async def main():\n    body({steps})\nasyncio.run(main())",
    "asyncio.run after a turn": "async def main():\n    body({steps})\n    await asyncio.sleep(0)\nasyncio.run(main())",
    "a loop that is only closed": (
        "async def main():\n    body({steps})\n"
        "loop = asyncio.new_event_loop()\nloop.run_until_complete(main())\nloop.close()"
    ),
    "an executor left open": (
        "executor = engine.Executor(execution_mode=engine.ASYNC)\nexecutor.__enter__()\nkept.append(executor)\n"
        "body({steps})"
    ),
    "a scope that is cancelled": (
        "async def main():\n    try:\n        async with engine.scope() as scope:\n            body({steps})\n"
        "            scope.cancel()\n    except ExceptionGroup:  # an op may fail before\n        pass\n"
        "asyncio.run(main())"
    ),
    "a scope in time": (
        "async def main():\n    try:\n        async with engine.scope(timeout=0.01):\n            body({steps})\n"
        "    except (TimeoutError, ExceptionGroup):\n        pass\nasyncio.run(main())"
    ),
    "a blocking wait in time": (
        "body({steps})\ntry:\n    engine.wait(timeout=0.01)\nexcept (TimeoutError, KeyError, ExceptionGroup, "
        "engine.BlockingSyncError):\n    pass"
    ),
}

LAST = {
    "the end": ("", 0),
    "sys.exit": ("sys.exit(3)", 3),
    "an exception": ("raise RuntimeError('planned end')", 1),
    "an interrupt": (
        "signal.signal(signal.SIGINT, signal.default_int_handler)\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)",
        -2,
    ),
}

INTERRUPTED = (-2, 1)
"""How CPython ends after an interrupt: by the signal, or, where another thread imports a module with named tuples just
then (the compiler's, here), with 1: `exec` of a string in any thread makes CPython forget that it was interrupted."""


@dataclass(frozen=True)
class Program:
    """The text of a program, and how it is to end."""

    text: str
    returncodes: tuple[int, ...]
    may_report: bool
    """Whether an error that was never read, or the planned end, may stand on stderr."""


def program(seed: int) -> Program:
    """The program of a seed."""
    chance = random.Random(seed)
    failing = chance.random() < 0.2
    works = WORK | (FAILING if failing else {})
    parts = [PREAMBLE]
    for number in range(chance.choice([0, 0, 1, 2])):
        daemon = chance.random() < 0.5
        parts.append(_function(f"thread_{number}", _body(chance, works)))
        start = f"threading.Thread(target=thread_{number}, daemon={daemon})"
        parts.append(f"threads_{number} = {start}\nthreads_{number}.start()\n")
        if chance.random() < 0.3:
            parts.append(f"threads_{number}.join()\n")
    parts.extend(_body(chance, works) + "\n" for _ in range(chance.choice([1, 1, 2])))
    last, returncode = LAST[chance.choice(["the end", "the end", *LAST])]
    parts.append(last + "\n")
    returncodes = INTERRUPTED if returncode == INTERRUPTED[0] else (returncode,)
    return Program("\n".join(parts), returncodes, failing or returncode not in (0, 3))


def _body(chance: random.Random, works: dict[str, str]) -> str:
    steps = [
        works[chance.choice(list(works))].format(n=chance.choice([1, 50, 2000]), few=chance.randrange(1, 5))
        for _ in range(chance.randrange(1, 4))
    ]
    return ENDS[chance.choice(list(ENDS))].format(steps=", ".join(steps))


def _function(name: str, body: str) -> str:
    return f"def {name}():\n" + "".join(f"    {line}\n" for line in body.splitlines())
