"""What is seen of ops on workers: profiles, traces with a track for each worker, and progress."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine import ops
from handles import Handle

MakeExecutor = Callable[..., engine.Executor]


@engine.op
def double(x: Any) -> Any:
    return x * 2


def on(device: str, value: Any) -> Handle:
    return ops.asarray(np.asarray(value, dtype=np.float64), device=device)


async def test_profiles_have_the_ops_of_workers_and_traces_a_track_for_each(
    executor: MakeExecutor, tmp_path: Path
) -> None:
    async with executor():
        with engine.profile() as profile:
            there = [double(on(device, [1.0]) + 1) for device in ("DASK:0", "DASK:1")]
            bad = ops.reshape(there[0], (7,))
            total = there[0].to_device("DASK:1") + there[1]
            assert await total == [8.0]
            with pytest.raises(ValueError, match="reshape"):
                await bad
    seen = {(record.name, record.device, record.outcome) for record in profile.ops}
    assert seen >= {(name, f"DASK:{k}", "done") for name in ("asarray", "add", "double") for k in (0, 1)}
    assert seen >= {("to_device", "DASK:1", "done"), ("reshape", "DASK:0", "failed")}
    for record in profile.ops:
        assert record.started is not None
        assert record.finished is not None
        assert record.dispatched <= record.started <= record.finished
        assert "test_observed.py" in record.site
    profile.save(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    tracks = {each["pid"]: each["args"]["name"] for each in events if each["name"] == "process_name"}
    drawn = {(tracks[each["pid"]], each["name"]) for each in events if each.get("cat") == "op"}
    assert drawn >= {(f"DASK:{k}", name) for name in ("asarray", "add", "double") for k in (0, 1)}


async def test_a_call_of_a_traced_function_is_one_op_of_the_profile(executor: MakeExecutor) -> None:
    @engine.function
    def model(x: Any) -> Any:
        for _ in range(10):
            x = ops.tanh(x) + 1
        return x

    async with executor():
        x = on("DASK:1", [1.0])
        await model(x)
        with engine.profile() as profile:
            await model(x)
    assert [(record.name, record.device) for record in profile.ops] == [("model", "DASK:1")]


class Bar:
    """What tqdm would be told."""

    made: "list[Bar]" = []  # noqa: RUF012 - shared on purpose

    def __init__(self, *_: Any, total: int | None = None, **__: Any) -> None:
        self.total = total
        self.done = 0
        self.is_closed = False
        self.made.append(self)

    def update(self, count: int) -> None:
        self.done += count

    def refresh(self) -> None:
        """Nothing is drawn."""

    def set_postfix_str(self, text: str, refresh: bool) -> None:
        """Nothing is drawn."""

    def close(self) -> None:
        self.is_closed = True


async def test_progress_counts_what_workers_have_done(executor: MakeExecutor) -> None:
    Bar.made.clear()
    async with executor():
        with engine.device("DASK"):
            jobs = [double(np.array(float(number))) for number in range(12)]
        values = await engine.gather(*jobs, progress=Bar)
        assert values == [2.0 * number for number in range(12)]
        async with engine.scope(progress=Bar):
            x = on("DASK:0", [0.0])
            for _ in range(9):
                x = x + 1
        assert await x == [9.0]
    assert [(bar.done, bar.total, bar.is_closed) for bar in Bar.made] == [(12, 12, True), (10, 10, True)]
