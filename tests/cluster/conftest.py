"""Real clusters: one that the tests share, and some that a test may break."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import pytest

import engine
from engine.devices.dask.local import LocalCluster

collect_ignore_glob = [] if find_spec("distributed") else ["test_*.py"]  # the extra is not installed

MakeExecutor = Callable[..., engine.Executor]


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[LocalCluster]:
    """A scheduler and two workers, each a process that is reached over TCP; no test may harm it."""
    cluster = LocalCluster(2)
    yield cluster
    cluster.close()


@pytest.fixture
def fragile_cluster() -> Iterator[LocalCluster]:
    """The same, for one test to kill parts of."""
    cluster = LocalCluster(2)
    yield cluster
    cluster.close()


@pytest.fixture
def bare_cluster() -> Iterator[LocalCluster]:
    """A scheduler without workers."""
    cluster = LocalCluster(0)
    yield cluster
    cluster.close()


def config_of(cluster: LocalCluster, **options: Any) -> engine.Config:
    """A configuration with the workers of a cluster as devices."""
    counts = options.pop("device_count", {"CPU": 2, "DASK": 2})
    return engine.Config(device_count=counts, dask_scheduler=cluster.scheduler, **options)


@pytest.fixture
def executor(shared_cluster: LocalCluster) -> MakeExecutor:
    """Makes executors with the workers of the shared cluster."""

    def make(mode: engine.ExecutionMode = engine.ASYNC, **options: Any) -> engine.Executor:
        return engine.Executor(config_of(shared_cluster, **options), execution_mode=mode)

    return make


@pytest.fixture(params=[engine.SYNC, engine.ASYNC], ids=lambda mode: mode.name)
def enabled(request: pytest.FixtureRequest, fresh_engine: None, shared_cluster: LocalCluster) -> engine.ExecutionMode:
    """Eager execution with the shared cluster, for the whole process, in each mode in turn."""
    mode: engine.ExecutionMode = request.param
    engine.enable_eager_execution(config_of(shared_cluster), execution_mode=mode)
    return mode
