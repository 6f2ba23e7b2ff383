"""Values that NumPy refuses and CuPy takes: indices out of bounds, negative exponents, dtypes without a loop."""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from engine.devices.cuda.bounds import check_exponents, check_indices, check_key
from engine.devices.cuda.kernels import Elementwise
from engine.devices.cuda.rules import RULES
from tests.devices.cuda.namespace import Names

SHAPE = (3, 4, 2)


def parts(rng: np.random.Generator) -> Any:
    """A part of a key."""
    kind = rng.integers(8)
    if kind == 0:
        return Ellipsis
    if kind == 1:
        return None
    if kind == 2:
        return slice(int(rng.integers(3)), None)
    if kind == 3:
        return int(rng.integers(2))
    if kind == 4:
        return rng.random(3) < 0.5
    return rng.integers(-5, 5, rng.integers(1, 3)).astype(rng.choice(["i1", "i8", "u1"]))


@pytest.mark.parametrize("seed", range(20))
def test_a_key_is_refused_where_numpy_refuses_its_indices(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(30):
        _compare_key(rng)


def _compare_key(rng: np.random.Generator) -> None:
    key = tuple(parts(rng) for _ in range(rng.integers(1, 4)))
    array = np.zeros(SHAPE)
    try:
        _ = array[key]
    except IndexError as error:
        if "out of bounds" not in str(error):
            return  # of another kind, which CuPy refuses as well
        with pytest.raises(IndexError, match="is out of bounds for axis"):
            check_key(Names(), SHAPE, key)
    else:
        check_key(Names(), SHAPE, key)


def test_the_error_is_numpys() -> None:
    array, key = np.zeros(SHAPE), (slice(None), np.array([1, 7]))
    with pytest.raises(IndexError) as theirs:
        _ = array[key]
    with pytest.raises(IndexError) as mine:
        check_key(Names(), SHAPE, key)
    assert str(mine.value) == str(theirs.value)


def test_masks_and_empty_indices_are_no_indices_out_of_bounds() -> None:
    check_indices(Names(), np.array([True] * 9), 3, 0)
    check_indices(Names(), np.zeros(0, np.int64), 0, 0)
    check_key(Names(), (2,), np.array([True, False]))


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "i4", "u8", "f4", "f8", "c8"])
@pytest.mark.parametrize("exponent", [0, 1, 2, 3, -1, 0.5, 2.0, True, np.int8(2), np.float32(2), np.uint8(3)], ids=repr)
def test_a_power_has_the_dtype_and_the_refusals_of_numpys_operator(dtype: str, exponent: Any) -> None:
    _same(RULES["_operator:pow"], operator.pow, np.ones(3, dtype), exponent)


@pytest.mark.parametrize("left", ["i1", "i8", "u2", "f8"])
@pytest.mark.parametrize("right", ["i1", "i8", "u2", "f4"])
@pytest.mark.parametrize("exponents", [[1, 2, 3], [1, -2, 3], []])
def test_negative_exponents_of_integers_are_refused(left: str, right: str, exponents: list[int]) -> None:
    base = np.ones(len(exponents), left)
    powers = np.array(exponents).astype(right)
    _same(RULES["_operator:pow"], operator.pow, base, powers)
    _same(Elementwise(np.power), np.power, base, powers)


def _same(rule: Any, numpys: Callable[..., Any], *operands: Any) -> None:
    try:
        expected = numpys(*operands)
    except (TypeError, ValueError, OverflowError) as error:
        with pytest.raises(type(error)):
            rule(Names(), *operands)
    else:
        result = rule(Names(), *operands)
        assert result.dtype == expected.dtype
        assert np.array_equal(result, expected)


def test_exponents_of_floating_point_numbers_may_be_negative() -> None:
    check_exponents(Names(), np.dtype(np.float64), np.array([-1]))


@pytest.mark.parametrize("name", ["logical_and", "logical_or", "logical_xor", "logical_not"])
def test_complex_numbers_are_true_where_they_are_not_zero(name: str) -> None:
    ufunc: np.ufunc = getattr(np, name)
    x, y = np.array([0, 1j, 1, 0]), np.array([0, 0, 2j, 1])
    with pytest.raises(TypeError, match="Wrong type"):
        getattr(Names(), name)(*(x, y)[: ufunc.nin])
    operands: list[Any] = [x, y][: ufunc.nin]
    assert np.array_equal(Elementwise(ufunc)(Names(), *operands), ufunc(*operands))
    if ufunc.nin == 2:
        for other in (y.real, 1j, 2, True):
            assert np.array_equal(Elementwise(ufunc)(Names(), x, other), ufunc(x, other))


@pytest.mark.parametrize("bounds", [(-300, 3), (2, 300), (-300, 300), (0, 5), (-128, 127), (None, 1 << 70)])
def test_bounds_beyond_all_integers_of_a_dtype_are_none(bounds: tuple[int | None, int | None]) -> None:
    x = np.array([-128, -3, 4, 127], np.int8)
    given = tuple(each is not None for each in bounds)
    values = [each for each in bounds if each is not None]
    result = RULES["engine.ops.elementwise:_clip"](Names(), x, *values, given=given)
    expected = np.clip(x, *bounds)
    assert (result.dtype, result.tolist()) == (expected.dtype, expected.tolist())
    assert result is not x


@pytest.mark.parametrize("stacks", [((), (3,)), ((3,), ()), ((2, 1), (3,)), ((3,), (3,))])
def test_stacks_of_equations_broadcast(stacks: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    left = np.broadcast_to(np.eye(4) * 2, (*stacks[0], 4, 4))
    right = np.ones((*stacks[1], 4, 2))

    class Strict:
        """CuPy takes stacks of the same shape only."""

        def __getattr__(self, name: str) -> Any:
            return getattr(Names(), name)

        class linalg:
            @staticmethod
            def solve(a: Any, b: Any) -> Any:
                assert a.shape[:-1] == b.shape[:-1]
                return np.linalg.solve(a, b)

    result = RULES["numpy.linalg:solve"](Strict(), left, right)
    assert np.array_equal(result, np.linalg.solve(left, right))
