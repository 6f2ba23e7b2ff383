"""Tables of a profile: what took how long, by op and by line of the program. Pure."""

from __future__ import annotations

import linecache
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.observe.assembly import Lag, Stall
from engine.observe.events import OpRecord
from engine.queues.leftovers import counted


@dataclass
class Row:
    """The sums over the ops of one name, or of one line."""

    label: str
    count: int = 0
    seconds: float = 0.0
    """Running; the time of a fusion group is shared out equally among its ops."""
    operand_wait: float = 0.0
    slot_wait: float = 0.0
    nbytes: int = 0
    copied: int = 0
    """Bytes of operands that were copied at dispatch."""
    failed: int = 0

    def add(self, op: OpRecord, seconds: float) -> None:
        """Count an op that ran for so long."""
        self.count += 1
        self.seconds += seconds
        self.operand_wait += op.operand_wait
        self.slot_wait += op.slot_wait
        self.nbytes += op.nbytes or 0
        self.copied += op.held_bytes
        self.failed += op.outcome == "failed"

    def cells(self) -> list[str]:
        """As it is shown."""
        times = (self.seconds, self.operand_wait, self.slot_wait)
        copied = size(self.copied) if self.copied else ""
        failed = f"{self.failed:,}" if self.failed else ""
        return [f"{self.count:,}", *map(duration, times), size(self.nbytes), copied, failed]


HEAD = ["count", "running", "waiting for operands", "waiting for a slot", "bytes", "copied", "failed"]


def rows(ops: Sequence[OpRecord], label: Callable[[OpRecord], str]) -> list[Row]:
    """One row for each label, the longest running first."""
    members = Counter(op.run for op in ops if op.run is not None)
    found: dict[str, Row] = {}
    for op in ops:
        text = label(op)
        row = found.get(text)
        if row is None:
            row = found[text] = Row(text)
        row.add(op, op.seconds if op.run is None else op.seconds / members[op.run])
    return sorted(found.values(), key=lambda row: -row.seconds)


def by_name(ops: Sequence[OpRecord]) -> list[Row]:
    """A row for each op name."""
    return rows(ops, lambda op: op.name)


def by_line(ops: Sequence[OpRecord]) -> list[Row]:
    """A row for each line that dispatched ops."""
    return rows(ops, lambda op: op.site)


def fused(ops: Sequence[OpRecord]) -> list[tuple[str, int]]:
    """Which ops were computed together, and how often, the most frequent first."""
    groups: dict[int, list[str]] = {}
    for op in ops:
        if op.run is not None:
            groups.setdefault(op.run, []).append(op.name)
    return Counter(_chain(names) for names in groups.values()).most_common()


def _chain(names: list[str]) -> str:
    """`multiply, abs, sqrt`; long ones shortened."""
    shown = names if len(names) <= 8 else [*names[:6], f"{len(names) - 7} more", names[-1]]
    return ", ".join(shown)


def demanded(ops: Iterable[OpRecord]) -> list[tuple[str, int]]:
    """Which task or thread waited for ops, where, and for how many of them itself."""
    return Counter(op.demanded_by for op in ops if op.demanded_by is not None).most_common()


def headline(
    ops: Sequence[OpRecord], lags: Sequence[Lag], stalls: Sequence[Stall], span: tuple[float, float], dropped: int
) -> list[str]:
    """The lines that come first."""
    outcomes = Counter(op.outcome or "in flight" for op in ops)
    parts = [f"{count:,} {name}" for name, count in sorted(outcomes.items())]
    lines = [f"{counted(len(ops), ',')} in {duration(span[1] - span[0])}" + (": " + ", ".join(parts) if parts else "")]
    if dropped:
        lines.append(f"{dropped:,} further ops were not recorded: engine.profile(most_ops=...) takes more")
    if lags:
        lines.append(f"the event loop called back after {duration(max(lag.seconds for lag in lags))} at most")
    still = "the event loop stood still for"
    lines += [f"{still} {duration(stall.seconds)} at {short(stall.site)}" for stall in stalls[:5]]
    if len(stalls) > 5:
        lines.append(f"and {len(stalls) - 5:,} further times")
    return lines


def summary(
    ops: Sequence[OpRecord],
    lags: Sequence[Lag],
    stalls: Sequence[Stall],
    span: tuple[float, float],
    dropped: int,
    limit: int,
) -> str:
    """The tables as text."""
    lines = headline(ops, lags, stalls, span, dropped)
    for title, found in (("op", by_name(ops)), ("line", by_line(ops))):
        if found:
            lines += ["", *_table(title, found, limit)]
    lines += _counts("computed together, as one fusion group", fused(ops), limit)
    lines += _counts("waited for by", demanded(ops), limit)
    return "\n".join(lines) + "\n"


def _table(title: str, found: list[Row], limit: int) -> list[str]:
    shown = found[:limit]
    labels = [title, *(short(row.label) for row in shown)]
    cells = [HEAD, *(row.cells() for row in shown)]
    filled = [index for index in range(len(HEAD)) if any(line[index] for line in cells[1:])]
    width = max(map(len, labels))
    widths = {index: max(len(line[index]) for line in cells) for index in filled}
    lines = [
        f"{label:<{width}}  " + "  ".join(f"{line[index]:>{widths[index]}}" for index in filled)
        for label, line in zip(labels, cells, strict=True)
    ]
    if title == "line":
        lines = [
            lines[0],
            *(f"{line}  {source(row.label)}".rstrip() for line, row in zip(lines[1:], shown, strict=True)),
        ]
    lines.insert(1, "-" * max(map(len, lines)))
    if len(found) > limit:
        lines.append(f"and {len(found) - limit:,} more")
    return lines


def _counts(title: str, found: list[tuple[str, int]], limit: int) -> list[str]:
    if not found:
        return []
    lines = [f"  {count:>7,} x  {text}" for text, count in found[:limit]]
    if len(found) > limit:
        lines.append(f"  and {len(found) - limit:,} more")
    return ["", title + ":", *lines]


def duration(seconds: float) -> str:
    """With a unit that one can read."""
    if seconds == 0:
        return "0"
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 1.0:
            return f"{seconds * factor:.3g} {unit}" if seconds * factor < 1000 else f"{seconds * factor:,.0f} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def size(nbytes: int) -> str:
    """Bytes, with a unit that one can read."""
    value, unit = float(nbytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"


def short(place: str) -> str:
    """`file:line` without most of the folders."""
    file, colon, line = place.rpartition(":")
    if not colon or not line.isdigit() or " at " in file:
        return place
    parts = Path(file).parts
    return f"{'/'.join(parts[-2:])}:{line}" if len(parts) > 2 else place


def source(place: str) -> str:
    """The line of the program that a place names; nothing where it cannot be read."""
    file, _, line = place.rpartition(":")
    return linecache.getline(file, int(line)).strip() if line.isdigit() else ""
