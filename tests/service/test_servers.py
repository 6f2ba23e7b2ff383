"""`ScopeMiddleware` under real frameworks and real servers, over sockets."""

import base64
import importlib.util
import os
import signal
import socket
import struct
import threading
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.service.servers import (
    HOST,
    ROOT,
    Server,
    free_port,
    get_request,
    gunicorn,
    hypercorn,
    need,
    serving,
    uvicorn,
    wait_until,
)

FRAMEWORKS = ("starlette", "fastapi", "litestar", "quart")
APP = "tests.service.applications:app"


GUNICORN_WORKERS = ("uvicorn_worker.UvicornWorker", "uvicorn.workers.UvicornWorker")


def is_importable(module: str) -> bool:
    """Whether there is such a module."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def check_answers(server: Server) -> None:
    """What every framework answers on every server."""
    assert server.json("/add") == 55.0
    assert server.json("/body", b"x" * 300_000) == 300_000
    assert server.get("/stream") == (200, b"data: 0.0\n\ndata: 2.0\n\ndata: 4.0\n\n")


def check_disconnection(server: Server) -> None:
    """A client that goes has its work dropped, and the log says nothing of it."""
    before = server.json("/counts")
    server.hang_up(get_request("/slow"), lambda: server.json("/health")["active"] >= 1)
    wait_until(lambda: server.json("/health")["disconnected"] == before["disconnected"] + 1)
    dropped = server.json("/health")["dropped_ops"] - before["dropped_ops"]
    assert dropped > 400, dropped
    assert "Traceback" not in server.log, server.log


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_under_uvicorn(framework: str, loop: str, tmp_path: Path) -> None:
    need("uvicorn", framework, loop)
    port = free_port()
    with serving(uvicorn(APP, "--loop", loop, port=port), tmp_path, port, FRAMEWORK=framework) as server:
        check_answers(server)
        check_disconnection(server)


@pytest.mark.parametrize(
    ("framework", "loop"), [("starlette", "asyncio"), ("quart", "asyncio"), ("litestar", "uvloop")]
)
def test_under_hypercorn(framework: str, loop: str, tmp_path: Path) -> None:
    need("hypercorn", framework, loop)
    port = free_port()
    command = hypercorn(APP, "--worker-class", loop, port=port)
    with serving(command, tmp_path, port, FRAMEWORK=framework) as server:
        check_answers(server)
        check_disconnection(server)


def test_endpoints_in_threads_compute_as_well(tmp_path: Path) -> None:
    need("uvicorn", "fastapi")
    port = free_port()
    with serving(uvicorn(APP, port=port), tmp_path, port, FRAMEWORK="fastapi") as server:
        assert server.json("/threaded") == 55.0


def test_a_deadline_is_answered_504(tmp_path: Path) -> None:
    need("uvicorn", "fastapi")
    port = free_port()
    with serving(uvicorn(APP, port=port), tmp_path, port, FRAMEWORK="fastapi", TIMEOUT="0.3") as server:
        assert server.get("/slow")[0] == 504
        wait_until(lambda: server.json("/counts")["expired"] == 1)  # counted when all of it has ended
        assert server.json("/counts")["dropped_ops"] > 400
        assert server.json("/add") == 55.0
        assert "Traceback" not in server.log, server.log


def test_a_full_service_answers_503_and_its_health(tmp_path: Path) -> None:
    need("uvicorn", "starlette")
    port = free_port()
    with serving(uvicorn(APP, port=port), tmp_path, port, FRAMEWORK="starlette", PENDING_OPS="400") as server:
        with socket.create_connection((HOST, port)) as connection:
            connection.sendall(get_request("/slow"))
            wait_until(lambda: server.json("/health")["active"] >= 1)
            wait_until(lambda: server.get("/add")[0] == 503)
            assert server.json("/health")["refused"] >= 1
        wait_until(lambda: server.get("/add")[0] == 200)  # the client has gone: there is room


def test_sigterm_while_busy_lets_requests_end(tmp_path: Path) -> None:
    need("uvicorn", "starlette")
    port = free_port()
    command = uvicorn(APP, "--timeout-graceful-shutdown", "20", port=port)
    with (
        serving(command, tmp_path, port, FRAMEWORK="starlette") as server,
        socket.create_connection((HOST, port)) as connection,
    ):
        connection.sendall(b"POST /body HTTP/1.1\r\nHost: local\r\nContent-Length: 4\r\n\r\nab")
        wait_until(lambda: server.json("/health")["active"] == 1)
        ended = threading.Thread(target=server.stop)
        ended.start()
        wait_until(lambda: not is_open(port))
        connection.sendall(b"cd")  # the request goes on while the server shuts down
        assert b" 200 " in connection.recv(65536)
        ended.join()
        assert server.process.returncode in (0, -signal.SIGTERM)
        assert "Traceback" not in server.log, server.log


def is_open(port: int) -> bool:
    """Whether a server listens."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def test_sigterm_ends_what_does_not_end_within_the_grace_time(tmp_path: Path) -> None:
    need("uvicorn", "starlette")
    port = free_port()
    command = uvicorn(APP, "--timeout-graceful-shutdown", "1", port=port)
    with (
        serving(command, tmp_path, port, FRAMEWORK="starlette") as server,
        socket.create_connection((HOST, port)) as connection,
    ):
        connection.sendall(get_request("/slow"))
        wait_until(lambda: server.json("/health")["active"] == 1)
        assert server.stop() in (0, -signal.SIGTERM)


def processes(server: Server, count: int) -> set[int]:
    """The processes that answer."""
    found: set[int] = set()

    def seen() -> bool:
        found.add(server.json("/counts")["process"])
        return len(found) == count

    wait_until(seen)
    return found


def test_two_workers_have_an_executor_each(tmp_path: Path) -> None:
    need("uvicorn", "fastapi")
    port = free_port()
    with serving(uvicorn(APP, "--workers", "2", port=port), tmp_path, port, FRAMEWORK="fastapi") as server:
        assert len(processes(server, 2)) == 2
        for _ in range(10):
            assert server.json("/add") == 55.0
        server.stop()
        assert "Traceback" not in server.log, server.log


def test_gunicorn_with_the_application_loaded_before_the_fork(tmp_path: Path) -> None:
    need("gunicorn", "uvicorn")
    worker = next((each for each in GUNICORN_WORKERS if is_importable(each.rpartition(".")[0])), None)
    if worker is None:
        pytest.skip("no worker class of gunicorn serves ASGI: uvicorn-worker is not installed")
    port = free_port()
    command = gunicorn(APP, "--preload", "--workers", "2", "-k", worker, port=port)
    with serving(command, tmp_path, port, FRAMEWORK="fastapi") as server:
        assert len(processes(server, 2)) == 2
        for _ in range(10):
            assert server.json("/add") == 55.0


def test_under_gunicorns_own_worker(tmp_path: Path) -> None:
    need("gunicorn", "starlette")
    if not is_importable("gunicorn.workers.gasgi"):
        pytest.skip("this gunicorn has no worker class of its own for ASGI")
    port = free_port()
    with serving(gunicorn(APP, "-k", "asgi", port=port), tmp_path, port, FRAMEWORK="starlette") as server:
        check_answers(server)
        check_disconnection(server)


def test_a_websocket_over_a_socket(tmp_path: Path) -> None:
    need("hypercorn", "starlette")  # which speaks websockets without a further package
    port = free_port()
    with serving(hypercorn(APP, port=port), tmp_path, port, FRAMEWORK="starlette") as server:
        with socket.create_connection((HOST, port)) as connection:
            key = base64.b64encode(os.urandom(16)).decode()
            connection.sendall(
                f"GET /echo HTTP/1.1\r\nHost: local\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
            )
            assert b" 101 " in connection.recv(65536)
            for number in (4, 9):
                connection.sendall(frame(str(number).encode()))
                assert connection.recv(65536)[2:] == str(float(number) ** 0.5).encode()
            assert server.json("/health")["active"] == 1
        wait_until(lambda: server.json("/health")["active"] == 0)
        assert "Traceback" not in server.log, server.log


def frame(text: bytes) -> bytes:
    """A masked text frame of a client."""
    mask = os.urandom(4)
    return struct.pack("!BB", 0x81, 0x80 | len(text)) + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(text))


def test_a_test_client_may_be_opened_twice() -> None:
    need("starlette", "httpx")
    import warnings

    from tests.service import applications

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from starlette.testclient import TestClient

    app: Any = applications.starlette()
    for _ in range(2):
        with TestClient(app) as client:
            assert client.get("/add").json() == 55.0
            assert client.get("/stream").text.count("data") == 3
            with client.websocket_connect("/echo") as websocket:
                websocket.send_text("9")
                assert websocket.receive_text() == "3.0"
    assert TestClient(app).get("/add").json() == 55.0  # without the lifespan


def test_a_server_that_reloads_has_the_new_code_and_an_executor_that_is_open(tmp_path: Path) -> None:
    need("uvicorn", "starlette")
    source = tmp_path / "reloaded.py"
    text = (
        "import engine\nfrom engine import ops\nfrom starlette.applications import Starlette\n"
        "from starlette.responses import JSONResponse\nfrom starlette.routing import Route\n\n\n"
        "async def value(request):\n"
        "    assert request.state.executor.state == 'open'\n"
        "    return JSONResponse(float(await (ops.ones(3) * NUMBER).sum()))\n\n\n"
        "routes = [Route('/value', value), Route('/health', lambda request: JSONResponse('ok'))]\n"
        "app = Starlette(routes=routes)\napp.add_middleware(engine.asgi.ScopeMiddleware)\nNUMBER = 1\n"
    )
    source.write_text(text)
    port = free_port()
    command = uvicorn("reloaded:app", "--reload", "--reload-dir", str(tmp_path), port=port)
    paths = os.pathsep.join((str(ROOT), str(tmp_path)))
    with serving(command, tmp_path, port, PYTHONPATH=paths, PYTHONDONTWRITEBYTECODE="1") as server:
        assert server.json("/value") == 3.0
        with closing(HTTPConnection(HOST, port, timeout=30)) as idle:  # a client that stays does not hold it up
            idle.request("GET", "/value")
            assert idle.getresponse().read() == b"3.0"
            source.write_text(text + "NUMBER = 25\n")
            wait_until(lambda: answers_with(server, 75.0))
        assert "Traceback" not in server.log, server.log


def answers_with(server: Server, value: float) -> bool:
    """Whether a server that may be starting anew answers with this value."""
    try:
        return bool(server.get("/value") == (200, str(value).encode()))
    except OSError:
        return False
