"""A service that computes: `uvicorn app:app`, in this folder.

One line, the middleware, gives each request a scope: its work is dropped when the client goes, it is answered 504 when
it takes too long and 503 when the service is full. One decorator, `engine.batched`, makes one call of many: searches
at the same time read the catalogue once, predictions call the model once. `engine.function` dispatches many ops as one.
"""

import json
import os
from collections.abc import AsyncIterator
from typing import Annotated, Any

import numpy as np
import prometheus_client
from compute import LONGEST, best, payments, present_value, profile, step, toned_file
from data import FEATURES, ROWS, Data
from fastapi import Body, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import StreamingResponse

import engine
from engine import observe, ops

data = Data(int(os.environ.get("SERVICE_ROWS", ROWS)))
config = engine.Config(
    intra_op_parallelism_threads=1,  # the requests themselves keep the cores busy
    max_pending_ops=int(os.environ.get("SERVICE_PENDING_OPS", "4096")),
)
timeout = float(os.environ.get("SERVICE_TIMEOUT", "10"))

app = FastAPI(title="A service that computes")


def priority(scope: Any) -> int:
    """Small requests go first."""
    return 1 if scope["path"] in ("/value", "/predict") else 0


app.add_middleware(
    engine.asgi.ScopeMiddleware,
    executor=lambda: engine.Executor(config, execution_mode=engine.ASYNC),
    timeout=timeout,
    priority=priority,
    exclude=("/health", "/metrics", "/live"),
)


observe.prometheus()
app.mount("/metrics", prometheus_client.make_asgi_app())
app.mount("/live", observe.dashboard())


@app.get("/health")
async def health(request: Request) -> dict[str, Any]:
    """How it is: answered by the loop alone, while anything is computed."""
    statistics = request.state.executor.statistics()
    served = engine.asgi.statistics()
    return {
        "status": "ok",
        "process": os.getpid(),
        "pending": statistics.pending,
        "requests": {"active": served.active, "completed": served.completed, "refused": served.refused},
        "disconnected": served.disconnected,
        "dropped_ops": served.dropped_ops,
    }


@engine.batched(max_size=32)
def similar(vectors: Any, *, top: int) -> Any:
    """The rows of the catalogue most like each vector of (calls, features), and their scores: (calls, top) each."""
    scores = np.matmul(data.blocks, vectors.T).reshape(len(data.catalogue), -1)
    return best(np.ascontiguousarray(scores.T), top)


@app.get("/search")
async def search(item: Annotated[int, Query(ge=0)], top: Annotated[int, Query(ge=1, le=100)] = 10) -> dict[str, Any]:
    """The items of the catalogue that are most like one of them."""
    if item >= len(data.catalogue):
        raise HTTPException(404, f"there are {len(data.catalogue)} items")
    rows, scores = await similar(data.catalogue[item], top=top)
    return {"items": rows.tolist(), "scores": scores.tolist()}


@engine.op
def tones(content: bytes) -> Any:
    """A .npy file of an image with its tones mapped, as an array of bytes: read, computed and written on a worker."""
    return np.frombuffer(toned_file(content), np.uint8)


@app.post("/image")
async def image(request: Request) -> Response:
    """An image with its tones mapped: .npy of uint8 (height, width, 3) in, and out."""
    try:
        content = await tones(await request.body())
    except ValueError as error:
        raise HTTPException(422, str(error)) from None
    return Response(content.tobytes(), media_type="application/octet-stream")


worth = engine.function(present_value)


@app.get("/value")
async def value(payment: float, years: Annotated[int, Query(ge=1, le=LONGEST)], rate: float) -> dict[str, float]:
    """What a yearly payment is worth today: a few small ops."""
    return {"value": float(await worth(payments(payment, years), np.float64(rate)))}


@engine.batched(max_size=64)
def classify(digits: Any) -> Any:
    """The probability of each class for digits of (calls, 64)."""
    return data.model.predict_proba(digits)


@app.post("/predict")
async def predict(features: Annotated[list[float], Body(min_length=FEATURES, max_length=FEATURES)]) -> dict[str, Any]:
    """Which digit an image of 8 x 8 shows: calls that come at the same time are one call of the model."""
    probabilities = await classify(np.array(features))
    return {"digit": int(probabilities.argmax()), "probability": float(probabilities.max())}


@engine.op(coalesce=True)
def profiled(catalogue: Any) -> Any:
    """The profile of the catalogue; requests that come at the same time share one."""
    return profile(catalogue)


@app.get("/profile")
async def catalogue_profile() -> dict[str, list[float]]:
    """Statistics of the catalogue, by feature."""
    mean, spread, least, most = (await profiled(data.catalogue)).tolist()
    return {"mean": mean, "spread": spread, "min": least, "max": most}


@app.get("/eigenvalue")
async def eigenvalue(steps: Annotated[int, Query(ge=1, le=10_000)] = 20) -> StreamingResponse:
    """An eigenvalue, as it becomes better: server-sent events. The scope ends with the last of them."""

    async def events() -> AsyncIterator[str]:
        vector: Any = ops.asarray(data.start)
        for number in range(steps):
            vector, length = step(data.matrix, vector)
            yield f"data: {json.dumps({'step': number, 'value': float(await length)})}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")
