"""The benchmarks of fairness run: the smallest workloads, each side, the service, the load. No time is asserted."""

import asyncio
import importlib.util
import json
import math
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine.testing
from benchmarks import checkouts, fairness, load, report, service, waiting

TINY = waiting.Sizes(sorts=2, elements=2_000, sleep=0.001, tasks=3, large=2, large_elements=2_000)


@pytest.fixture(autouse=True)
def fresh_engine() -> Iterator[None]:
    engine.testing.reset()
    yield
    engine.testing.reset()


@pytest.mark.parametrize("workload", waiting.WORKLOADS)
@pytest.mark.parametrize("side", waiting.SIDES)
async def test_a_workload_gives_figures(side: str, workload: str) -> None:
    figures = await waiting.measured(side, workload, TINY)
    assert figures
    assert all(math.isfinite(figure) and figure >= 0 for figure in figures.values())


async def test_standing_still_counts_as_often_as_tasks_would_have_come() -> None:
    class Waits:
        def __await__(self) -> Generator[Any, None, None]:
            return asyncio.sleep(0).__await__()

        def cancel(self) -> None: ...

    begun = 0

    def make() -> waiting.Pending:
        nonlocal begun
        begun += 1
        return Waits()

    async def nothing() -> None: ...

    samples = await waiting.sampled(make, asyncio.create_task(nothing()), 1e-9)
    assert begun == 1
    assert len(samples) > 100
    assert samples == sorted(samples, reverse=True)


@pytest.fixture(scope="module")
def data() -> service.Data:
    return service.Data(side=12, rows=300, columns=4)


async def answer(application: service.Service, path: str) -> tuple[int, object]:
    """The status and the decoded body of one request."""
    sent: list[service.Message] = []

    async def receive() -> service.Message:
        return {"type": "http.request"}

    async def send(message: service.Message) -> None:
        sent.append(message)

    await application({"type": "http", "path": path}, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


@pytest.mark.parametrize("path", ["/health", "/tiny", "/slow", "/search", "/bounded"])
async def test_all_services_give_the_same_answers(data: service.Data, path: str) -> None:
    answers = []
    for make in service.SERVICES.values():
        data.rewind()
        application = make(data)
        await application.start()
        answers.append(await answer(application, path))
        await application.stop()
    assert answers[0][0] == 200
    assert answers == [answers[0]] * len(answers)


async def test_another_path_is_not_found(data: service.Data) -> None:
    status, _ = await answer(service.Service(data), "/nothing")
    assert status == 404


async def test_the_load_counts_answers_of_each_path_and_probes() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := (await reader.readline()).split():
            while (await reader.readline()).strip():
                pass
            status = b"503 Busy" if head[1] == b"/full" else b"200 OK"
            writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    server = await asyncio.start_server(serve, load.HOST, 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        figures = await load.load(port, [load.Asked("/a", 2), load.Asked.parsed("/full:1@1000")], 0.05)
    assert set(figures) == {"/a", "/full", load.HEALTH}
    assert all(each.rate > 0 and each.p50 <= each.p99 <= each.longest for each in figures.values())
    assert figures["/a"].failed == figures[load.HEALTH].failed == 0
    assert figures["/full"].failed > 0


@pytest.mark.skipif(importlib.util.find_spec("uvicorn") is None, reason="uvicorn is of the extra [bench]")
def test_a_service_in_a_process_of_its_own_is_loaded() -> None:
    figures = fairness.loaded("/tiny:1", seconds=0.3)("eagerloop", True)
    assert figures["/tiny rate"] > 0
    assert figures["/tiny failed"] == figures["/health failed"] == 0


@pytest.mark.parametrize(
    ("figure", "reference", "line", "verdict"),
    [
        (0.5, 1.0, fairness.Line("", "m", "ms", 2.0, 1.0), "goal"),
        (1.5, 1.0, fairness.Line("", "m", "ms", 2.0, 1.0), "ok"),
        (2.5, 1.0, fairness.Line("", "m", "ms", 2.0, 1.0), "MISSED"),
        (9.0, 10.0, fairness.Line("", "m", "/s", 1.0, 2.0, more=True, times=True), "MISSED"),
        (15.0, 10.0, fairness.Line("", "m", "/s", 1.0, 2.0, more=True, times=True), "ok"),
        (20.0, 10.0, fairness.Line("", "m", "/s", 1.0, 2.0, more=True, times=True), "goal"),
        (20.0, 10.0, fairness.Line("", "m", "/s"), ""),
        (float("nan"), 10.0, fairness.Line("", "m", "ms", 2.0, 1.0), "MISSED"),
    ],
)
def test_a_figure_is_judged(figure: float, reference: float, line: fairness.Line, verdict: str) -> None:
    assert line.verdict({fairness.ENGINE: {"m": figure}, fairness.THREADS: {"m": reference}}) == verdict


def test_the_table_has_a_line_for_each_metric_and_goes_between_its_marks(tmp_path: Path) -> None:
    results = {
        row: {side: {line.metric: 1.0 for line in row.lines} for side in fairness.SIDES} for row in fairness.ROWS
    }
    table = fairness.as_markdown(results)
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert {line.count(" |") for line in rows[2:]} == {len(fairness.HEADER)}
    assert len(rows) == 2 + sum(1 + len(row.lines) for row in fairness.ROWS)

    page = tmp_path / "page.md"
    page.write_text(f"before\n{fairness.BEGIN}\nold\n{fairness.END}\nafter\n")
    report.put(page, fairness.BEGIN, fairness.END, table)
    assert page.read_text() == f"before\n{fairness.BEGIN}\n\n{table}\n{fairness.END}\nafter\n"


def test_a_module_runs_with_the_engine_of_another_checkout(tmp_path: Path) -> None:
    for package in ("engine", "handles"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / "engine" / "later.py").write_text("print('from', __file__)")
    assert checkouts.output("engine.later", [], timeout=60, checkout=tmp_path) == f"from {tmp_path}/engine/later.py\n"
    with pytest.raises(FileNotFoundError, match="no checkout"):
        checkouts.command("engine.later", [], tmp_path / "nowhere")


async def test_the_search_finds_the_best_rows(data: service.Data) -> None:
    data.rewind()
    scores = data.catalogue @ data.queries[1]
    best = np.sort(np.argsort(scores)[-service.TOP :]).tolist()
    assert service.search(data) == best
