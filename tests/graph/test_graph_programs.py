"""Random programs give NumPy's bits when they are run eagerly, as a graph, and as a function."""

import asyncio
import functools
import random
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pytest

import engine
from tests.programs.maker import make_program
from tests.programs.model import Program, Ref, digest, quiet
from tests.programs.vocabulary import VOCABULARY

STEPS = 400
SEEDS = range(4)
Array = np.ndarray[Any, Any]


@functools.cache
def program_of(seed: int) -> Program:
    return make_program(random.Random(seed), STEPS)


OWN = {"doubled", "halves", "picky", "same", "scribbling"}
"""Steps whose ops are Python functions: the engine cannot merge those with others."""


def results_of(program: Program, inputs: dict[int, Any], without: Collection[str] = ()) -> dict[int, Any]:
    """Call the ops of a program; steps whose NumPy twins fail are left out. `inputs` replaces arrays by number."""
    made: dict[int, Any] = {}
    for index, step in enumerate(program.steps):
        missing = any(isinstance(arg, Ref) and arg.value not in made for arg in step.args)
        if missing or step.name in without or any(program.expected[output].problems for output in step.outputs):
            continue
        operands = [made[arg.value] if isinstance(arg, Ref) else arg for arg in step.args]
        if step.name == "asarray":
            operands = [inputs.get(index, operands[0])]
        result = VOCABULARY[step.name][1](*operands, **step.params)
        made.update(zip(step.outputs, result if isinstance(result, tuple | list) else (result,), strict=True))
    return made


def arrays_of(program: Program) -> dict[int, Array]:
    """The constants of a program that may be given as arguments: by the number of their step."""
    return {
        index: step.args[0]
        for index, step in enumerate(program.steps)
        if step.name == "asarray" and isinstance(step.args[0], np.ndarray)
    }


def check(program: Program, values: dict[int, Array]) -> None:
    assert len(values) > STEPS // 4
    for number, value in values.items():
        expected = program.expected[number]
        assert (str(value.dtype), value.shape) == (expected.dtype, expected.shape), number
        assert digest(value) == expected.digest, number


@pytest.mark.parametrize("seed", SEEDS)
def test_a_graph_gives_the_bits_of_numpy(seed: int) -> None:
    program = program_of(seed)
    inputs = arrays_of(program)
    with quiet(), engine.Session() as session:
        placeholders = {index: engine.placeholder(array.dtype, array.shape) for index, array in inputs.items()}
        symbols = results_of(program, placeholders)
        check(program, session.run(symbols, {placeholders[index]: array for index, array in inputs.items()}))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_graph_of_unknown_shapes_gives_the_bits_of_numpy(seed: int) -> None:
    program = program_of(seed)
    inputs = arrays_of(program)
    with quiet(), engine.Session() as session:
        placeholders = {
            index: engine.placeholder(array.dtype, (None, *array.shape[1:]) if array.ndim else ())
            for index, array in inputs.items()
        }
        symbols = results_of(program, placeholders)
        feeds = {placeholders[index]: array for index, array in inputs.items()}
        check(program, asyncio.run(session.run_async(symbols, feeds)))


def describe(symbol: Any) -> tuple[Any, Any]:
    return symbol.shape, symbol.dtype


@pytest.mark.parametrize("seed", SEEDS)
def test_symbols_say_what_the_values_will_be(seed: int) -> None:
    program = program_of(seed)
    with quiet():
        symbols = results_of(program, {})
    for number, symbol in symbols.items():
        shape, dtype = describe(symbol)
        expected = program.expected[number]
        assert dtype is None or str(dtype) == expected.dtype
        assert shape is None or all(n in (None, m) for n, m in zip(shape, expected.shape, strict=True))


@pytest.mark.sweep
@pytest.mark.parametrize("without", [(), OWN], ids=["all", "known"])
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_function_gives_the_bits_of_numpy(
    seed: int, devices: int, without: Collection[str], execution_mode: engine.ExecutionMode
) -> None:
    program = program_of(seed)
    inputs = arrays_of(program)
    engine.enable_eager_execution(engine.Config(device_count={"CPU": devices}), execution_mode=execution_mode)
    numbers: list[int] = []

    @engine.function
    def traced(arrays: dict[int, Any]) -> Sequence[Any]:
        made = results_of(program, arrays, without)
        numbers[:] = made
        return list(made.values())

    with quiet():
        for _ in range(2):
            results = traced(inputs)
            check(program, {number: each.result() for number, each in zip(numbers, results, strict=True)})
    assert traced.statistics().traces == 1


@pytest.fixture(params=[engine.SYNC, engine.ASYNC], ids=lambda mode: mode.name)
def execution_mode(request: pytest.FixtureRequest) -> engine.ExecutionMode:
    execution_mode: engine.ExecutionMode = request.param
    return execution_mode


def test_programs_run_as_they_do_eagerly(mode: engine.ExecutionMode) -> None:
    program = program_of(0)
    with quiet():
        made = results_of(program, {})
        check(program, {number: each.result() for number, each in made.items()})
