"""Arrays on their way: in pieces, through two pieces of page-locked memory."""

import threading
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from engine.devices.cuda import transfers
from engine.devices.cuda.transfers import Line, pieces
from engine.queues.waiting import block_until
from tests.devices.cuda.host_runtime import HostArray, HostGpu, HostRuntime, HostStream


@pytest.mark.parametrize(
    ("nbytes", "cut"),
    [(0, []), (1, [(0, 1)]), (8, [(0, 8)]), (9, [(0, 8), (8, 9)]), (24, [(0, 8), (8, 16), (16, 24)])],
)
def test_bytes_are_cut_into_pieces(nbytes: int, cut: list[tuple[int, int]]) -> None:
    assert list(pieces(nbytes, 8)) == cut


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of a kilobyte."""
    monkeypatch.setattr(transfers, "PIECE", 1024)
    monkeypatch.setattr(transfers, "LEAST", 64)


@pytest.fixture
def gpu(gpus: HostRuntime) -> HostGpu:
    """A GPU of threads."""
    return gpus.gpus[0]


ARRAYS: list[Any] = [
    np.float64(3.0).reshape(()),
    np.empty((0, 3)),
    np.arange(5, dtype=np.int8),
    np.arange(3000.0),
    np.arange(3000.0).reshape(50, 60).T,
    np.arange(4096, dtype=np.uint8)[::3],
    (np.arange(700.0) + 1j).astype(np.complex64),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
def test_arrays_come_back_as_they_went(small: None, gpu: HostGpu, array: Any) -> None:
    up, down = Line(gpu), Line(gpu)
    for _ in range(2):  # the second time with what the first has left behind
        there, event = up.upload(array)
        event.wait()
        back = down.download(there)
        assert (back.dtype, back.shape) == (array.dtype, array.shape)
        assert np.array_equal(back, array)


def test_a_part_of_an_array_is_packed_on_its_way(small: None, gpu: HostGpu) -> None:
    up, down = Line(gpu), Line(gpu)
    there, event = up.upload(np.arange(2000.0).reshape(40, 50))
    event.wait()
    assert isinstance(there, HostArray)
    part = HostArray(gpu, there.memory[::2, 1:], there.true[::2, 1:], there)
    assert np.array_equal(down.download(part), np.arange(2000.0).reshape(40, 50)[::2, 1:])


def test_the_source_may_change_once_the_upload_has_returned(small: None, gpu: HostGpu) -> None:
    up, down = Line(gpu), Line(gpu)
    array = np.arange(64.0)
    _, there = up.upload(array)  # page-locked memory is there now
    there.wait()
    gpu.runtime.gate.close(gpu.streams[0])
    copied, event = up.upload(array)
    array[:] = -1
    gpu.runtime.gate.open()
    event.wait()
    assert np.array_equal(down.download(copied), np.arange(64.0))


def test_threads_that_read_at_once_get_each_their_own(small: None, gpu: HostGpu) -> None:
    up, down = Line(gpu), Line(gpu)
    sent = [up.upload(np.full(2000, float(number))) for number in range(4)]
    results: dict[int, Any] = {}

    def read(number: int) -> None:
        array, event = sent[number]
        event.wait()
        results[number] = down.download(array)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for number in range(4):
        assert results[number].tolist() == [float(number)] * 2000


def test_from_gpu_to_gpu_nothing_goes_through_the_host(gpus: HostRuntime) -> None:
    with engine.Executor(engine.Config(device_count={"GPU": 2}), execution_mode=engine.ASYNC):
        x = ops.asarray(np.arange(12.0).reshape(3, 4), device="GPU:0")
        turned = ops.matrix_transpose(x)
        block_until(turned._cell, None)
        streams = len(gpus.gpus[0].streams)
        moved = turned.to_device("GPU:1")
        assert np.array_equal((moved + 1).result(), np.arange(12.0).reshape(3, 4).T + 1)
        assert str(moved.device) == "GPU:1"
        assert len(gpus.gpus[0].streams) - streams <= 1  # the one that packs, and none that reads


def test_page_locked_memory_of_an_interrupted_copy_is_not_given_away(
    small: None, gpu: HostGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    up, down = Line(gpu), Line(gpu)
    array, event = up.upload(np.arange(16.0))
    event.wait()
    down.download(array)  # it has its page-locked memory now
    stream, record = gpu.streams[-1], HostStream.record
    gpu.runtime.gate.close(stream)
    interrupts = [KeyboardInterrupt()]

    def interrupted(self: HostStream) -> Any:
        if interrupts:
            raise interrupts.pop()
        return record(self)

    monkeypatch.setattr(HostStream, "record", interrupted)
    with pytest.raises(KeyboardInterrupt):
        down.download(array)
    assert [event is not None and not event.passed() for event in down._busy] == [True, True]
    gpu.runtime.gate.open()
    assert np.array_equal(down.download(array), np.arange(16.0))
