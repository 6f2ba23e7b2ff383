"""Helpers of several test modules: an op that fails, and turns of the loop."""

import asyncio
from typing import Any

import numpy as np

import engine


@engine.op
def explode(x: np.ndarray[Any, Any], message: str = "boom") -> np.ndarray[Any, Any]:
    """Raise a `KeyError` with this message."""
    raise KeyError(message)


async def turns(count: int = 20) -> None:
    """Let the loop turn so many times, and the engine with it."""
    for _ in range(count):
        await asyncio.sleep(0)
