"""The namespace is what the standard says: names, signatures, inspection, and errors at the call."""

import inspect
from collections.abc import Callable
from typing import Any

import array_api_strict as strict
import numpy as np
import pytest

import engine
from engine import ops

FUNCTIONS = sorted(
    name for name in strict.__all__ if inspect.isfunction(getattr(strict, name)) and not name.startswith("_")
)
EXTENSIONS = [
    (extension, name)
    for extension in ("linalg", "fft")
    for name in sorted(getattr(strict, extension).__all__)
    if inspect.isfunction(getattr(getattr(strict, extension), name))
]
OWN = {"getitem", "setitem", "split", "to_device"}


def parameters(function: Any) -> list[tuple[str, Any]]:
    return [(name, parameter.kind) for name, parameter in inspect.signature(function).parameters.items()]


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in ("get_array_api_strict_flags",)])
def test_every_function_of_the_standard_is_there(name: str) -> None:
    if name in ("set_array_api_strict_flags", "reset_array_api_strict_flags", "ArrayAPIStrictFlags"):
        pytest.skip("a switch of that library")
    ours, theirs = getattr(ops, name), getattr(strict, name)
    assert name in ops.__all__
    positional = inspect.Parameter.POSITIONAL_ONLY
    assert [each for each, kind in parameters(ours) if kind is positional] == [
        each for each, kind in parameters(theirs) if kind is positional
    ]
    assert {each for each, _ in parameters(theirs)} <= {each for each, _ in parameters(ours)}


@pytest.mark.parametrize(("extension", "name"), EXTENSIONS)
def test_every_function_of_the_extensions_is_there(extension: str, name: str) -> None:
    ours, theirs = (getattr(getattr(each, extension), name) for each in (ops, strict))
    assert {each for each, _ in parameters(theirs)} <= {each for each, _ in parameters(ours)}


def test_every_public_name_is_documented() -> None:
    for name in ops.__all__:
        value = getattr(ops, name)
        if inspect.isfunction(value):
            assert (value.__doc__ or "").strip(), name
            assert value.__name__ == name


def test_inspection() -> None:
    engine.enable_eager_execution(engine.Config(device_count={"CPU": 2}))
    info = ops.__array_namespace_info__()
    assert info.devices() == engine.list_devices()
    assert info.default_device() == engine.Device("CPU:0")
    assert info.default_dtypes(device="CPU:1")["real floating"] == np.float64
    assert info.dtypes(kind="signed integer") == {name: np.dtype(name) for name in ("int8", "int16", "int32", "int64")}
    assert set(info.dtypes(kind=("bool", "complex floating"))) == {"bool", "complex64", "complex128"}
    assert info.capabilities()["data-dependent shapes"] is True
    with pytest.raises(ValueError, match="CPU:7"):
        info.dtypes(device="CPU:7")


def test_data_types() -> None:
    assert ops.float64 == np.dtype("f8")
    assert ops.finfo(ops.float32).eps == float(np.finfo(np.float32).eps)
    assert ops.finfo(ops.complex128).dtype == np.float64
    assert ops.iinfo(ops.int8).max == 127
    assert ops.isdtype(ops.uint8, "integral")
    assert ops.result_type(ops.float32, 1.0) == np.float32
    assert ops.can_cast(ops.int8, ops.int16)
    assert ops.broadcast_shapes((3, 1), (None,)) == (3, None)


async def test_result_type_of_pending_handles() -> None:
    gate = engine.testing.GateOp()
    async with engine.Executor(execution_mode=engine.ASYNC):
        h = gate(np.ones(2, np.float32))
        assert ops.result_type(h, 2.0) == np.float32
        assert ops.can_cast(h, ops.float64)
        assert ops.finfo(h).bits == 32
        gate.open()


def test_a_handle_knows_its_namespace(mode: engine.ExecutionMode) -> None:
    h = ops.ones(3)
    assert h.__array_namespace__() is ops
    assert h.__array_namespace__(api_version="2024.12") is ops
    with pytest.raises(ValueError, match=r"1999\.12"):
        h.__array_namespace__(api_version="1999.12")


loose: Any = ops  # type checkers refuse what is wrong here, too

WRONG: dict[str, tuple[Callable[[Any], Any], type[Exception], str]] = {
    "axis of a wrong type": (lambda x: loose.sum(x, axis="rows"), TypeError, "sum: axis must be"),
    "an axis that is a handle": (lambda x: loose.sum(x, axis=x), TypeError, "sum: axis must be"),
    "a float axis": (lambda x: loose.argmax(x, axis=1.5), TypeError, "argmax: axis must be an integer"),
    "keepdims": (lambda x: loose.max(x, keepdims="yes"), TypeError, "max: keepdims must be True or False"),
    "dtype": (lambda x: loose.prod(x, dtype="nothing"), TypeError, "prod: dtype must be a dtype"),
    "objects": (lambda x: loose.zeros(3, dtype=object), TypeError, "zeros: dtype"),
    "a shape": (lambda x: loose.reshape(x, "ab"), TypeError, "reshape: shape must be"),
    "a negative length": (lambda x: loose.ones((2, -1)), ValueError, "ones: shape"),
    "correction": (lambda x: loose.std(x, correction=x), TypeError, "std: correction"),
    "side": (lambda x: loose.searchsorted(x, x, side="up"), ValueError, "searchsorted: side"),
    "norm": (lambda x: loose.fft.fft(x, norm="big"), ValueError, "fft: norm"),
    "mode": (lambda x: loose.linalg.qr(x, mode="r"), ValueError, "qr: mode"),
    "n": (lambda x: loose.diff(x, n=-1), ValueError, "diff: n"),
    "repeats": (lambda x: loose.repeat(x, -1), ValueError, "repeat: repeats"),
    "arrays": (lambda x: loose.concat(7), TypeError, "concat: arrays"),
    "no arrays": (lambda x: loose.stack([]), ValueError, "stack: arrays"),
    "indexing": (lambda x: loose.meshgrid(x, indexing="ab"), ValueError, "meshgrid: indexing"),
    "a step of 0": (lambda x: loose.arange(0, 1, 0), ValueError, "arange: step"),
    "num": (lambda x: loose.linspace(0, 1, -1), ValueError, "linspace: num"),
    "an unknown name": (lambda x: loose.sum(x, axes=1), TypeError, "axes"),
    "an axis to squeeze": (lambda x: loose.squeeze(x, 0), ValueError, "cannot select an axis to squeeze"),
    "an operand": (lambda x: loose.add(x, None), TypeError, "operands must be"),
    "an index": (lambda x: x["a"], IndexError, "only integers"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_is_refused_at_the_call(name: str, mode: engine.ExecutionMode) -> None:
    call, error, message = WRONG[name]
    x = ops.ones((2, 3))
    with pytest.raises(error, match=message):
        call(x)
    engine.wait()


STRICT: dict[str, Callable[[Any, Any], Any]] = {
    "mean": lambda xp, x: xp.mean(x, axis=0),
    "std": lambda xp, x: xp.std(x, correction=1.0),
    "argsort": lambda xp, x: xp.argsort(x, axis=0, descending=True),
    "sort": lambda xp, x: xp.sort(x, descending=True),
    "cumulative_sum": lambda xp, x: xp.cumulative_sum(x, axis=1, include_initial=True),
    "unique_values": lambda xp, x: xp.unique_values(x),
    "matmul": lambda xp, x: x @ xp.matrix_transpose(x),
    "vecdot": lambda xp, x: xp.vecdot(x, x),
    "tensordot": lambda xp, x: xp.tensordot(x, x, axes=((0, 1), (0, 1))),
    "clip": lambda xp, x: xp.clip(x, 1.0, 3.0),
    "roll": lambda xp, x: xp.roll(x, 2, axis=1),
    "qr": lambda xp, x: xp.linalg.qr(x)[1],
    "eigh": lambda xp, x: xp.linalg.eigh(x @ x.T)[0],
    "trace": lambda xp, x: xp.linalg.trace(x),
    "rfft": lambda xp, x: xp.fft.rfft(x),
    "where": lambda xp, x: xp.where(x > 2, x, -x),
    "take": lambda xp, x: xp.take(x, xp.asarray([1, 0]), axis=0),
    "round": lambda xp, x: xp.round(x / 3),
    "tile": lambda xp, x: xp.tile(x, (2, 1)),
    "indexing": lambda xp, x: x[1:, ..., None],
    "a mask": lambda xp, x: x[x > 2],
    "meshgrid": lambda xp, x: xp.meshgrid(x[0, :], x[1, :])[1],
    "searchsorted": lambda xp, x: xp.searchsorted(x[0, :], x[1, :]),
    "isdtype": lambda xp, x: xp.asarray(xp.isdtype(x.dtype, "real floating")),
}


@pytest.mark.parametrize("name", STRICT)
def test_array_api_strict_agrees(name: str, mode: engine.ExecutionMode) -> None:
    x = np.asarray([[0.0, 1.0, 5.0], [2.0, 2.0, 4.0]])
    got = STRICT[name](ops, ops.asarray(x)).result()
    expected = np.asarray(STRICT[name](strict, strict.asarray(x)))
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)


def test_the_generator_gives_numpys_numbers_in_the_order_of_the_calls(mode: engine.ExecutionMode) -> None:
    ours, theirs = engine.random.default_rng(7), np.random.default_rng(7)
    calls: list[Callable[[Any], Any]] = [
        lambda rng: rng.random(3),
        lambda rng: rng.normal(2, 3, (40, 500)),
        lambda rng: rng.integers(0, [5, 6, 7]),
        lambda rng: rng.standard_normal(dtype="f4", size=2),
        lambda rng: rng.choice(10, 4, replace=False),
        lambda rng: rng.permutation(6),
        lambda rng: rng.poisson(3.0, 4),
        lambda rng: rng.uniform(),
    ]
    drawn = [call(ours) for call in calls]
    for handle, call in zip(drawn, calls, strict=True):
        np.testing.assert_array_equal(handle.result(), call(theirs))
        assert handle.dtype == handle.result().dtype


def test_parameters_of_a_draw_may_be_handles_and_wrong_ones_are_refused(mode: engine.ExecutionMode) -> None:
    rng = engine.random.default_rng(1)
    with pytest.raises(ValueError, match="scale < 0"):
        rng.normal(0, -1)
    x = rng.normal(ops.asarray([1.0, 2.0]), 0.5)
    assert x.shape == (2,)
    np.testing.assert_array_equal(x.result(), np.random.default_rng(1).normal([1.0, 2.0], 0.5))
