"""Which op a GPU computes, with which functions of CuPy, and what it says where it does not."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.base.op import Op
from engine.devices.cuda.kernels import Elementwise, is_for_gpu, rule_of
from engine.devices.dask.rows import rows
from engine.testing import GateOp
from engine.testing.gpu.cases import (
    Case,
    algebra,
    creation,
    elementwise,
    functions,
    reductions,
    shapes,
    sorting,
    transforms,
)
from engine.testing.gpu.conformance import check_behaviour, check_cases, check_programs
from engine.testing.gpu.edges import EDGES, integers, orders, scalars, special_values
from engine.testing.gpu.journal import Report
from tests.devices.cuda.host_runtime import HostRuntime
from tests.devices.cuda.namespace import Names, known

LACKING = {"byteswap", "getfield"}
"""Ops that CuPy has nothing for."""
OF_HOST = {"placeholder", "read", "synchronize", "to_device"}
"""Rows of the engine's own that no device is asked for."""


def test_every_row_has_a_rule_or_is_known_to_have_none() -> None:
    for path, op in rows().items():
        if not is_for_gpu(op.name, op.kernel):
            assert op.name in OF_HOST, path
        elif op.name in LACKING:
            with pytest.raises(NotImplementedError, match=r"handle.to_device\('CPU:0'\)"):
                rule_of(op.name, op.kernel)
        else:
            assert callable(rule_of(op.name, op.kernel)), path


def test_ufuncs_without_a_row_are_found_by_name_or_are_lacking() -> None:
    for name in sorted(dir(np)):
        ufunc = getattr(np, name)
        if isinstance(ufunc, np.ufunc) and ufunc.__name__ == name:
            assert is_for_gpu(name, ufunc)
            assert (name in known()) == hasattr(Names(), name)


@pytest.mark.parametrize(
    "kernel",
    [engine.op(lambda x: x), GateOp()._kernel, np.frompyfunc(abs, 1, 1), print],
    ids=["a function of users", "a gate", "a ufunc of users", "a builtin"],
)
def test_what_is_no_kernel_of_numpy_or_the_engine_is_the_hosts(kernel: Any) -> None:
    assert not is_for_gpu("any", kernel)


# ---------------------------------------------------------------------------------------------------------------------
# The whole conformance of `python -m engine.testing.gpu`, with NumPy's functions cut down to CuPy's

CHAPTERS = (elementwise, reductions, shapes, sorting, algebra, transforms, creation, functions, *EDGES)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.__name__)
def test_cases_give_what_the_host_gives(gpus: HostRuntime, chapter: Callable[[], Iterator[Case]]) -> None:
    report = Report()
    # Of the long ones each fifth, or third: those are of every op, and of two dtypes or three.
    steps = {elementwise: 5, reductions: 3, special_values: 3, integers: 3, scalars: 7, orders: 4}
    check_cases(report, islice(chapter(), None, None, steps.get(chapter, 1)))
    assert report.failures == []
    assert report.checked > 5
    assert report.lacking == []


def test_errors_policies_and_cancellation_are_as_on_the_host(serve: Callable[[HostRuntime], HostRuntime]) -> None:
    serve(HostRuntime(limit=1 << 29))
    report = Report()
    check_behaviour(report, side=64)
    assert report.failures == []


def test_random_programs_are_numpys(gpus: HostRuntime) -> None:
    report = Report()
    check_programs(report, range(12))
    assert (report.failures, report.checked) == ([], 12)


def test_a_check_that_fails_is_reported(gpus: HostRuntime) -> None:
    wrong = Case("wrong", lambda x: x + (1 if str(x.device) == "GPU:0" else 2), (np.ones(2),))
    dtype = Case("dtype", lambda x: ops.astype(x, "f4" if x.device.kind == "GPU" else "f8"), (np.ones(2),))
    silent = Case("silent", lambda x: x if x.device.kind == "GPU" else x + np.ones(3), (np.ones(2),))
    loud = Case("loud", lambda x: x + np.ones(3) if x.device.kind == "GPU" else x, (np.ones(2),))
    report = Report()
    check_cases(report, [wrong, dtype, silent, loud])
    assert [failure.partition(":")[0] for failure in report.failures] == ["wrong", "dtype", "silent", "loud"]
    late = Report()
    check_cases(late, [wrong], until=0.0)
    check_programs(late, range(3), until=0.0)
    assert late.failures == [
        "wrong: not run: there was no time left",
        "programs from 0 on: not run: there was no time left",
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Ufuncs have NumPy's dtypes and NumPy's refusals, also where the library has others


class Narrow:
    """A library whose functions give another dtype, and refuse nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *operands: np.ones(np.shape(operands[0]), np.float32)


@pytest.mark.parametrize("dtype", ["i8", "f8"])
def test_the_dtype_of_a_result_is_numpys(dtype: str) -> None:
    assert Elementwise(np.sin)(Narrow(), np.ones(2, dtype)).dtype == np.float64


@pytest.mark.parametrize("ufunc", [np.negative, np.subtract, np.sin, np.bitwise_and, np.left_shift])
@pytest.mark.parametrize("dtype", ["?", "f4", "c16", "M8[s]"])
def test_what_numpy_refuses_is_refused(ufunc: np.ufunc, dtype: str) -> None:
    operands = (np.ones(2, dtype),) * ufunc.nin
    try:
        expected: Any = ufunc(*operands).dtype
    except TypeError:
        with pytest.raises(TypeError):
            Elementwise(ufunc)(Narrow(), *operands)
    else:
        assert Elementwise(ufunc)(Narrow(), *operands).dtype == expected


@pytest.mark.parametrize("number", [300, -1, 2**70])
def test_integers_that_do_not_fit_are_numpys(number: int) -> None:
    x = np.array([1, 255], np.uint8)
    for ufunc in (np.less, np.greater, np.equal, np.not_equal):
        assert np.array_equal(Elementwise(ufunc)(Names(), x, number), ufunc(x, number))
        assert np.array_equal(Elementwise(ufunc)(Names(), number, x), ufunc(number, x))
    with pytest.raises(OverflowError, match="out of bounds for uint8"):
        Elementwise(np.add)(Names(), x, number)


def test_what_cupy_lacks_names_the_way_out(gpus: HostRuntime) -> None:
    with engine.Executor(engine.Config(device_count={"GPU": 1}), execution_mode=engine.ASYNC):
        x = ops.asarray(np.arange(6.0).reshape(2, 3), device="GPU:0")
        calls: list[Callable[[], Any]] = [
            lambda: np.spacing(x),
            lambda: np.nanquantile(x, 0.5, method="hazen"),
            lambda: np.add(x, 1, where=x > 2),
            lambda: np.add.reduce(x, axis=0, initial=3.0),
            lambda: x.byteswap(),
        ]
        for call in calls:
            with pytest.raises(NotImplementedError, match=r"handle.to_device\('CPU:0'\)") as caught:
                call().result()
            assert any("on GPU:0" in note for note in caught.value.__notes__)
        back = x.to_device("CPU:0")
        assert np.array_equal(np.asarray(np.spacing(back)), np.spacing(np.arange(6.0).reshape(2, 3)))


def test_functions_of_users_and_draws_are_the_hosts(gpus: HostRuntime) -> None:
    seen: list[type] = []

    @engine.op
    def double(x: Any) -> Any:
        seen.append(type(x))
        return x * 2

    with engine.Executor(engine.Config(device_count={"GPU": 1}), execution_mode=engine.ASYNC), engine.device("GPU:0"):
        x = double(ops.asarray(np.ones(3), device="GPU:0"))
        generator = engine.random.default_rng(7)
        draw = generator.standard_normal(4) + 1
        assert (x.device.kind, draw.device.kind) == ("GPU", "GPU")
        assert x.result().tolist() == [2.0] * 3
        assert draw.result().tolist() == (np.random.default_rng(7).standard_normal(4) + 1).tolist()
    assert seen == [np.ndarray]


def test_results_of_any_form(gpus: HostRuntime) -> None:
    array = np.array([3.0, 0.0, 1.0])
    with engine.Executor(engine.Config(device_count={"GPU": 1}), execution_mode=engine.ASYNC):
        x = ops.asarray(array, device="GPU:0")
        calls: list[Callable[[Any], Any]] = [
            np.nonzero,
            np.argwhere,
            lambda a: np.gradient(np.outer(a, a)),
            lambda a: np.histogram(a, bins=2),
            lambda a: np.unique(a, return_index=True, return_counts=True),
            lambda a: np.broadcast_arrays(a, a[:, None]),
            lambda a: np.apply_along_axis(np.sort, 0, a),
            lambda a: np.piecewise(a, [a > 1], [lambda part: part * 2, 0.0]),
        ]
        for call in calls:
            mine, theirs = call(x), call(array)
            mine, theirs = ([each] if not isinstance(each, tuple | list) else each for each in (mine, theirs))
            assert len(mine) == len(theirs)
            for one, other in zip(mine, theirs, strict=True):
                assert str(one.device) == "GPU:0"
                assert np.array_equal(one.result(), other)


def test_a_row_never_calls_what_cupy_has_not() -> None:
    with pytest.raises(AttributeError, match="CuPy has no vecdot"):
        _ = Names().vecdot
    with pytest.raises(TypeError, match=r"CuPy's linalg\.cholesky"):
        Names().linalg.cholesky(np.eye(2), upper=True)
    row: Op = rows()["engine.ops.linalg:_CHOLESKY"]
    assert np.allclose(rule_of(row.name, row.kernel)(Names(), np.eye(2), upper=True), np.eye(2))
