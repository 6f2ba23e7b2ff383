"""The trace that `profile.save()` writes is what the trace-event format asks for, and the timeline is what ran."""

import asyncio
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot

import engine
from engine import ops
from engine.observe.events import OpRecord
from engine.observe.pictures import plot, svg, ticks
from engine.observe.timeline import lanes_of, timeline

Event = dict[str, Any]


@engine.op
def napped(x: np.ndarray) -> np.ndarray:
    time.sleep(0.002)
    return x


@engine.op
async def slept(x: np.ndarray) -> np.ndarray:
    await asyncio.sleep(0.002)
    return x


async def varied() -> engine.observe.Profile:
    """A profile of groups, functions, coroutines, transfers, failures and small ops, on two devices."""
    config = engine.Config(device_count={"CPU": 2})
    async with engine.Executor(config, execution_mode=engine.ASYNC), engine.profile() as profile:
        x = ops.ones(400_000)
        y = ops.sqrt(ops.abs(x * 2.0)) + 1.0
        handles = [y.sum(), ops.sort(x), *(napped(i) for i in range(6)), *(slept(i) for i in range(6))]
        handles += [(handles[2] + 1).to_device("CPU:1") * 2.0, ops.asarray(np.ones(2_000)) + 1.0]
        await engine.gather(*handles)
        with pytest.raises(np.linalg.LinAlgError):
            await ops.linalg.inv(ops.zeros((2, 2)))
        time.sleep(0.15)  # noqa: ASYNC251
        await asyncio.sleep(0.05)
    return profile


def saved(profile: engine.observe.Profile, folder: Path) -> list[Event]:
    """The events of the file that a profile writes, each checked against the rules of the format."""
    path = folder / "trace.json"
    profile.save(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["displayTimeUnit"] in ("ms", "ns")
    events: list[Event] = content["traceEvents"]
    for event in events:
        check(event)
    return events


def check(event: Event) -> None:
    """The rules for one event."""
    assert isinstance(event["name"], str)
    assert event["name"]
    assert isinstance(event["pid"], int)
    assert isinstance(event["tid"], int)
    assert isinstance(event["ts"], int | float)
    assert event["ts"] >= 0
    phase = event["ph"]
    assert phase in "XMCsf"
    if phase == "X":
        assert event["dur"] >= 0
        assert isinstance(event["args"], dict)
    elif phase == "M":
        assert event["name"] in ("process_name", "thread_name")
        assert isinstance(event["args"]["name"], str)
    elif phase == "C":
        assert all(isinstance(value, int | float) for value in event["args"].values())
        assert all(value >= 0 for value in event["args"].values())
    else:
        assert isinstance(event["id"], int)
        assert event["cat"]
        if phase == "f":
            assert event["bp"] == "e"


def of(events: list[Event], phase: str) -> list[Event]:
    return [event for event in events if event["ph"] == phase]


async def test_slices_of_a_track_lie_beside_or_inside_each_other(tmp_path: Path) -> None:
    events = saved(await varied(), tmp_path)
    tracks: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    for event in of(events, "X"):
        tracks[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    assert len(tracks) > 3
    for slices in tracks.values():
        ends: list[float] = []
        for begin, end in sorted(slices, key=lambda each: (each[0], -each[1])):
            while ends and ends[-1] <= begin + 0.0015:
                ends.pop()
            assert not ends or end <= ends[-1] + 0.0015, "two slices overlap"
            ends.append(end)


async def test_every_op_that_ran_is_a_slice_on_the_track_of_its_device(tmp_path: Path) -> None:
    profile = await varied()
    events = saved(profile, tmp_path)
    devices = {event["pid"]: event["args"]["name"] for event in of(events, "M") if event["name"] == "process_name"}
    slices = {event["args"]["op"]: event for event in of(events, "X") if event["cat"] == "op"}
    for op in profile.ops:
        event = slices[op.id]
        assert (event["name"], devices[event["pid"]]) == (op.name, op.device)
        assert event["args"]["site"] == op.site
    named = {(event["pid"], event["tid"]) for event in of(events, "M") if event["name"] == "thread_name"}
    assert {(event["pid"], event["tid"]) for event in of(events, "X")} <= named
    assert any("ops fused" in event["name"] for event in of(events, "X"))
    assert any(event["name"] == "loop stalled" for event in of(events, "X"))


async def test_arrows_lead_from_operands_to_what_reads_them(tmp_path: Path) -> None:
    profile = await varied()
    events = saved(profile, tmp_path)
    starts = {event["id"]: event for event in of(events, "s")}
    ends = {event["id"]: event for event in of(events, "f")}
    assert starts.keys() == ends.keys()
    slices = [event for event in of(events, "X") if event["cat"] == "op"]

    def op_at(event: Event) -> int:
        inside = [
            each
            for each in slices
            if (each["pid"], each["tid"]) == (event["pid"], event["tid"])
            and each["ts"] - 0.001 <= event["ts"] <= each["ts"] + each["dur"] + 0.001
        ]
        assert inside, "an arrow that is bound to no slice"
        return min(inside, key=lambda each: abs(each["ts"] + each["dur"] / 2 - event["ts"]))["args"]["op"]  # type: ignore[no-any-return]

    arrows = {(op_at(starts[number]), op_at(ends[number])) for number in starts}
    assert arrows == {(operand, op.id) for op in profile.ops for operand in op.operands}
    for number, start in starts.items():
        assert start["ts"] <= ends[number]["ts"]


async def test_counters_end_where_nothing_is_in_flight(tmp_path: Path) -> None:
    events = saved(await varied(), tmp_path)
    counters: dict[tuple[int, str], list[Event]] = defaultdict(list)
    for event in of(events, "C"):
        counters[event["pid"], event["name"]].append(event)
    assert {name for _, name in counters} == {"queue ops", "pending bytes", "loop lag, ms"}
    for (_, name), series in counters.items():
        assert [event["ts"] for event in series] == sorted(event["ts"] for event in series)
        if name != "loop lag, ms":
            assert set(series[-1]["args"].values()) == {0}
    depth = [event["args"] for event in of(events, "C") if event["name"] == "queue ops"]
    assert max(each["running"] for each in depth) >= 2
    held = [event["args"]["bytes"] for event in of(events, "C") if event["name"] == "pending bytes"]
    assert max(held) >= 16_000


async def test_a_sync_program_has_arrows_too(tmp_path: Path) -> None:
    engine.enable_eager_execution()
    with engine.profile() as profile:
        x = ops.ones(3)
        ops.sum(x + x)
    events = saved(profile, tmp_path)
    assert len(of(events, "s")) == len(of(events, "f")) == 3


# The timeline


def record(number: int, start: float, end: float, **facts: Any) -> OpRecord:
    """A record of an op that ran from `start` to `end`."""
    given: dict[str, Any] = {
        "id": number,
        "name": "add",
        "device": "CPU:0",
        "site": "program.py:1",
        "dispatched": start,
        "started": start,
        "finished": end,
        "outcome": "done",
        "thread": "MainThread",
        "run": None,
        "nbytes": 8,
        "operands": (),
        "ready": start,
        "held_bytes": 0,
        "source": None,
        "error": None,
        "root": True,
        "note": None,
        "scope": None,
        "demanded_by": None,
    }
    return OpRecord(**given | facts)


def test_ops_that_overlap_have_rows_of_their_own() -> None:
    found = timeline([record(0, 0.0, 2.0), record(1, 1.0, 3.0), record(2, 2.0, 4.0)], (0.0, 4.0), 1000)
    assert [lane.label for lane in found.lanes] == ["CPU:0 MainThread", "CPU:0 MainThread (2)"]
    assert [[bar.ops[0].id for bar in lane.bars] for lane in found.lanes] == [[0, 2], [1]]


def test_a_fusion_group_is_one_bar() -> None:
    group = [record(number, 1.0, 2.0, run=7, name=name) for number, name in enumerate(("sin", "cos"))]
    found = timeline([*group, record(2, 2.0, 3.0)], (0.0, 3.0), 1000)
    assert [len(bar.ops) for bar in found.lanes[0].bars] == [2, 1]
    assert "2 ops, one fusion group" in svg(found)
    assert list(found.colours) == ["2 fused: sin … cos", "add"]


def test_groups_that_are_too_short_to_show_apart_are_not_called_one_group() -> None:
    ops_ = [
        record(number, 1.0 + number // 2 * 1e-6, 1.0 + (number // 2 + 1) * 1e-6, run=number // 2) for number in range(6)
    ]
    found = timeline([*ops_, record(9, 2.0, 3.0)], (0.0, 3.0), 1000)
    assert [len(bar.ops) for bar in found.lanes[0].bars] == [6, 1]
    assert "6 ops, too short to show apart" in svg(found)


def test_the_legend_has_what_is_drawn_and_nothing_else() -> None:
    ops_ = [record(number, number, number + 1.0, name=f"op{number % 12}") for number in range(24)]
    ops_.append(record(24, 24.0, 25.0, name="bad", outcome="failed"))
    ops_ += [record(number, 26.0, 40.0, run=1, name=f"fused{number}") for number in range(25, 30)]
    axes = plot(ops_, (0.0, 40.0), None)
    legend = axes.get_legend()
    assert legend is not None
    names = [text.get_text() for text in legend.get_texts()]
    assert names[0] == "5 fused: fused25 … fused29"
    assert names[-2:] == ["others", "failed"]
    drawn = {bar.name for lane in timeline(ops_, (0.0, 40.0), 2000).lanes for bar in lane.bars}
    assert set(names[:-2]) < drawn
    pyplot.close("all")


@pytest.mark.parametrize("length", [2, 10, 30, 90])
def test_the_legend_is_no_wider_than_the_picture(length: int) -> None:
    ops_ = [record(number, number, number + 1.0, name=f"{number}" + "m" * (length - 1)) for number in range(8)]
    figure = plot(ops_, (0.0, 8.0), None).figure
    figure.canvas.draw()
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert legend.get_window_extent().x1 <= figure.bbox.x1
    pyplot.close("all")


def test_a_picture_of_many_ops_is_no_larger() -> None:
    ops_ = [record(number, number / 1e5, (number + 0.9) / 1e5, name=f"op{number % 20}") for number in range(100_000)]
    found = timeline(ops_, (0.0, 1.0), 800)
    assert len(found.lanes[0].bars) <= 800
    assert sum(len(bar.ops) for bar in found.lanes[0].bars) == 100_000
    assert len(svg(found)) < 500_000
    assert "others" in svg(found)


def test_names_are_escaped() -> None:
    text = svg(timeline([record(0, 0.0, 1.0, name="<lambda>", site='a"b.py:1')], (0.0, 1.0), 800))
    assert "<lambda>" not in text
    assert "&lt;lambda&gt;" in text


@pytest.mark.parametrize("seconds", [1e-6, 3e-5, 0.0007, 0.02, 1.0, 59.0, 7000.0])
def test_ticks_are_few_and_cover_the_time(seconds: float) -> None:
    step, count = ticks(seconds)
    assert 3 <= count <= 13
    assert (count - 1) * step <= seconds * (1 + 1e-9) < count * step + step


async def test_matplotlib_draws_every_row() -> None:
    profile = await varied()
    axes = profile.plot()
    rows = lanes_of(profile.ops)
    assert [label.get_text() for label in axes.get_yticklabels()] == [lane.label for lane, _ in rows]
    assert {(lane.device, lane.thread) for lane, _ in rows} == {(op.device, op.thread) for op in profile.ops}
    assert axes.get_xlabel().startswith("time, ")
    _, given = pyplot.subplots()
    assert profile.plot(given) is given
    pyplot.close("all")
