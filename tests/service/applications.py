"""Applications of several frameworks behind the middleware, for real servers: the environment says
which one `app` is.

`/add` computes, `/slow` takes long, `/body` gives back the length of what it was sent, `/stream` sends events;
`/counts` tells what was dropped; `/health`, which is excluded, does as well.
"""

import asyncio
import importlib
import json
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np

import engine
from engine import ops
from engine.asgi import ScopeMiddleware

TIMEOUT = float(os.environ.get("TIMEOUT", "30"))


def executor() -> engine.Executor:
    """What each life of an application has."""
    config = engine.Config(max_pending_ops=int(os.environ.get("PENDING_OPS", "1000")))
    return engine.Executor(config, execution_mode=engine.ASYNC)


async def add() -> float:
    return float(await ops.sum(ops.arange(10.0) + 1.0))


@engine.op(max_concurrency=2)
def nap(x: Any) -> Any:
    event.wait(0.05)
    return x


event = importlib.import_module("threading").Event()


async def slow() -> float:
    handle: Any = ops.asarray(1.0)
    for _ in range(500):
        handle = nap(handle)
    return float(await handle)


async def events() -> AsyncIterator[bytes]:
    for number in range(3):
        yield f"data: {float(await (ops.asarray(float(number)) * 2.0))}\n\n".encode()


def counts() -> dict[str, Any]:
    served = engine.asgi.statistics()
    return {
        "process": os.getpid(),
        "active": served.active,
        "disconnected": served.disconnected,
        "dropped_ops": served.dropped_ops,
        "expired": served.expired,
        "refused": served.refused,
    }


def starlette() -> Any:
    applications, responses, routing = (
        importlib.import_module(f"starlette.{name}") for name in ("applications", "responses", "routing")
    )
    answer = responses.JSONResponse

    async def adds(request: Any) -> Any:
        return answer(await add())

    async def slows(request: Any) -> Any:
        return answer(await slow())

    async def body(request: Any) -> Any:
        return answer(len(await request.body()))

    async def stream(request: Any) -> Any:
        return responses.StreamingResponse(events(), media_type="text/event-stream")

    async def tells(request: Any) -> Any:
        return answer(counts())

    async def echo(websocket: Any) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(str(float(await ops.sqrt(float(text)))))

    routes = [
        routing.Route("/add", adds),
        routing.Route("/slow", slows),
        routing.Route("/body", body, methods=["POST"]),
        routing.Route("/stream", stream),
        routing.Route("/counts", tells),
        routing.Route("/health", tells),
        routing.WebSocketRoute("/echo", echo),
    ]
    app = applications.Starlette(routes=routes)
    app.add_middleware(ScopeMiddleware, executor=executor, timeout=TIMEOUT)
    return app


def fastapi() -> Any:
    module = importlib.import_module("fastapi")
    responses = importlib.import_module("fastapi.responses")
    app = module.FastAPI()
    app.add_middleware(ScopeMiddleware, executor=executor, timeout=TIMEOUT)
    app.get("/add")(add)
    app.get("/slow")(slow)
    app.get("/counts")(counts)
    app.get("/health")(counts)

    async def body(request: Any) -> int:
        return len(await request.body())

    body.__annotations__["request"] = module.Request
    app.post("/body")(body)

    async def stream() -> Any:
        return responses.StreamingResponse(events(), media_type="text/event-stream")

    app.get("/stream", response_model=None)(stream)

    def threaded() -> float:
        return float(np.asarray(ops.sum(ops.arange(10.0) + 1.0)))

    app.get("/threaded")(threaded)
    return app


def litestar() -> Any:
    module = importlib.import_module("litestar")
    responses = importlib.import_module("litestar.response")

    async def body(request: Any) -> int:
        return len(await request.body())

    body.__annotations__["request"] = module.Request

    async def stream() -> Any:
        return responses.Stream(events(), media_type="text/event-stream")

    stream.__annotations__["return"] = responses.Stream
    handlers: list[Any] = [
        module.get("/add")(add),
        module.get("/slow")(slow),
        module.get("/counts", sync_to_thread=False)(counts),
        module.get("/health", sync_to_thread=False)(counts),
        module.get("/stream")(stream),
        module.post("/body", status_code=200)(body),
    ]
    return ScopeMiddleware(module.Litestar(handlers, openapi_config=None), executor, timeout=TIMEOUT)


def quart() -> Any:
    module = importlib.import_module("quart")
    app = module.Quart("service")

    def route(path: str, function: Callable[[], Any], **options: Any) -> None:
        async def endpoint() -> Any:
            result = function()
            value = await result if asyncio.iscoroutine(result) else result
            return module.Response(json.dumps(value), mimetype="application/json")

        endpoint.__name__ = path.strip("/")
        app.route(path, **options)(endpoint)

    async def body() -> int:
        return len(await module.request.get_data())

    async def stream() -> Any:
        return module.Response(events(), mimetype="text/event-stream")

    for path, function in {"/add": add, "/slow": slow, "/counts": counts, "/health": counts}.items():
        route(path, function)
    route("/body", body, methods=["POST"])
    app.route("/stream")(stream)
    app.asgi_app = ScopeMiddleware(app.asgi_app, executor, timeout=TIMEOUT)
    return app


_MAKERS: dict[str, Callable[[], Any]] = {
    "starlette": starlette,
    "fastapi": fastapi,
    "litestar": litestar,
    "quart": quart,
}


if "FRAMEWORK" in os.environ:  # in the process of a server
    app = _MAKERS[os.environ["FRAMEWORK"]]()
