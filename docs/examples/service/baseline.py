"""The same service without the engine: NumPy in the coroutine, or in `asyncio.to_thread`.

`SERVICE_THREADS=all` computes everything in threads, as one does who cannot tell what is small; with `large` what is
known to be small is computed in the coroutine, which is the best that one can do by hand.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import numpy as np
from compute import payments, present_value, profile, similar, step, toned_file
from data import FEATURES, ROWS, Data
from fastapi import Body, FastAPI, Query, Request, Response
from fastapi.responses import StreamingResponse

data = Data(int(os.environ.get("SERVICE_ROWS", ROWS)))
threads = os.environ.get("SERVICE_THREADS", "none")
app = FastAPI()


async def compute(function: Callable[..., Any], *args: Any, small: bool = False) -> Any:
    """Compute something the way that this service does it."""
    if threads == "all" or (threads == "large" and not small):
        return await asyncio.to_thread(function, *args)
    return function(*args)


@app.get("/health")
async def health() -> dict[str, Any]:
    return {"status": "ok", "process": os.getpid()}


@app.get("/search")
async def search(item: int, top: int = 10) -> dict[str, Any]:
    rows, scores = await compute(similar, data.catalogue, data.catalogue[item], top)
    return {"items": rows.tolist(), "scores": scores.tolist()}


@app.post("/image")
async def image(request: Request) -> Response:
    content = await compute(toned_file, await request.body())
    return Response(content, media_type="application/octet-stream")


@app.get("/value")
async def value(payment: float, years: int, rate: float) -> dict[str, float]:
    yearly = payments(payment, years)
    return {"value": float(await compute(present_value, yearly, np.float64(rate), small=True))}


@app.post("/predict")
async def predict(features: Annotated[list[float], Body(min_length=FEATURES, max_length=FEATURES)]) -> dict[str, Any]:
    (probabilities,) = await compute(data.model.predict_proba, np.array([features]))
    return {"digit": int(probabilities.argmax()), "probability": float(probabilities.max())}


@app.get("/profile")
async def catalogue_profile() -> dict[str, list[float]]:
    mean, spread, least, most = (await compute(profile, data.catalogue)).tolist()
    return {"mean": mean, "spread": spread, "min": least, "max": most}


@app.get("/eigenvalue")
async def eigenvalue(steps: Annotated[int, Query(ge=1)] = 20) -> StreamingResponse:
    async def events() -> AsyncIterator[str]:
        vector: Any = data.start
        for number in range(steps):
            vector, length = await compute(step, data.matrix, vector)
            yield f"data: {json.dumps({'step': number, 'value': float(length)})}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")
