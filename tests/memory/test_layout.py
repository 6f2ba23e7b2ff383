"""Runs lay results out as NumPy does, and blocks cover them once."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from engine.fusion.groups import strides_of
from engine.memory.buffers import BufferCache
from engine.memory.layout import blocks, broadcast_strides, coalesce, copy_order, iteration_order, tile
from tests.common import examples

Array = np.ndarray[Any, Any]


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, ...]:
    return tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))


@st.composite
def arrays_of(draw: st.DrawFn, shape: tuple[int, ...]) -> Array:
    """An array that broadcasts to `shape`, laid out in any way: axes in any order, reversed, with gaps, repeated."""
    own = [draw(st.sampled_from((length, length, 1))) for length in shape]
    steps = [draw(st.sampled_from((1, 1, -1, 2))) for _ in own]
    axes = draw(st.permutations(range(len(own))))
    array = np.zeros([own[axis] * abs(steps[axis]) for axis in axes])
    array = array.transpose(np.argsort(axes))[tuple(slice(None, None, step) for step in steps)]
    if draw(st.integers(0, 5)) == 0:
        array = np.broadcast_to(array, shape)
    return array[(0,) * draw(st.integers(0, len(shape) - 1))] if draw(st.integers(0, 3)) == 0 else array


@st.composite
def operands(draw: st.DrawFn, count: int) -> tuple[tuple[int, ...], list[Array]]:
    shape = draw(shapes())
    arrays = [draw(arrays_of(shape)) for _ in range(count)]
    return np.broadcast_shapes(*(array.shape for array in arrays)), arrays


def planned(shape: tuple[int, ...], arrays: list[Array]) -> tuple[int, ...]:
    return strides_of(shape, iteration_order([broadcast_strides(array, shape) for array in arrays], len(shape)))


def given_by_numpy(result: Array) -> tuple[int, ...]:
    strides = zip(result.shape, result.strides, strict=True)
    return tuple(0 if length == 1 else stride // result.itemsize for length, stride in strides)


@settings(max_examples=examples(500, 100), deadline=None)
@given(drawn=operands(1))
def test_a_result_of_one_operand_is_laid_out_as_numpys(drawn: tuple[tuple[int, ...], list[Array]]) -> None:
    shape, arrays = drawn
    assert planned(shape, arrays) == given_by_numpy(np.negative(*arrays))


@settings(max_examples=examples(500, 100), deadline=None)
@given(drawn=operands(2))
def test_a_result_of_two_operands_is_laid_out_as_numpys(drawn: tuple[tuple[int, ...], list[Array]]) -> None:
    shape, arrays = drawn
    assert planned(shape, arrays) == given_by_numpy(np.add(*arrays))


@settings(max_examples=examples(500, 100), deadline=None)
@given(drawn=operands(3))
def test_a_result_of_where_is_laid_out_as_numpys(drawn: tuple[tuple[int, ...], list[Array]]) -> None:
    shape, (condition, x1, x2) = drawn
    condition = condition.astype(bool)
    assert planned(shape, [condition, x1, x2]) == given_by_numpy(np.where(condition, x1, x2))


@settings(max_examples=examples(500, 100), deadline=None)
@given(drawn=operands(1))
def test_a_cast_is_laid_out_as_numpys(drawn: tuple[tuple[int, ...], list[Array]]) -> None:
    shape, (array,) = drawn
    order = copy_order(broadcast_strides(array, shape), len(shape))
    assert strides_of(shape, order) == given_by_numpy(array.astype(np.float32))


@given(drawn=operands(2))
def test_a_buffer_has_the_layout_asked_for(drawn: tuple[tuple[int, ...], list[Array]]) -> None:
    shape, arrays = drawn
    order = iteration_order([broadcast_strides(array, shape) for array in arrays], len(shape))
    buffer = BufferCache(0).array(shape, np.dtype(np.float64), order)
    assert given_by_numpy(buffer) == strides_of(shape, order)


@given(drawn=operands(3))
def test_joined_axes_walk_the_same_elements(drawn: tuple[tuple[int, ...], list[Array]]) -> None:
    shape, arrays = drawn
    strides = [broadcast_strides(array, shape) for array in arrays]
    joined, walked = coalesce(shape, strides)
    assert math.prod(joined) == math.prod(shape)
    for before, after in zip(strides, walked, strict=True):
        if math.prod(shape) > 1:
            assert offsets(joined, after) == offsets(shape, before)


def offsets(shape: tuple[int, ...], strides: tuple[int, ...]) -> list[int]:
    """Where each element lies, in row-major order."""
    return [sum(i * stride for i, stride in zip(index, strides, strict=True)) for index in np.ndindex(*shape)]


@given(drawn=operands(2), elements=st.integers(1, 100))
def test_blocks_cover_every_element_once(drawn: tuple[tuple[int, ...], list[Array]], elements: int) -> None:
    shape, arrays = drawn
    block = tile(shape, [broadcast_strides(array, shape) for array in arrays], elements)
    seen = np.zeros(shape, int)
    for where in blocks(shape, block):
        assert seen[where].shape <= block or seen[where].size <= math.prod(block)
        seen[where] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize(
    ("shape", "elements"), [((1_000, 1_000), 4_096), ((7, 100_000), 4_096), ((10_000_000,), 65_536)]
)
def test_blocks_are_whole_rows_where_operands_are_in_order(shape: tuple[int, ...], elements: int) -> None:
    strides = strides_of(shape, range(len(shape)))
    block = tile(shape, [strides], elements)
    assert math.prod(block) <= elements
    assert block[-1] == min(shape[-1], elements)


def test_blocks_are_nearly_square_where_an_operand_is_transposed() -> None:
    shape = (3_000, 3_000)
    rows, columns = tile(shape, [strides_of(shape, (0, 1)), strides_of(shape, (1, 0))], 65_536)
    assert rows * 2 >= columns > 64
    assert rows * columns <= 65_536


@pytest.mark.parametrize("length", [8_193, 3 * 8_192 + 1, 8_192 * 127 + 1])
def test_blocks_of_a_row_end_where_vectors_end(length: int) -> None:
    """NumPy computes what follows the last whole vector with other instructions, and so a single element."""
    (size,) = tile((length,), [(1,)], 8_192)
    assert size % 64 == 0
    assert length % size != 1
