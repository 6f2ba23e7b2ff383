"""Ops along an axis: computed piece by piece on several threads and into used buffers, with the bits of NumPy."""

from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import engine
from engine import ops
from engine.fusion.fused import execute_group
from engine.fusion.groups import FusionGroup
from engine.parallel import composed, lanes
from engine.parallel.axes import cut
from tests.common import sampled
from tests.planning import force_threads

Array = np.ndarray[Any, Any]
Pieces = list[tuple[int, list[slice]]]


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch, fresh_engine: None) -> Pieces:
    """Whatever can be cut is; each large result goes into a leased buffer. The cuts that were made."""
    force_threads(monkeypatch)
    made: Pieces = []

    def watched(*args: Any) -> Any:
        found = cut(*args)
        if found is not None:
            made.append(found)
        return found

    monkeypatch.setattr(lanes, "cut", watched)
    return made


def values(shape: tuple[int, ...], dtype: str, *, special: bool) -> Array:
    """Numbers of all sizes; where they are special, also NaNs, infinities and zeros of both signs."""
    rng = np.random.default_rng(7)
    x = rng.standard_normal(shape) * 100
    if special:
        for each in (np.nan, np.inf, -np.inf, 0.0, -0.0):
            x[rng.random(shape) < 0.02] = each
    with np.errstate(invalid="ignore"):
        return x.astype(dtype)


ALONG: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "sort": (ops.sort, lambda x, axis: np.sort(x, axis=axis, stable=True)),
    "sort descending": (
        lambda x, axis: ops.sort(x, axis=axis, descending=True),
        lambda x, axis: np.flip(np.sort(x, axis=axis, stable=True), axis),
    ),
    "argsort": (ops.argsort, lambda x, axis: np.argsort(x, axis=axis, stable=True)),
    "cumulative_sum": (ops.cumulative_sum, np.cumulative_sum),
    "cumulative_sum with the initial": (
        lambda x, axis: ops.cumulative_sum(x, axis=axis, include_initial=True),
        lambda x, axis: np.cumulative_sum(x, axis=axis, include_initial=True),
    ),
    "cumulative_prod": (ops.cumulative_prod, np.cumulative_prod),
    "sum": (ops.sum, np.sum),
    "prod": (ops.prod, np.prod),
    "mean": (ops.mean, np.mean),
    "max": (ops.max, np.max),
    "min": (ops.min, np.min),
    "any": (ops.any, np.any),
    "all": (ops.all, np.all),
    "var": (ops.var, np.var),
    "std": (
        lambda x, axis: ops.std(x, axis=axis, correction=1, keepdims=True),
        lambda x, axis: np.std(x, axis=axis, ddof=1, keepdims=True),
    ),
    "argmax": (ops.argmax, np.argmax),
    "argmin": (ops.argmin, np.argmin),
    "count_nonzero": (ops.count_nonzero, np.count_nonzero),
    "fft": (ops.fft.fft, np.fft.fft),
    "rfft": (lambda x, axis: ops.fft.rfft(x, n=9, axis=axis), lambda x, axis: np.fft.rfft(x, n=9, axis=axis)),
    "hfft": (lambda x, axis: ops.fft.hfft(x, n=9, axis=axis), lambda x, axis: np.fft.hfft(x, n=9, axis=axis)),
}


SHAPES = ((70, 50), (3, 60, 55), (50, 1, 64))


@pytest.mark.sweep
@pytest.mark.parametrize("special", [False, True], ids=["numbers", "special numbers"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int32", "int64", "bool"])
@pytest.mark.parametrize("name", ALONG)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
async def test_results_along_an_axis_have_the_bits_of_numpys(
    pieces: Pieces, name: str, dtype: str, special: bool
) -> None:
    ours, numpys = ALONG[name]
    for shape in sampled(SHAPES, 1, f"{name} {dtype} {special}"):
        x = values(shape, dtype, special=special)
        for axis in range(len(shape)):
            expected = np.asarray(numpys(x, axis=axis))
            result = await ours(ops.asarray(x), axis=axis)
            assert (result.dtype, result.shape) == (expected.dtype, expected.shape)
            assert result.tobytes() == expected.tobytes(), axis


@pytest.mark.sweep
@pytest.mark.parametrize("special", [False, True], ids=["numbers", "special numbers"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int32", "complex64"])
@pytest.mark.parametrize("keepdims", [False, True], ids=["without axes", "with axes"])
@pytest.mark.parametrize("correction", [0, 1, 0.5])
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::numpy.exceptions.ComplexWarning")
async def test_a_variance_over_all_axes_has_the_bits_of_numpys(
    pieces: Pieces, dtype: str, correction: float, keepdims: bool, special: bool
) -> None:
    for shape in ((7000,), (70, 50), (1, 2), (3, 1, 999)):
        x = values(shape, dtype, special=special)
        for ours, numpys in ((ops.var, np.var), (ops.std, np.std)):
            expected = np.asarray(numpys(x, ddof=correction, keepdims=keepdims))
            result = await ours(ops.asarray(x), correction=correction, keepdims=keepdims)
            assert (result.dtype, result.shape) == (expected.dtype, expected.shape)
            assert result.tobytes() == expected.tobytes(), shape


async def test_a_variance_is_made_of_two_walks(pieces: Pieces, monkeypatch: pytest.MonkeyPatch) -> None:
    walks: list[list[str]] = []

    def watched(group: FusionGroup, threads: int) -> list[Any]:
        walks.append([step.op.name for step in group.steps])
        return execute_group(group, threads)

    monkeypatch.setattr(composed, "execute_group", watched)
    await ops.var(ops.asarray(values((7000,), "float64", special=False)))
    assert walks == [["sum"], ["subtract", "square", "sum"]]


@pytest.mark.parametrize("name", ["sort", "argsort", "cumulative_sum", "sum", "max", "var", "argmax", "fft", "hfft"])
async def test_an_array_is_cut_along_another_axis(pieces: Pieces, name: str) -> None:
    ours, _ = ALONG[name]
    x = ops.asarray(values((96, 100), "float64", special=False))
    for axis in (0, 1):
        pieces.clear()
        await ours(x, axis=axis)
        ((across, slices),) = pieces
        assert across == 1 - axis
        assert len(slices) > 3
        assert [piece.start for piece in slices[1:]] == [piece.stop for piece in slices[:-1]]


def misaligned(x: Array) -> Array:
    memory = b"." + x.tobytes()
    return np.frombuffer(memory, x.dtype, x.size, offset=1).reshape(x.shape)


@pytest.mark.parametrize("name", ["sum", "mean", "var", "std", "max", "cumulative_sum", "sort"])
@pytest.mark.parametrize("made", [lambda x: x.astype(">f8"), misaligned], ids=["other byte order", "misaligned"])
async def test_what_numpy_computes_by_way_of_buffers_has_its_bits(
    pieces: Pieces, name: str, made: Callable[[Array], Array]
) -> None:
    x = made(values((130, 200), "float64", special=False))
    ours, numpys = ALONG[name]
    for axis in (0, 1):
        assert (await ours(ops.asarray(x), axis=axis)).tobytes() == np.asarray(numpys(x, axis=axis)).tobytes()
    if name not in ("std", "sort", "cumulative_sum"):
        assert (await ours(ops.asarray(x), axis=None)).tobytes() == np.asarray(numpys(x, axis=None)).tobytes()


async def test_what_is_laid_out_otherwise_is_run_whole(pieces: Pieces) -> None:
    x = values((96, 100), "float64", special=False)
    result = await ops.cumulative_sum(ops.permute_dims(ops.asarray(x), (1, 0)), axis=0)
    expected = np.cumsum(x.T, axis=0)
    assert (result.tobytes(), result.strides) == (expected.tobytes(), expected.strides)
    assert pieces == []


async def test_warnings_and_errors_of_ops_along_an_axis_are_numpys(pieces: Pieces) -> None:
    x = np.full((64, 64), 1e308)
    with pytest.warns(RuntimeWarning, match="overflow"):
        assert np.isinf(await ops.sum(ops.asarray(x), axis=0)).all()
    with pytest.warns(RuntimeWarning, match="Degrees of freedom"), pytest.warns(RuntimeWarning, match="invalid"):
        await ops.var(ops.asarray(values((64, 1), "float64", special=False)), axis=1, correction=1)
    with pytest.raises(ValueError, match="axis"):
        await ops.cumulative_sum(ops.asarray(x), axis=4)
    with np.errstate(over="raise"):
        failing = ops.sum(ops.asarray(x), axis=0)
    with pytest.raises(FloatingPointError):
        await failing


async def test_results_along_an_axis_reuse_buffers(pieces: Pieces) -> None:
    x = ops.asarray(values((96, 100), "float64", special=False))
    await ops.cumulative_sum(x, axis=1)
    before = engine.buffer_statistics()
    await ops.sort(x, axis=1)
    await ops.cumulative_sum(ops.reshape(x, (9600,)))
    assert engine.buffer_statistics().hits == before.hits + 2


@given(
    shape=st.lists(st.integers(1, 200), min_size=1, max_size=4).map(tuple),
    axis=st.integers(0, 3),
    threads=st.integers(1, 8),
)
@settings(deadline=None)
def test_pieces_cover_an_axis_once(shape: tuple[int, ...], axis: int, threads: int) -> None:
    found = cut(shape, (axis,), threads)
    if found is None:
        assert all(n < 16 * threads for place, n in enumerate(shape) if place != axis)
        return
    across, slices = found
    assert across != axis
    everything = range(shape[across])
    assert list(chain.from_iterable(everything[piece] for piece in slices)) == list(everything)
    assert min(piece.stop - piece.start for piece in slices) >= 16
