"""Random programs give NumPy's bits, and NumPy's errors, in each mode, on one device and on two, on loops and off."""

import asyncio
import functools
import random
import threading
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import engine
import engine.testing
from tests.common import examples, sampled
from tests.programs.maker import make_program
from tests.programs.model import Program, quiet
from tests.programs.player import Player
from tests.programs.reading import Awaiting, Blocking, run_blocking

STEPS = examples(10_000, 4_000)
SEEDS = sampled(range(5), 1)

CONFIGS = {
    "several ops of a device at once": {"inter_op_parallelism_threads": 3},
    "one op of a device at once": {"inter_op_parallelism_threads": 1},
    "low marks": {"max_pending_ops": 16, "max_pending_bytes": 10_000},
    "one thread": {"intra_op_parallelism_threads": 1},
}
"""Other ways of running the same programs."""


@functools.cache
def program_of(seed: int, steps: int = STEPS) -> Program:
    return make_program(random.Random(seed), steps)


def enable(mode: engine.ExecutionMode, devices: int = 1, **options: Any) -> None:
    engine.enable_eager_execution(engine.Config(device_count={"CPU": devices}, **options), execution_mode=mode)


def play_blocking(program: Program, devices: int) -> Player:
    player = Player(program, Blocking(), devices=devices, one_by_one=devices == 1)
    run_blocking(player.play())
    return player


def in_a_thread(program: Program, devices: int) -> Player:
    """Play in a new thread, which has a default executor of its own, and no loop."""
    outcome: list[Player | BaseException] = []

    def target() -> None:
        try:
            outcome.append(play_blocking(program, devices))
        except BaseException as error:  # noqa: BLE001 - handed to the test
            outcome.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


@pytest.mark.parametrize("seed", SEEDS)
def test_programs_have_values_failures_and_large_arrays(seed: int) -> None:
    program = program_of(seed)
    failed = [expected for expected in program.expected.values() if expected.problems]
    kinds = {problem.kind for expected in failed for problem in expected.problems}
    assert len(program.steps) == STEPS
    assert 0.02 < len(failed) / len(program.expected) < 0.3
    assert len(kinds) >= 7
    assert len({step.name for step in program.steps}) > 70
    assert {"read", "cancel", "barrier", "aside", "leave", "join"} <= {
        action.name for step in program.steps for action in step.actions
    }


@pytest.mark.sweep(one_in=2)
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("seed", SEEDS)
def test_sync_programs_are_numpy(seed: int, devices: int) -> None:
    enable(engine.SYNC, devices)
    assert play_blocking(program_of(seed), devices).read > STEPS // 20


@pytest.mark.sweep(one_in=2)
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("seed", SEEDS)
def test_async_programs_without_a_loop_are_numpy(seed: int, devices: int) -> None:
    enable(engine.ASYNC, devices)
    assert in_a_thread(program_of(seed), devices).read > STEPS // 20


@pytest.mark.sweep(one_in=2)
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("seed", SEEDS)
async def test_async_programs_on_a_loop_are_numpy(seed: int, devices: int) -> None:
    enable(engine.ASYNC, devices)
    player = Player(program_of(seed), Awaiting(), devices=devices, one_by_one=devices == 1)
    await player.play()
    assert player.read > STEPS // 20


@pytest.mark.sweep
@pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS)
async def test_no_configuration_changes_a_bit(options: dict[str, Any]) -> None:
    enable(engine.ASYNC, 2, **options)
    await Player(program_of(5, 2_000), Awaiting(), devices=2, one_by_one=False).play()


@pytest.mark.sweep(one_in=2)
@pytest.mark.parametrize("mode", engine.ExecutionMode)
async def test_programs_of_several_threads_and_a_loop_at_once_are_numpy(mode: engine.ExecutionMode) -> None:
    enable(mode, 2, inter_op_parallelism_threads=2)
    others = [asyncio.to_thread(in_a_thread, program_of(seed, 1_000), 2) for seed in (6, 7)]
    player = Player(program_of(8, 1_000), Awaiting(), devices=2, one_by_one=False)
    with quiet():  # of the whole process: those of the programs may be left in any order
        await asyncio.gather(*others, player.play())
    assert player.read > 50


@settings(max_examples=examples(100, 50), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    source=st.randoms(use_true_random=False),
    steps=st.integers(1, 25),
    devices=st.integers(1, 2),
    mode=st.sampled_from(engine.ExecutionMode),
)
def test_small_programs_are_numpy(source: random.Random, steps: int, devices: int, mode: engine.ExecutionMode) -> None:
    engine.testing.reset()
    enable(mode, devices)
    play_blocking(make_program(source, steps, values=6), devices)
