"""Bytes: what takes the memory of an array takes that of a handle, and what has memory is an operand."""

import array
import asyncio
import base64
import hashlib
import io
import operator
import pickle
import struct
import sys
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.testing import GateOp
from handles.holder import Holder

BUFFERS = sys.version_info >= (3, 12)
"""Whether a class written in Python can give its memory away."""

view_of: Any = memoryview
"""Type checkers that go by Python 3.11 know of no buffers that classes give."""

needs_buffers = pytest.mark.skipif(not BUFFERS, reason="classes written in Python give buffers from Python 3.12 on")


def written(value: Any) -> bytes:
    file = io.BytesIO()
    file.write(value)
    return file.getvalue()


READERS: dict[str, Callable[[Any], object]] = {
    "memoryview": lambda value: memoryview(value).tolist(),
    "format and shape": lambda value: (memoryview(value).format, memoryview(value).shape, memoryview(value).readonly),
    "bytearray": bytearray,
    "join": lambda value: b"".join([value]),
    "a file": written,
    "hashlib": lambda value: hashlib.sha256(value).hexdigest(),
    "zlib": zlib.crc32,
    "base64": base64.b64encode,
    "struct": lambda value: struct.unpack("48B", value),
    "np.frombuffer": lambda value: np.frombuffer(value, np.uint8).tobytes(),
}

DTYPES = ("f8", ">f4", "i8", "q", "u2", "?", "c16", "f2", "S8", "U2", "i4,f4", "m8[s]", "M8[D]", "V8")


def read_only(array: Any) -> Any:
    array.flags.writeable = False
    return array


@needs_buffers
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_what_reads_the_memory_of_an_array_reads_that_of_a_handle(
    reader: Callable[[Any], object], mode: engine.ExecutionMode
) -> None:
    value = read_only(np.arange(6.0).reshape(2, 3))
    assert reader(ops.asarray(value) * 1.0) == reader(value)


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_dtype_is_lost_on_the_way_to_an_array(dtype: str, mode: engine.ExecutionMode) -> None:
    value = np.zeros(3, np.dtype(dtype, metadata={"unit": "m"}))
    handle = ops.asarray(value)
    for convert in (np.asarray, np.array):
        result = convert(handle)
        assert (result.dtype, result.tobytes()) == (value.dtype, value.tobytes())
    assert np.asarray(handle).dtype.metadata == np.asarray(value).dtype.metadata
    assert bytes(handle) == value.tobytes()


@needs_buffers
def test_the_memory_cannot_be_written_to(mode: engine.ExecutionMode) -> None:
    handle = ops.ones(3)
    with pytest.raises(TypeError):
        view_of(handle)[0] = 2.0
    with pytest.raises(TypeError, match="read-write"):
        io.BytesIO(bytes(24)).readinto(handle)  # type: ignore[arg-type]


@needs_buffers
def test_memory_that_was_handed_out_does_not_change(mode: engine.ExecutionMode) -> None:
    handle = ops.ones(3) + 0
    memory = view_of(handle)
    handle[0] = 5.0
    assert (memory.tolist(), view_of(handle).tolist()) == ([1, 1, 1], [5, 1, 1])


@needs_buffers
def test_on_the_loop_a_buffer_is_a_sync_point(asynchronous: None) -> None:
    async def main() -> None:
        handle = ops.ones(3)
        for name, reader in READERS.items():
            with pytest.raises(TypeError if name == "join" else engine.BlockingSyncError):  # join says what it expects
                reader(handle)
        with engine.allow_sync():
            assert view_of(handle).tolist() == [1, 1, 1]

    asyncio.run(main())


@pytest.mark.parametrize("reader", [np.asarray, np.array, lambda value: np.array([value, value])])
def test_a_wait_that_was_interrupted_does_not_begin_again(
    reader: Callable[[Any], object], gate: GateOp, asynchronous: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NumPy drops any error of a buffer, and asks again in another way."""
    handle = gate(1)
    waits = []

    def wait(self: object, what: str) -> None:
        waits.append(what)
        raise KeyboardInterrupt("now")

    monkeypatch.setattr(Holder, "_sync", wait)
    for count in (1, 2):
        with pytest.raises(KeyboardInterrupt, match="now"):
            reader(handle)
        assert len(waits) == count


def test_a_pending_handle_is_waited_for_where_it_is_pickled(asynchronous: None) -> None:
    slow = engine.op(lambda x: x * 2)
    assert pickle.loads(pickle.dumps(slow(ops.ones(3)))).tolist() == [2, 2, 2]


# ---------------------------------------------------------------------------------------------------------------------
# Operands

MEMORIES = (array.array("d", [1, 2, 3]), view_of(np.arange(3.0)), bytearray(b"abc"))


@pytest.mark.parametrize("memory", MEMORIES, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("function", [operator.add, operator.mul, np.subtract], ids=lambda each: each.__name__)
def test_what_has_memory_is_an_operand(
    function: Callable[[Any, Any], Any], memory: Any, mode: engine.ExecutionMode
) -> None:
    value = np.array([1.0, 2.0, 98.0])
    for mine, real in (
        ((ops.asarray(value), memory), (value, memory)),
        ((memory, ops.asarray(value)), (memory, value)),
    ):
        result, expected = function(*mine), function(*real)
        assert (result.dtype, result.tolist()) == (expected.dtype, expected.tolist())


def test_bytes_are_never_joined_to_the_memory_of_numbers(mode: engine.ExecutionMode) -> None:
    for first, second in ((b"abc", ops.ones(1)), (ops.ones(1), b"abc")):
        with pytest.raises(TypeError, match="numbers, and bytes"):
            operator.add(first, second)
    text = b"x" + ops.asarray(np.array([b"a", b"b"]))
    assert text.tolist() == [b"xa", b"xb"]


async def test_the_order_of_a_contraction_is_known_on_the_loop(asynchronous: None, gate: GateOp) -> None:
    x = gate(np.ones((3, 4)))
    expected = np.einsum_path("ij,kj,kl->il", np.ones((3, 4)), np.ones((3, 4)), np.ones((3, 4)))
    assert np.einsum_path("ij,kj,kl->il", x, x, x) == expected
    with engine.Graph().as_default():
        symbol = engine.placeholder("f8", (3, 4))
        assert np.einsum_path("ij,kj,kl->il", symbol, symbol, symbol) == expected
