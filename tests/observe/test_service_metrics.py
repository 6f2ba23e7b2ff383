"""Metrics of requests and of batches, through a real scrape."""

import asyncio
import gc
import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import prometheus_client
import pytest

import engine
from engine.asgi import ScopeMiddleware
from engine.observe import sums
from engine.testing import GateOp
from tests.observe.scraping import Samples, Scraped, serving, value
from tests.service.exchange import Exchange, answer

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def served() -> Iterator[Scraped]:
    with serving() as served:
        yield served


@pytest.fixture
def scraped(served: Scraped) -> Scraped:
    """A registry of the test's own, which is served."""
    served.registry = prometheus_client.CollectorRegistry()
    engine.observe.prometheus(served.registry)
    return served


OUTCOMES = ("completed", "failed", "disconnected", "expired", "refused")


def requests(found: Samples) -> dict[str, float]:
    """How many requests have ended in each way."""
    return {each: value(found, "eagerloop_requests", "eagerloop_requests_total", outcome=each) for each in OUTCOMES}


def grown(before: Samples, after: Samples) -> dict[str, float]:
    """How many more requests have ended in each way, of those where any has."""
    more = {outcome: count - requests(before)[outcome] for outcome, count in requests(after).items()}
    return {outcome: count for outcome, count in more.items() if count}


class Service:
    """An application whose path says how a request ends."""

    def __init__(self, gate: GateOp) -> None:
        self._gate = gate

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/failed":
            raise LookupError("of the application")
        if scope["path"] in ("/disconnected", "/expired"):
            await (self._gate(1) + 1)
        await answer(send)


async def test_requests_by_how_they_ended(scraped: Scraped, gate: GateOp) -> None:
    before = await asyncio.to_thread(scraped.scrape)
    config = engine.Config(max_pending_ops=2)
    async with engine.Executor(config, execution_mode=engine.ASYNC) as executor:
        patient = ScopeMiddleware(Service(gate), executor)
        await Exchange().run(patient)
        await Exchange(path="/health").run(patient)  # is not counted
        with pytest.raises(LookupError):
            await Exchange(path="/failed").run(patient)
        exchange = Exchange(path="/disconnected")
        task = exchange.start(patient)
        await asyncio.to_thread(gate.wait_entered)
        during = await asyncio.to_thread(scraped.scrape)
        assert value(during, "eagerloop_requests_in_flight", "eagerloop_requests_in_flight") == 1
        assert (await Exchange().run(patient)).status == 503
        exchange.go()
        await task
        gate.open()
        await engine.synchronize()
        other = GateOp()
        await Exchange(path="/expired").run(ScopeMiddleware(Service(other), executor, timeout=0.01))
        other.open()
    after = await asyncio.to_thread(scraped.scrape)
    assert grown(before, after) == dict.fromkeys(OUTCOMES, 1)
    dropped = [
        value(each, "eagerloop_request_dropped_ops", "eagerloop_request_dropped_ops_total") for each in (before, after)
    ]
    assert dropped[1] - dropped[0] == 4
    assert value(after, "eagerloop_requests_in_flight", "eagerloop_requests_in_flight") == 0
    family = "eagerloop_request_seconds"
    assert after[family].type == "histogram"
    for outcome in ("completed", "failed", "disconnected", "expired"):
        count = value(after, family, f"{family}_count", outcome=outcome)
        assert count == requests(after)[outcome] == value(after, family, f"{family}_bucket", outcome=outcome, le="+Inf")
    assert value(after, family, f"{family}_sum", outcome="expired") > 0
    assert value(after, family, f"{family}_count", outcome="refused") == 0


async def test_a_middleware_that_is_gone_still_counts(scraped: Scraped, gate: GateOp) -> None:
    before = await asyncio.to_thread(scraped.scrape)
    async with engine.Executor(execution_mode=engine.ASYNC) as executor:
        for _ in range(3):
            await Exchange().run(ScopeMiddleware(Service(gate), executor))
    gc.collect()
    assert grown(before, await asyncio.to_thread(scraped.scrape)) == {"completed": 3}


async def test_batches(scraped: Scraped) -> None:
    entered, release = threading.Semaphore(0), threading.Semaphore(0)

    @engine.batched(max_size=8, max_wait=3600.0)
    def weighed(x: Array) -> Array:
        entered.release()
        assert release.acquire(timeout=20)
        if (x < 0).any():
            raise ValueError("negative")
        return x * 2

    async with engine.Executor(execution_mode=engine.ASYNC):
        first = asyncio.create_task(weighed(0))
        assert await asyncio.to_thread(entered.acquire, timeout=20)
        others = [asyncio.create_task(weighed(number)) for number in (1, 2, -3, 4, 5)]
        await asyncio.sleep(0)
        found = await asyncio.to_thread(scraped.scrape)
        waiting = ("eagerloop_batched_calls_waiting", "eagerloop_batched_calls_waiting")
        assert value(found, *waiting, op="weighed") == 5
        others[4].cancel()
        await asyncio.wait([others[4]])  # it leaves before the batch begins
        for _ in range(20):
            release.release()
        results = await asyncio.gather(first, *others, return_exceptions=True)
    assert results[:3] == [0, 2, 4]
    assert isinstance(results[3], ValueError)
    assert results[4] == 8
    found = await asyncio.to_thread(scraped.scrape)
    calls = ("eagerloop_batched_calls", "eagerloop_batched_calls_total")
    assert [value(found, *calls, op="weighed", outcome=each) for each in ("done", "failed", "cancelled")] == [4, 1, 1]
    size = "eagerloop_batch_size"
    assert found[size].type == "histogram"
    assert [value(found, size, f"{size}_bucket", op="weighed", le=le) for le in ("1.0", "2.0", "4.0")] == [1, 1, 2]
    assert value(found, size, f"{size}_sum", op="weighed") == 5
    wait = "eagerloop_batch_wait_seconds"
    assert value(found, wait, f"{wait}_count", op="weighed") == 5
    retried = ("eagerloop_batches_retried", "eagerloop_batches_retried_total")
    assert value(found, *retried, op="weighed") == 1
    assert value(found, *waiting, op="weighed") == 0


class Model:
    """Has a batched method."""

    @engine.batched
    def judged(self, x: Array) -> Array:
        return x + 1


async def test_instances_of_one_method_share_a_label_and_those_that_are_gone_count(scraped: Scraped) -> None:
    async with engine.Executor(execution_mode=engine.ASYNC):
        for number in range(3):
            assert await Model().judged(number) == number + 1
    gc.collect()
    found = await asyncio.to_thread(scraped.scrape)
    samples = [each for each in found["eagerloop_batched_calls"].samples if each.labels["op"] == "judged"]
    assert [(each.labels["outcome"], each.value) for each in samples] == [("done", 3)]


def test_names_without_end_share_a_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "_batches", {})
    found = {id(sums.batches_of(f"function {number}")) for number in range(sums.MOST_NAMES + 20)}
    assert len(found) == sums.MOST_NAMES + 1
    assert len(sums.all_batches()) == sums.MOST_NAMES + 1
    assert sums.batches_of("function 3") is sums.all_batches()["function 3"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_counts_its_own(scraped: Scraped) -> None:
    requests_here = sums.Requests()
    requests_here.begin()
    requests_here.end("completed", 0.1, 3)
    sums._gone.add(requests_here)
    assert sums.all_requests().ended["completed"] >= 1
    child = os.fork()
    if not child:
        os._exit(len(sums.all_requests().ended) + sums.all_requests().dropped_ops)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
