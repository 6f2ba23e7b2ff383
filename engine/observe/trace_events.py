"""A profile in the trace-event format, which ui.perfetto.dev and chrome://tracing read. Pure.

A device is a process of the trace, and each thread that ran its ops a track of it. No two slices of a track overlap
unless one lies inside the other. Times are microseconds since the profile began.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby

from engine.observe.assembly import Lag, Stall
from engine.observe.events import OpRecord
from engine.observe.timeline import lanes_of, ran

Event = dict[str, object]

LOOP_PID = 1
"""The process that stands for the event loops; those of devices follow."""


class Track:
    """Where a row is in the trace, and when its times begin."""

    def __init__(self, pid: int, tid: int, zero: float) -> None:
        self.pid = pid
        self.tid = tid
        self._zero = zero

    def event(self, phase: str, name: str, time: float, **facts: object) -> Event:
        """One event on this track."""
        return {"ph": phase, "name": name, "pid": self.pid, "tid": self.tid, "ts": self.time(time), **facts}

    def time(self, time: float) -> float:
        """In microseconds."""
        return round(max(0.0, time - self._zero) * 1e6, 3)

    def slice(self, name: str, start: float, end: float, category: str, args: Event) -> Event:
        """A slice; its end is that of the rounded times, so that neighbours do not overlap."""
        begin = self.time(start)
        return self.event("X", name, start, dur=round(self.time(end) - begin, 3), cat=category, args=args)


def to_json(ops: Sequence[OpRecord], lags: Sequence[Lag], stalls: Sequence[Stall], span: tuple[float, float]) -> str:
    """The trace as text."""
    return json.dumps(trace(ops, lags, stalls, span), separators=(",", ":"))


def trace(
    ops: Sequence[OpRecord], lags: Sequence[Lag], stalls: Sequence[Stall], span: tuple[float, float]
) -> dict[str, object]:
    """The trace as an object."""
    zero = span[0]
    devices = sorted({op.device for op in ops})
    pids = {device: LOOP_PID + 1 + index for index, device in enumerate(devices)}
    loop = Track(LOOP_PID, 1, zero)
    events: list[Event] = [*_named(loop, "process_name", "event loops"), *_named(loop, "thread_name", "loop lag")]
    for device in devices:
        events += _named(Track(pids[device], 0, zero), "process_name", device)
    tracks: dict[int, Track] = {}
    for tid, (lane, members) in enumerate(lanes_of(ops), start=1):
        track = Track(pids[lane.device], tid, zero)
        events += _named(track, "thread_name", lane.label.removeprefix(lane.device).strip())
        tracks.update(dict.fromkeys((op.id for op in members), track))
        for run, group in groupby(members, key=lambda op: op.run):
            together = list(group)
            events += _group(track, together) if run is not None else [_slice(track, op) for op in together]
    events += _flows(ops, tracks)
    for device in devices:
        events += _depth(Track(pids[device], 0, zero), [op for op in ops if op.device == device])
    events += _bytes(loop, ops)
    events += [loop.event("C", "loop lag, ms", lag.time, args={f"loop {lag.loop}": lag.seconds * 1e3}) for lag in lags]
    events += [
        loop.slice("loop stalled", stall.time - stall.seconds, stall.time, "stall", {"site": stall.site})
        for stall in stalls
    ]
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"producer": "eagerloop", "ops": len(ops)}}


def _named(track: Track, kind: str, name: str) -> Iterator[Event]:
    yield {"ph": "M", "name": kind, "pid": track.pid, "tid": track.tid, "ts": 0, "args": {"name": name}}


def _facts(op: OpRecord) -> Event:
    facts: Event = {
        "op": op.id,
        "site": op.site,
        "outcome": op.outcome,
        "waited for operands, us": round(op.operand_wait * 1e6, 3),
        "waited for a slot, us": round(op.slot_wait * 1e6, 3),
        "bytes": op.nbytes,
        "fusion group": op.run,
        "error": op.error,
        "waited for by": op.demanded_by,
        "from": op.source,
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def _slice(track: Track, op: OpRecord) -> Event:
    assert op.started is not None
    assert op.finished is not None
    return track.slice(op.name, op.started, op.finished, "op", _facts(op))


def _group(track: Track, group: list[OpRecord]) -> Iterator[Event]:
    """A slice for a fusion group, and inside it one for each op: which part of the time was whose cannot be told."""
    start, end = _extent(group)
    names = ", ".join(op.name for op in group)
    yield track.slice(f"{len(group)} ops fused", start, end, "fusion", {"ops": names, "fusion group": group[0].run})
    for index, op in enumerate(group):
        yield track.slice(op.name, *_share(start, end, index, len(group)), "op", _facts(op))


def _extent(group: list[OpRecord]) -> tuple[float, float]:
    return min(op.started or 0.0 for op in group), max(op.finished or 0.0 for op in group)


def _share(start: float, end: float, index: int, count: int) -> tuple[float, float]:
    return start + (end - start) * index / count, start + (end - start) * (index + 1) / count


def _flows(ops: Sequence[OpRecord], tracks: dict[int, Track]) -> Iterator[Event]:
    """An arrow from each op to each that reads its result. Its ends lie inside the slices that they belong to."""
    middles = _middles(ops)
    number = 0
    for op in ops:
        for operand in op.operands:
            if op.id not in middles or operand not in middles:
                continue
            number += 1
            start, end = middles[operand], middles[op.id]
            if start <= end:
                yield tracks[operand].event("s", "result", start, id=number, cat="dependency")
                yield tracks[op.id].event("f", "result", end, id=number, cat="dependency", bp="e")


def _middles(ops: Sequence[OpRecord]) -> dict[int, float]:
    """The middle of the slice of each op."""
    groups: dict[int, list[OpRecord]] = {}
    middles = {}
    for op in ran(ops):
        if op.run is not None:
            groups.setdefault(op.run, []).append(op)
        else:
            middles[op.id] = ((op.started or 0.0) + (op.finished or 0.0)) / 2
    for group in groups.values():
        start, end = _extent(group)
        for index, op in enumerate(group):
            middles[op.id] = sum(_share(start, end, index, len(group))) / 2
    return middles


def _depth(track: Track, ops: list[OpRecord]) -> Iterator[Event]:
    """Ops of a device that wait, and that run, whenever that changes."""
    changes: list[tuple[float, int, int]] = []
    for op in ops:
        changes.append((op.dispatched, 1, 0))
        if op.started is not None:
            changes.append((op.started, -1, 1))
        if op.finished is not None:
            changes.append((op.finished, 0, -1) if op.started is not None else (op.finished, -1, 0))
    waiting = running = 0
    for time, more_waiting, more_running in sorted(changes, key=lambda change: change[0]):
        waiting, running = waiting + more_waiting, running + more_running
        yield track.event("C", "queue ops", time, args={"waiting": waiting, "running": running})


def _bytes(track: Track, ops: Sequence[OpRecord]) -> Iterator[Event]:
    """Bytes of operands copied at dispatch that are still held."""
    changes = [(op.dispatched, op.held_bytes) for op in ops if op.held_bytes]
    changes += [(op.finished, -op.held_bytes) for op in ops if op.held_bytes and op.finished is not None]
    held = 0
    yield track.event("C", "pending bytes", 0.0, args={"bytes": 0})
    for time, change in sorted(changes):
        held += change
        yield track.event("C", "pending bytes", time, args={"bytes": held})
