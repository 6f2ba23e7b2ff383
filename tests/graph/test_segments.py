"""Session runs on devices that take functions: what one device computes is one record, however long the graph is."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.base.traced import Traced
from engine.devices import Device, Record, SteppedBackend, registered
from engine.graph import session as sessions

Array = np.ndarray[Any, Any]
T0, T1 = "TAKING:0", "TAKING:1"


class Taking(SteppedBackend):
    """A backend that takes functions, and notes what it was given."""

    takes_functions = True

    def __init__(self, refused: Sequence[str] = ()) -> None:
        super().__init__(automatic=True, lookahead=16)
        self.given: list[tuple[str, int]] = []
        self._refused = refused

    def runs(self, name: str, kernel: object) -> bool:
        return name not in self._refused

    def submit(self, device: Device, records: Sequence[Record]) -> None:
        """Note the device and how many steps each record has; a copy has none."""
        for record in records:
            kernel = record.kernel
            if record.name != "asarray":
                self.given.append((str(device), len(kernel.steps) if isinstance(kernel, Traced) else 1))
        super().submit(device, records)


@pytest.fixture
def backend(fresh_engine: None) -> Iterator[Taking]:
    """One that computes all but sorting, with two devices."""
    made = Taking(refused=("sort",))
    with registered("TAKING", lambda: made):
        yield made


def executor() -> engine.Executor:
    return engine.Executor(engine.Config(device_count={"CPU": 1, "TAKING": 2}), execution_mode=engine.ASYNC)


async def test_what_one_device_computes_is_one_record(backend: Taking) -> None:
    graph = engine.Graph()
    with graph.as_default():
        fed = engine.placeholder(np.float64, (3,))
        with engine.device(T0):
            y: Any = fed
            for _ in range(10):
                y = ops.tanh(y) * 2 + np.arange(3.0)
        total = ops.sum(y)  # names no device: where its operand is
    expected = np.arange(3.0)
    for _ in range(10):
        expected = np.tanh(expected) * 2 + np.arange(3.0)
    async with executor():
        session = engine.Session(graph)
        for _ in range(2):
            found = await session.run_async({"y": y, "total": total}, {fed: np.arange(3.0)})
            assert found["y"].tolist() == expected.tolist()
            assert found["total"] == expected.sum()
        assert backend.given == [("TAKING:0", 31)] * 2
        assert (await session.run_async(total, {y: np.ones(3)})) == 3.0  # fed in place of computing it


async def test_two_devices_take_turns_in_the_graph_and_get_one_record_each(backend: Taking) -> None:
    graph = engine.Graph()
    with graph.as_default():
        chains: dict[str, Any] = {device: np.ones(2) for device in (T0, T1)}
        for number in range(8):
            for device in chains:
                with engine.device(device):
                    chains[device] = ops.add(chains[device], number)
        with engine.device(T1):
            both = chains[T0].to_device(T1) + chains[T1]
            sorted_ = ops.sort(both) * 2  # the host sorts
    async with executor():
        found = await engine.Session(graph).run_async([both, sorted_])
    assert [each.tolist() for each in found] == [[58.0, 58.0], [116.0, 116.0]]
    assert sorted(backend.given) == [("TAKING:0", 8), ("TAKING:1", 1), ("TAKING:1", 9)]


async def test_an_error_names_its_node(backend: Taking) -> None:
    graph = engine.Graph()
    with graph.as_default(), engine.device(T0):
        fed = engine.placeholder(np.float64, None)
        good = ops.add(fed, 1)
        bad = ops.linalg.inv(good * 0)
        after = bad + 1
    async with executor():
        with pytest.raises(np.linalg.LinAlgError) as caught:
            await engine.Session(graph).run_async([good, after], {fed: np.eye(2)})
    notes = "\n".join(caught.value.__notes__)
    assert "of the graph, made at" in notes
    assert "test_segments.py" in notes


def random_graph(seed: int) -> tuple[engine.Graph, Any, list[Any], list[Array]]:
    """A graph of ops on several devices, the symbol to feed, some of its results, and what NumPy gives for them."""
    rng = random.Random(seed)
    graph = engine.Graph()
    start = np.linspace(0.1, 0.9, 4)
    with graph.as_default():
        fed = engine.placeholder(np.float64, (4,))
        values: list[tuple[Any, Array]] = [(fed, start), (np.ones(4), np.ones(4))]
        for _ in range(40):
            (x, a), (y, b) = rng.choice(values), rng.choice(values[-6:])
            function, reference = rng.choice([(ops.add, np.add), (ops.minimum, np.minimum), (ops.hypot, np.hypot)])
            with engine.device(rng.choice([T0, T0, T1, "CPU:0", None])):
                made = function(x, y)
                if rng.random() < 0.1:
                    made, expected = ops.sort(made), np.sort(reference(a, b))
                else:
                    expected = reference(a, b)
            values.append((made, expected))
    fetched = rng.sample(values[2:], 5)
    return graph, fed, [symbol for symbol, _ in fetched], [array for _, array in fetched]


@pytest.mark.sweep
@pytest.mark.parametrize("seed", range(8))
async def test_random_graphs_are_numpy(backend: Taking, seed: int) -> None:
    graph, fed, fetches, expected = random_graph(seed)
    async with executor():
        session = engine.Session(graph)
        for _ in range(2):
            found = await session.run_async(fetches, {fed: np.linspace(0.1, 0.9, 4)})
            assert [each.tobytes() for each in found] == [each.tobytes() for each in expected]


async def test_what_is_remembered_is_bounded(backend: Taking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "SCHEDULES", 2)
    graph = engine.Graph()
    with graph.as_default(), engine.device(T0):
        chain = [ops.ones(2)]
        for _ in range(5):
            chain.append(chain[-1] + 1)
    async with executor():
        session = engine.Session(graph)
        for _ in range(2):
            for number, symbol in enumerate(chain):
                assert (await session.run_async(symbol)).tolist() == [number + 1.0] * 2
        assert len(session._segmented) <= 2
