"""`python -m benchmarks.requests`: what a request costs and saves in a service. Trust the ratios.

Everything that is compared is measured in turn. `--quick` does less of everything.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import http.client
import importlib
import json
import resource
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from statistics import median
from time import perf_counter, sleep
from typing import Any

import numpy as np

import engine
from benchmarks.measure import percentile
from engine import ops
from engine.asgi import ScopeMiddleware
from engine.testing import GateOp

Call = Callable[[Any], Awaitable[Any]]


def nothing() -> dict[str, Any]:
    """The message of a request without a body."""
    return {"type": "http.request", "body": b"", "more_body": False}


async def empty(scope: Any, receive: Any, send: Any) -> None:
    """An endpoint that does nothing."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def middleware(quick: bool) -> dict[str, float]:
    """Microseconds that the middleware adds to an empty endpoint."""
    scope = {"type": "http", "path": "/", "headers": []}

    async def receive() -> Any:
        return nothing()

    async def send(message: Any) -> None: ...

    async with engine.Executor(execution_mode=engine.ASYNC) as executor:
        protected = ScopeMiddleware(empty, executor, timeout=5.0)

        async def seconds(app: Any, count: int = 500) -> float:
            began = perf_counter()
            for _ in range(count):
                await app(scope, receive, send)
            return (perf_counter() - began) / count

        pairs = [(await seconds(protected), await seconds(empty)) for _ in range(5 if quick else 40)]
    added = [with_it - without for with_it, without in pairs]
    return {"median us": median(added) * 1e6, "least us": min(added) * 1e6}


protected = ScopeMiddleware(empty, timeout=5.0)


async def both(scope: Any, receive: Any, send: Any) -> None:
    """The empty endpoint, and below `/protected` the same behind the middleware: for a server without a lifespan."""
    await (protected if scope["path"] == "/protected" else empty)(scope, receive, send)


def served(quick: bool) -> dict[str, float]:
    """Microseconds that the middleware adds to an empty endpoint under uvicorn, asked over one connection in turn."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    command = [sys.executable, "-m", "uvicorn", "benchmarks.requests:both", "--port", str(port), "--lifespan", "off"]
    with subprocess.Popen([*command, "--log-level", "warning"]) as server:
        try:
            return _asked_in_turn(port, 20 if quick else 150)
        finally:
            server.terminate()


def _asked_in_turn(port: int, pairs: int) -> dict[str, float]:
    ends = perf_counter() + 60.0
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.connect()
            break
        except OSError:
            if perf_counter() > ends:
                raise
            sleep(0.05)

    def seconds(path: str, count: int = 20) -> float:
        began = perf_counter()
        for _ in range(count):
            connection.request("GET", path)
            connection.getresponse().read()
        return (perf_counter() - began) / count

    seconds("/plain", 200), seconds("/protected", 200)
    taken = [(seconds("/protected"), seconds("/plain")) for _ in range(pairs)]
    connection.close()
    return {
        "plain, median us": median(plain for _, plain in taken) * 1e6,
        "median of what is added, us": median(with_it - plain for with_it, plain in taken) * 1e6,
        "least us": (min(with_it for with_it, _ in taken) - min(plain for _, plain in taken)) * 1e6,
    }


async def disconnection(quick: bool) -> dict[str, float]:
    """Milliseconds from word that a client has gone until its 1,000 queued ops are dropped."""
    times: list[float] = []
    async with engine.Executor(execution_mode=engine.ASYNC) as executor:
        for _ in range(5 if quick else 30):
            gate = GateOp()
            last: list[Any] = []

            async def app(scope: Any, receive: Any, send: Any, gate: GateOp = gate, last: list[Any] = last) -> None:
                handle: Any = gate(1)
                for _ in range(1_000):
                    handle = handle + 1
                last.append(handle)
                await handle

            inbox: asyncio.Queue[Any] = asyncio.Queue()
            inbox.put_nowait(nothing())

            async def send(message: Any) -> None: ...

            served = ScopeMiddleware(app, executor)
            task = asyncio.create_task(served({"type": "http", "path": "/", "headers": []}, inbox.get, send))
            await asyncio.to_thread(gate.wait_entered)
            began = perf_counter()
            inbox.put_nowait({"type": "http.disconnect"})
            await task
            assert last[0].is_ready()
            times.append(perf_counter() - began)
            gate.open()
    return {"median ms": median(times) * 1e3, "longest ms": max(times) * 1e3}


async def _closed_loop(call: Call, rows: Any, clients: int, seconds: float) -> tuple[float, float]:
    """Calls a second, and the median of their milliseconds."""
    times: list[float] = []
    ends = perf_counter() + seconds

    async def client(number: int) -> None:
        while (began := perf_counter()) < ends:
            await call(rows[number % len(rows)])
            times.append(perf_counter() - began)

    await asyncio.gather(*map(client, range(clients)))
    return len(times) / seconds, percentile(times, 0.5) * 1e3


async def model(quick: bool) -> dict[str, float]:
    """A scikit-learn model: calls a second at equal medians, batched and one call each."""
    data, bayes, pipelines, scaling = (
        importlib.import_module(f"sklearn.{name}") for name in ("datasets", "naive_bayes", "pipeline", "preprocessing")
    )
    digits, labels = data.load_digits(return_X_y=True)
    steps = scaling.StandardScaler(), bayes.GaussianNB(var_smoothing=0.1)
    fitted: Any = pipelines.make_pipeline(*steps).fit(digits, labels)
    rows = list(digits[:100])
    batched = engine.batched(fitted.predict_proba)

    async def alone(row: Any) -> Any:
        return await asyncio.to_thread(fitted.predict_proba, row[None])

    seconds = 0.5 if quick else 2.0
    found: dict[str, float] = {}
    async with engine.Executor(execution_mode=engine.ASYNC):
        for clients in (1, 4, 16, 64):
            rounds = [
                (await _closed_loop(batched, rows, clients, seconds), await _closed_loop(alone, rows, clients, seconds))
                for _ in range(1 if quick else 3)
            ]
            for name, side in (("batched", 0), ("to_thread", 1)):
                found[f"{name}, {clients} clients /s"] = median(each[side][0] for each in rounds)
                found[f"{name}, {clients} clients p50 ms"] = median(each[side][1] for each in rounds)
    return found


CHAIN = 2_000_000
"""Elements of each request's own array in the memory row."""


def _chain(x: Any) -> Any:
    return np.sum(np.sqrt(x * 2.0 + 1.0) - x / 3.0)


async def many(side: str, clients: int) -> dict[str, float]:
    """One process: so many requests at once, each with an array of its own; peak memory and times."""
    array = np.random.default_rng(0).random(CHAIN // 10)
    times: list[float] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        own = array + scope["number"]
        own.flags.writeable = False
        if side == "eagerloop":
            await _chain(ops.asarray(own))
        else:
            await asyncio.to_thread(_chain, own)
        await empty(scope, receive, send)

    async def send(message: Any) -> None: ...

    async def client(app: Any, number: int) -> None:
        for _ in range(3):
            inbox: asyncio.Queue[Any] = asyncio.Queue()
            inbox.put_nowait(nothing())
            began = perf_counter()
            await app({"type": "http", "path": "/", "headers": [], "number": number}, inbox.get, send)
            times.append(perf_counter() - began)

    async with engine.Executor(execution_mode=engine.ASYNC) as executor:
        served = ScopeMiddleware(app, executor) if side == "eagerloop" else app
        await client(served, 0)
        gc.collect()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        times.clear()
        await asyncio.gather(*(client(served, number) for number in range(clients)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak MB": peak / 1024, "above idle MB": (peak - before) / 1024, "p99 ms": percentile(times, 0.99) * 1e3}


def memory(quick: bool) -> dict[str, float]:
    """400 requests at once, in a process for each side."""
    found: dict[str, float] = {}
    for side in ("eagerloop", "to_thread"):
        command = [sys.executable, "-m", "benchmarks.requests", "--many", side, "40" if quick else "400"]
        text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout
        found |= {f"{side}, {name}": figure for name, figure in json.loads(text).items()}
    return found


ROWS: dict[str, Callable[[bool], Any]] = {
    "middleware": middleware,
    "served": served,
    "disconnection": disconnection,
    "model": model,
    "memory": memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.requests", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--many", nargs=2, metavar=("SIDE", "CLIENTS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.many:
        side, clients = options.many
        print(json.dumps(asyncio.run(many(side, int(clients)))))
        return
    for name in options.only:
        row = ROWS[name]
        print((row.__doc__ or name).strip())
        result = row(options.quick)
        for what, figure in (asyncio.run(result) if asyncio.iscoroutine(result) else result).items():
            print(f"  {what:<40}{figure:>12.4g}", flush=True)


if __name__ == "__main__":
    main()
