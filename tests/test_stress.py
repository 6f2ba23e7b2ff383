"""Stress: several loops and threads use the engine at once, and values, backlogs and slots are right in the end.

Each task and thread plays random steps by a seed: chains, users' functions, async ops, sorts, other devices, failures,
cancellations, scopes with priorities and deadlines, waits that are given up. Each value that comes out is compared with
plain NumPy's.
"""

import asyncio
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.queues import forking
from engine.threads.slots import core_slots
from handles import Handle

LIMIT = 120.0
"""Seconds until a program counts as hung."""
SEEDS = range(int(os.environ.get("STRESS", "3")))
Pair = tuple[Any, np.ndarray[Any, Any]]
LARGE = np.random.default_rng(0).random(200_000)
LARGE.flags.writeable = False


class Planned(Exception):
    """The error of an op that is to fail."""


@engine.op
def naps(x: Any) -> Any:
    time.sleep(0.001)
    return x + 1


@engine.op(max_concurrency=2)
def two_at_once(x: Any) -> Any:
    return x * 1


@engine.op
async def turns(x: Any) -> Any:
    await asyncio.sleep(0)
    return x + 0


@engine.op
def fails(x: Any) -> Any:
    raise Planned


def elsewhere(chance: random.Random, handle: Any, value: Any) -> Pair:
    with engine.device(f"CPU:{chance.randrange(3)}"):  # soft placement: there may be fewer
        return handle * 2, value * 2


STEPS: tuple[tuple[int, Callable[[random.Random, Any, Any], Pair]], ...] = (
    (8, lambda _, handle, value: (handle + 1, value + 1)),
    (4, lambda _, handle, value: (handle - 1, value - 1)),
    (2, lambda _, handle, value: (naps(handle), value + 1)),
    (1, lambda _, handle, value: (two_at_once(handle), value)),
    (1, lambda _, handle, value: (turns(handle), value)),
    (2, lambda _, handle, value: (ops.sort(handle), np.sort(value))),
    (1, elsewhere),
    (1, lambda _, handle, value: (ops.asarray(LARGE) + 0, LARGE)),
)
"""How often each is taken, and the step."""


class Player:
    """Plays random steps by a seed, and compares what comes out."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.compared = 0

    def start(self) -> list[Pair]:
        value = np.full(4, float(self.chance.randrange(100)))
        return [(ops.asarray(value), value)]

    def step(self, pairs: list[Pair]) -> None:
        """Dispatch one more op on something that is there."""
        weights = [weight for weight, _ in STEPS]
        _, make = self.chance.choices(STEPS, weights)[0]
        pairs.append(make(self.chance, *self.chance.choice(pairs)))

    def check(self, got: Any, value: Any) -> None:
        np.testing.assert_array_equal(got, value)
        self.compared += 1

    async def play(self) -> None:
        """Some rounds, each in a scope or in none."""
        for _ in range(6):
            try:
                if self.chance.random() < 0.5:
                    async with engine.scope(self.chance.choice([None, 5.0]), priority=self.chance.randrange(3)):
                        await self.round()
                else:
                    await self.round()
            except* (
                Planned,
                engine.OpCancelledError,
                engine.QueueFullError,
            ):  # full: all that is pending waits for async ops
                pass

    async def round(self) -> None:
        pairs = self.start()
        for _ in range(self.chance.randrange(40)):
            self.step(pairs)
            what = self.chance.random()
            if what < 0.1:
                await asyncio.sleep(0)
            elif what < 0.15:
                pairs.pop()[0].cancel()
            elif what < 0.18:
                with pytest.raises(Planned):
                    await fails(pairs[0][0])
        for handle, value in self.chance.sample(pairs, min(5, len(pairs))):
            try:
                await asyncio.wait_for(handle.wait_ready(), self.chance.choice([None, 0.0001, 5]))
                self.check(await handle, value)
            except (TimeoutError, engine.OpCancelledError):
                pass

    def play_blocking(self) -> None:
        pairs = self.start()
        for _ in range(100):
            self.step(pairs)
            if self.chance.random() < 0.1:
                handle, value = pairs[-1]
                try:
                    self.check(handle.result(LIMIT), value)
                except engine.BlockingSyncError:  # an async op whose loop cannot run it meanwhile
                    pass
        engine.wait()


async def tasks(seed: int) -> int:
    """Twenty players on one loop; some are cancelled on the way."""
    players = [Player(seed * 1000 + number) for number in range(20)]
    running = [asyncio.create_task(player.play()) for player in players]
    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    for each in running[::5]:
        each.cancel()
    outcomes = await asyncio.gather(*running, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
            raise outcome
    try:
        await engine.synchronize()
    except* (Planned, engine.OpCancelledError):
        pass
    return sum(player.compared for player in players)


@pytest.mark.sweep
@pytest.mark.parametrize("seed", SEEDS)
def test_loops_and_threads_that_use_the_engine_at_once_get_their_values(seed: int) -> None:
    chance = random.Random(seed)
    engine.enable_eager_execution(
        engine.Config(
            device_count={"CPU": chance.choice([1, 2, 3])},
            max_pending_ops=chance.choice([50, 500, 32_768]),
            inter_op_parallelism_threads=chance.choice([0, 0, 1, 2]),
        ),
        execution_mode=engine.ASYNC,
    )
    compared: list[int] = []
    problems: list[BaseException] = []

    def catching(play: Callable[[], int]) -> Callable[[], None]:
        def run() -> None:
            try:
                compared.append(play())
            except BaseException as problem:  # noqa: BLE001 - raised in the test's own thread
                problems.append(problem)

        return run

    def blocking() -> int:
        player = Player(seed + 7)
        player.play_blocking()
        return player.compared

    plays = [lambda: asyncio.run(tasks(seed)), lambda: asyncio.run(tasks(seed + 1)), blocking]
    threads = [threading.Thread(target=catching(play), daemon=True) for play in plays]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert not any(thread.is_alive() for thread in threads), f"seed {seed} hangs"
    if problems:
        raise problems[0]
    assert min(compared) > 0
    ends = time.monotonic() + LIMIT
    while any(queue.running() for queue in list(forking.queues)) or core_slots.taken:
        assert time.monotonic() < ends, f"seed {seed}: what was abandoned never ended"
        time.sleep(0)
    for queue in list(forking.queues):
        with queue.lock:
            queue.demands.take()
            queue.backlog.check()


def test_a_step_of_each_kind_gives_what_numpy_gives() -> None:
    engine.enable_eager_execution(execution_mode=engine.SYNC)
    for _, make in STEPS:
        handle, value = make(random.Random(0), ops.asarray(np.arange(4.0)), np.arange(4.0))
        assert isinstance(handle, Handle)
        np.testing.assert_array_equal(np.asarray(handle), value)
