"""Ops that compute what a ufunc computes are part of runs where, and only where, the bits are NumPy's."""

import operator
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from engine import ops
from tests.planning import Watched, enable_runs

Array = np.ndarray[Any, Any]
N = 1_000


@pytest.fixture(params=[1, 4], ids=["one thread", "four threads"], autouse=True)
def watched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, fresh_engine: None) -> Watched:
    """Every chain a run, in blocks of 64 elements."""
    return enable_runs(monkeypatch, request.param)


def numbers(dtype: Any = np.float64) -> Array:
    return np.linspace(-9, 9, N).astype(dtype)


def assert_same(result: Array, expected: Any) -> None:
    expected = np.asarray(expected)
    assert (result.dtype, result.shape, result.strides) == (expected.dtype, expected.shape, expected.strides)
    assert result.tobytes() == expected.tobytes()


async def played(program: Callable[[Any], Any], x: Array, watched: Watched) -> list[str]:
    """Check what a program gives for x + 0; returns the ops of the run that it ended in."""
    with np.errstate(all="ignore"):
        assert_same(await program(ops.asarray(x) + 0), program(x + 0))
    return [name for name, _ in watched.runs[-1]]


def updated(symbol: str, other: Any) -> Callable[[Any], Any]:
    return lambda x: getattr(operator, symbol)(x, other)


FUSED: dict[str, tuple[Callable[[Any], Any], str, Any]] = {
    "a square": (lambda x: x**2, "square", np.float64),
    "a square of a float": (lambda x: x**2.0, "square or power", np.float32),
    "a square of integers": (lambda x: x**2, "square", np.int32),
    "a cube of integers": (lambda x: x**3, "power", np.int64),
    "a root": (lambda x: x**0.5, "sqrt or power", np.float64),
    "a power": (lambda x: x**2.5, "power", np.float64),
    "powers of a number": (lambda x: 2.0**x, "power", np.float64),
    "powers of each other": (lambda x: x**x, "power", np.float64),
    "added in place": (updated("iadd", 1.5), "add", np.float64),
    "added to itself in place": (lambda x: updated("iadd", x)(x), "add", np.float64),
    "shifted in place": (updated("ilshift", 2), "left_shift", np.int16),
    "divided in place": (updated("itruediv", 3), "divide", np.float32),
    "squared in place": (updated("ipow", 2), "square", np.float64),
    "multiplied in place by an array": (updated("imul", numbers()), "multiply", np.float64),
    "clipped": (lambda x: np.clip(x, -1, 2.5), "clip", np.float64),
    "clipped below": (lambda x: np.clip(x, 0.0, None), "maximum", np.float32),
    "clipped above": (lambda x: np.clip(x, None, numbers()[::-1].copy()), "minimum", np.float64),
    "rounded": (lambda x: np.round(x), "rint", np.float64),
    "counted": (lambda x: np.count_nonzero(x > 1), "count_nonzero", np.float64),
    "integers added up": (lambda x: np.sum(x), "sum", np.int8),
    "truths added up": (lambda x: np.sum(x > 1), "sum", np.float64),
}


@pytest.mark.sweep
@pytest.mark.parametrize(("program", "name", "dtype"), FUSED.values(), ids=FUSED)
async def test_what_a_ufunc_computes_is_part_of_a_run(
    watched: Watched, program: Callable[[Any], Any], name: str, dtype: Any
) -> None:
    names = await played(program, numbers(dtype), watched)
    assert names[0] == "add"
    assert names[-1] in name.split(" or ")  # of some exponents each version of NumPy has its own opinion


ALONE: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "an exponent that NumPy has its own way with": (lambda x: x**-1, np.float64),
    "a square of truths": (lambda x: x**2, np.bool_),
    "an exponent of one element": (lambda x: x ** ops_or_numpy(x).asarray(2.0), np.float64),
    "integers clipped by a number out of range": (lambda x: np.clip(x, -1000, 5), np.int8),
    "zeros clipped by arrays": (lambda x: np.clip(x, np.zeros(N), np.ones(N)), np.float64),
    "rounded integers": (lambda x: np.round(x), np.int32),
    "the mean of integers": (lambda x: np.mean(x), np.int32),
}


def ops_or_numpy(x: Any) -> Any:
    return np if isinstance(x, np.ndarray) else ops


@pytest.mark.parametrize(("program", "dtype"), ALONE.values(), ids=ALONE)
async def test_what_depends_on_the_whole_runs_by_itself(
    watched: Watched, program: Callable[[Any], Any], dtype: Any
) -> None:
    x = numbers(dtype)
    with np.errstate(all="ignore"):
        assert_same(await program(ops.asarray(x)), program(x))
    assert watched.runs == []


async def test_counts_and_sums_of_integers_along_an_axis(watched: Watched) -> None:
    for axis in (0, 1, (0, 1)):
        for program in (np.count_nonzero, np.sum):
            for dtype in (np.bool_, np.uint8, np.int64):
                x = numbers(dtype).reshape(40, 25)
                assert_same(await program(ops.asarray(x) + 0, axis=axis), program(x + 0, axis=axis))


async def test_what_is_updated_keeps_its_dtype_and_layout() -> None:
    turned = np.asfortranarray(numbers().reshape(40, 25))
    for other in (1, np.ones((40, 25)), np.ones(25, np.float32), numbers().reshape(40, 25)):
        h, x = ops.asarray(turned) + 0, turned + 0
        h *= other
        x *= other
        assert_same(await h, x)
    h = ops.asarray(numbers(np.float32)) + 0
    h += np.ones(N)
    assert_same(await h, (numbers(np.float32) + np.ones(N)).astype(np.float32))


@pytest.mark.sweep
@pytest.mark.parametrize("dtype", [np.complex64, np.complex128, np.float32])
@pytest.mark.parametrize("symbol", ["imul", "iadd", "itruediv", "ipow"])
async def test_what_is_walked_backwards_is_updated_backwards(dtype: Any, symbol: str) -> None:
    x = (numbers() + 1j * numbers()[::-1]).astype(dtype) if np.dtype(dtype).kind == "c" else numbers(dtype)
    update = updated(symbol, x[:1] + 1)
    for size in (65, 66, 1000):
        for view in (x[:size][::-1], x[:size].reshape(1, -1)[:, ::-1]):
            assert (await update(ops.asarray(view))).tobytes() == update(
                view.copy()[..., ::-1].copy()[..., ::-1]
            ).tobytes()


@pytest.mark.parametrize(
    ("x", "other"),
    [
        (numbers(np.int64), 0.5),
        (numbers(np.float32), 1j),
        (np.ones(N), np.ones((2, N))),
        (numbers(np.uint8), 300),
        (np.ones(N, np.bool_), 2),
    ],
    ids=["integers", "real numbers", "a larger shape", "a number out of range", "truths"],
)
@pytest.mark.parametrize("symbol", ["iadd", "ipow"])
async def test_what_cannot_be_updated_raises_as_an_array_does(x: Array, other: Any, symbol: str) -> None:
    update = updated(symbol, other)
    expected = outcome(update, x.copy())
    if isinstance(expected, Exception):
        with pytest.raises(type(expected), match=re.escape(str(expected))):
            await update(ops.asarray(x))
    else:
        assert_same(await update(ops.asarray(x)), expected)


def outcome(program: Callable[[Any], Any], x: Array) -> Any:
    try:
        return program(x)
    except Exception as error:  # noqa: BLE001 - NumPy's own, to compare with
        return error


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["exp", "log1p", "tan", "arctan", "cbrt", "sinh", "exp2", "sqrt", "square", "rint"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
async def test_operands_walked_backwards_give_the_bits_of_the_whole(name: str, dtype: Any) -> None:
    """NumPy takes other instructions for them, and turns an array of two axes round first."""
    ufunc = getattr(np, name)
    flat = np.abs(numbers(dtype))
    table = flat.reshape(25, 40)
    for x in (flat[::-1], table[:, ::-1], table[::-1], table[::-1, ::-1], table.T[::-1], flat[::2], table[:, ::3]):
        with np.errstate(all="ignore"):
            assert_same(await ufunc(ops.asarray(x)), ufunc(x))


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["exp", "arcsin", "log10", "sin"])
@pytest.mark.parametrize("size", [64, 65, 129, 64 * 7 + 1])
async def test_no_block_is_a_single_element(name: str, size: int) -> None:
    """NumPy computes one half-precision number with other instructions where it is written over."""
    ufunc = getattr(np, name)
    x = np.linspace(0.007, 0.9, size).astype(np.float16)
    for shift in range(8):
        moved = np.roll(x, shift)
        assert_same(await ufunc(ops.asarray(moved) * 1), ufunc(moved))


@pytest.mark.sweep
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("reduce", [np.max, np.min])
@pytest.mark.parametrize("size", [63, 64, 1000, 1001])
async def test_which_zero_is_the_largest_is_numpys_choice(reduce: Any, dtype: Any, size: int) -> None:
    for seed in range(10):
        zeros = np.random.default_rng(seed).choice([0.0, -0.0], size).astype(dtype)
        one_other = np.zeros(size, dtype)
        one_other[seed * size // 10] = -0.0
        for x in (zeros, one_other, np.abs(zeros), -np.abs(zeros)):
            assert_same(await reduce(ops.asarray(x) * 1), reduce(x * 1))


@pytest.mark.parametrize("size", [500, 1000])
async def test_which_nan_a_sum_is_is_numpys_choice(size: int) -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        x = np.ones(size)
        for value in (np.nan, -np.nan, np.inf, -np.inf)[seed % 3 :]:
            x[rng.integers(0, size, 1 + seed % 4)] = value
        with np.errstate(all="ignore"):
            assert_same(await ops.sum(ops.asarray(x) * 1), np.sum(x * 1))


@pytest.mark.sweep
@pytest.mark.parametrize("exponent", [2, 2.0, 0.5, 3, 2.5])
@pytest.mark.parametrize("base", [1e300, -1.0, 1e-200])
async def test_a_power_warns_as_numpys(exponent: float, base: float) -> None:
    x = np.full(N, base)
    said: list[list[str]] = []
    operands: tuple[Any, ...] = (x, ops.asarray(x))
    for operand in operands:
        with warnings.catch_warnings(record=True) as given, np.errstate(all="warn"):
            warnings.simplefilter("always")
            result = operand**exponent
            if operand is not x:
                await result
        said.append([str(each.message) for each in given])
    assert said[0] == said[1]


@pytest.mark.parametrize("size", [63, 64, 65, 129])
async def test_zeros_of_both_signs_are_clipped_as_by_numpy(size: int) -> None:
    zeros = np.where(np.arange(size) % 2, 0.0, -0.0)
    for limits in ((0.0, 1.0), (-0.0, 1.0), (-1.0, -0.0), (np.zeros(size), 1.0), (zeros, zeros[::-1].copy())):
        h: Any = ops.asarray(zeros) * 1
        assert_same(await np.clip(h, *limits), np.clip(zeros, *limits))


# Scalars


@pytest.mark.sweep
@pytest.mark.parametrize(
    "scalar", [2.0, 2, True, np.float64(2), np.float32(2), np.int8(2), np.bool_(True)], ids=lambda s: repr(s)
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int32])
async def test_scalars_of_all_kinds_are_computed_with_in_runs(dtype: Any, scalar: Any, watched: Watched) -> None:
    names = await played(lambda x: x * scalar + scalar, numbers(dtype), watched)
    assert names[-2:] == ["multiply", "add"]


@pytest.mark.parametrize("number", [2**63, -(2**64), 10**400], ids=["2**63", "-2**64", "10**400"])
async def test_integers_that_no_array_holds_are_refused_and_compared_with(number: int) -> None:
    x = numbers()
    with pytest.raises(OverflowError):
        await ops.logical_and(ops.asarray(x), number)
    integers = np.arange(N)
    np.testing.assert_array_equal(await (ops.asarray(integers) * 2 < number), integers * 2 < number)


async def test_a_warning_of_a_scalar_that_overflows_names_the_cast() -> None:
    x = numbers(np.complex64)
    for overflowing in (1e300, complex(1, 1e300)):
        with pytest.warns(RuntimeWarning) as of_numpy:
            expected = x + overflowing
        with pytest.warns(RuntimeWarning) as of_engine:
            result = await (ops.asarray(x) + overflowing)
        np.testing.assert_array_equal(result, expected)
        assert [str(each.message) for each in of_engine] == [str(each.message) for each in of_numpy]
