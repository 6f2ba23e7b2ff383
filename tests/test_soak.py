"""The soak: what its service answers, and that each kind of violation is found. The hour itself is `make soak`."""

import asyncio
import dataclasses
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from benchmarks import soak
from benchmarks.service import Data, Message
from benchmarks.soak_service import SoakService

ROW = soak.Row(
    seconds=10.0,
    rss=100_000_000,
    threads=8,
    descriptors=8,
    tasks=5,
    pending=0,
    pending_bytes=0,
    completed=100,
    cancelled=10,
    failed=5,
    disconnected=3,
    health_p99=0.01,
)


def rows(**last: Any) -> list[soak.Row]:
    """Eight rounds, of which the last is another one."""
    return [ROW] * 7 + [dataclasses.replace(ROW, **last)]


def test_a_service_that_stays_as_it_was_has_no_violation() -> None:
    seen = soak.Seen(left={"1", "2"}, reported=Counter({"1": 1, "2": 1, "3": 1}))
    assert soak.violations(rows(completed=10_000, threads=9), seen) == []


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ({"rss": 200_000_000}, "memory grew from 100 to 200 MB"),
        ({"threads": 20}, "threads grew from 8 to 20"),
        ({"descriptors": 30}, "descriptors grew from 8 to 30"),
        ({"tasks": 50}, "tasks grew from 5 to 50"),
        ({"pending": 2}, "2 ops pending in the silence after 10 s"),
    ],
)
def test_what_grows_is_found(last: dict[str, int], said: str) -> None:
    assert soak.violations(rows(**last), soak.Seen()) == [said]


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (soak.Seen(hung=["/tiny"]), "no answer within 60 s: /tiny"),
        (soak.Seen(wrong=["/fail?3: 200 1.0"]), "wrong answer: /fail?3: 200 1.0"),
        (soak.Seen(left={"7"}), "1 errors were lost, the first of request 7"),
        (soak.Seen(left={"7"}, reported=Counter({"7": 2})), "1 errors were reported more than once"),
    ],
)
def test_what_goes_wrong_is_found(seen: soak.Seen, said: str) -> None:
    (found,) = soak.violations(rows(), seen)
    assert found.startswith(said)


def test_a_run_that_measured_nothing_is_a_violation() -> None:
    assert soak.violations([], soak.Seen()) == ["no round came to its end"]


@pytest.fixture
async def service() -> AsyncIterator[SoakService]:
    """The service, started."""
    service = SoakService(Data(side=20, rows=50))
    await service.start()
    yield service
    await service.stop()


async def ask(service: SoakService, path: str, token: str = "") -> tuple[int, Any]:
    """Ask as a server would, for a client that stays until it is answered."""
    sent: list[Message] = []

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError("nothing sets the event")

    async def send(message: Message) -> None:
        sent.append(message)

    await service({"type": "http", "path": path, "query_string": token.encode()}, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


async def test_errors_come_out_where_they_belong(service: SoakService) -> None:
    assert await ask(service, "/fail", "1") == (500, ["token-1"])
    assert await ask(service, "/scope", "2") == (500, ["token-2"])
    assert await ask(service, "/barrier") == (200, [])
    assert await ask(service, "/orphan", "3") == (200, "left")
    assert await ask(service, "/barrier") == (200, ["token-3"])
    assert await ask(service, "/barrier") == (200, [])


async def test_answers_are_right_and_nothing_is_left(service: SoakService) -> None:
    for path in ("/tiny", "/slow", "/bounded", "/chain", "/fetch"):
        assert (await ask(service, path))[0] == 200, path
    assert (await ask(service, "/deadline"))[0] in (200, 504)
    status, counts = await ask(service, "/counts")
    assert (status, counts["pending"]) == (200, 0)


async def test_a_client_that_goes_away_is_counted_and_its_work_dropped(service: SoakService) -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        raise AssertionError(f"there is no client to send to: {message}")

    await service({"type": "http", "path": "/slow", "query_string": b""}, receive, send)
    status, counts = await ask(service, "/counts")
    assert (status, counts["disconnected"], counts["pending"]) == (200, 1, 0)


def test_short_runs_have_four_rounds_and_long_ones_not_more_than_there_are() -> None:
    assert (soak.rounds_in(1), soak.rounds_in(60), soak.rounds_in(3600)) == (4, 12, soak.ROUNDS)
