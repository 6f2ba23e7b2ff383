"""Helpers of several test modules: an op that fails, turns of the loop, samples of slow sweeps."""

import asyncio
import os
import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

import engine

T = TypeVar("T")

SWEEP_SEED = os.environ.setdefault("SWEEP_SEED", str(random.randrange(1_000_000)))
"""Chooses the samples; all processes of a run inherit it."""


WHOLE_SWEEPS = os.environ.get("SWEEP") == "all"


def sampled(cases: Sequence[T], count: int, of: str = "") -> list[T]:
    """Choose so many cases of a slow sweep; all of them where the environment says SWEEP=all.

    Sweeps of several functions have another sample for each, which is named by `of`.
    """
    if WHOLE_SWEEPS:
        return list(cases)
    chosen = random.Random(f"{SWEEP_SEED}{of}").sample(range(len(cases)), count)
    return [cases[index] for index in sorted(chosen)]


def examples(whole: int, sample: int) -> int:
    """Say how many examples or steps a slow sweep has: all that it is worth, or a sample of them."""
    return whole if WHOLE_SWEEPS else sample


@engine.op
def explode(x: np.ndarray[Any, Any], message: str = "boom") -> np.ndarray[Any, Any]:
    """Raise a `KeyError` with this message."""
    raise KeyError(message)


async def reached(condition: Callable[[], bool]) -> None:
    """Let the loop turn until a condition holds, however long a busy machine takes to it."""
    while not condition():  # noqa: ASYNC110 - there is no event for what a test looks at
        await asyncio.sleep(0)


async def turns(count: int = 20) -> None:
    """Let the loop turn so many times, and the engine with it."""
    for _ in range(count):
        await asyncio.sleep(0)
