"""Every function of the namespace gives NumPy's very bits in each mode, and its inferred shapes and dtypes hold."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from hypothesis.extra import numpy as hnp

import engine
from engine import ops
from handles import Handle
from tests.common import examples

DTYPES = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8", "c8", "c16"]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
QUICK = settings(
    max_examples=examples(25, 10),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def arrays(dtypes: list[str] = DTYPES, shapes: Any = SHAPES) -> st.SearchStrategy[Any]:
    """Arrays of any dtype and layout: transposed, reversed and strided ones, too."""
    plain = st.sampled_from(dtypes).flatmap(lambda dtype: hnp.arrays(dtype, shapes))
    layouts: list[Callable[[Any], Any]] = [
        lambda x: x,
        lambda x: x.T,
        lambda x: x[::-1] if x.ndim else x,
        lambda x: x[..., ::2] if x.ndim else x,
    ]
    return st.builds(lambda x, lay: lay(x), plain, st.sampled_from(layouts))


def outcome(function: Callable[..., Any], *args: Any) -> Any:
    """What a call returns, as a list of arrays, or the class of the error that it raises."""
    with np.errstate(all="ignore"):
        try:
            result = function(*args)
            results = list(result) if isinstance(result, tuple | list) else [result]
            handles = [each if isinstance(each, Handle) else np.asarray(each) for each in results]
            inferred = [(each.shape, each.dtype) for each in handles]
            values = [each.result() if isinstance(each, Handle) else each for each in handles]
        except Exception as error:  # noqa: BLE001 - compared
            return type(error)
    for (shape, dtype), value in zip(inferred, values, strict=True):
        assert dtype == value.dtype
        assert len(shape) == value.ndim
        assert all(n is None or n == m for n, m in zip(shape, value.shape, strict=True))
    return values


def check(ours: Callable[..., Any], theirs: Callable[..., Any], *operands: Any) -> None:
    """Both give the same bits, or both refuse."""
    expected = outcome(theirs, *operands)
    got = outcome(ours, *[ops.asarray(each) if isinstance(each, np.ndarray) else each for each in operands])
    engine.clear_errors()
    if isinstance(expected, type):
        assert isinstance(got, type), f"NumPy raises {expected.__name__}, we return {got}"
        return
    assert not isinstance(got, type), f"we raise {got.__name__}, NumPy returns {expected}"
    assert len(got) == len(expected)
    for mine, its in zip(got, expected, strict=True):
        assert (mine.dtype, mine.shape) == (its.dtype, its.shape)
        assert without_nan(mine).tobytes() == without_nan(its).tobytes()


def without_nan(x: Any) -> Any:
    """With one NaN for all: of which sign NumPy makes them depends on where in memory the operand lies."""
    return np.where(np.isnan(x), np.nan, x) if x.dtype.kind in "fc" else x


UFUNCS = {
    name: getattr(np, name)
    for name in ops.__all__
    if isinstance(getattr(np, name, None), np.ufunc) and getattr(np, name).signature is None
}


@pytest.mark.sweep
@pytest.mark.parametrize("name", sorted(name for name, ufunc in UFUNCS.items() if ufunc.nin == 1))
@given(x=arrays())
@QUICK
def test_elementwise_functions_of_one_array(name: str, mode: engine.ExecutionMode, x: Any) -> None:
    check(getattr(ops, name), UFUNCS[name], x)


@pytest.mark.sweep
@pytest.mark.parametrize("name", sorted(name for name, ufunc in UFUNCS.items() if ufunc.nin == 2))
@given(data=st.data())
@QUICK
def test_elementwise_functions_of_two_arrays(name: str, mode: engine.ExecutionMode, data: st.DataObject) -> None:
    shapes = data.draw(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=4))
    first, second = (data.draw(arrays(shapes=st.just(shape))) for shape in shapes.input_shapes)
    check(getattr(ops, name), UFUNCS[name], first, second)


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["add", "multiply", "pow", "divide", "floor_divide", "equal", "maximum"])
@pytest.mark.parametrize("scalar", [True, 2, -1, 0.5, 1j])
@given(x=arrays())
@QUICK
def test_python_scalars_promote_as_in_numpy(name: str, scalar: Any, mode: engine.ExecutionMode, x: Any) -> None:
    check(lambda x: getattr(ops, name)(x, scalar), lambda x: UFUNCS[name](x, scalar), x)
    check(lambda x: getattr(ops, name)(scalar, x), lambda x: UFUNCS[name](scalar, x), x)


@dataclass(frozen=True)
class Row:
    """A function under test: ours, NumPy's, and how to draw the parameters for an array."""

    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    params: Callable[[Any], st.SearchStrategy[dict[str, Any]]] = lambda x: st.just({})
    dtypes: tuple[str, ...] = tuple(DTYPES)
    min_dims: int = 0


def axis(x: Any) -> st.SearchStrategy[Any]:
    """Any axis, or none; sometimes one too far."""
    return st.none() | st.integers(-x.ndim - (x.ndim == 0), x.ndim)


def axes(x: Any) -> st.SearchStrategy[Any]:
    return axis(x) if x.ndim == 0 else axis(x) | hnp.valid_tuple_axes(x.ndim)


def reduction(x: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"axis": axes(x), "keepdims": st.booleans()})


def search(x: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"axis": axis(x), "keepdims": st.booleans()})


def one_axis(x: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"axis": axis(x).filter(lambda each: each is not None)})


def any_axes(x: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"axis": axes(x)})


def cumulative(x: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"axis": axis(x), "include_initial": st.booleans()})


def diagonals(x: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"k": st.integers(-3, 3)})


def spread(name: str) -> Callable[..., Any]:
    def function(x: Any, *, axis: Any, keepdims: bool) -> Any:
        return getattr(np, name)(x, axis=axis, keepdims=keepdims, ddof=0)

    return function


FLOATS = ("f4", "f8", "c8", "c16")
REAL = tuple(dtype for dtype in DTYPES if not dtype.startswith("c"))

ROWS: dict[str, Row] = {
    **{
        name: Row(getattr(ops, name), getattr(np, name), reduction)
        for name in ("all", "any", "max", "min", "sum", "prod", "mean", "count_nonzero")
    },
    "std": Row(ops.std, spread("std"), reduction),
    "var": Row(ops.var, spread("var"), reduction),
    "argmax": Row(ops.argmax, np.argmax, search),
    "argmin": Row(ops.argmin, np.argmin, search),
    "cumulative_sum": Row(ops.cumulative_sum, np.cumulative_sum, cumulative),
    "cumulative_prod": Row(ops.cumulative_prod, np.cumulative_prod, cumulative),
    "diff": Row(
        ops.diff,
        lambda x, **params: np.diff(x, **params),
        lambda x: st.fixed_dictionaries(
            {"axis": axis(x).filter(lambda each: each is not None), "n": st.integers(0, 3)}
        ),
    ),
    "sort": Row(ops.sort, lambda x, axis: np.sort(x, axis=axis, stable=True), one_axis),
    "argsort": Row(ops.argsort, lambda x, axis: np.argsort(x, axis=axis, stable=True), one_axis),
    "nonzero": Row(ops.nonzero, np.nonzero),
    **{
        name: Row(getattr(ops, name), getattr(np, name))
        for name in ("unique_all", "unique_counts", "unique_inverse", "unique_values", "round", "real", "imag")
    },
    "flip": Row(ops.flip, np.flip, any_axes),
    "squeeze": Row(ops.squeeze, np.squeeze, any_axes),
    "expand_dims": Row(ops.expand_dims, np.expand_dims, one_axis),
    "permute_dims": Row(ops.permute_dims, np.transpose),
    "matrix_transpose": Row(ops.matrix_transpose, np.matrix_transpose),
    "reshape": Row(ops.reshape, np.reshape, lambda x: st.sampled_from([{"shape": (-1,)}, {"shape": (x.size, 1)}])),
    "roll": Row(
        ops.roll,
        np.roll,
        lambda x: st.fixed_dictionaries({"shift": st.integers(-7, 7), "axis": axis(x)}),
    ),
    "tile": Row(
        lambda x, reps: ops.tile(x, reps),
        np.tile,
        lambda x: st.fixed_dictionaries({"reps": st.lists(st.integers(0, 3), max_size=4).map(tuple)}),
    ),
    "repeat": Row(
        lambda x, repeats, axis: ops.repeat(x, repeats, axis=axis),
        np.repeat,
        lambda x: st.fixed_dictionaries({"repeats": st.integers(0, 3), "axis": axis(x)}),
    ),
    "tril": Row(ops.tril, np.tril, diagonals, min_dims=1),
    "triu": Row(ops.triu, np.triu, diagonals, min_dims=1),
    "moveaxis": Row(
        lambda x, source, destination: ops.moveaxis(x, source, destination),
        np.moveaxis,
        lambda x: st.fixed_dictionaries({"source": st.integers(-4, 4), "destination": st.integers(-4, 4)}),
    ),
    "unstack": Row(ops.unstack, np.unstack, one_axis),
    "clip": Row(ops.clip, np.clip, lambda x: st.sampled_from([{}, {"min": 0}, {"max": 1}, {"min": 0, "max": 1}])),
    "astype": Row(
        lambda x, dtype: ops.astype(x, dtype),
        lambda x, dtype: x.astype(dtype),
        lambda x: st.fixed_dictionaries({"dtype": st.sampled_from(["?", "f8", "c16"])}),
        dtypes=("?", "i1", "u1", "i4"),
    ),
    "linalg.diagonal": Row(
        ops.linalg.diagonal,
        np.linalg.diagonal,
        lambda x: st.fixed_dictionaries({"offset": st.integers(-2, 2)}),
    ),
    "linalg.trace": Row(
        ops.linalg.trace, np.linalg.trace, lambda x: st.fixed_dictionaries({"offset": st.integers(-2, 2)})
    ),
    "linalg.vector_norm": Row(
        ops.linalg.vector_norm,
        np.linalg.vector_norm,
        lambda x: st.fixed_dictionaries(
            {"axis": axis(x), "keepdims": st.booleans(), "ord": st.sampled_from([0, 1, 2, 3, np.inf])}
        ),
        dtypes=FLOATS,
    ),
    **{
        f"fft.{name}": Row(
            getattr(ops.fft, name),
            getattr(np.fft, name),
            lambda x: st.fixed_dictionaries(
                {
                    "n": st.none() | st.integers(1, 6),
                    "axis": axis(x).filter(lambda each: each is not None),
                    "norm": st.sampled_from(["backward", "ortho", "forward"]),
                }
            ),
            dtypes=FLOATS if name in ("fft", "ifft", "irfft", "hfft") else ("f4", "f8"),
        )
        for name in ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")
    },
    **{
        f"fft.{name}": Row(getattr(ops.fft, name), getattr(np.fft, name), dtypes=("f4", "f8"), min_dims=1)
        for name in ("fftn", "ifftn", "rfftn", "irfftn", "fftshift", "ifftshift")
    },
}


@pytest.mark.sweep
@pytest.mark.parametrize("name", sorted(ROWS))
@given(data=st.data())
@QUICK
def test_functions_with_parameters(name: str, mode: engine.ExecutionMode, data: st.DataObject) -> None:
    row = ROWS[name]
    # Of no elements, NumPy's real transforms return memory that was never written to.
    least = 1 if name.startswith("fft.") else 0
    shapes = hnp.array_shapes(min_dims=row.min_dims, max_dims=4, min_side=least, max_side=5)
    x = data.draw(arrays(list(row.dtypes), shapes))
    params = data.draw(row.params(x))
    check(lambda x: row.ours(x, **params), lambda x: row.theirs(x, **params), x)


MATRICES = (
    "cholesky",
    "det",
    "eigh",
    "eigvalsh",
    "inv",
    "matrix_norm",
    "matrix_rank",
    "pinv",
    "qr",
    "slogdet",
    "svd",
    "svdvals",
)


@pytest.mark.sweep
@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("dtype", ["f4", "f8", "c8", "c16", "i4"])
@pytest.mark.parametrize(
    "shape", [(0, 0), (1, 1), (3, 3), (2, 3, 3), (0, 3, 3), (3, 2), (2, 3), (4, 2, 3), (3,)], ids=str
)
def test_functions_of_matrices(name: str, dtype: str, shape: tuple[int, ...], mode: engine.ExecutionMode) -> None:
    x = (np.random.default_rng(3).normal(size=shape) * 8).astype(dtype)
    if len(shape) > 1 and shape[-1] == shape[-2]:
        x = x @ np.swapaxes(x, -1, -2).conj() + np.eye(shape[-1], dtype=dtype)
    check(getattr(ops.linalg, name), getattr(np.linalg, name), x)


@pytest.mark.sweep
@pytest.mark.parametrize(
    "shapes", [((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 2)), ((4, 2, 3), (3, 5)), ((2, 3), (2, 3)), ((), (3,))], ids=str
)
@pytest.mark.parametrize("dtypes", [("f8", "f8"), ("i4", "f4"), ("?", "?"), ("c8", "i8")], ids=str)
@pytest.mark.parametrize("name", ["matmul", "vecdot", "linalg.outer", "linalg.solve"])
def test_products(name: str, shapes: Any, dtypes: Any, mode: engine.ExecutionMode) -> None:
    random = np.random.default_rng(5)
    operands = [(random.normal(size=shape) * 5).astype(dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    *_, last = name.split(".")
    theirs = getattr(np.linalg, last) if "." in name else getattr(np, last)
    check(getattr(ops.linalg, last), theirs, *operands)


@pytest.mark.parametrize("name", ["concat", "stack"])
@given(data=st.data())
@QUICK
def test_joining(name: str, mode: engine.ExecutionMode, data: st.DataObject) -> None:
    shape = data.draw(hnp.array_shapes(max_dims=3, max_side=3))
    several = data.draw(st.lists(arrays(shapes=st.just(shape)), min_size=1, max_size=3))
    where = data.draw(st.integers(-len(shape), len(shape) - 1))
    check(
        lambda *each: getattr(ops, name)(each, axis=where), lambda *each: getattr(np, name)(each, axis=where), *several
    )


@given(data=st.data())
@settings(QUICK, max_examples=examples(200, 80))
def test_indexing(mode: engine.ExecutionMode, data: st.DataObject) -> None:
    x = data.draw(arrays(["i4", "f8"], hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)))
    entries = (
        st.integers(-5, 5)
        | st.slices(4)
        | st.just(Ellipsis)
        | st.none()
        | st.booleans()
        | hnp.arrays(
            np.intp, hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3), elements=st.integers(-3, 3)
        )
        | hnp.arrays(bool, hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=4))
    )
    key = data.draw(st.lists(entries, max_size=5).map(tuple) | entries)
    parts = key if isinstance(key, tuple) else (key,)
    operands = [part for part in parts if isinstance(part, np.ndarray)]

    def index(x: Any, *arrays: Any) -> Any:
        rest = iter(arrays)
        filled = tuple(next(rest) if isinstance(part, np.ndarray) else part for part in parts)
        return x[filled if isinstance(key, tuple) else filled[0]]

    check(index, index, x, *operands)


@given(data=st.data())
@QUICK
def test_take(mode: engine.ExecutionMode, data: st.DataObject) -> None:
    x = data.draw(arrays(["i4", "f8"], hnp.array_shapes(max_dims=3, max_side=4)))
    where = data.draw(st.none() | st.integers(-x.ndim, x.ndim - 1))
    indices = data.draw(hnp.arrays(np.intp, hnp.array_shapes(max_dims=2, max_side=3), elements=st.integers(0, 3)))
    check(lambda x, i: ops.take(x, i, axis=where), lambda x, i: np.take(x, i, axis=where), x, indices)


@given(
    x=arrays(["f8"], hnp.array_shapes(min_dims=1, max_dims=2, max_side=4)),
    counts=hnp.arrays(np.intp, 4, elements=st.integers(0, 3)),
)
@QUICK
def test_repeat_by_an_array_of_counts(mode: engine.ExecutionMode, x: Any, counts: Any) -> None:
    counts = counts[: x.shape[0]]
    check(lambda x, n: ops.repeat(x, n, axis=0), lambda x, n: np.repeat(x, n, axis=0), x, counts)


@given(data=st.data())
@QUICK
def test_where(mode: engine.ExecutionMode, data: st.DataObject) -> None:
    shapes = data.draw(hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=3, max_side=3)).input_shapes
    condition = data.draw(arrays(["?"], st.just(shapes[0])))
    first, second = (data.draw(arrays(shapes=st.just(shape))) for shape in shapes[1:])
    check(ops.where, np.where, condition, first, second)
    check(lambda c, x: ops.where(c, x, 1), lambda c, x: np.where(c, x, 1), condition, first)


@given(
    start=st.integers(-20, 20) | st.floats(-9, 9),
    stop=st.none() | st.integers(-20, 20) | st.floats(-9, 9),
    step=st.integers(-3, 3).filter(bool) | st.floats(0.3, 2),
)
@QUICK
def test_arange(mode: engine.ExecutionMode, start: Any, stop: Any, step: Any) -> None:
    if stop is None:
        check(lambda: ops.arange(start), lambda: np.arange(start))
    else:
        check(lambda: ops.arange(start, stop, step), lambda: np.arange(start, stop, step))


CREATION: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "zeros": (lambda: ops.zeros((2, 3), dtype="i2"), lambda: np.zeros((2, 3), dtype="i2")),
    "ones": (lambda: ops.ones(4), lambda: np.ones(4)),
    "full": (lambda: ops.full((2,), 1j), lambda: np.full((2,), 1j)),
    "eye": (lambda: ops.eye(3, 4, k=1), lambda: np.eye(3, 4, 1)),
    "linspace": (lambda: ops.linspace(0, 1, 7), lambda: np.linspace(0, 1, 7)),
    "linspace without its end": (
        lambda: ops.linspace(0, 1j, 4, endpoint=False),
        lambda: np.linspace(0, 1j, 4, endpoint=False),
    ),
    "linspace of integers": (
        lambda: ops.linspace(0, 9, 4, dtype="i4"),
        lambda: np.linspace(0, 9, 4, dtype="i4"),
    ),
    "fftfreq": (lambda: ops.fft.fftfreq(5, d=0.1), lambda: np.fft.fftfreq(5, d=0.1)),
    "rfftfreq": (lambda: ops.fft.rfftfreq(6), lambda: np.fft.rfftfreq(6)),
    "meshgrid": (lambda: ops.meshgrid([1, 2, 3], [4.0, 5.0]), lambda: np.meshgrid([1, 2, 3], [4.0, 5.0])),
    "meshgrid by matrix indices": (
        lambda: ops.meshgrid([1, 2, 3], [4.0, 5.0], indexing="ij"),
        lambda: np.meshgrid([1, 2, 3], [4.0, 5.0], indexing="ij"),
    ),
    "broadcast_arrays": (
        lambda: ops.broadcast_arrays([1, 2, 3], [[1.0], [2.0]]),
        lambda: np.broadcast_arrays([1, 2, 3], [[1.0], [2.0]]),
    ),
    "searchsorted": (
        lambda: ops.searchsorted(ops.asarray([1.0, 2.0, 4.0]), ops.asarray([3, 1]), side="right"),
        lambda: np.searchsorted([1.0, 2.0, 4.0], [3, 1], side="right"),
    ),
    "isin": (
        lambda: ops.isin(ops.asarray([1, 2, 3]), [2, 7], invert=True),
        lambda: np.isin([1, 2, 3], [2, 7], invert=True),
    ),
    "take_along_axis": (
        lambda: ops.take_along_axis(ops.asarray([[3, 1, 2]]), ops.asarray([[1, 0]])),
        lambda: np.take_along_axis(np.array([[3, 1, 2]]), np.array([[1, 0]]), -1),
    ),
    "tensordot": (
        lambda: ops.tensordot(ops.ones((2, 3, 4)), ops.ones((3, 2)), axes=((1, 0), (0, 1))),
        lambda: np.tensordot(np.ones((2, 3, 4)), np.ones((3, 2)), axes=((1, 0), (0, 1))),
    ),
    "cross": (
        lambda: ops.linalg.cross(ops.asarray([[1.0, 2, 3]]), [4, 5, 6]),
        lambda: np.linalg.cross(np.array([[1.0, 2, 3]]), [4, 5, 6]),
    ),
    "matrix_power": (
        lambda: ops.linalg.matrix_power(ops.asarray([[1, 2], [3, 4]]), -3),
        lambda: np.linalg.matrix_power(np.array([[1, 2], [3, 4]]), -3),
    ),
}


@pytest.mark.parametrize("name", sorted(CREATION))
def test_one_call_of_each_further_function(name: str, mode: engine.ExecutionMode) -> None:
    ours, theirs = CREATION[name]
    check(ours, theirs)


@pytest.mark.parametrize("name", ["eig", "eigvals"])
@pytest.mark.parametrize("dtype", ["f4", "f8", "c8", "c16"])
def test_eigenvalues_are_numpys_in_a_complex_dtype(name: str, dtype: str, mode: engine.ExecutionMode) -> None:
    x = np.random.default_rng(1).normal(size=(3, 3)).astype(dtype)
    for matrix in (x, x + x.T):
        expected = getattr(np.linalg, name)(matrix)
        got = getattr(ops.linalg, name)(matrix)
        parts = zip(got, expected, strict=True) if name == "eig" else [(got, expected)]
        for mine, its in parts:
            assert mine.dtype.kind == "c"
            assert mine.dtype == mine.result().dtype
            np.testing.assert_array_equal(mine.result(), its)


def test_data_dependent_shapes_are_unknown_until_the_op_has_run() -> None:
    gate = engine.testing.GateOp()
    with engine.Executor(execution_mode=engine.ASYNC):
        x = gate(np.array([[0.0, 2.0], [0.0, 3.0]]))
        unknown = {
            "nonzero": ops.nonzero(x)[0],
            "unique_values": ops.unique_values(x),
            "mask": x[x > 0],
            "repeat": ops.repeat(x, ops.asarray([1, 2]), axis=1),
        }
        shapes = {name: handle.shape for name, handle in unknown.items()}
        gate.open()
        assert shapes == {"nonzero": (None,), "unique_values": (None,), "mask": (None,), "repeat": (2, None)}
        assert {name: handle.result().shape for name, handle in unknown.items()} == {
            "nonzero": (2,),
            "unique_values": (3,),
            "mask": (2,),
            "repeat": (2, 3),
        }
