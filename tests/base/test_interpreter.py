"""Interpreters: a free-threaded build is refused; where references cannot be counted, nothing is written over."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.all_pythons import free_threaded

ROOT = Path(__file__).resolve().parents[2]
FREE_THREADED = free_threaded()


def python(program: str, *switches: str, interpreter: str = sys.executable) -> subprocess.CompletedProcess[str]:
    """Run a program in an interpreter of its own."""
    return subprocess.run(
        [interpreter, "-W", "error", *switches, "-c", program],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_free_threaded_build_is_refused_at_import() -> None:
    # The flag that such a build has in `sys.abiflags`, and in the suffix of its extension modules.
    completed = python("import sys; sys.abiflags += 't'; import engine")
    assert completed.returncode == 1
    assert "ImportError: eagerloop does not run on a free-threaded build of Python" in completed.stderr
    assert f"uv python install {sys.version_info[0]}.{sys.version_info[1]}" in completed.stderr


NOTHING_ELSE = """
try:
    import engine.ops
except ImportError as error:
    print(error)
print([name for name in sys.modules if name.partition(".")[0] == "numpy" or name.startswith("engine.memory")])
"""


def test_nothing_else_is_imported_before_that() -> None:
    message, imported = python(f"import sys; sys.abiflags += 't'\n{NOTHING_ELSE}").stdout.splitlines()
    assert "does not run on a free-threaded build" in message
    assert imported == "[]"


@pytest.mark.skipif(not FREE_THREADED, reason="no free-threaded build is found here: python3.13t or a later one")
@pytest.mark.parametrize("lock", ["0", "1"], ids=["without-lock", "with-lock"])
@pytest.mark.parametrize("interpreter", FREE_THREADED or [""])
def test_a_real_free_threaded_build_is_refused_with_and_without_its_lock(interpreter: str, lock: str) -> None:
    on = python("import sys; print(sys._is_gil_enabled())", "-X", f"gil={lock}", interpreter=interpreter)
    assert on.stdout.split() == [str(lock == "1")]
    completed = python(f"import sys\n{NOTHING_ELSE}", "-X", f"gil={lock}", interpreter=interpreter)
    message, imported = completed.stdout.splitlines()
    assert re.match(r"eagerloop does not run on a free-threaded build of Python \(3\.\d+[^ ]*\), nor", message)
    assert imported == "[]"


# A chain whose buffers are written over, results that a worker adopts, and views that are kept while others are made.
CHAINS = """
import numpy as np

import engine
from engine import ops
from engine.memory import references

x = np.linspace(0.0, 1.0, 300_000)
engine.enable_eager_execution(execution_mode=engine.ASYNC)
h = ops.asarray(x)
kept = []
for _ in range(5):
    y = h * 2.0 + 1.0
    kept.append(y)
    h = ops.sqrt(y) - 0.5
total = ops.sum(h)
expected, steps = x, []
for _ in range(5):
    step = expected * 2.0 + 1.0
    steps.append(step)
    expected = np.sqrt(step) - 0.5
assert h.result().tobytes() == expected.tobytes()
assert all(one.result().tobytes() == other.tobytes() for one, other in zip(kept, steps))
assert total.result() == np.sum(expected)


def counted():
    sole = object()  # a name of a function, as all that the engine asks about: a global counts as one more on 3.14
    return references.others(sole, 0), references.others(sole, 50)


print(*counted())
"""

NO_COUNT = {
    "always-the-same": "lambda thing: 3",
    "immortal": "lambda thing: 0xFFFFFFFF",
    "nothing": "lambda thing: 0",
    "every-other": "lambda thing: true(thing) // 2",
    "falling": "lambda thing: 60 - true(thing)",
}


@pytest.mark.parametrize("count", NO_COUNT.values(), ids=NO_COUNT)
def test_where_counting_does_not_add_up_nothing_is_written_over(count: str) -> None:
    completed = python(f"import sys; true = sys.getrefcount; sys.getrefcount = {count}\n{CHAINS}")
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.split() == ["True", "True"]  # everything counts as referred to


def test_on_this_interpreter_counting_adds_up() -> None:
    completed = python(CHAINS)
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.split() == ["False", "False"]
