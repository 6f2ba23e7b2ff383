"""The timeline of a profile: which bars are drawn, in which rows, and in which colours. Pure.

A row is a device and a thread that ran its ops; where ops of a thread overlap, as coroutines do, it has several. Bars
that would be narrower than can be seen are drawn as one with their neighbours, so that a picture of a million ops is no
larger than one of a thousand.
"""

from __future__ import annotations

from collections import Counter
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
    """The end of the longest of them."""
    ops: list[OpRecord]


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
    """The op names that have a colour of their own, those that ran longest first."""

    def colour(self, name: str) -> str:
        """The colour of an op's bars."""
        return self.colours.get(name, OTHER)


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
    names = _longest(ops)[: len(COLOURS)]
    return Timeline([lane for lane, _ in rows], begin, end, dict(zip(names, COLOURS, strict=False)))


def _longest(ops: Sequence[OpRecord]) -> list[str]:
    """The names of the ops, those that ran longest first."""
    members = Counter(op.run for op in ops if op.run is not None)
    seconds: dict[str, float] = {}
    for op in ran(ops):
        seconds[op.name] = seconds.get(op.name, 0.0) + op.seconds / (1 if op.run is None else members[op.run])
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
        bar.name = max(bar.ops, key=lambda op: op.seconds).name
    return bars


def _together(bar: Bar, op: OpRecord) -> bool:
    return op.run is not None and bar.ops[-1].run == op.run
