"""Joining arrays: copied by several threads into used buffers, with NumPy's result, layout included."""

from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.parallel import joins
from tests.planning import force_threads

Array = np.ndarray[Any, Any]
Copies = list[int]


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch, fresh_engine: None) -> Copies:
    """Whatever can be joined by several threads is. How many copies each join made."""
    force_threads(monkeypatch)
    made: Copies = []
    plan = joins._copies

    def watched(*args: Any) -> Any:
        planned = list(plan(*args))
        made.append(len(planned))
        return planned

    monkeypatch.setattr(joins, "_copies", watched)
    return made


def numbers(shape: tuple[int, ...], dtype: str = "float64") -> Array:
    return (np.arange(np.prod(shape)).reshape(shape) * 1.5 - 7).astype(dtype)


def assert_same(result: Array, expected: Array) -> None:
    np.testing.assert_array_equal(result, expected, strict=True)
    assert result.strides == expected.strides


@pytest.mark.parametrize("axis", [0, 1, -1, None])
async def test_concat(copies: Copies, axis: int | None) -> None:
    arrays = [numbers((70, 5)), numbers((70, 5), "float32"), numbers((70, 5), "int16")]
    assert_same(await ops.concat([ops.asarray(each) for each in arrays], axis=axis), np.concatenate(arrays, axis=axis))
    assert len(copies) == 1
    assert copies[0] >= 3 * 24


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
async def test_stack(copies: Copies, axis: int) -> None:
    arrays = [numbers((40, 6)), numbers((40, 6), "complex64")]
    assert_same(await ops.stack([ops.asarray(each) for each in arrays], axis=axis), np.stack(arrays, axis=axis))
    assert len(copies) == 1


async def test_arrays_of_different_lengths_and_of_none(copies: Copies) -> None:
    arrays = [numbers((length, 4)) for length in (1, 0, 33, 2)]
    assert_same(await ops.concat([ops.asarray(each) for each in arrays]), np.concatenate(arrays))
    assert copies == [1 + 0 + 24 + 2]


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(numbers((9, 8))),
        numbers((9, 16))[:, ::2],
        numbers((8, 9)).T,
        numbers((9, 1, 8)).transpose(0, 2, 1),
    ],
    ids=["column-major", "strided", "transposed", "an axis of one element"],
)
async def test_numpy_joins_what_it_may_lay_out_in_another_way(copies: Copies, array: Array) -> None:
    handle = ops.asarray(array, copy=False)
    assert_same(await ops.concat([handle, handle], axis=1), np.concatenate([array, array], axis=1))
    assert copies == []


async def test_joins_reuse_buffers(copies: Copies) -> None:
    x = ops.asarray(numbers((100, 3)))
    await ops.concat([x, x])
    before = engine.buffer_statistics()
    await ops.concat([x, x])
    assert engine.buffer_statistics().hits == before.hits + 1


async def test_arrays_that_do_not_fit_fail_as_in_numpy(copies: Copies) -> None:
    with pytest.raises(ValueError, match="must match exactly"):
        await ops.concat([ops.asarray(numbers((4, 3))), ops.asarray(numbers((4, 2)))])
    assert copies == []


async def test_copies_of_a_handle_are_runs_of_their_own_memory(copies: Copies) -> None:
    array = np.asfortranarray(numbers((90, 70)))
    handle = ops.asarray(array)
    copy = await ops.asarray(handle, copy=True)
    assert_same(copy, np.array(array))
    assert not np.shares_memory(copy, await handle)
