"""Shapes and dtypes of pending handles: what they say behind a closed gate is what NumPy computes in the end."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings, strategies as st
from hypothesis.extra import numpy as npst

import engine
from engine import ops
from engine.testing import GateOp
from handles import Handle
from tests.common import examples

Array = np.ndarray[Any, Any]

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::numpy.exceptions.ComplexWarning"),
]

DTYPES = [bool, "i1", "u1", "i2", "i4", "u4", "i8", "u8", "f4", "f8", "c8", "c16"]
quick = settings(
    max_examples=examples(15, 8), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(autouse=True)
def asynchronous(fresh_engine: None) -> None:
    """ASYNC mode for the whole program; what waits behind a closed gate by mistake fails."""
    engine.enable_eager_execution(engine.Config(operation_timeout_in_ms=30_000), execution_mode=engine.ASYNC)


def said_and_computed(function: Callable[..., Any], *arrays: Any) -> None:
    """Dispatch behind a closed gate, ask, open, and compare with what came out; errors foreseen must come, too."""
    gate = GateOp()
    held = [gate(each) if isinstance(each, np.ndarray) else each for each in arrays]
    try:
        try:
            results = function(*held)
        except Exception:  # noqa: BLE001 - refused at the call
            return
        handles = [results] if isinstance(results, Handle) else list(results)
        said: list[Any] = []
        for handle in handles:
            assert not handle.is_ready()
            try:
                said.append((handle.shape, handle.dtype, handle.ndim, handle.size))
            except Exception as error:  # noqa: BLE001 - what the op will raise
                said.append(error)
    finally:
        gate.open()
    for facts, handle in zip(said, handles, strict=True):
        if isinstance(facts, Exception):
            with pytest.raises(Exception):  # noqa: B017, PT011 - of two things that are wrong, either may come first
                handle.result()
            continue
        try:
            value = handle.result()
        except Exception:  # noqa: BLE001 - what is wrong with the values, or with a length of 0, shows only now
            continue
        shape, dtype, ndim, size = facts
        assert dtype == value.dtype
        assert ndim == value.ndim
        if None in shape:
            assert size is None
            assert all(length is None or length == real for length, real in zip(shape, value.shape, strict=True))
        else:
            assert shape == value.shape
            assert size == value.size


def arrays(max_dims: int = 3, min_dims: int = 0, dtypes: list[Any] | None = None) -> st.SearchStrategy[Array]:
    """Arrays of small random shapes, some without elements, of all numeric dtypes."""
    shapes = npst.array_shapes(min_dims=min_dims, max_dims=max_dims, min_side=0, max_side=4)
    return st.builds(
        lambda shape, dtype: np.ones(shape, dtype),
        shapes if min_dims else shapes | st.just(()),
        st.sampled_from(dtypes or DTYPES),
    )


SCALARS = st.sampled_from([True, 2, -1, 1.5, 1 + 2j])


def functions_of(count: int) -> list[str]:
    """The names in `engine.ops` whose positional-only parameters are `count` arrays, and that need nothing else."""
    names = []
    for name in dir(ops):
        function = getattr(ops, name)
        if name.startswith("_") or not inspect.isfunction(function):
            continue
        parameters = inspect.signature(function).parameters.values()
        positional = [each for each in parameters if each.kind is each.POSITIONAL_ONLY and each.default is each.empty]
        others = [each for each in parameters if each.kind is not each.POSITIONAL_ONLY and each.default is each.empty]
        if [each.name for each in positional] == {1: ["x"], 2: ["x1", "x2"]}[count] and not others:
            names.append(name)
    return names


@pytest.mark.sweep
@pytest.mark.parametrize("name", functions_of(1))
@quick
@given(x=arrays())
def test_every_function_of_one_array(name: str, x: Array) -> None:
    assume(x.ndim or name != "argsort")  # see test_an_axis_of_no_dimensions
    said_and_computed(getattr(ops, name), x)


@pytest.mark.sweep
@pytest.mark.parametrize("name", functions_of(2))
@quick
@given(x=arrays(), y=arrays() | SCALARS)
def test_every_function_of_two_arrays(name: str, x: Array, y: Any) -> None:
    said_and_computed(getattr(ops, name), x, y)


@pytest.mark.sweep
@pytest.mark.parametrize("name", functions_of(2))
@quick
@given(x=arrays(), y=SCALARS)
def test_every_function_of_a_scalar_and_an_array(name: str, x: Array, y: Any) -> None:
    said_and_computed(getattr(ops, name), y, x)


REDUCTIONS = [
    name for name in functions_of(1) if {"axis", "keepdims"} <= set(inspect.signature(getattr(ops, name)).parameters)
]


@pytest.mark.parametrize("name", REDUCTIONS)
@quick
@given(x=arrays(), axis=st.sampled_from([None, 0, -1, 1, (0, 1), (), 5]), keepdims=st.booleans())
def test_reductions_over_axes(name: str, x: Array, axis: Any, keepdims: bool) -> None:
    assume(x.ndim or name != "count_nonzero")  # see test_an_axis_of_no_dimensions
    said_and_computed(lambda h: getattr(ops, name)(h, axis=axis, keepdims=keepdims), x)


@quick
@given(x=arrays(), dtype=st.sampled_from(DTYPES), axis=st.sampled_from([None, 0]))
def test_reductions_in_a_dtype(x: Array, dtype: Any, axis: Any) -> None:
    for function in (ops.sum, ops.prod):
        said_and_computed(lambda h, function=function: function(h, axis=axis, dtype=np.dtype(dtype)), x)


@pytest.mark.parametrize("name", ["argsort", "count_nonzero"])
@pytest.mark.parametrize("axis", [0, -1])
def test_an_axis_of_no_dimensions(name: str, axis: int) -> None:
    said_and_computed(lambda h: getattr(ops, name)(h, axis=axis), np.array(1.5))


KEYS = [
    0, -1, slice(None), slice(1, None), slice(None, None, -1), slice(10, 20), ..., None,
    (0, 0), (slice(None), 0), (..., 0), (None, 0), (slice(None), None), (0, ..., None), (1, slice(None, None, 2)),
    [0, 0], [[0, 0], [0, 0]], ([0, 0], [0, 0]), (slice(None), [0, 0, 0]), ([0], None, [0]), [], True, False,
    np.array([0, 0]), np.array(0), (np.array([[0], [0]]), np.array([0, 0, 0])),
]  # fmt: skip


@pytest.mark.parametrize("index", range(len(KEYS)), ids=lambda index: repr(KEYS[index]))
@quick
@given(x=arrays())
def test_indexing(index: int, x: Array) -> None:
    said_and_computed(lambda h: h[KEYS[index]], x)


@quick
@given(x=arrays(min_dims=1), masked=st.booleans())
def test_indexing_with_masks(x: Array, masked: bool) -> None:
    mask = np.zeros(x.shape, bool)
    mask.flat[::2] = masked
    said_and_computed(lambda h, m: h[m], x, mask)
    said_and_computed(lambda h, m: ops.sum(h[m]) + h[m], x, mask)
    said_and_computed(lambda h: h[mask[..., 0] if mask.ndim > 1 and mask.shape[-1] else mask], x)


@quick
@given(x=arrays(), shape=st.lists(st.integers(-1, 4), max_size=3))
def test_reshape(x: Array, shape: list[int]) -> None:
    said_and_computed(lambda h: ops.reshape(h, tuple(shape)), x)


@quick
@given(x=arrays(), axes=st.permutations([0, 1, 2]), axis=st.integers(-4, 4))
def test_manipulation(x: Array, axes: list[int], axis: int) -> None:
    said_and_computed(lambda h: ops.permute_dims(h, tuple(axes[: x.ndim])), x)
    said_and_computed(lambda h: ops.expand_dims(h, axis=axis), x)
    said_and_computed(lambda h: ops.squeeze(h, axis=axis), x)
    said_and_computed(lambda h: ops.broadcast_to(h, (2, *x.shape)), x)
    said_and_computed(lambda h: ops.broadcast_to(h, (3, 3)), x)
    said_and_computed(lambda h: ops.split(h, 2, axis), x)
    said_and_computed(lambda h: ops.split(h, [1, 2], axis), x)
    said_and_computed(lambda h: ops.astype(h, np.dtype("f4")), x)


@quick
@given(x=arrays(), y=arrays(), axis=st.sampled_from([None, 0, -1, 1]))
def test_joining(x: Array, y: Array, axis: Any) -> None:
    said_and_computed(lambda h, k: ops.concat([h, k], axis=axis), x, y)
    said_and_computed(lambda h, k: ops.concat([h, k, h], axis=axis), x, x.astype(y.dtype))
    if axis is not None:
        said_and_computed(lambda h, k: ops.stack([h, k], axis=axis), x, x.astype(y.dtype))
        said_and_computed(lambda h, k: ops.stack([h, k], axis=axis), x, y)


@quick
@given(condition=arrays(dtypes=[bool]), x=arrays() | SCALARS, y=arrays() | SCALARS)
def test_where(condition: Array, x: Any, y: Any) -> None:
    said_and_computed(ops.where, condition, x, y)


@quick
@given(x=arrays(min_dims=2), y=arrays(min_dims=1), full=st.booleans())
def test_linear_algebra(x: Array, y: Array, full: bool) -> None:
    said_and_computed(lambda h: ops.linalg.svd(h, full_matrices=full), x)
    square = np.broadcast_to(np.eye(3, dtype=x.dtype), (*x.shape[:-2], 3, 3))
    said_and_computed(ops.linalg.inv, square)
    said_and_computed(ops.linalg.solve, square, y)
    said_and_computed(ops.linalg.solve, square, np.ones((3, 2), y.dtype))
    said_and_computed(ops.linalg.inv, x)


@quick
@given(x=arrays(), value=SCALARS, dtype=st.sampled_from([None, "f4", "i8"]))
def test_creation(x: Array, value: Any, dtype: Any) -> None:
    of = None if dtype is None else np.dtype(dtype)
    said_and_computed(lambda h: ops.zeros_like(h, dtype=of), x)
    said_and_computed(lambda h: ops.ones_like(h, dtype=of), x)
    said_and_computed(lambda h: ops.full((2, 3), h, dtype=of), np.asarray(value))


@quick
@given(
    start=st.integers(-5, 5) | st.floats(-5, 5),
    stop=st.none() | st.integers(-5, 5) | st.floats(-5, 5),
    step=st.sampled_from([1, 2, -1, 0.5, 0.1, -0.3]),
)
def test_ranges(start: float, stop: float | None, step: float) -> None:
    gate = GateOp()
    gate(1)
    handle = ops.arange(start, stop, step)
    shape, dtype = handle.shape, handle.dtype
    gate.open()
    expected = np.arange(start, stop, step) if stop is not None else np.arange(0, start, step)
    assert (shape, dtype) == (expected.shape, expected.dtype)
    assert np.array_equal(handle.result(), expected)


# Where nobody can tell, and where inference must not give up


def test_unknown_dimensions_go_through_further_ops(gate: GateOp) -> None:
    x = gate(np.arange(12.0).reshape(3, 4))
    rows = x[ops.asarray(np.array([True, False, True]))]
    assert rows.shape == (None, 4)
    assert (rows + 1).shape == (None, 4)
    assert (rows + np.ones(4)).shape == (None, 4)
    assert ops.sum(rows, axis=0).shape == (4,)
    assert ops.sum(rows, axis=1).shape == (None,)
    assert ops.sum(rows).shape == ()
    assert ops.matmul(rows, np.ones((4, 5))).shape == (None, 5)
    assert ops.matrix_transpose(rows).shape == (4, None)
    assert rows[:, 1:].shape == (None, 3)
    assert rows[..., None].shape == (None, 4, 1)
    assert ops.concat([rows, rows]).shape == (None, 4)
    assert ops.stack([rows, rows]).shape == (2, None, 4)
    assert (rows.ndim, rows.size, rows.nbytes) == (2, None, None)
    assert rows.dtype == np.float64
    gate.open()
    assert rows.result().shape == (2, 4)
    assert ops.add(rows, 0).shape == (2, 4)


def test_fifty_thousand_pending_ops_do_not_recurse(gate: GateOp) -> None:
    config = engine.Config(max_pending_ops=100_000)
    with engine.Executor(config=config, execution_mode=engine.ASYNC):
        handle = gate(np.ones((2, 3), np.float32))
        for _ in range(25_000):
            handle = ops.add(handle, 1)
            handle = ops.negative(handle)
        assert (handle.shape, handle.dtype) == ((2, 3), np.dtype(np.float32))
        assert "state=pending shape=(2, 3) dtype=float32" in repr(handle)
        gate.open()
        assert handle.result().shape == (2, 3)


def test_wide_graphs_are_walked_once(gate: GateOp) -> None:
    handle = gate(np.ones(3))
    for _ in range(200):
        handle = ops.add(handle, handle)  # 2**200 paths
    assert handle.shape == (3,)
    gate.open()


def test_operands_that_do_not_fit_raise_when_asked_and_when_read(gate: GateOp) -> None:
    handle = ops.sum(ops.add(gate(np.ones(3)), np.ones(4)))
    for _ in range(2):
        with pytest.raises(ValueError, match="broadcast"):
            _ = handle.shape
        with pytest.raises(ValueError, match="broadcast"):
            _ = handle.dtype
    assert "state=pending" in repr(handle)
    gate.open()
    with pytest.raises(ValueError, match="broadcast"):
        handle.result()


def test_a_failed_handle_keeps_the_shape_that_it_said(gate: GateOp) -> None:
    handle = ops.linalg.inv(gate(np.zeros((2, 2))))
    assert handle.shape == (2, 2)
    gate.open()
    with pytest.raises(np.linalg.LinAlgError):
        handle.result()
    assert (handle.shape, handle.dtype) == ((2, 2), np.dtype(np.float64))


def test_the_shape_of_a_dependent_deep_below_a_failure_raises_its_error(gate: GateOp) -> None:
    @engine.op
    def explode(x: Array) -> Array:
        raise KeyError("boom")

    handle = explode(1)
    with pytest.raises(KeyError):
        handle.result()
    held = gate(1)
    for _ in range(10_000):
        handle = ops.add(handle, held)
    with pytest.raises(KeyError, match="boom") as caught:
        _ = handle.shape
    assert len(caught.value.__notes__) == 1
    gate.open()
    with pytest.raises(KeyError):
        handle.result()


def test_asking_while_ops_are_being_computed_never_fails() -> None:
    for _ in range(20):
        handle = ops.asarray(np.ones(3))
        chain = [handle := ops.add(handle, 1) for _ in range(300)]
        parts = [ops.split(each, 3)[1] for each in chain[::10]]
        for each in (*chain, *parts):
            assert each.shape in ((3,), (1,))
            assert each.dtype == np.float64
        engine.wait()
