"""Large snapshots that pending ops share: one copy for equal bytes, and never the wrong ones."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.memory.snapshots import SHARED, Snapshots, have_same_bytes
from engine.testing import GateOp

Array = np.ndarray[Any, Any]

ROWS, COLUMNS = 1040, 72  # of 8 bytes each: more than SHARED


def floats(rows: int = ROWS, columns: int = COLUMNS) -> Array:
    return np.random.default_rng(7).standard_normal((rows, columns))


LARGE: dict[str, Callable[[], Array]] = {
    "float64": floats,
    "float32": lambda: floats(2 * ROWS).astype(np.float32),
    "float16": lambda: floats(4 * ROWS).astype(np.float16),
    "complex": lambda: floats() + 1j * floats(),
    "longdouble": lambda: floats().astype(np.longdouble),
    "bytes": lambda: np.arange(SHARED + 3, dtype=np.uint32).astype(np.uint8),
    "dates": lambda: np.arange(SHARED // 8 + 5).astype("datetime64[s]"),
    "text": lambda: np.full(SHARED // 4, "abc"),
    "odd text": lambda: np.full(SHARED // 3 + 1, b"abc"),
    "fields": lambda: np.zeros(SHARED // 4, [("a", "i4"), ("b", "i1")]),
    "big-endian": lambda: floats().astype(">f8"),
    "Fortran order": lambda: np.asfortranarray(floats()),
    "transposed": lambda: floats().T,
    "three axes permuted": lambda: floats().reshape(104, 10, COLUMNS).transpose(1, 2, 0),
    "strided": lambda: floats(2 * ROWS, 2 * COLUMNS)[::2, ::2],
    "strided rows": lambda: floats(2 * ROWS)[::2],
    "reversed": lambda: floats()[::-1, ::-1],
    "a window": lambda: floats(2 * ROWS, 2 * COLUMNS)[5 : 5 + ROWS, 3 : 3 + COLUMNS],
    "strided complex": lambda: (floats(2 * ROWS) + 1j)[::2],
    "one row": lambda: floats(1, ROWS * COLUMNS),
    "one column": lambda: floats(ROWS * COLUMNS, 1),
}
NOT_COMPARED = {"strided complex"}
"""What is copied for each op, as before: gaps between elements of another size than a machine word's."""
every_large = pytest.mark.parametrize("name", LARGE)


@contextmanager
def held(gate: GateOp) -> Iterator[engine.Executor]:
    """An executor none of whose ops runs before the gate is open, and never a mark in the way."""
    config = engine.Config(max_pending_bytes=1 << 40)
    with engine.Executor(config=config, execution_mode=engine.ASYNC) as executor:
        yield executor


def identical(given: Array, expected: Array) -> bool:
    return given.dtype == expected.dtype and given.shape == expected.shape and given.tobytes() == expected.tobytes()


@every_large
def test_ops_that_wait_share_a_snapshot(gate: GateOp, name: str) -> None:
    array = LARGE[name]()
    assert array.nbytes >= SHARED
    expected = array.copy()
    with held(gate) as executor:
        first = gate(0)
        handles = [engine.op(lambda _, x: x)(first, array) for _ in range(20)]
        copies = executor.statistics().pending_bytes / array.nbytes
        assert copies == 20 if name in NOT_COMPARED else copies == 2
        array[...] = np.zeros((), array.dtype)
        gate.open()
        assert all(identical(handle.result(), expected) for handle in handles)
        assert executor.statistics().pending_bytes == 0


@pytest.mark.sweep
@every_large
@pytest.mark.parametrize("seed", range(3))
def test_each_op_sees_what_the_array_was_at_its_call(gate: GateOp, name: str, seed: int) -> None:
    """One byte of one element changes between calls, wherever it lies, and back."""
    array = LARGE[name]()
    random = np.random.default_rng(seed)
    handles, expected = [], []
    with held(gate):
        first = gate(0)
        for _ in range(8):
            where = tuple(int(random.choice([0, length - 1, random.integers(length)])) for length in array.shape)
            element = bytearray(array[where].tobytes())
            element[int(random.integers(len(element)))] ^= int(random.choice([1, 0x80]))
            if random.random() < 0.7 and array.dtype.kind not in "U":  # not every number is a character
                array[where] = np.frombuffer(bytes(element), array.dtype)[0]
            elif array.dtype.kind == "U":
                array[where] = "".join(random.choice(list("abc"), 3))
            handles.append(engine.op(lambda _, x: x)(first, array))
            expected.append(array.copy())
        gate.open()
        assert [identical(each.result(), one) for each, one in zip(handles, expected, strict=True)] == [True] * 8


def test_bytes_decide_not_numbers(gate: GateOp) -> None:
    array = np.zeros(SHARED // 8)
    quiet, other = (np.array([0x7FF8_0000_0000_0000 + n], np.uint64).view(np.float64)[0] for n in (1, 2))
    handles, expected = [], []
    with held(gate):
        first = gate(0)
        for value in (0.0, 0.0, -0.0, quiet, other, other, 0.0):
            array[-1] = value
            handles.append(ops.copysign(array, first - 1) if value == 0 else engine.op(lambda _, x: x)(first, array))
            handles.append(engine.op(lambda _, x: x)(first, array))
            expected.append(array.copy())
        gate.open()
        results = [each.result() for each in handles[1::2]]
    assert [identical(each, one) for each, one in zip(results, expected, strict=True)] == [True] * 7


def test_results_are_not_written_over_what_others_share(gate: GateOp) -> None:
    """Chains of elementwise ops, in which a copy that no other op reads may take the result."""
    array = np.random.default_rng(3).standard_normal(1 << 18)
    expected = np.sqrt(np.abs(array * 2.0 + 1.0))
    with held(gate):
        first = gate(np.ones(()))
        handles = [ops.sqrt(ops.abs(ops.add(ops.multiply(array, 2.0), first))) for _ in range(12)]
        gate.open()
        assert all(identical(handle.result(), expected) for handle in handles)


def test_writes_into_handles_of_one_snapshot_stay_apart(gate: GateOp) -> None:
    array = floats()
    with held(gate):
        first = gate(1.0)
        handles = [ops.asarray(array) for _ in range(4)]
        for number, handle in enumerate(handles):
            handle[0, 0] = first * number
        gate.open()
        assert [handle.result()[0, 0] for handle in handles] == [0, 1, 2, 3]
        assert all(np.array_equal(handle.result()[1:], array[1:]) for handle in handles)


async def test_a_shared_snapshot_counts_until_the_last_op_that_holds_it_has_ended(gate: GateOp) -> None:
    array = floats()
    async with engine.Executor(execution_mode=engine.ASYNC) as executor:
        first = gate(1.0)
        await asyncio.to_thread(gate.wait_entered)
        alone, *sharing = [ops.add(first, array) for _ in range(4)]
        assert executor.statistics().pending_bytes == 2 * array.nbytes
        alone.cancel()
        assert executor.statistics().pending_bytes == array.nbytes
        for handle in sharing[:2]:
            handle.cancel()
            assert executor.statistics().pending_bytes == array.nbytes
        sharing[2].cancel()
        assert executor.statistics().pending_bytes == 0
        gate.open()
        await engine.synchronize()


def test_what_was_copied_for_ops_that_have_ended_is_let_go() -> None:
    table, array, made = Snapshots(), floats(), []

    def copy(given: Array) -> Array:
        made.append(given)
        return given.copy()

    for _ in range(6):
        table.take(array, copy)
    assert len(made) == 6  # none is kept for the next
    kept = [table.take(array, copy) for _ in range(6)]
    assert len({id(each) for each in kept}) <= 2


def test_more_arrays_than_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.memory.snapshots._MOST", 4)
    table = Snapshots()
    arrays = [floats() + n for n in range(9)]
    kept = []
    for _ in range(3):
        for array in arrays:
            kept.append(table.take(array, np.copy))
            assert identical(kept[-1], array)
    assert len(table._copies) <= 4


@every_large
def test_bytes_are_compared_in_every_layout(name: str) -> None:
    array = LARGE[name]()
    other = array.copy(order="K")
    assert have_same_bytes(array, other) is (name not in NOT_COMPARED)
    last = tuple(length - 1 for length in array.shape)
    other[last] = np.zeros((), array.dtype) if array[last].tobytes().strip(b"\0") else np.ones((), array.dtype)
    assert not have_same_bytes(array, other)
