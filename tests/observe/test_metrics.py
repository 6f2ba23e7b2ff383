"""Metrics through a real scrape: HTTP, and prometheus-client's own parser."""

import asyncio
import sys
import time
from collections.abc import Iterator

import numpy as np
import prometheus_client
import pytest

import engine
from engine import ops
from engine.queues.hooks import hooks
from engine.testing import GateOp
from tests.observe.scraping import Scraped, serving, value


@pytest.fixture(scope="module")
def served() -> Iterator[Scraped]:
    with serving() as served:
        yield served


@pytest.fixture
def scraped(served: Scraped) -> Scraped:
    """A registry of the test's own, which is served."""
    served.registry = prometheus_client.CollectorRegistry()
    return served


@engine.op
def napped(x: np.ndarray) -> np.ndarray:
    time.sleep(0.01)
    return x


async def test_ops_are_counted_by_device_name_and_outcome(scraped: Scraped, mode: engine.ExecutionMode) -> None:
    metrics = engine.observe.prometheus(scraped.registry)
    for _ in range(5):
        await ops.add(1, 2)
    await napped(1.0)
    found = await asyncio.to_thread(scraped.scrape)
    labels = {"device": "CPU:0", "op": "add", "outcome": "done"}
    assert value(found, "eagerloop_ops", "eagerloop_ops_total", **labels) == 5
    assert value(found, "eagerloop_ops", "eagerloop_ops_total", op="napped", outcome="done") == 1
    assert found["eagerloop_op_seconds"].type == "histogram"
    assert value(found, "eagerloop_op_seconds", "eagerloop_op_seconds_count", op="add") == 5
    assert value(found, "eagerloop_op_seconds", "eagerloop_op_seconds_sum", op="napped") >= 0.01
    assert value(found, "eagerloop_op_seconds", "eagerloop_op_seconds_bucket", op="napped", le="+Inf") == 1
    assert value(found, "eagerloop_op_seconds", "eagerloop_op_seconds_bucket", op="napped", le="0.005") == 0
    assert value(found, "eagerloop_op_wait_seconds", "eagerloop_op_wait_seconds_count", device="CPU:0") == 6
    metrics.close()
    assert "eagerloop_ops" not in await asyncio.to_thread(scraped.scrape)
    assert not hooks.listeners


async def test_failed_and_cancelled(scraped: Scraped) -> None:
    engine.observe.prometheus(scraped.registry)
    async with engine.Executor(execution_mode=engine.ASYNC):
        with pytest.raises(np.linalg.LinAlgError):
            await (ops.linalg.inv(ops.zeros((2, 2))) + 1)
        with engine.testing.hold():
            ops.multiply(2, 3).cancel()
        found = await asyncio.to_thread(scraped.scrape)
    assert value(found, "eagerloop_ops", "eagerloop_ops_total", op="linalg.inv", outcome="failed") == 1
    assert value(found, "eagerloop_ops", "eagerloop_ops_total", op="add", outcome="failed") == 1
    assert value(found, "eagerloop_ops", "eagerloop_ops_total", op="multiply", outcome="cancelled") == 1


async def test_what_is_in_flight(scraped: Scraped, gate: GateOp) -> None:
    engine.observe.prometheus(scraped.registry)
    async with engine.Executor(execution_mode=engine.ASYNC):
        blocked = gate(1.0)
        waiting = blocked + np.ones(10_000)
        await asyncio.to_thread(gate.wait_entered)
        found = await asyncio.to_thread(scraped.scrape)
        assert value(found, "eagerloop_queue_ops", "eagerloop_queue_ops", device="CPU:0") >= 2
        assert value(found, "eagerloop_pending_bytes", "eagerloop_pending_bytes") == 80_000
        gate.open()
        await waiting
        found = await asyncio.to_thread(scraped.scrape)
        assert value(found, "eagerloop_pending_bytes", "eagerloop_pending_bytes") == 0


async def test_transfers(scraped: Scraped, mode: engine.ExecutionMode) -> None:
    engine.observe.prometheus(scraped.registry)
    async with engine.Executor(engine.Config(device_count={"CPU": 2}), execution_mode=mode):
        await ops.ones(100).to_device("CPU:1").wait_ready()
        found = await asyncio.to_thread(scraped.scrape)
    moved = value(found, "eagerloop_transfer_bytes", "eagerloop_transfer_bytes_total", src="CPU:0", dst="CPU:1")
    assert moved == 800


async def test_the_lag_of_the_loop(scraped: Scraped) -> None:
    engine.observe.prometheus(scraped.registry)
    async with engine.Executor(execution_mode=engine.ASYNC):
        await ops.add(1, 2)
        await asyncio.sleep(0.1)
        time.sleep(0.4)  # noqa: ASYNC251
        await asyncio.sleep(0.05)
        found = await asyncio.to_thread(scraped.scrape)
    assert value(found, "eagerloop_loop_lag_seconds", "eagerloop_loop_lag_seconds") >= 0.2


async def test_scrapes_under_load_never_go_back(scraped: Scraped) -> None:
    engine.observe.prometheus(scraped.registry)
    async with engine.Executor(execution_mode=engine.ASYNC):
        counts = []
        for _ in range(5):
            handles = [ops.add(float(index), 1.0) for index in range(400)]
            scraping = asyncio.create_task(asyncio.to_thread(scraped.scrape))
            await engine.gather(*handles)
            counts.append(value(await scraping, "eagerloop_ops", "eagerloop_ops_total", op="add"))
        found = await asyncio.to_thread(scraped.scrape)
    assert counts == sorted(counts)
    assert value(found, "eagerloop_ops", "eagerloop_ops_total", op="add") == 2000


async def test_functions_are_labelled_by_name_and_not_without_end(scraped: Scraped) -> None:
    engine.observe.prometheus(scraped.registry)
    async with engine.Executor(execution_mode=engine.ASYNC):
        handles = [engine.op(lambda x: x, name=f"function {index}")(1.0) for index in range(600)]
        await engine.gather(*handles)
        found = await asyncio.to_thread(scraped.scrape)
    names = {sample.labels["op"] for sample in found["eagerloop_ops"].samples}
    assert "function 0" in names
    assert "other" in names
    assert len(names) == 501
    assert value(found, "eagerloop_ops", "eagerloop_ops_total") == 600


def test_a_registry_that_has_them_already(scraped: Scraped) -> None:
    metrics = engine.observe.prometheus(scraped.registry)
    with pytest.raises(ValueError, match="has the metrics of eagerloop already"):
        engine.observe.prometheus(scraped.registry)
    assert "eagerloop_ops" in scraped.scrape()
    metrics.close()
    metrics.close()  # twice is no error
    engine.observe.prometheus(scraped.registry).close()


def test_what_is_no_registry() -> None:
    with pytest.raises(TypeError, match="registry must be a prometheus_client"):
        engine.observe.prometheus("registry")  # type: ignore[arg-type]
    assert not hooks.listeners


def test_the_default_registry_is_that_of_the_library() -> None:
    metrics = engine.observe.prometheus()
    assert "eagerloop_queue_ops" in prometheus_client.generate_latest().decode()
    metrics.close()
    assert "eagerloop_queue_ops" not in prometheus_client.generate_latest().decode()


def test_a_reset_takes_them_off(scraped: Scraped) -> None:
    engine.observe.prometheus(scraped.registry)
    engine.testing.reset()
    assert "eagerloop_ops" not in scraped.scrape()
    engine.observe.prometheus(scraped.registry)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ImportError, match=r"needs prometheus-client: pip install 'eagerloop\[observe\]'"):
        engine.observe.prometheus()
