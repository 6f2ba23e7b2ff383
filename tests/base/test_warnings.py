"""Warnings of kernels: place, class, words and number are those of NumPy, in every way that an op may run."""

import subprocess
import sys
import unittest
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.testing import GateOp

Warned = list[tuple[str, int, str, str]]

NUMPY = Path(np.__file__).parent
SMALL = np.array([-1.0, 0.0, 1e308])
MATRIX = np.linspace(-1.0, 1.0, 12).reshape(3, 4)
LARGE = np.tile(SMALL, 200_000)

WARNING: dict[str, Callable[[Any], Any]] = {
    "a ufunc": lambda x: np.log(x),
    "two kinds": lambda x: 1.0 / x + np.log(x),
    "an operator": lambda x: x / 0.0,
    "a reflected operator": lambda x: 1.0 / x,
    "an overflow": lambda x: x * 1e308,
    "a power": lambda x: x**0.5,
    "a method": lambda x: (x * 1e308).sum(),
    "a reduction": lambda x: np.prod(x * 1e10),
    "a reduction of rows": lambda x: np.sum(np.stack([x * 1e308, x * -1e308]), axis=0),
    "a running sum": lambda x: np.cumsum(x * 1e308),
    "a variance": lambda x: np.var(x * 1e200),
    "a cast": lambda x: (x * 1e10).astype(np.int32),
    "a cast that loses the imaginary part": lambda x: (x * 1j).astype(np.float64),
    "the mean of nothing": lambda x: np.mean(x[:0]),
    "nanmean": lambda x: np.nanmean(x * np.nan),
    "nanmax": lambda x: np.nanmax(x * np.nan),
    "a difference": lambda x: np.diff(x * np.inf),
    "a chain that is fused": lambda x: np.sqrt(np.log(x * 2.0) - 1.0),
    "a remainder": lambda x: np.remainder(x, 0.0),
    "a division of integers": lambda x: np.floor_divide(np.arange(3), (x[:1] * 0).astype(int)),
    "a product of matrices": lambda x: np.matmul(x * 1e300, x * 1e300),
    "a polynomial": lambda x: np.polyfit(np.zeros(4), np.arange(4.0) + x[1] * 0, 2),
    "an assignment": lambda x: assigned(x),
    "one that does not warn": lambda x: x + 1.0,
}


def assigned(x: Any) -> Any:
    y = x.copy().astype(np.int8)
    y[:] = x
    return y


def value_of(result: Any) -> Any:
    return result.result() if hasattr(result, "result") else result


def warned(call: Callable[[], Any]) -> Warned:
    """What a call warns of, every time."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value_of(call())
    return sorted((*place_of(each), each.category.__name__, str(each.message)) for each in caught)


def place_of(warning: warnings.WarningMessage) -> tuple[str, int]:
    """File and line; within NumPy's own Python code, which methods and functions take different ways through, NumPy."""
    inside = Path(warning.filename).is_relative_to(NUMPY)
    return ("numpy", 0) if inside else (warning.filename, warning.lineno)


class Queued:
    """Makes handles whose ops have not run in ASYNC mode, so that what is dispatched next is pending together."""

    def __init__(self, mode: engine.ExecutionMode) -> None:
        self.mode = mode
        self.gates: list[GateOp] = []

    def __call__(self, array: Any) -> Any:
        if self.mode is engine.SYNC:
            return ops.asarray(array)
        self.gates.append(GateOp())
        return self.gates[-1](array)

    def open(self) -> None:
        for gate in self.gates:
            gate.open()


@pytest.fixture
def queued(mode: engine.ExecutionMode) -> Iterator[Queued]:
    """Its gates are open at the end of the test, whatever happened."""
    queued = Queued(mode)
    yield queued
    queued.open()


@pytest.mark.sweep
@pytest.mark.parametrize("array", [SMALL, MATRIX, LARGE], ids=["small", "matrix", "large"])
@pytest.mark.parametrize("program", [pytest.param(each, id=name) for name, each in WARNING.items()])
def test_warnings_are_those_of_numpy(program: Callable[[Any], Any], array: Any, queued: Queued) -> None:
    try:
        with np.errstate(all="warn"):
            expected = warned(lambda: program(array))
    except Exception:  # noqa: BLE001 - NumPy refuses this shape
        return

    def dispatched() -> Any:
        result = program(queued(array))
        queued.open()
        return result

    with np.errstate(all="warn"):
        assert warned(dispatched) == expected


# Whole programs

PROGRAM = """
import sys, warnings
import numpy as np
import engine

if sys.argv[1] == "NumPy":
    make = np.asarray
else:
    engine.enable_eager_execution(execution_mode=engine.ExecutionMode[sys.argv[1]])
    make = engine.ops.asarray

def wait():
    if sys.argv[1] != "NumPy":
        engine.wait()

x = make(np.array([-1.0, 0.0]))
for _ in range(3):
    np.log(x); wait()

def twice(x):
    return np.sqrt(x), 1 / x

for _ in range(2):
    twice(x); wait()
    y = x / 0.0; wait()
y += x * np.inf; wait()
np.log(x); wait(); np.sqrt(x); wait()
for _ in range(2):
    (x * 1j).astype(float); wait()
    np.nanmean(x * np.nan); wait()
with np.errstate(all="ignore"):
    np.log(x); wait()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    np.log(x); wait()
with warnings.catch_warnings():
    warnings.simplefilter("once")
    for _ in range(2):
        np.log(x); wait()
print("registered:", sum(key != "version" for key in __warningregistry__), file=sys.stderr)
eval(compile("np.log(x)", "no such file", "eval")); wait()
"""


def said(path: Path, *options: str, way: str) -> str:
    """What a program writes to stderr."""
    command = [sys.executable, *options, str(path), way]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return ran.stderr


@pytest.mark.sweep(one_in=2)
@pytest.mark.parametrize("filters", [(), ("-W", "always"), ("-W", "once"), ("-W", "ignore")], ids=" ".join)
def test_programs_say_what_they_say_with_arrays(filters: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    expected = said(path, *filters, way="NumPy")
    assert f"{path}:18: RuntimeWarning" in expected or filters == ("-W", "ignore")
    assert said(path, *filters, way="SYNC") == expected
    assert said(path, *filters, way="ASYNC") == expected


def test_a_filter_for_the_users_module_holds(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    for way in ("NumPy", "SYNC", "ASYNC"):
        lines = said(path, "-W", "error:::__main__", way=way).splitlines()
        assert "RuntimeWarning: divide by zero encountered in log" in lines
        assert any('program.py", line 18' in line for line in lines)


# Errors in place of warnings


@pytest.mark.parametrize("array", [SMALL, LARGE], ids=["small", "large"])
def test_a_warning_that_is_an_error_fails_the_op(array: Any, mode: engine.ExecutionMode) -> None:
    x = ops.asarray(array)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="encountered in log") as caught:
            np.log(x).result()  # type: ignore[attr-defined]
        with pytest.raises(RuntimeWarning, match="encountered in log"):
            ops.sqrt(ops.log(x) + 1.0).result()
    assert sum("op 'log'" in note for note in caught.value.__notes__) == 1
    assert caught.value.__context__ is None
    assert np.log(ops.asarray([1.0])).result() == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("array", [SMALL, LARGE], ids=["small", "large"])
def test_the_error_state_of_the_dispatch_holds(array: Any, mode: engine.ExecutionMode) -> None:
    x = ops.asarray(array)
    noted: list[str] = []
    with np.errstate(all="ignore"):
        ignored = np.log(x)
    with np.errstate(divide="call", invalid="ignore", call=lambda kind, flag: noted.append(kind)):
        called = np.log(x)
    ignored.result()  # type: ignore[attr-defined]
    called.result()  # type: ignore[attr-defined]
    assert noted == ["divide by zero"]
    with np.errstate(all="raise"), pytest.raises(FloatingPointError):
        np.log(x).result()  # type: ignore[attr-defined]


# Ops of other kinds


@engine.op
def warns_itself(x: np.ndarray) -> np.ndarray:
    warnings.warn("of the caller", UserWarning, stacklevel=2)
    return np.asarray(np.log(x))


def test_ops_of_users_warn_at_their_own_lines_and_at_those_of_the_dispatch(mode: engine.ExecutionMode) -> None:
    x = ops.asarray(SMALL)
    log = engine.op(np.log)
    here = warned(lambda: log(x))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warns_itself(x); number = _line()  # noqa: E702  # fmt: skip
        engine.wait()
    assert {each.lineno for each in caught if each.category is UserWarning} == {number}
    inside = warns_itself.__wrapped__.__code__.co_firstlineno  # type: ignore[attr-defined]
    assert {each.lineno for each in caught if each.category is RuntimeWarning} == {inside + 3}
    assert {each[0] for each in here} == {__file__}


def _line() -> int:
    return sys._getframe(1).f_lineno


def test_a_function_warns_where_its_steps_were_written(mode: engine.ExecutionMode) -> None:
    def program(x: Any) -> Any:
        y = np.log(x)
        return (y * 0.0).astype(np.int32)

    traced = engine.function(program)
    with np.errstate(all="warn"):
        expected = warned(lambda: program(SMALL))
        for _ in range(3):
            assert warned(lambda: traced(ops.asarray(SMALL))) == expected
            assert warned(lambda: traced(ops.asarray(LARGE))) == warned(lambda: program(LARGE))


def test_a_session_warns_where_its_nodes_were_made() -> None:
    with engine.Graph().as_default() as graph:
        x = engine.placeholder(np.float64, (3,))
        y = np.log(x); number = _line()  # noqa: E702  # fmt: skip
    with engine.Session(graph=graph) as session:
        caught = warned(lambda: session.run(y, {x: SMALL}))
    assert {each[:2] for each in caught} == {(__file__, number)}


def test_inside_a_kernel_too(mode: engine.ExecutionMode) -> None:
    @engine.op
    def kernel(x: np.ndarray) -> Any:
        return np.log(ops.asarray(x) + 0.0)

    caught = warned(lambda: kernel(SMALL))
    assert {each[1] for each in caught} == {kernel.__wrapped__.__code__.co_firstlineno + 2}  # type: ignore[attr-defined]


def test_nothing_of_the_process_is_changed(mode: engine.ExecutionMode) -> None:
    before = (warnings.filters[:], warnings.showwarning, np.geterr())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        within = warnings.filters[:]
        np.log(ops.asarray(SMALL)).result()  # type: ignore[attr-defined]
        assert warnings.filters == within
    assert (warnings.filters[:], warnings.showwarning, np.geterr()) == before


def test_what_tidies_registries_up_leaves_the_places_right(mode: engine.ExecutionMode) -> None:
    for module in list(sys.modules.values()):
        if hasattr(module, "__warningregistry__"):
            module.__warningregistry__.clear()
    x = ops.asarray(SMALL)
    with unittest.TestCase().assertWarns(RuntimeWarning) as caught:
        np.log(x).result()  # type: ignore[attr-defined]
    assert caught.filename == __file__
    assert {each[0] for each in warned(lambda: np.log(x))} == {__file__}
