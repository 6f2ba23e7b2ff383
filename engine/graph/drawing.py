"""Pictures of graphs: text for Graphviz, and SVG for notebooks with a layout of our own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from engine.base.op import ShapeDtype
from engine.dispatch.records import cells_of
from engine.failures import site
from engine.graph.node import known_of
from engine.graph.steps import Step, step_of
from handles.cell import Cell

COLOURS = ("#cfe2f3", "#d9ead3", "#fff2cc", "#f4cccc", "#d9d2e9", "#fce5cd", "#d0e0e3", "#ead1dc")
"""Colours of the devices, in the order in which they appear."""
DRAWN = 200
"""Nodes that a picture in a notebook shows at most: the first ones."""

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 150, 44, 20, 36, 16


@dataclass(frozen=True)
class Drawn:
    """A node of the picture."""

    step: Step
    its: ShapeDtype
    device: str
    sources: tuple[int, ...]
    """The positions, in the list of nodes, of those whose results this one reads."""


def nodes_of(records: Sequence[Cell | None]) -> list[Drawn]:
    """The nodes of a graph, in the order in which they were made."""
    positions: dict[int, int] = {}
    drawn: list[Drawn] = []
    for record in records:
        if record is None:
            continue
        step = step_of(record)
        its = known_of(cells_of(record)[0])
        sources = tuple(dict.fromkeys(positions[slot] for slot in step.inputs if slot in positions))
        drawn.append(Drawn(step, its, str(record.home.device), sources))
        positions.update(dict.fromkeys(step.outputs(), len(drawn) - 1))
    return drawn


def colours_of(nodes: Sequence[Drawn]) -> dict[str, str]:
    """A colour for each device."""
    devices = sorted({node.device for node in nodes})
    return {device: COLOURS[index % len(COLOURS)] for index, device in enumerate(devices)}


def _facts(node: Drawn) -> str:
    its = node.its
    lengths: tuple[int | None, ...] | None = its.shape
    dtype: object = its.dtype
    shape = "?" if lengths is None else "x".join("?" if n is None else str(n) for n in lengths) or "scalar"
    return f"{shape} {'?' if dtype is None else dtype}"


def to_dot(nodes: Sequence[Drawn]) -> str:
    """The graph in Graphviz's language."""
    colours = colours_of(nodes)
    lines = [
        "digraph graph_of_ops {",
        "  rankdir=TB;",
        '  node [shape=box, style="rounded,filled", fontname="sans-serif"];',
    ]
    for index, node in enumerate(nodes):
        label = _quoted(f"{node.step.name}\n{_facts(node)}\n{node.device}")
        place = _quoted(site(node.step.code, node.step.lasti))
        lines.append(f"  n{index} [label={label}, tooltip={place}, fillcolor={_quoted(colours[node.device])}];")
    lines += [f"  n{source} -> n{index};" for index, node in enumerate(nodes) for source in node.sources]
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def to_svg(nodes: Sequence[Drawn]) -> str:
    """The graph as a picture: a node stands below all that it reads, near the middle of it."""
    shown = nodes[:DRAWN]
    places = _layout(shown)
    colours = colours_of(shown)
    width = max((x for x, _ in places), default=0) + _WIDTH + _MARGIN
    height = max((y for _, y in places), default=0) + _HEIGHT + _MARGIN
    parts = [_arrow(places[source], places[index]) for index, node in enumerate(shown) for source in node.sources]
    parts += [_box(node, place, colours[node.device]) for node, place in zip(shown, places, strict=True)]
    for index, (device, colour) in enumerate(colours.items()):
        y = height + index * 20
        parts.append(f'<rect x="{_MARGIN}" y="{y}" width="14" height="14" rx="3" fill="{colour}" stroke="#666"/>')
        parts.append(f'<text x="{_MARGIN + 20}" y="{y + 12}">{escape(device)}</text>')
    height += len(colours) * 20 + _MARGIN
    if len(nodes) > len(shown):
        left_out = len(nodes) - len(shown)
        parts.append(f'<text x="{_MARGIN}" y="{height}">{left_out} further operations are not shown</text>')
        height += _MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="11">'
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#666"/></marker></defs>'
        f"{''.join(parts)}</svg>"
    )


def _layout(nodes: Sequence[Drawn]) -> list[tuple[int, int]]:
    """The upper left corner of each node: a row for each depth, within it in the order of what is read."""
    depths: list[int] = []
    rows: defaultdict[int, list[int]] = defaultdict(list)
    for index, node in enumerate(nodes):
        depths.append(1 + max((depths[source] for source in node.sources), default=-1))
        rows[depths[index]].append(index)
    columns: dict[int, float] = {}
    for depth in sorted(rows):
        row = sorted(rows[depth], key=lambda index: _middle(nodes[index], columns))
        begin = 0.0
        for index in row:
            wanted = _middle(nodes[index], columns)
            columns[index] = begin = max(begin, wanted if nodes[index].sources else begin)
            begin += 1.0
    step_x, step_y = _WIDTH + _GAP_X, _HEIGHT + _GAP_Y
    return [(_MARGIN + round(columns[index] * step_x), _MARGIN + depths[index] * step_y) for index in range(len(nodes))]


def _middle(node: Drawn, columns: dict[int, float]) -> float:
    return sum(columns[source] for source in node.sources) / len(node.sources) if node.sources else 0.0


def _box(node: Drawn, place: tuple[int, int], colour: str) -> str:
    x, y = place
    name = node.step.name if len(node.step.name) <= 22 else node.step.name[:21] + "…"
    return (
        f"<g><title>{escape(node.step.name)} ({escape(node.step.op.name)}) on {escape(node.device)}, "
        f"made at {escape(site(node.step.code, node.step.lasti))}</title>"
        f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="6" fill="{colour}" stroke="#666"/>'
        f'<text x="{x + _WIDTH // 2}" y="{y + 18}" text-anchor="middle" font-weight="bold">{escape(name)}</text>'
        f'<text x="{x + _WIDTH // 2}" y="{y + 34}" text-anchor="middle" fill="#444">{escape(_facts(node))}</text></g>'
    )


def _arrow(begin: tuple[int, int], end: tuple[int, int]) -> str:
    x1, y1 = begin[0] + _WIDTH // 2, begin[1] + _HEIGHT
    x2, y2 = end[0] + _WIDTH // 2, end[1]
    bend = (y2 - y1) // 2
    path = f"M{x1},{y1} C{x1},{y1 + bend} {x2},{y2 - bend} {x2},{y2}"
    return f'<path d="{path}" fill="none" stroke="#666" marker-end="url(#arrow)"/>'
