"""Helpers of several test modules: an op that fails, turns of the loop, samples of slow sweeps."""

import asyncio
import os
import random
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

import engine

T = TypeVar("T")

SWEEP_SEED = os.environ.setdefault("SWEEP_SEED", str(random.randrange(1_000_000)))
"""Chooses the samples; all processes of a run inherit it."""


def sampled(cases: Sequence[T], count: int) -> list[T]:
    """Choose so many cases of a slow sweep; all of them where the environment says SWEEP=all."""
    if os.environ.get("SWEEP") == "all":
        return list(cases)
    chosen = random.Random(SWEEP_SEED).sample(range(len(cases)), count)
    return [cases[index] for index in sorted(chosen)]


@engine.op
def explode(x: np.ndarray[Any, Any], message: str = "boom") -> np.ndarray[Any, Any]:
    """Raise a `KeyError` with this message."""
    raise KeyError(message)


async def turns(count: int = 20) -> None:
    """Let the loop turn so many times, and the engine with it."""
    for _ in range(count):
        await asyncio.sleep(0)
