"""The timeline of a profile: which bars are drawn, in which rows, and in which colours. Pure.

A row is a device and a thread that ran its ops; where ops of a thread overlap, as coroutines do, it has several. Bars
that would be narrower than can be seen are drawn as one with their neighbours, so that a picture of a million ops is no
larger than one of a thousand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from engine.observe.events import OpRecord

COLOURS = ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#e08030", "#5c6bc0"]
"""For colour-blind readers too, on white and on black; what is not among the longest is grey."""
OTHER = "#888888"


@dataclass
class Bar:
    """One op that ran, or several that cannot be told apart."""

    start: float
    end: float
    name: str
    """The name of the op, or of the longest of several; of a fusion group how many it is, and the first and last."""
    ops: list[OpRecord]

    @property
    def is_group(self) -> bool:
        """True for a fusion group and nothing else."""
        run = self.ops[0].run
        return len(self.ops) > 1 and run is not None and all(op.run == run for op in self.ops)


@dataclass
class Lane:
    """One row."""

    device: str
    thread: str
    number: int
    """Which of the rows of this thread it is, from 0."""
    bars: list[Bar] = field(default_factory=list)
    end: float = float("-inf")

    @property
    def label(self) -> str:
        """The text beside it."""
        more = f" ({self.number + 1})" if self.number else ""
        return f"{self.device} {self.thread}{more}"


@dataclass(frozen=True)
class Timeline:
    """All rows, and when they begin and end."""

    lanes: list[Lane]
    begin: float
    end: float
    colours: dict[str, str]
    """The names of bars that have a colour of their own, those that ran longest first."""

    def colour(self, name: str) -> str:
        """The colour of the bars of a name."""
        return self.colours.get(name, OTHER)

    @property
    def has_others(self) -> bool:
        """True if there are bars without a colour of their own."""
        return any(bar.name not in self.colours for lane in self.lanes for bar in lane.bars)


def ran(ops: Iterable[OpRecord]) -> Iterator[OpRecord]:
    """The ops that started and ended."""
    return (op for op in ops if op.started is not None and op.finished is not None)


def lanes_of(ops: Iterable[OpRecord]) -> list[tuple[Lane, list[OpRecord]]]:
    """The rows, and the ops in each: no two of a row overlap, but for those of one fusion group."""
    found: dict[tuple[str, str], list[tuple[Lane, list[OpRecord]]]] = {}
    order = sorted(ran(ops), key=lambda op: (op.started or 0.0, op.run is None, op.run, op.id))
    for op in order:
        assert op.started is not None
        assert op.finished is not None
        thread = op.thread or "?"
        rows = found.setdefault((op.device, thread), [])
        for lane, members in rows:
            if lane.end <= op.started or (op.run is not None and members[-1].run == op.run):
                break
        else:
            lane, members = Lane(op.device, thread, len(rows)), []
            rows.append((lane, members))
        lane.end = max(lane.end, op.finished)
        members.append(op)
    return [row for key in sorted(found) for row in found[key]]


def timeline(ops: Sequence[OpRecord], span: tuple[float, float], resolution: int) -> Timeline:
    """The timeline of some ops, for a picture that shows so many bars side by side."""
    begin, end = _extent(ops, span)
    least = (end - begin) / resolution
    rows = lanes_of(ops)
    for lane, members in rows:
        lane.bars = _bars(members, least)
    lanes = [lane for lane, _ in rows]
    return Timeline(lanes, begin, end, dict(zip(_longest(lanes), COLOURS, strict=False)))


def _longest(lanes: Iterable[Lane]) -> list[str]:
    """The names of the bars, those that take longest first."""
    seconds: dict[str, float] = {}
    for lane in lanes:
        for bar in lane.bars:
            seconds[bar.name] = seconds.get(bar.name, 0.0) + bar.end - bar.start
    return sorted(seconds, key=lambda name: -seconds[name])


def _extent(ops: Sequence[OpRecord], span: tuple[float, float]) -> tuple[float, float]:
    """From the first dispatch to the last end, or the block itself where nothing ran."""
    ends = [op.finished for op in ops if op.finished is not None]
    if not ends:
        return span
    begin, end = min(op.dispatched for op in ops), max(ends)
    return begin, max(end, begin + 1e-9)


def _bars(members: list[OpRecord], least: float) -> list[Bar]:
    """The bars of one row; a fusion group is one, and so are neighbours that are too narrow to be seen."""
    bars: list[Bar] = []
    for op in members:
        assert op.started is not None
        assert op.finished is not None
        last = bars[-1] if bars else None
        if last is not None and (_together(last, op) or op.finished - last.start <= least):
            last.ops.append(op)
            last.end = max(last.end, op.finished)
        else:
            bars.append(Bar(op.started, op.finished, op.name, [op]))
    for bar in bars:
        bar.name = _name(bar)
    return bars


def _name(bar: Bar) -> str:
    if bar.is_group:
        return f"{len(bar.ops)} fused: {bar.ops[0].name} … {bar.ops[-1].name}"
    return max(bar.ops, key=lambda op: op.seconds).name


def _together(bar: Bar, op: OpRecord) -> bool:
    return op.run is not None and bar.ops[-1].run == op.run
