"""The example service under a real uvicorn, over sockets: the values are NumPy's, and nothing is done for nobody."""

import asyncio
import importlib.util
import json
import signal
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.service.servers import ROOT, Server, free_port, get_request, need, serving, uvicorn, wait_until

EXAMPLE = ROOT / "docs" / "examples" / "service"
SMALL = {"SERVICE_ROWS": "20000"}


def example(application: str, folder: Path, *options: str, **environment: str) -> Any:
    """One of the example's applications, served."""
    need("uvicorn", "fastapi", "sklearn", "prometheus_client", "starlette")
    port = free_port()
    command = uvicorn(application, *options, port=port)
    return serving(command, folder, port, cwd=EXAMPLE, **SMALL | environment)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """The service, and the same service without the engine."""
    folder = tmp_path_factory.mktemp("example")
    with example("app:app", folder) as ours, example("baseline:app", folder) as plain:
        yield {"ours": ours, "plain": plain}


def npy(array: np.ndarray[Any, Any]) -> bytes:
    buffer = BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


DIGIT = json.dumps([float(number % 17) for number in range(64)]).encode()
IMAGE = npy(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("/search?item=17", None),
        ("/search?item=0&top=100", None),
        ("/image", IMAGE),
        ("/value?payment=100&years=30&rate=0.03", None),
        ("/predict", DIGIT),
        ("/profile", None),
        ("/eigenvalue?steps=7", None),
    ],
)
def test_the_answers_are_those_of_numpy_byte_for_byte(
    servers: dict[str, Server], path: str, data: bytes | None
) -> None:
    ours, plain = servers["ours"].get(path, data), servers["plain"].get(path, data)
    assert ours == plain
    assert ours[0] == 200, ours


@pytest.mark.parametrize(
    ("path", "data", "status"),
    [
        ("/search?item=99999999", None, 404),
        ("/search?item=-1", None, 422),
        ("/image", b"no image", 422),
        ("/image", b"", 422),
        ("/image", npy(np.zeros(3)), 422),
        ("/predict", b"[1.0]", 422),
    ],
)
def test_bad_input_is_refused(servers: dict[str, Server], path: str, data: bytes | None, status: int) -> None:
    assert servers["ours"].get(path, data)[0] == status


def test_a_client_that_goes_has_its_work_dropped(servers: dict[str, Server]) -> None:
    server = servers["ours"]
    before = server.json("/health")["disconnected"]
    server.hang_up(get_request("/eigenvalue?steps=10000"), lambda: server.json("/health")["requests"]["active"] == 1)
    wait_until(lambda: server.json("/health")["disconnected"] == before + 1)
    wait_until(lambda: server.json("/health")["pending"] == 0)
    assert "Traceback" not in server.log, server.log


def test_metrics_and_the_live_page(servers: dict[str, Server]) -> None:
    need("prometheus_client")
    assert servers["ours"].json("/predict", DIGIT)["digit"] in range(10)
    status, body = servers["ours"].get("/metrics/")
    assert status == 200
    assert b'eagerloop_ops_total{device="CPU:0",op="classify"' in body
    assert b'eagerloop_requests_total{outcome="completed"}' in body
    assert b'eagerloop_batched_calls_total{op="classify",outcome="done"}' in body
    assert servers["ours"].get("/live/")[0] == 200


def test_a_request_that_takes_too_long_is_answered_504(tmp_path: Path) -> None:
    with example("app:app", tmp_path, SERVICE_TIMEOUT="0.02", SERVICE_ROWS="2000000") as server:
        assert server.get("/profile")[0] == 504
        assert server.json("/health")["status"] == "ok"


def test_a_full_service_answers_503(tmp_path: Path) -> None:
    with example("app:app", tmp_path, SERVICE_PENDING_OPS="1", SERVICE_ROWS="2000000") as server:
        connections = [server.connect(get_request("/profile")) for _ in range(3)]
        wait_until(lambda: server.get("/value?payment=1&years=1&rate=0")[0] == 503)
        assert server.json("/health")["requests"]["refused"] >= 1
        for connection in connections:
            connection.close()


def test_two_workers_and_sigterm(tmp_path: Path) -> None:
    with example("app:app", tmp_path, "--workers", "2") as server:
        processes: set[int] = set()

        def both() -> bool:
            processes.add(server.json("/health")["process"])
            return len(processes) == 2

        wait_until(both)
        assert server.stop() in (0, -signal.SIGTERM)
        assert "Traceback" not in server.log, server.log


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The load script, as a module."""
    spec = importlib.util.spec_from_file_location("example_load", EXAMPLE / "load.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "example_load", module)  # dataclasses look for it
    spec.loader.exec_module(module)
    return module


def test_the_load_script_prints_a_table(
    load: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    need("uvicorn", "fastapi", "sklearn")
    for name, value in SMALL.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    mix = [f"{kind}:1" for kind in ("search", "image", "value", "predict")]
    monkeypatch.setattr(sys, "argv", ["load.py", *mix, "--seconds", "1.5", "--servers", "eagerloop", "to_thread"])
    load.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["eagerloop", "to_thread", "ratio"]
    rows = {line[:20].strip(): line[20:].split() for line in lines[1:]}
    assert {"search /s", "image /s", "value /s", "predict /s", "all /s", "health p99 ms", "failed"} <= set(rows)
    assert rows["failed"] == ["0", "0"]
    assert all(float(figure) > 0 for figure in rows["all /s"][:2])


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the system does not tell of threads and descriptors")
def test_nothing_is_left_when_the_load_is_over(servers: dict[str, Server], load: ModuleType) -> None:
    server = servers["ours"]
    process = Path(f"/proc/{server.process.pid}")

    def left() -> tuple[int, int]:
        """Threads and descriptors, once no request is served and no op is pending."""
        wait_until(lambda: server.json("/health")["requests"]["active"] == 0)
        wait_until(lambda: server.json("/health")["pending"] == 0)
        return len(list((process / "task").iterdir())), len(list((process / "fd").iterdir()))

    def round_of_load() -> None:
        seen = asyncio.run(load.load(server.port, {"search": 3, "image": 2, "value": 3, "predict": 3}, 0.3))
        assert sum(answers.failed for answers in seen.values()) == 0
        gone = server.json("/health")["disconnected"]
        server.hang_up(get_request("/eigenvalue?steps=10000"), lambda: server.json("/health")["requests"]["active"] > 0)
        wait_until(lambda: server.json("/health")["disconnected"] > gone)

    round_of_load()
    threads, descriptors = left()
    round_of_load()
    round_of_load()
    wait_until(lambda: left()[1] <= descriptors + 2)  # the server closes connections when it hears of their end
    assert left()[0] <= threads + 8
    assert "Traceback" not in server.log, server.log


def test_a_rate_at_a_median_is_taken_from_those_on_either_side(load: ModuleType) -> None:
    points = [(1.0, 100.0), (3.0, 300.0), (9.0, 360.0)]
    assert load.at_median(points, 2.0) == 200.0
    assert load.at_median(points, 6.0) == 330.0
    assert load.at_median(points, 0.5) == 100.0
    assert load.at_median(points, 20.0) == 360.0


def test_the_image_needs_only_what_the_project_has() -> None:
    text = (EXAMPLE / "Dockerfile").read_text()
    copied = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY")]
    assert all(list(ROOT.glob(pattern)) for patterns in copied for pattern in patterns)
