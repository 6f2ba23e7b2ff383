"""What notebooks show: it is well-formed, never waits, never raises, and says what is known."""

import asyncio
import base64
import re
import struct
import zlib
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.asgi import ScopeMiddleware
from engine.testing import GateOp
from handles.display import thumbnail

VOID = {"img", "br", "line", "path"}


class Balanced(HTMLParser):
    """Every element that is opened is closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None: ...

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


def shown(thing: Any) -> str:
    text: str = thing._repr_html_()
    assert isinstance(text, str)
    Balanced(text)
    return text


async def test_a_ready_handle_shows_its_values_and_its_place(mode: engine.ExecutionMode) -> None:
    handle = await ops.sqrt(ops.asarray([1.0, 4.0, 9.0])).wait_ready()
    text = shown(handle)
    for fact in ("ready", "(3,)", "float64", "CPU:0", "sqrt", "[1. 2. 3.]"):
        assert fact in text
    if mode is engine.ASYNC:
        assert __file__ in text


async def test_a_pending_handle_shows_what_is_known_and_does_not_wait(gate: GateOp) -> None:
    async with engine.Executor(execution_mode=engine.ASYNC):
        handle = gate(np.ones((3, 4))) + 1.0
        text = shown(handle)
        assert "pending" in text
        assert "(3, 4)" in text
        assert not handle.is_ready()
        gate.open()


async def test_executors_and_scopes_say_in_text_how_they_are(gate: GateOp) -> None:
    executor = engine.Executor(execution_mode=engine.ASYNC)
    assert repr(executor) == "<Executor not entered yet, ASYNC: 0 pending, 0 running>"
    async with executor:
        scope = engine.scope()
        assert repr(scope) == "<OpScope not entered yet, 0 ops in flight>"
        async with scope:
            held = gate(1.0)
            assert repr(scope) == "<OpScope open, 1 op in flight>"
            await asyncio.to_thread(gate.wait_entered)
            assert repr(executor) == "<Executor open, ASYNC: 1 pending, 1 running>"
            gate.open()
            await held
        assert repr(scope) == "<OpScope left, 0 ops in flight>"
    assert repr(executor) == "<Executor closed, ASYNC: 0 pending, 0 running>"


async def test_a_failed_and_a_cancelled_handle_show_why() -> None:
    async with engine.Executor(execution_mode=engine.ASYNC):
        failed = ops.linalg.inv(ops.zeros((2, 2)))
        with pytest.raises(np.linalg.LinAlgError):
            await failed
        text = shown(failed)
        assert "failed" in text
        assert "LinAlgError: Singular matrix" in text
        assert "dispatched at" in text
        with engine.testing.hold():
            dropped = ops.add(1, 2)
            dropped.cancel()
        assert "cancelled" in shown(dropped)


async def test_a_mismatch_of_shapes_is_shown_before_the_op_has_run(gate: GateOp) -> None:
    async with engine.Executor(execution_mode=engine.ASYNC):
        handle = ops.add(gate(np.ones(2)), np.ones(3))
        assert "shape" in shown(handle)
        gate.open()
        with pytest.raises(ValueError, match="broadcast"):
            await handle


ARRAYS = [
    np.array(3.5),
    np.zeros(0),
    np.arange(10_000),
    np.ones((2, 3, 4)),
    np.array([1 + 2j, np.nan]),
    np.array(["a<b", "c&d"]),
    np.array(["2024-01-01"], "datetime64[D]"),
    np.full((21, 20), np.nan),
    np.array([[np.inf, 1.0] * 10] * 10),
    np.ones((0, 50)),
    np.arange(400.0).reshape(20, 20),
    np.zeros((30, 40), bool),
    np.arange(30 * 40 * 3, dtype=np.uint8).reshape(30, 40, 3),
    np.arange(3000 * 40.0).reshape(3000, 40),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}-{array.shape}")
async def test_arrays_of_every_kind_are_shown(array: np.ndarray, mode: engine.ExecutionMode) -> None:
    text = shown(await ops.asarray(array).wait_ready())
    assert "<b" not in text.replace("<b>", "")
    assert len(text) < 60_000


def pixels(address: str) -> np.ndarray:
    """The pixels of a PNG that `thumbnail` made."""
    data = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, at = {}, 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        name, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(name + content)
        chunks[name], at = content, at + 12 + length
    width, height, depth, kind = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert depth == 8
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, -1)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape((height, width) if kind == 0 else (height, width, -1))


def test_a_thumbnail_has_the_values_from_black_to_white() -> None:
    address = thumbnail(np.arange(100.0).reshape(10, 10))
    assert address is not None
    found = pixels(address)
    assert found[0, 0] == 0
    assert found[-1, -1] == 255
    assert np.all(np.diff(found.astype(int).ravel()) >= 0)


def test_a_thumbnail_of_colours_is_in_colour_and_a_large_one_is_small() -> None:
    image = np.random.default_rng(3).integers(0, 256, (16, 12, 3), dtype=np.uint8)
    address = thumbnail(image)
    assert address is not None
    assert np.array_equal(pixels(address), image)
    large = thumbnail(np.ones((5000, 3000)))
    assert large is not None
    assert max(pixels(large).shape) <= 128


def test_what_is_not_a_picture_has_no_thumbnail() -> None:
    for array in (np.ones(100), np.ones((3, 100)), np.ones((9, 9, 5)), np.ones((20, 20), complex)):
        assert thumbnail(array) is None


class MuteError(Exception):
    """Cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no")


async def test_an_error_that_cannot_say_what_it_is_is_shown_and_recorded() -> None:
    @engine.op
    def failing() -> np.ndarray:
        raise MuteError

    async with engine.Executor(execution_mode=engine.ASYNC), engine.profile() as profile:
        handle = failing()
        with pytest.raises(MuteError):
            await handle
        shown(handle)
    assert [op.outcome for op in profile.ops] == ["failed"]
    assert profile.ops[0].error == "MuteError"
    shown(profile)


def test_symbols_and_graphs() -> None:
    graph = engine.Graph()
    with graph.as_default():
        x = engine.placeholder(np.float64, (3, None))
        y = ops.sqrt(x * 2.0)
    text = shown(y)
    assert "sqrt" in text
    assert "Symbol" in text
    assert "<svg" in shown(graph)


async def test_executors_and_statistics() -> None:
    executor = engine.Executor(execution_mode=engine.ASYNC)
    assert "not entered yet" in shown(executor)
    async with executor:
        await ops.add(1, 2)
        text = shown(executor)
        assert "open" in text
        assert "CPU:0" in text
        assert "ASYNC" in text
        assert "completed" in shown(executor.statistics())
    assert "closed" in shown(executor)
    assert "cached bytes" in shown(engine.buffer_statistics())
    assert "blocks repeated" in shown(engine.fusion_statistics())

    @engine.function
    def f(x: Any) -> Any:
        return x + 1

    assert "traces" in shown(f.statistics())


async def test_the_statistics_of_services_are_shown_and_long_ones_shortened() -> None:
    @engine.batched(max_size=1)
    def doubled(x: np.ndarray) -> np.ndarray:
        return x * 2

    middleware = ScopeMiddleware(lambda scope, receive, send: asyncio.sleep(0))
    assert "dropped ops" in shown(middleware.statistics())
    async with engine.Executor(execution_mode=engine.ASYNC):
        for _ in range(10):
            await doubled(np.ones(2))
        text = shown(doubled.statistics())
    assert "10, the last: … 1, 1, 1, 1, 1, 1, 1, 1<" in text


async def test_a_profile(mode: engine.ExecutionMode) -> None:
    async with engine.profile() as profile:
        for index in range(10):
            await ops.sort(np.ones(1000 * index))
        assert "<svg" in shown(profile)
    text = shown(profile)
    assert re.search(r"<td[^>]*>sort</td>", text)
    assert "await ops.sort(np.ones(1000 * index))" in text


async def test_a_profile_of_ten_thousand_ops_is_no_larger() -> None:
    async with engine.Executor(execution_mode=engine.ASYNC), engine.profile() as profile:
        total = ops.asarray(0.0)
        for index in range(10_000):
            total = ops.sin(total) + float(index)
            if index % 100 == 0:
                await total
                await asyncio.sleep(0)
        await total
    assert len(profile.ops) == 20_001
    assert len(shown(profile)) < 600_000
