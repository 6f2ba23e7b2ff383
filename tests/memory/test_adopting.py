"""What functions of users return: taken over where nothing else refers to it, copied where the function keeps it.

How many references are counted to a result depends on the version of Python, and on the way that the result takes.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

import engine
from engine.devices import SteppedBackend, registered
from handles import Handle

Array = np.ndarray[Any, Any]
Function = Callable[..., Any]
Keep = Callable[[Array, list[Any]], tuple[Array, ...] | list[Array]]
"""Makes two results, and keeps what it likes."""


def nothing(x: Array, kept: list[Any]) -> tuple[Array, ...]:
    return x + 1, x + 2


def nothing_of_a_list(x: Array, kept: list[Any]) -> list[Array]:
    return [x + 1, x + 2]


def nothing_of_views(x: Array, kept: list[Any]) -> tuple[Array, ...]:
    return (x + 1)[1:].reshape(3, 5)[:, 1:], (x + 2)[::2]


def arrays(x: Array, kept: list[Any]) -> tuple[Array, ...]:
    kept += [x + 1, x + 2]
    return tuple(kept)


def bases(x: Array, kept: list[Any]) -> tuple[Array, ...]:
    kept += [x + 1, x + 2]
    return tuple(array[1:] for array in kept)


def views(x: Array, kept: list[Any]) -> tuple[Array, ...]:
    results = x + 1, x + 2
    kept += [array[:] for array in results]
    return results


def views_of_bases(x: Array, kept: list[Any]) -> tuple[Array, ...]:
    results = (x + 1)[1:], (x + 2)[1:]
    kept += [array[1:] for array in results]
    return results


def all_of_it(x: Array, kept: list[Any]) -> list[Array]:
    kept += [x + 1, x + 2]
    return kept


KEPT = [arrays, bases, views, views_of_bases, all_of_it]
SOLE = [nothing, nothing_of_a_list, nothing_of_views]
COUNTS = pytest.mark.parametrize("outputs", [1, 2])
SUSPENDED = pytest.mark.parametrize("kind", ["def", "async def"])


def operation(keep: Keep, outputs: int, kind: str, kept: list[Any], addresses: list[int]) -> Function:
    """The op of a function that returns one of its results, or both."""

    def call(x: Array) -> Any:
        results = keep(x, kept)
        addresses.extend(array.__array_interface__["data"][0] for array in results)
        return results if outputs == 2 else results[0]

    async def call_later(x: Array) -> Any:
        await asyncio.sleep(0)
        return call(x)

    return engine.op(call if kind == "def" else call_later, num_outputs=outputs)


def handles_of(results: Handle | Sequence[Handle]) -> list[Handle]:
    return [results] if isinstance(results, Handle) else list(results)


X = np.arange(16.0)


def expected(keep: Keep, outputs: int) -> list[Array]:
    return [array.copy() for array in keep(X, [])][:outputs]


def check(keep: Keep, results: list[Array], kept: list[Any], addresses: list[int], in_place: bool = True) -> None:
    """Writes to what a function keeps change no result, and what it does not keep is not copied."""
    for array in kept:
        array[...] = 99.0  # it is not locked either
    for result, right in zip(results, expected(keep, len(results)), strict=True):
        assert result.tobytes() == right.tobytes()
    if not kept and in_place:
        assert [array.__array_interface__["data"][0] for array in results] == addresses[: len(results)]


@pytest.mark.parametrize("keep", [*SOLE, *KEPT])
@COUNTS
@SUSPENDED
def test_off_the_loop(keep: Keep, outputs: int, kind: str, mode: engine.ExecutionMode) -> None:
    kept: list[Any] = []
    addresses: list[int] = []
    handles = handles_of(operation(keep, outputs, kind, kept, addresses)(X))
    check(keep, [handle.result() for handle in handles], kept, addresses)


@pytest.mark.sweep
@pytest.mark.parametrize("keep", [*SOLE, *KEPT])
@COUNTS
@SUSPENDED
async def test_on_the_loop(keep: Keep, outputs: int, kind: str, mode: engine.ExecutionMode) -> None:
    kept: list[Any] = []
    addresses: list[int] = []
    handles = handles_of(operation(keep, outputs, kind, kept, addresses)(X))
    check(keep, await engine.gather(*handles), kept, addresses)


@pytest.fixture
def device() -> Iterator[str]:
    """A device whose memory is not the host's: what it does not compute goes by the host."""
    with registered("STEPPED", lambda: SteppedBackend(automatic=True)):
        yield "STEPPED:0"


@pytest.mark.sweep
@pytest.mark.parametrize("keep", [*SOLE, *KEPT])
@COUNTS
@SUSPENDED
async def test_on_behalf_of_a_device(keep: Keep, outputs: int, kind: str, device: str) -> None:
    kept: list[Any] = []
    addresses: list[int] = []
    config = engine.Config(device_count={"CPU": 1, "STEPPED": 1})
    async with engine.Executor(config, execution_mode=engine.ASYNC) as executor:
        with executor.as_default(), engine.device(device):
            handles = handles_of(operation(keep, outputs, kind, kept, addresses)(X))
        check(keep, await engine.gather(*handles), kept, addresses, in_place=False)
