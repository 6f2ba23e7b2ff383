"""Other libraries on handles of ASYNC mode: the real packages, and how many syncs each call needs."""

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.queues.poll import Poll
from engine.testing import GateOp
from handles import Handle

array_api_compat = pytest.importorskip("array_api_compat")
array_api_extra = pytest.importorskip("array_api_extra")
einops = pytest.importorskip("einops")
einops_array_api = pytest.importorskip("einops.array_api")
opt_einsum = pytest.importorskip("opt_einsum")
pandas = pytest.importorskip("pandas")
scipy_fft = pytest.importorskip("scipy.fft")
scipy_integrate = pytest.importorskip("scipy.integrate")
scipy_signal = pytest.importorskip("scipy.signal")
scipy_special = pytest.importorskip("scipy.special")
scipy_stats = pytest.importorskip("scipy.stats")
sklearn = pytest.importorskip("sklearn")
decomposition = pytest.importorskip("sklearn.decomposition")
linear_model = pytest.importorskip("sklearn.linear_model")
metrics = pytest.importorskip("sklearn.metrics")
preprocessing = pytest.importorskip("sklearn.preprocessing")
xarray = pytest.importorskip("xarray")

X = np.random.default_rng(0).normal(size=(6, 4))


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The implicit syncs so far, by what asked for them."""
    seen: list[str] = []
    block = Poll.block

    def counted(self: Poll, cell: Any, timeout: float | None, what: str) -> None:
        seen.append(what)
        block(self, cell, timeout, what)

    monkeypatch.setattr(Poll, "block", counted)
    return seen


pytestmark = pytest.mark.usefixtures("asynchronous")


def data_of(result: Any) -> Any:
    """The array in an xarray object, or what is one itself."""
    return result.data if isinstance(result, xarray.DataArray) else result


def frame(x: Any) -> Any:
    return xarray.DataArray(x, dims=("a", "b"))


def dataset(x: Any) -> Any:
    return xarray.Dataset({"u": frame(x), "v": frame(x) + 1})


WITHOUT_SYNC: dict[str, Callable[[Any], Any]] = {
    "xarray: construct": frame,
    "xarray: arithmetic": lambda x: frame(x) * 2 + frame(x),
    "xarray: isel of an index": lambda x: frame(x).isel(a=1),
    "xarray: isel of a list": lambda x: frame(x).isel(a=[0, 2]),
    "xarray: isel of a slice": lambda x: frame(x).isel(b=slice(1, 3)),
    "xarray: mean": lambda x: frame(x).mean("a"),
    "xarray: std": lambda x: frame(x).std("b"),
    "xarray: median": lambda x: frame(x).median("b"),
    "xarray: where": lambda x: frame(x).where(frame(x) > 0, 0.0),
    "xarray: where without other": lambda x: frame(x).where(frame(x) > 0),
    "xarray: the function where": lambda x: xarray.where(frame(x) > 0, frame(x), 0.0),
    "xarray: apply_ufunc": lambda x: xarray.apply_ufunc(np.exp, frame(x)),
    "xarray: apply_ufunc over a dimension": lambda x: xarray.apply_ufunc(
        lambda each: each.sum(axis=-1), frame(x), input_core_dims=[["b"]]
    ),
    "xarray: Dataset.mean": lambda x: dataset(x).mean()["v"],
    "xarray: Dataset.sum": lambda x: dataset(x).sum("a")["u"],
    "xarray: transpose": lambda x: frame(x).transpose("b", "a"),
    "xarray: concat": lambda x: xarray.concat([frame(x), frame(x)], dim="a"),
    "xarray: dot": lambda x: xarray.dot(frame(x), frame(x), dim="b"),
    "xarray: fillna": lambda x: frame(x).fillna(0),
    "array-api-compat: namespace": lambda x: array_api_compat.array_namespace(x).sum(x, axis=0),
    "array-api-extra: atleast_nd": lambda x: array_api_extra.atleast_nd(x, ndim=3),
    "array-api-extra: cov": lambda x: array_api_extra.cov(x),
    "array-api-extra: kron": lambda x: array_api_extra.kron(x, x),
    "array-api-extra: pad": lambda x: array_api_extra.pad(x, 2),
    "array-api-extra: isclose": lambda x: array_api_extra.isclose(x, x + 1),
    "array-api-extra: apply_where": lambda x: array_api_extra.apply_where(
        x > 0, x, lambda each: each * 2, lambda each: -each
    ),
    "array-api-extra: at().set()": lambda x: array_api_extra.at(x)[0].set(5.0),
    "einops.array_api: rearrange": lambda x: einops_array_api.rearrange(x, "a b -> b a"),
    "einops.array_api: reduce": lambda x: einops_array_api.reduce(x, "(a c) b -> a b", "sum", c=2),
    "einops.array_api: repeat": lambda x: einops_array_api.repeat(x, "a b -> a b c", c=2),
    "einops: rearrange": lambda x: einops.rearrange(x, "(a c) b -> c (b a)", c=2),
    "einops: reduce": lambda x: einops.reduce(x, "a b -> a", "mean"),
    "einops: repeat": lambda x: einops.repeat(x, "a b -> a c b", c=3),
    "einops: einsum": lambda x: einops.einsum(x, x, "a b, c b -> a c"),
    "einops: pack": lambda x: einops.pack([x, x], "* b")[0],
    "scipy: logsumexp": lambda x: scipy_special.logsumexp(x, axis=1),
    "scipy: softmax": lambda x: scipy_special.softmax(x, axis=1),
    "scipy: fft": lambda x: scipy_fft.fft(x),
    "scipy: fftconvolve": lambda x: scipy_signal.fftconvolve(x, x, mode="same"),
    "scipy: trapezoid": lambda x: scipy_integrate.trapezoid(x, axis=0),
    "opt_einsum: contract": lambda x: opt_einsum.contract("ij,kj->ik", x, x),
    "opt_einsum: contract of three": lambda x: opt_einsum.contract("ij,kj,kl->il", x, x, x),
}


@pytest.mark.parametrize("name", WITHOUT_SYNC)
async def test_no_sync_while_the_data_is_pending(name: str) -> None:
    expected = data_of(WITHOUT_SYNC[name](X))
    gate = GateOp()
    x = gate(X)
    result = WITHOUT_SYNC[name](x)
    assert not x.is_ready()
    gate.open()
    handle = data_of(result)
    assert isinstance(handle, Handle)
    np.testing.assert_allclose(await handle, expected, rtol=1e-12)


async def test_an_xarray_of_a_pending_handle_is_shown_without_a_sync() -> None:
    gate = GateOp()
    x = gate(X)
    assert "AsyncHandle" in repr(frame(x))
    assert "<" in frame(x)._repr_html_()
    assert not x.is_ready()
    gate.open()


async def test_array_api_compat_knows_handles() -> None:
    gate = GateOp()
    x = gate(X)
    assert array_api_compat.is_array_api_obj(x)
    assert array_api_compat.array_namespace(x) is ops
    assert array_api_compat.device(x) == engine.Device("CPU:0")
    assert array_api_compat.size(x) == X.size
    assert array_api_compat.is_lazy_array(x)
    gate.open()


LARGE: Any = np.arange(240_000.0).reshape(400, 600) % 1009
OF_UNKNOWN_LENGTH: dict[str, Callable[[Any, Any], Any]] = {
    "isin": lambda x, some: array_api_extra.isin(x, some),
    "setdiff1d": lambda x, some: array_api_extra.setdiff1d(x, some),
    "union1d": lambda x, some: array_api_extra.union1d(x, some),
    "nunique": lambda x, some: array_api_extra.nunique(x),
}


@pytest.mark.parametrize("name", OF_UNKNOWN_LENGTH)
def test_lengths_that_values_decide_are_known_off_the_loop(name: str) -> None:
    """These functions need the number of different elements at once, which takes a while to compute."""
    call = OF_UNKNOWN_LENGTH[name]
    wanted = call(LARGE, LARGE[:1])
    assert np.array_equal(call(ops.asarray(LARGE), ops.asarray(LARGE[:1])).result(), wanted)


def test_a_length_that_a_function_of_the_user_decides_is_not_waited_for(gate: GateOp) -> None:
    assert ops.unique_values(gate(LARGE)).shape == (None,)


async def test_zscore_off_the_loop(syncs: list[str]) -> None:
    result = await asyncio.to_thread(lambda: scipy_stats.zscore(ops.asarray(X), axis=0))
    assert len(syncs) <= 5
    np.testing.assert_allclose(await result, scipy_stats.zscore(X, axis=0), rtol=1e-12)


def scaler(take: Callable[[Any], Any]) -> Any:
    return preprocessing.StandardScaler().fit_transform(take(X))


def pca(take: Callable[[Any], Any]) -> Any:
    return decomposition.PCA(2, svd_solver="full").fit_transform(take(X))


def ridge(take: Callable[[Any], Any]) -> Any:
    return linear_model.Ridge(solver="svd").fit(take(X), take(X[:, 0] * 2)).predict(take(X))


def squared_error(take: Callable[[Any], Any]) -> Any:
    return metrics.mean_squared_error(take(X[:, 0]), take(X[:, 1]))


def accuracy(take: Callable[[Any], Any]) -> Any:
    return metrics.accuracy_score(take((X[:, 0] > 0).astype(int)), take((X[:, 1] > 0).astype(int)))


LEARNERS: list[tuple[Callable[..., Any], int]] = [(scaler, 4), (pca, 1), (ridge, 5), (squared_error, 3), (accuracy, 1)]


@pytest.mark.parametrize(("learner", "most"), LEARNERS, ids=lambda each: getattr(each, "__name__", str(each)))
async def test_scikit_learn_off_the_loop(learner: Callable[..., Any], most: int, syncs: list[str]) -> None:
    def learn() -> Any:
        # Only for plain arrays does scikit-learn itself keep quiet about 0 / 0.
        with sklearn.config_context(array_api_dispatch=True), np.errstate(invalid="ignore"):
            return learner(ops.asarray)

    with sklearn.config_context(array_api_dispatch=False):
        expected = learner(lambda x: x)
    result = await asyncio.to_thread(learn)
    assert len(syncs) <= most
    got = await result if isinstance(result, Handle) else result
    np.testing.assert_allclose(got, expected, rtol=1e-9)


async def test_on_the_loop_a_conversion_is_refused_and_off_it_blocks() -> None:
    h = ops.asarray(X)
    with pytest.raises(engine.BlockingSyncError):
        pandas.DataFrame(h)
    table = await asyncio.to_thread(pandas.DataFrame, h)
    np.testing.assert_array_equal(table.to_numpy(), X)


def test_pandas_takes_a_handle_where_it_takes_an_array() -> None:
    h = ops.asarray(X)
    np.testing.assert_array_equal(pandas.DataFrame(h).to_numpy(), X)
    np.testing.assert_array_equal(pandas.Series(h[:, 0]).to_numpy(), X[:, 0])


def test_matplotlib_takes_a_handle_where_it_takes_an_array() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    figure = pytest.importorskip("matplotlib.figure").Figure()
    axes = figure.subplots()
    (line,) = axes.plot(ops.asarray(X[:, 0]), ops.asarray(X[:, 1]))
    np.testing.assert_array_equal(line.get_xydata(), X[:, :2])
    axes.imshow(ops.asarray(X))
    figure.canvas.draw()
