"""Pictures of a profile: an SVG that needs nothing else, the table below it, and matplotlib's axes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

from engine.observe import tables
from engine.observe.assembly import Lag, Stall
from engine.observe.events import OpRecord
from engine.observe.timeline import OTHER, Bar, Timeline, timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, LABELS, ROW, AXIS, LEGEND = 960, 190, 22, 26, 22
"""Pixels: of the picture, of what stands beside the rows, of a row, of the axis, and of the legend."""
MOST_LANES = 40
NARROWEST = 1500
"""Which part of matplotlib's axes a bar covers at least."""
LEGEND_WIDTH = 100
"""Characters of a row of matplotlib's legend, which may not be wider than the picture."""
FAILED = "#d00000"
"""The colour of the edge of a bar with an op that has failed."""
FONT = "font-family:system-ui,sans-serif;font-size:11px"


def ticks(seconds: float, about: int = 6) -> tuple[float, int]:
    """A round distance between ticks, in seconds, and how many there are."""
    rough = max(seconds, 1e-9) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    return step, int(seconds / step + 1e-9) + 1


def has_failed(bar: Bar) -> bool:
    """Tell whether an op of it has failed."""
    return any(op.outcome == "failed" for op in bar.ops)


def describe(bar: Bar) -> str:
    """The text for a reader who points at a bar."""
    first, count = bar.ops[0], len(bar.ops)
    took = tables.duration(bar.end - bar.start)
    if count == 1:
        waited = (
            f"waited {tables.duration(first.operand_wait)} for operands, {tables.duration(first.slot_wait)} for a slot"
        )
        return f"{first.name}: {took} ({first.outcome})\n{first.site}\n{waited}"
    names = ", ".join(sorted({op.name for op in bar.ops})[:8])
    how = "one fusion group" if bar.is_group else "too short to show apart"
    return f"{count} ops, {how}: {took}\n{names}\nfrom {first.site}"


def svg(picture: Timeline) -> str:
    """The timeline as SVG; text and lines have the colour of the text around it."""
    lanes = picture.lanes[:MOST_LANES]
    height = LEGEND + ROW * max(1, len(lanes)) + AXIS
    total = picture.end - picture.begin
    scale = (WIDTH - LABELS - 10) / total if total > 0 else 0.0
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'style="max-width:100%;height:auto;{FONT}" role="img" aria-label="Timeline of {len(lanes)} threads">'
    )
    parts = [opening, *_legend(picture), *_axis(picture, scale, height)]
    for index, lane in enumerate(lanes):
        top = LEGEND + index * ROW
        parts.append(
            f'<text x="{LABELS - 8}" y="{top + 15}" text-anchor="end" fill="currentColor">{escape(lane.label)}</text>'
        )
        parts += [
            _rectangle(picture, bar, LABELS + (bar.start - picture.begin) * scale, top, scale) for bar in lane.bars
        ]
    if not lanes:
        parts.append(f'<text x="{LABELS}" y="{LEGEND + 15}" fill="currentColor">no op has run</text>')
    if len(picture.lanes) > len(lanes):
        more = len(picture.lanes) - len(lanes)
        parts.append(f'<text x="4" y="{height - 8}" fill="currentColor">and {more} more rows</text>')
    return "".join(parts) + "</svg>"


def _rectangle(picture: Timeline, bar: Bar, x: float, top: int, scale: float) -> str:
    width = max((bar.end - bar.start) * scale, 0.75)
    edge = f' stroke="{FAILED}" stroke-width="1.5"' if has_failed(bar) else ""
    shape = f'<rect x="{x:.2f}" y="{top + 3}" width="{width:.2f}" height="{ROW - 6}" fill="{picture.colour(bar.name)}"'
    text = ""
    name = bar.name if len(bar.ops) == 1 or bar.is_group else f"{bar.name} +{len(bar.ops) - 1}"
    if width > 7 * len(name) + 6:
        text = f'<text x="{x + 4:.2f}" y="{top + 15}" fill="#fff" style="pointer-events:none">{escape(name)}</text>'
    return f"{shape}{edge}><title>{escape(describe(bar))}</title></rect>{text}"


def _legend(picture: Timeline) -> Iterator[str]:
    x = float(LABELS)
    end = WIDTH - 60 if picture.has_others else WIDTH
    for name, colour in picture.colours.items():
        shown = name if len(name) <= 24 else name[:23] + "…"
        if x + 14 + 7 * len(shown) > end:
            break
        yield f'<rect x="{x:.0f}" y="5" width="10" height="10" fill="{colour}"/>'
        yield f'<text x="{x + 14:.0f}" y="14" fill="currentColor">{escape(shown)}</text>'
        x += 7 * len(shown) + 26
    if picture.has_others:
        yield f'<rect x="{x:.0f}" y="5" width="10" height="10" fill="{OTHER}"/>'
        yield f'<text x="{x + 14:.0f}" y="14" fill="currentColor">others</text>'


def _axis(picture: Timeline, scale: float, height: int) -> Iterator[str]:
    if scale == 0:
        return
    step, count = ticks(picture.end - picture.begin)
    bottom = height - AXIS + 4
    for index in range(count):
        x = LABELS + index * step * scale
        yield (
            f'<line x1="{x:.1f}" y1="{LEGEND}" x2="{x:.1f}" y2="{bottom}" stroke="currentColor" stroke-opacity="0.15"/>'
        )
        yield (
            f'<text x="{x:.1f}" y="{height - 8}" text-anchor="middle" fill="currentColor" fill-opacity="0.75">'
            f"{tables.duration(index * step)}</text>"
        )


def as_html(
    ops: Sequence[OpRecord], lags: Sequence[Lag], stalls: Sequence[Stall], span: tuple[float, float], dropped: int
) -> str:
    """The timeline, and the tables below it."""
    head = "<br>".join(escape(line) for line in tables.headline(ops, lags, stalls, span, dropped))
    parts = ['<div class="eagerloop-profile">', f"<p>{head}</p>", svg(timeline(ops, span, WIDTH - LABELS))]
    for title, found in (("op", tables.by_name(ops)), ("line", tables.by_line(ops))):
        if found:
            parts.append(table(title, found, 10))
    together = tables.fused(ops)[:5]
    if together:
        items = "".join(f"<li>{count:,} x {escape(text)}</li>" for text, count in together)
        parts.append(f"<p>computed together, as one fusion group:</p><ul>{items}</ul>")
    return "".join(parts) + "</div>"


def table(title: str, found: Sequence[tables.Row], limit: int) -> str:
    """The rows as an HTML table."""
    cells = [row.cells() for row in found[:limit]]
    filled = [index for index in range(len(tables.HEAD)) if any(line[index] for line in cells)]
    heads = "".join(f'<th style="text-align:right;padding:0 6px">{escape(tables.HEAD[index])}</th>' for index in filled)
    lines = [f'<table><thead><tr><th style="text-align:left">{title}</th>{heads}</tr></thead><tbody>']
    for row, line in zip(found, cells, strict=False):
        label = escape(tables.short(row.label))
        if title == "line":
            label = f"{label} <code>{escape(tables.source(row.label)[:80])}</code>"
        values = "".join(f'<td style="text-align:right;padding:0 6px">{line[index]}</td>' for index in filled)
        lines.append(f'<tr><td style="text-align:left" title="{escape(row.label)}">{label}</td>{values}</tr>')
    if len(found) > limit:
        more = f"and {len(found) - limit:,} more"
        lines.append(f'<tr><td colspan="{len(filled) + 1}" style="text-align:left">{more}</td></tr>')
    return "".join(lines) + "</tbody></table>"


def plot(ops: Sequence[OpRecord], span: tuple[float, float], ax: Axes | None) -> Axes:
    """The timeline on matplotlib's axes."""
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    picture = timeline(ops, span, 2000)
    lanes = picture.lanes
    patches = [Patch(color=colour, label=_shortened(name)) for name, colour in picture.colours.items()]
    if picture.has_others:
        patches.append(Patch(color=OTHER, label="others"))
    if any(has_failed(bar) for lane in lanes for bar in lane.bars):
        patches.append(Patch(facecolor="none", edgecolor=FAILED, label="failed"))
    longest = max((len(str(patch.get_label())) for patch in patches), default=0)
    columns = max(1, min(5, LEGEND_WIDTH // (longest + 5)))
    if ax is None:
        height = 1.2 + 0.2 * math.ceil(len(patches) / columns) + 0.35 * max(1, min(len(lanes), MOST_LANES))
        _, ax = pyplot.subplots(figsize=(10, height), layout="constrained")
    step, _ = ticks(picture.end - picture.begin)
    factor, unit = next((f, u) for f, u in ((1.0, "s"), (1e3, "ms"), (1e6, "us"), (1e9, "ns")) if step * f >= 0.1)
    for index, lane in enumerate(lanes):
        widths = [max(bar.end - bar.start, (picture.end - picture.begin) / NARROWEST) for bar in lane.bars]
        spans = [
            ((bar.start - picture.begin) * factor, width * factor) for bar, width in zip(lane.bars, widths, strict=True)
        ]
        ax.broken_barh(
            spans,
            (index - 0.35, 0.7),
            facecolors=[picture.colour(bar.name) for bar in lane.bars],
            edgecolors=[FAILED if has_failed(bar) else "none" for bar in lane.bars],
        )
    ax.set_yticks(range(len(lanes)), [lane.label for lane in lanes])
    ax.set_ylim(max(len(lanes), 1) - 0.5, -0.5)
    ax.set_xlim(0, (picture.end - picture.begin) * factor)
    ax.set_xlabel(f"time, {unit}")
    ax.grid(axis="x", alpha=0.25)
    ax.set_axisbelow(True)
    if patches:
        above = (0.0, 1.0)
        ax.legend(
            handles=patches, loc="lower left", bbox_to_anchor=above, ncols=columns, frameon=False, fontsize="small"
        )
    return ax


def _shortened(name: str) -> str:
    """The name of a bar, as long as the legend can show it."""
    most = LEGEND_WIDTH // 2
    return name if len(name) <= most else f"{name[: most - 1]}…"
