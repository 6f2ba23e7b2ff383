"""Chains that are computed in place, or as one call of a function: NumPy's bits and warnings, and what is kept."""

import asyncio
import gc
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.base.op import op_of
from engine.fusion.chains import chains as module, matching
from engine.fusion.chains.chain import Chain
from engine.fusion.chains.chains import Chains, State
from engine.fusion.chains.key import kinds_of, steps_of
from engine.fusion.native import llvm
from engine.fusion.native.machine import is_available
from engine.fusion.native.natives import Natives
from engine.graph import replay
from engine.queues import in_place, slice as slices
from engine.queues.finding import found_among
from tests.planning import make_all_large

pytestmark = pytest.mark.skipif(not is_available(), reason="there is no compiler: llvmlite is not installed")

Array = np.ndarray[Any, Any]


@dataclass
class Watched:
    """The chains that were computed, each as the names of its ops and whether they were kept."""

    natives: Natives
    chains: Chains
    computed: list[list[tuple[str, bool]]]


@pytest.fixture(scope="module")
def natives() -> Natives:
    return Natives(at_once=True)


@pytest.fixture
def as_they_come(monkeypatch: pytest.MonkeyPatch, natives: Natives) -> Watched:
    """Chains that are planned and compiled before they are computed, where they pay."""
    chains = Chains(natives, sightings=1)
    watched = Watched(natives, chains, [])
    monkeypatch.setattr(in_place.InPlaceChains, "__init__", lambda self, queue: _with(self, queue, chains))
    monkeypatch.setattr("engine.graph.compiled.chains", chains)
    called = Chain._called

    def noted(self: Chain, *args: Any) -> Any:
        outcomes = called(self, *args)
        if outcomes is not None:
            watched.computed.append([(step.op.name, step.keep) for step in steps_of(self.key)])
        return outcomes

    monkeypatch.setattr(Chain, "_called", noted)
    return watched


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch, as_they_come: Watched) -> Watched:
    """Chains of any length on arrays of any size."""
    monkeypatch.setattr(in_place, "FEWEST", 2)
    monkeypatch.setattr(replay, "STEPWISE_NS", 0)
    monkeypatch.setattr(slices.Slice, "_run_brief", lambda *_: False)  # single ops are not run before chains are seen
    return as_they_come


_made = in_place.InPlaceChains.__init__


def _with(runner: Any, queue: Any, chains: Chains) -> None:
    _made(runner, queue, chains)


def values(code: str, size: int = 1_000, seed: int = 0) -> Array:
    source = np.random.default_rng(seed)
    if code == "b1":
        return source.random(size) > 0.5
    if code[0] == "f":
        return (source.normal(size=size) * 3).astype(code)
    return source.integers(0, 100, size).astype(code)


def enable() -> None:
    engine.enable_eager_execution(execution_mode=engine.ASYNC)


def floats(x: Any, y: Any, xp: Any) -> Any:
    t = xp.sqrt(xp.abs(x * 2 + y)) - x
    t = xp.where(t > y, t * t + 1, y - t)
    return xp.maximum(t, y) / 3 - t


def functions(x: Any, y: Any, xp: Any) -> Any:
    return xp.exp(x * 0.01) + xp.sin(y) * x


def integers(x: Any, y: Any, xp: Any) -> Any:
    t = (x * 3 + y) ^ (y << 2)
    return xp.where(t > x, t - 3, abs(x - t)) & 15


def total(x: Any, y: Any, xp: Any) -> Any:
    return xp.sum((x - y) * 0.5)


def mean(x: Any, y: Any, xp: Any) -> Any:
    return xp.mean(abs(x) + y)


def largest(x: Any, y: Any, xp: Any) -> Any:
    return xp.max((x - y) * y)


def several(x: Any, y: Any, xp: Any) -> Any:
    return xp.count_nonzero((x > y) & (y > 0))


CHAINS: list[tuple[Callable[..., Any], str]] = [
    *((chain, code) for chain in (floats, functions, total, mean, largest, several) for code in ("f8", "f4")),
    *((integers, code) for code in ("i4", "i8", "u1")),
]
IDS = [f"{chain.__name__} {code}" for chain, code in CHAINS]


@pytest.mark.sweep
@pytest.mark.parametrize(("chain", "code"), CHAINS, ids=IDS)
async def test_a_chain_in_place_has_numpys_bits(watched: Watched, chain: Callable[..., Any], code: str) -> None:
    enable()
    x, y = values(code), values(code, seed=1)
    expected = np.asarray(chain(x, y, np))
    first, second = ops.asarray(x), ops.asarray(y)
    await first
    await second
    for _ in range(3):  # looked up, then recognized
        result = np.asarray(await chain(first, second, ops))
        assert result.dtype == expected.dtype
        assert result.tobytes() == expected.tobytes()
    assert len(watched.computed) >= 3
    assert [keep for _, keep in watched.computed[-1]].count(True) <= 1


async def test_records_that_another_thread_adds_meanwhile_are_no_error(
    monkeypatch: pytest.MonkeyPatch, watched: Watched
) -> None:
    cut_in: list[str] = []

    def raced(where: str) -> Callable[..., Any]:
        def after(records: Any, count: int) -> Any:
            found = islice(records, count)
            if isinstance(records, deque) and cut_in.count(where) < 2:
                cut_in.append(where)
                records.append(records[-1])
                records.pop()
            return found

        return after

    monkeypatch.setattr(in_place, "islice", raced("looked up"))
    monkeypatch.setattr(matching, "islice", raced("matched"))
    enable()
    x, y = values("f8"), values("f8", seed=1)
    left, right = ops.asarray(x), ops.asarray(y)
    for _ in range(8):
        assert (await floats(left, right, ops)).tobytes() == floats(x, y, np).tobytes()
    assert sorted(cut_in) == ["looked up"] * 2 + ["matched"] * 2
    assert watched.computed


@pytest.mark.parametrize("code", ["f8", "f4"])
async def test_a_chain_of_several_ops_pays_for_small_arrays(as_they_come: Watched, code: str) -> None:
    x, y = values(code), values(code, seed=1)
    async with engine.Executor(execution_mode=engine.ASYNC) as executor:
        first, second = ops.asarray(x), ops.asarray(y)
        await first
        await second
        before = executor.statistics().completed
        for _ in range(3):  # looked up, then recognized
            result = np.asarray(await floats(first, second, ops))
            assert result.tobytes() == floats(x, y, np).tobytes()
        assert [len(chain) for chain in as_they_come.computed] == [13] * 3
        assert executor.statistics().completed == before + 39
        assert executor.statistics().pending == 0
        for _ in range(3):
            assert (await (first * 2 + second) == x * 2 + y).all()
        assert len(as_they_come.computed) == 3


async def test_what_follows_and_what_is_kept_of_a_small_chain_is_there(as_they_come: Watched) -> None:
    enable()
    x, y = values("f8"), values("f8", seed=1)
    first, second = ops.asarray(x), ops.asarray(y)
    await first
    await second
    for _ in range(4):
        inner = first * 2 + second
        outer = ops.sqrt(abs(inner)) - first * second + 1.0
        after = ops.sort(outer)
        assert (await after == np.sort(np.sqrt(abs(x * 2 + y)) - x * y + 1.0)).all()
        assert outer.is_ready()
        assert (await inner == x * 2 + y).all()
    assert as_they_come.computed[-1].count(("add", True)) == 2


async def test_a_scope_is_told_of_all_ops_of_a_chain(as_they_come: Watched) -> None:
    enable()
    x, y = values("f8"), values("f8", seed=1)
    first, second = ops.asarray(x), ops.asarray(y)
    await first
    await second
    for _ in range(4):
        async with engine.scope() as scope:
            result = floats(first, second, ops)
        assert scope.in_flight == 0
        assert result.is_ready()
        assert (await result == floats(x, y, np)).all()


async def test_a_small_chain_that_warns_is_done_op_by_op(as_they_come: Watched) -> None:
    enable()
    x, y = values("f8"), values("f8", seed=1)
    first, second = ops.asarray(x), ops.asarray(y)
    x[5] = 0.0
    bad = ops.asarray(x)
    await first
    await second
    await bad
    for operand in (first, first, bad, bad, first, *[bad] * 6, first):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = await ((1.0 / operand + second) * 2.0 - second + operand * 3.0)
        array = np.asarray(await operand)
        assert [str(each.message) for each in caught] == ["divide by zero encountered in divide"] * (operand is bad)
        with np.errstate(divide="ignore"):
            assert np.asarray(result).tobytes() == ((1.0 / array + y) * 2.0 - y + array * 3.0).tobytes()


async def test_a_task_that_is_cancelled_while_the_loop_turns_for_it_is_cancelled(
    as_they_come: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    enable()
    x = ops.asarray(values("f8"))
    await x
    started = asyncio.Event()

    async def waits() -> None:
        handle = floats(x, x, ops)
        monkeypatch.setattr(handle._cell.home, "poll", lambda _: False)  # no time is left in this turn of the loop
        started.set()
        await handle

    task = asyncio.create_task(waits())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await (x + 1.0) == values("f8") + 1.0).all()


@pytest.fixture
def on_workers(monkeypatch: pytest.MonkeyPatch, watched: Watched) -> Watched:
    """All ops are workers', and groups are looked for among the chains."""
    make_all_large(monkeypatch)
    monkeypatch.setattr("engine.queues.chained.chains", watched.chains)
    engine.enable_eager_execution(engine.Config(intra_op_parallelism_threads=3), execution_mode=engine.ASYNC)
    return watched


@pytest.mark.sweep
@pytest.mark.parametrize(("chain", "code"), CHAINS, ids=IDS)
async def test_a_group_that_is_a_chain_has_numpys_bits(
    on_workers: Watched, chain: Callable[..., Any], code: str
) -> None:
    x, y = values(code, 200_000), values(code, 200_000, seed=1)
    expected = np.asarray(chain(x, y, np))
    first, second = ops.asarray(x), ops.asarray(y)
    for _ in range(
        20
    ):  # where the loop's thread refers to a record as a worker looks, the group is planned as another one
        with engine.testing.hold():  # else the first op may begin before the others are there
            handle = chain(first, second, ops)
        assert np.asarray(await handle).tobytes() == expected.tobytes()
        if on_workers.computed:
            break
    assert on_workers.computed


async def test_a_group_keeps_what_is_referred_to_and_warns_as_numpy_does(on_workers: Watched) -> None:
    array = values("f8", 200_000)
    x = ops.asarray(array)
    with engine.testing.hold():
        inner = x * 2
        outer = (inner + 1) * x
    assert (await outer == (array * 2 + 1) * array).all()
    assert (await inner == array * 2).all()
    assert [("multiply", True), ("add", False), ("multiply", True)] in on_workers.computed
    array[7] = 0.0
    y = ops.asarray(array)
    for _ in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = await (1.0 / (y * 2.0) + 1.0)
        assert [str(each.message) for each in caught] == ["divide by zero encountered in divide"]
        with np.errstate(divide="ignore"):
            assert np.asarray(result).tobytes() == (1.0 / (array * 2.0) + 1.0).tobytes()


async def test_an_operand_that_dies_is_written_over_all_the_same(on_workers: Watched) -> None:
    array = values("f8", 200_000)
    x = ops.asarray(array) + 0
    await x
    computed = len(on_workers.computed)
    for _ in range(3):
        x = (x * 0.5 + 1) * 2
        array = (array * 0.5 + 1) * 2
        await x
    assert (await x == array).all()
    assert len(on_workers.computed) == computed  # planned as a group that writes over its operand


@pytest.mark.sweep
@pytest.mark.parametrize(("chain", "code"), CHAINS, ids=IDS)
@pytest.mark.parametrize("mode", [engine.SYNC, engine.ASYNC])
async def test_a_function_that_is_a_chain_has_numpys_bits(
    watched: Watched, chain: Callable[..., Any], code: str, mode: engine.ExecutionMode
) -> None:
    engine.enable_eager_execution(execution_mode=mode)
    x, y = values(code), values(code, seed=1)
    expected = np.asarray(chain(x, y, np))
    function = engine.function(lambda x, y: chain(x, y, ops))
    for _ in range(2):
        result = np.asarray(await function(ops.asarray(x), ops.asarray(y)))
        assert result.tobytes() == expected.tobytes()
    assert watched.computed


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "row-major": lambda x: x,
    "column-major": np.asfortranarray,
    "every other": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "backwards": lambda x: x[:, ::-1],
    "a row": lambda x: x[:1],
    "a column": lambda x: x[:, :1],
    "not aligned": lambda x: np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape),
}


PAIRS = [
    *((first, second, "in place") for first in LAYOUTS for second in LAYOUTS),
    *((first, "row-major", "function") for first in LAYOUTS),
]


@pytest.mark.sweep
@pytest.mark.parametrize(("first", "second", "way"), PAIRS)
async def test_layouts_are_numpys(watched: Watched, first: str, second: str, way: str) -> None:
    enable()
    whole = values("f8", 30 * 41).reshape(30, 41)
    x, y = LAYOUTS[first](whole), LAYOUTS[second](whole + 1)

    def chain(x: Any, y: Any) -> Any:
        return (x + y) * y - x

    expected = chain(x, y)
    call = engine.function(chain) if way == "function" else chain
    a, b = ops.asarray(x, copy=False), ops.asarray(y, copy=False)
    await a
    await b
    for _ in range(2):
        result = np.asarray(await call(a, b))
        assert result.tobytes() == expected.tobytes()
        assert result.strides == expected.strides


async def test_what_is_referred_to_is_kept(watched: Watched) -> None:
    enable()
    x = ops.asarray(values("f8"))
    await x
    for _ in range(3):
        inner = x * 2
        outer = (inner + 1) * x
        await outer
        assert watched.computed.pop() == [("multiply", True), ("add", False), ("multiply", True)]
        assert inner.is_ready()
        assert (await inner == values("f8") * 2).all()
    del inner
    await ((x * 2 + 1) * x)
    assert watched.computed.pop() == [("multiply", False), ("add", False), ("multiply", True)]


async def test_scalars_may_change(watched: Watched) -> None:
    enable()
    array = values("f8")
    x = ops.asarray(array)
    await x
    for scalar in (2, 3, 100, 1000, -5, 2.5, -0.0, 1e300, float("inf"), float("nan"), True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = (array * scalar + scalar) * array
            assert np.asarray(await ((x * scalar + scalar) * x)).tobytes() == expected.tobytes(), scalar
    assert watched.computed


async def test_unrelated_chains_are_computed_apart(watched: Watched) -> None:
    enable()
    x, y = ops.asarray(values("f8")), ops.asarray(values("f8", seed=1))
    await x
    await y
    handles = [(each * 2 + 1) * each for each in (x, y)]
    for handle, array in zip(handles, (values("f8"), values("f8", seed=1)), strict=True):
        assert (await handle == (array * 2 + 1) * array).all()
    assert [len(chain) for chain in watched.computed] == [3, 3]


async def test_roots_that_meet_later_are_one_chain(watched: Watched) -> None:
    enable()
    x, y = ops.asarray(values("f8")), ops.asarray(values("f8", seed=1))
    await x
    await y
    assert (await (x * 2 + y * 3) == values("f8") * 2 + values("f8", seed=1) * 3).all()
    assert [len(chain) for chain in watched.computed] == [3]


@pytest.mark.parametrize("way", ["in place", "function"])
async def test_a_warning_is_numpys_and_is_found_where_the_op_was_dispatched(watched: Watched, way: str) -> None:
    enable()
    array = values("f8")
    array[7] = 0.0

    def chain(x: Any) -> Any:
        return 1.0 / (x * 2.0) + 1.0

    call = engine.function(chain) if way == "function" else chain
    x = ops.asarray(array)
    await x
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = await call(x)
    assert [str(each.message) for each in caught] == ["divide by zero encountered in divide"]
    assert caught[0].filename == __file__
    with np.errstate(divide="ignore"):
        assert np.asarray(result).tobytes() == (1.0 / (array * 2.0) + 1.0).tobytes()


async def test_a_chain_that_always_warns_is_given_up(watched: Watched) -> None:
    enable()
    array = values("f8")
    array[::2] = np.nan
    other = -array
    expected = (array + other) * array
    for _ in range(12):
        x, y = ops.asarray(array), ops.asarray(other)
        await x
        await y
        assert np.asarray(await ((x + y) * x)).tobytes() == expected.tobytes()
    known = list(watched.chains._known.values())
    assert any(each is State.REFUSED or (isinstance(each, Chain) and each.structure.careful) for each in known)


async def test_an_error_state_of_the_program_is_honoured(watched: Watched) -> None:
    enable()
    x = ops.asarray(np.zeros(1_000))
    await x
    with np.errstate(divide="raise"), pytest.raises(FloatingPointError, match="divide by zero"):
        await (1.0 / (x * 2.0) + 1.0)
    function = engine.function(lambda x: 1.0 / (x * 2.0) + 1.0)
    with np.errstate(divide="raise"), pytest.raises(FloatingPointError, match="divide by zero"):
        await function(x)


async def test_code_that_was_let_go_of_is_compiled_again(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, natives: Natives
) -> None:
    enable()
    monkeypatch.setattr(natives, "_limit", 2)
    array = values("i4")
    x = ops.asarray(array)
    await x
    for number in (2, 3, 4, 5, 6, 2, 2):  # the first one is missed, then found again
        handle, right = x, array
        for _ in range(number):
            handle, right = handle + 1, right + 1
        assert (await handle == right).all()
    assert natives.statistics().cached <= 2
    assert [len(chain) for chain in watched.computed] == [2, 3, 4, 5, 6, 2]


def chain_key(length: int) -> tuple[Any, ...]:
    """The key of a chain of additions on three doubles."""
    steps = ((op_of(np.add), None, number - 1, ~0, number == length) for number in range(1, length + 1))
    return (op_of(np.add), None, ~0, ~0, False, *(each for step in steps for each in step), np.dtype("f8"), (3,), (8,))


def test_code_that_is_being_executed_outlives_its_entry() -> None:
    natives = Natives(limit=1, at_once=True)
    chains = Chains(natives, sightings=1)
    chain = chains.find(chain_key(2), [])
    assert chain is not None
    code = chain.entry.code
    assert code is not None
    assert chains.find(chain_key(3), []) is not None
    assert chain.entry.code is None  # another one has taken its place
    assert chain.compute([np.ones(3)], []) is None
    llvm.dispose()
    outcomes = chain._called(code, [np.ones(3)], [])
    assert outcomes is not None
    assert outcomes[-1].tolist() == [4.0] * 3
    before = len(llvm._alive)
    del code
    gc.collect()
    llvm.dispose()
    assert len(llvm._alive) == before - 1


def test_what_is_let_go_of_is_given_back() -> None:
    chains = Chains(Natives(limit=2, at_once=True), sightings=1)
    for length in range(1, 5):
        assert chains.find(chain_key(length), []) is not None
    gc.collect()
    llvm.dispose()
    alive = len(llvm._alive)
    for length in range(5, 8):
        assert chains.find(chain_key(length), []) is not None
    gc.collect()
    llvm.dispose()
    assert len(llvm._alive) == alive


async def test_a_chain_that_is_refused_is_not_looked_for_each_time(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    enable()
    looks: list[object] = []

    def counted(records: Any) -> Any:
        looks.append(None)
        return found_among(records)

    monkeypatch.setattr(in_place, "found_among", counted)
    array = values("f8").astype(">f8")
    x = ops.asarray(array)
    await x
    for _ in range(60):
        result = await (x * 2 + x)
    assert (result == array * 2 + array).all()
    assert 0 < len(looks) < 10
    assert not watched.computed


async def test_an_op_that_fails_fails_alone(watched: Watched) -> None:
    enable()
    x, y = ops.asarray(values("f8", 8)), ops.asarray(values("f8", 9))
    good = x * 2 + 1
    with pytest.raises(ValueError, match="broadcast"):
        await (x * 2 + y)
    assert (await good == values("f8", 8) * 2 + 1).all()


def test_a_key_tells_its_steps_and_arrays() -> None:
    kind = (np.dtype("f8"), (3,), (8,))
    from_ufuncs = [op_of(np.add), op_of(np.multiply)]
    key = (from_ufuncs[0], None, ~0, float, False, from_ufuncs[1], None, 0, ~0, True, *kind)
    assert [(step.op, step.operands, step.keep) for step in steps_of(key)] == [
        (from_ufuncs[0], (~0, float), False),
        (from_ufuncs[1], (0, ~0), True),
    ]
    assert kinds_of(key) == [kind]


async def test_a_chain_is_planned_when_it_is_seen_again_and_not_waited_for() -> None:
    compiled = Natives()
    chains = Chains(compiled)
    kind = (np.dtype("f8"), (3,), (8,))
    op = op_of(np.add)
    key = (op, None, ~0, float, False, op, None, 0, ~0, True, *kind)
    assert chains.find(key, [1.0]) is None
    assert compiled.background.settle()
    assert compiled.statistics().compiled == 0
    assert chains.find(key, [1.0]) is None
    assert await asyncio.to_thread(compiled.settle)
    chain = chains.find(key, [1.0])
    assert chain is not None
    outcomes = chain.compute([np.arange(3.0)], [1.0])
    assert outcomes is not None
    assert outcomes[1].tolist() == [1.0, 3.0, 5.0]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    yield
    module.chains._natives.settle(60)
