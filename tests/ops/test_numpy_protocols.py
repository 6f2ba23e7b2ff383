"""NumPy on handles: ufuncs, their methods and keywords, other functions, operators and methods of arrays."""

import io
from collections.abc import Callable
from typing import Any

import numpy
import pytest

import engine
import engine.testing
from engine import ops
from engine.testing import GateOp
from handles import AsyncHandle, EagerHandle, Handle

np: Any = numpy  # its stubs know of no arrays but its own

X = np.arange(12.0).reshape(3, 4)


def same(got: Any, expected: Any) -> None:
    """Handles (in the same structure) of the very values, with what was inferred before being true."""
    if isinstance(expected, tuple | list):
        assert len(got) == len(expected)
        for mine, its in zip(got, expected, strict=True):
            same(mine, its)
        return
    assert isinstance(got, Handle)
    try:
        inferred = (got.shape, got.dtype)
    except engine.UnknownShapeError:
        inferred = None
    value, expected = got.result(), np.asarray(expected)
    assert (value.dtype, value.shape, value.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())
    if inferred is not None:
        assert inferred[1] == value.dtype
        assert all(n in (None, m) for n, m in zip(inferred[0], value.shape, strict=True))


CALLS: dict[str, Callable[[Any], Any]] = {
    "a ufunc with a row": lambda x: np.add(x, 1),
    "a ufunc without a row": lambda x: np.cbrt(x),
    "several outputs": lambda x: np.divmod(x, 3),
    "two outputs of one operand": lambda x: np.frexp(x),
    "dtype": lambda x: np.add(x, 1, dtype="f4"),
    "where": lambda x: np.sqrt(x, where=x > -1, out=None),
    "reduce": lambda x: np.add.reduce(x),
    "reduce over several axes": lambda x: np.maximum.reduce(x, axis=(0, 1), keepdims=True),
    "reduce with initial and where": lambda x: np.add.reduce(x, axis=1, initial=5.0, where=x > 3),
    "accumulate": lambda x: np.multiply.accumulate(x, axis=1),
    "outer": lambda x: np.subtract.outer(x, x[0]),
    "reduceat": lambda x: np.add.reduceat(x, [0, 2], axis=1),
    "an array on the left": lambda x: np.ones((3, 4)) - x,
    "a NumPy scalar on the left": lambda x: np.float32(2) * x,
    "sum": lambda x: np.sum(x, axis=0, keepdims=True),
    "sum with initial": lambda x: np.sum(x, 1, initial=2.0),
    "handles in a list": lambda x: np.concatenate([x, x], axis=1),
    "handles in nested lists": lambda x: np.block([[x, x], [x, x]]),
    "handles in keywords": lambda x: np.average(x, weights=x + 1, axis=0),
    "a list of outputs": lambda x: np.split(x, 2, axis=1),
    "an uneven list of outputs": lambda x: np.array_split(x, 3, axis=1),
    "nested outputs": lambda x: np.histogramdd(x[:, :2], bins=3)[1],
    "unique with counts": lambda x: np.unique(x, return_counts=True),
    "nonzero": lambda x: np.nonzero(x),
    "where of one operand": lambda x: np.where(x > 3),
    "where of three": lambda x: np.where(x > 3, x, 0),
    "gradient": lambda x: np.gradient(x),
    "meshgrid": lambda x: np.meshgrid(x[0], x[1]),
    "median": lambda x: np.median(x, axis=0),
    "percentiles": lambda x: np.percentile(x, [10, 50, 90], axis=1),
    "nanmean": lambda x: np.nanmean(x, axis=1, keepdims=True),
    "einsum": lambda x: np.einsum("ij,kj->ik", x, x),
    "dot": lambda x: np.dot(x, x.T),
    "linalg.norm": lambda x: np.linalg.norm(x, axis=1),
    "linalg.svd": lambda x: np.linalg.svd(x),
    "linalg.svd without vectors": lambda x: np.linalg.svd(x, compute_uv=False),
    "linalg.lstsq": lambda x: np.linalg.lstsq(x, x[:, 0], rcond=None)[0],
    "fft.rfft": lambda x: np.fft.rfft(x, n=6),
    "fft.fft2": lambda x: np.fft.fft2(x),
    "sliding windows": lambda x: np.lib.stride_tricks.sliding_window_view(x, 2, axis=1),
    "apply_along_axis": lambda x: np.apply_along_axis(lambda row: row.max() - row.min(), 1, x),
    "select": lambda x: np.select([x > 8, x > 3], [x, -x], 0),
    "interp": lambda x: np.interp(x, [0.0, 12.0], [0.0, 1.0]),
    "sort": lambda x: np.sort(-x, axis=None),
    "take with a mode": lambda x: np.take(x, [7, 99], mode="clip"),
    "like": lambda x: np.zeros((2,), like=x),
    "power of a square root": lambda x: (x - 3) ** 2,
    "root": lambda x: x**0.5,
    "reflected power": lambda x: 2**x,
    "divmod": lambda x: divmod(x, 5),
    "matrix product": lambda x: x @ x.T,
    "reflected matrix product": lambda x: np.ones((2, 3)) @ x,
    "T": lambda x: x.T,
    "mT": lambda x: x.mT,
    "reshape of lengths": lambda x: x.reshape(2, -1),
    "reshape in Fortran order": lambda x: x.reshape((4, 3), order="F"),
    "transpose of axes": lambda x: x.transpose(1, 0),
    "ravel": lambda x: x.ravel(),
    "flatten": lambda x: x.flatten("F"),
    "astype": lambda x: x.astype(np.int32),
    "squeeze": lambda x: x[:1].squeeze(0),
    "round": lambda x: (x / 7).round(2),
    "clip": lambda x: x.clip(2, 9),
    "dot method": lambda x: x.dot(x[0]),
    "conj": lambda x: (x * 1j).conj(),
    "real and imag": lambda x: ((x * 1j).real, (x * 1j).imag),
    "copy": lambda x: x.copy(),
    "take": lambda x: x.take([0, 5]),
    "repeat": lambda x: x.repeat(2, axis=0),
    "argsort": lambda x: (-x).argsort(axis=1),
    "searchsorted": lambda x: x[0].searchsorted([1.5]),
    "cumsum": lambda x: x.cumsum(axis=0, dtype="f4"),
    "cumprod": lambda x: x.cumprod(),
    "std": lambda x: x.std(axis=0, ddof=1),
    "var": lambda x: x.var(1, keepdims=True),
    "mean with a dtype": lambda x: x.mean(dtype="f4"),
    "min, max, argmin, argmax": lambda x: (x.min(1), x.max(0), x.argmin(axis=0), x.argmax()),
    "any and all": lambda x: (x.any(axis=0), x.all()),
    "prod": lambda x: x.prod(0),
    "trace": lambda x: x.trace(1),
    "diagonal": lambda x: x.diagonal(),
    "swapaxes": lambda x: x.swapaxes(0, 1),
    "nonzero method": lambda x: x.nonzero(),
}


@pytest.mark.sweep
@pytest.mark.parametrize("name", CALLS)
def test_a_numpy_call_gives_handles_of_the_very_values(name: str, mode: engine.ExecutionMode) -> None:
    with np.errstate(invalid="ignore"):
        same(CALLS[name](ops.asarray(X)), CALLS[name](X))


async def test_numpy_calls_do_not_wait() -> None:
    gate = GateOp()
    async with engine.Executor(execution_mode=engine.ASYNC):
        x = gate(X)
        results = [call(x) for call in CALLS.values()]
        assert not x.is_ready()
        assert results
        gate.open()


FACTS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "shape": (np.shape, (3, 4)),
    "ndim": (np.ndim, 2),
    "size": (np.size, 12),
    "size along an axis": (lambda x: np.size(x, 1), 4),
    "result_type": (lambda x: np.result_type(x, np.float32), np.dtype("f8")),
    "iscomplexobj": (np.iscomplexobj, False),
    "isrealobj": (np.isrealobj, True),
    "common_type": (np.common_type, np.float64),
}


@pytest.mark.parametrize("name", FACTS)
async def test_what_depends_on_shape_and_dtype_is_answered_without_waiting(name: str) -> None:
    function, expected = FACTS[name]
    gate = GateOp()
    async with engine.Executor(execution_mode=engine.ASYNC):
        answer = function(gate(X))
        gate.open()
    assert type(answer) is type(expected)
    assert answer == expected


def test_functions_that_return_no_array_read_the_value(mode: engine.ExecutionMode) -> None:
    h = ops.asarray(X)
    assert np.array_repr(h) == np.array_repr(X)
    assert np.array2string(h) == np.array2string(X)
    assert not np.shares_memory(h, X)
    file = io.BytesIO()
    np.save(file, h)
    file.seek(0)
    np.testing.assert_array_equal(np.load(file), X)


@pytest.mark.parametrize("other", [X, X[:1], X + 1, X[:, :2], [1.0], 1.0, "x"], ids=repr)
def test_equivalence_is_a_plain_bool(other: Any, mode: engine.ExecutionMode) -> None:
    expected = np.array_equiv(X, other)
    others = [other, ops.asarray(other)] if isinstance(other, np.ndarray) else [other]
    for each in others:
        for answer in (np.array_equiv(ops.asarray(X), each), np.array_equiv(a2=ops.asarray(X), a1=each)):
            assert type(answer) is bool
            assert answer is expected


def test_equivalence_in_a_graph_and_in_a_function_is_computed_there() -> None:
    with engine.Graph().as_default():
        x = engine.placeholder("f8", (3, 4))
        assert engine.Session().run([np.array_equiv(x, X), np.array_equiv(x, X + 1)], {x: X}) == [True, False]
    engine.testing.reset()
    engine.enable_eager_execution(execution_mode=engine.SYNC)
    assert engine.function(lambda a: np.array_equiv(a, X[:1]))(ops.asarray(X)).numpy() == np.False_


@pytest.mark.parametrize(
    ("name", "call"), [("array_repr", np.array_repr), ("array_equiv", lambda h: np.array_equiv(h, h))]
)
async def test_on_the_loop_they_are_refused(name: str, call: Callable[[Any], Any]) -> None:
    async with engine.Executor(execution_mode=engine.ASYNC):
        h = ops.asarray(X)
        with pytest.raises(engine.BlockingSyncError, match=rf"np\.{name}\(\)"):
            call(h)


def test_out_rebinds_a_handle_and_returns_it(mode: engine.ExecutionMode) -> None:
    out = ops.zeros((3, 4))
    before = out + 0
    assert np.add(ops.asarray(X), 1, out=out) is out
    same(out, X + 1)
    same(before, np.zeros((3, 4)))


def test_out_keeps_its_dtype_and_what_where_leaves_out(mode: engine.ExecutionMode) -> None:
    h, out = ops.asarray(X), ops.full((3, 4), -1.0, dtype=np.float32)
    np.multiply(h, 2, out=out, where=h > 5)
    expected = np.full((3, 4), -1.0, dtype=np.float32)
    np.multiply(X, 2, out=expected, where=X > 5)
    same(out, expected)


def test_several_outs(mode: engine.ExecutionMode) -> None:
    first, second = ops.zeros((3, 4)), ops.zeros((3, 4))
    result = np.modf(ops.asarray(X / 8), out=(first, second))
    assert result[0] is first
    assert result[1] is second
    same((first, second), np.modf(X / 8))


def test_out_of_a_reduction_and_of_a_function(mode: engine.ExecutionMode) -> None:
    h, out = ops.asarray(X), ops.zeros(4)
    assert np.sum(h, axis=0, out=out) is out
    same(out, X.sum(0))
    assert np.add.reduce(h, 0, None, out) is out
    assert h.max(0, out) is out
    same(out, X.max(0))


def test_an_out_array_is_written_to(mode: engine.ExecutionMode) -> None:
    h, array = ops.asarray(X), np.zeros((3, 4))
    assert np.add(h, 1, out=array) is array
    array += h
    np.testing.assert_array_equal(array, 2 * X + 1)
    row = np.zeros(4)
    assert np.sum(h, 0, None, row) is row
    np.testing.assert_array_equal(row, X.sum(0))


CHANGES: dict[str, Callable[[Any], None]] = {
    "add.at": lambda x: np.add.at(x, [0, 0], 1.0),
    "copyto": lambda x: np.copyto(x, 7),
    "copyto where": lambda x: np.copyto(x, X[::-1].copy(), where=X > 3),
    "put": lambda x: np.put(x, [1, 2], [5, 6]),
    "putmask": lambda x: np.putmask(x, X > 3, 0),
    "place": lambda x: np.place(x, X > 3, [9, 8]),
    "fill_diagonal": lambda x: np.fill_diagonal(x, -1),
    "put_along_axis": lambda x: np.put_along_axis(x, np.array([[0], [1], [2]]), 5, axis=1),
    "sort": lambda x: x.sort(axis=0),
    "fill": lambda x: x.fill(3),
    "put method": lambda x: x.put(0, 9),
    "partition": lambda x: x.partition(2, axis=1),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_an_array_rebinds_the_handle(name: str, mode: engine.ExecutionMode) -> None:
    change: Callable[[Any], Any] = CHANGES[name]
    array = X[::-1].copy()
    handle = ops.asarray(array)
    before = handle.copy()
    original = array.copy()
    assert change(handle) is None
    change(array)
    same(handle, array)
    same(before, original)


@pytest.mark.parametrize("operator", ["+=", "-=", "*=", "/=", "//=", "%=", "**="])
def test_in_place_operators_rebind_the_handle(operator: str, mode: engine.ExecutionMode) -> None:
    scope: dict[str, Any] = {"a": ops.asarray(X + 1), "b": X + 1}
    alias, derived = scope["a"], scope["a"] * 1
    exec(f"a {operator} 2; b {operator} 2", scope)
    assert scope["a"] is alias
    same(alias, scope["b"])
    same(derived, X + 1)


@pytest.mark.parametrize("operator", ["&=", "|=", "^=", "<<=", ">>="])
def test_in_place_operators_of_integers(operator: str, mode: engine.ExecutionMode) -> None:
    scope: dict[str, Any] = {"a": ops.asarray([5, 6]), "b": np.array([5, 6])}
    exec(f"a {operator} 3; b {operator} 3", scope)
    same(scope["a"], scope["b"])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ufunc", [np.add, np.multiply, np.fmax])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (2,)], ids=str)
def test_of_two_nans_the_same_one_is_kept(shape: Any, ufunc: np.ufunc, dtype: Any, mode: engine.ExecutionMode) -> None:
    for left, right in ((np.nan, -np.nan), (-np.nan, np.nan)):
        a, b = np.full(shape, left, dtype), np.full(shape, right, dtype)
        handle = ops.asarray(a)
        ufunc(handle, b, out=handle)
        updated = ops.asarray(a)
        updated += b
        plain, added = a.copy(), a.copy()
        ufunc(plain, b, out=plain)
        added += b
        assert handle.result().tobytes() == plain.tobytes()
        assert updated.result().tobytes() == added.tobytes()


def test_an_in_place_operator_keeps_the_dtype(mode: engine.ExecutionMode) -> None:
    h = ops.asarray(np.ones(2, np.float32))
    h += np.ones(2)
    assert h.dtype == np.float32
    integers = ops.asarray([1, 2])

    def add_half() -> Any:
        nonlocal integers
        integers += 0.5
        return integers.result()

    with pytest.raises(TypeError, match="Cannot cast ufunc 'add' output"):
        add_half()
    engine.clear_errors()


def test_an_error_names_the_line_of_the_user(mode: engine.ExecutionMode) -> None:
    h = ops.asarray(np.zeros((2, 2)))
    calls: list[Callable[[], Handle]] = [
        lambda: np.linalg.inv(h),
        lambda: np.linalg.multi_dot([h, np.ones((3, 3)), h]),
        lambda: h.reshape(5),
        lambda: np.add.reduce(h, axis=7),
    ]
    for call in calls:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - of four classes
            call().result()
        assert any(__file__ in note and "<lambda>" in note for note in caught.value.__notes__)


def test_arrays_of_objects_are_refused_at_the_call(mode: engine.ExecutionMode) -> None:
    h = ops.asarray(X)
    with pytest.raises(TypeError, match="Python objects"):
        np.add(h, np.array([object()] * 4))
    with pytest.raises(TypeError, match="Python objects"):
        h.astype(object)


def test_an_array_of_another_library_gets_the_first_say(mode: engine.ExecutionMode) -> None:
    class Other:
        def __array_ufunc__(self, *args: Any, **kwargs: Any) -> str:
            return "other"

        def __radd__(self, other: Any) -> str:
            return "other"

    h = ops.asarray(X)
    assert np.add(h, Other()) == "other"
    assert h + Other() == "other"


def test_dlpack_shares_the_value_read_only(mode: engine.ExecutionMode) -> None:
    h = ops.asarray(X)
    array = np.from_dlpack(h)
    np.testing.assert_array_equal(array, X)
    assert not array.flags.writeable
    assert h.__dlpack_device__() == (1, 0)
    same(ops.from_dlpack(X), X)


def test_the_class_of_a_result_is_that_of_the_mode(mode: engine.ExecutionMode) -> None:
    expected = EagerHandle if mode is engine.SYNC else AsyncHandle
    h = ops.asarray(X)
    assert {type(np.add(h, 1)), type(np.median(h)), type(h.sum()), type(h.T)} == {expected}
