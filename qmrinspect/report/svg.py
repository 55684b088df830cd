"""Pictures
--------

The references around a finding, and the growth over the cycles, as inline SVG that
needs nothing else to be seen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

from ..documents import HuntRow
from ..text import printable

__all__ = ["growth_plot", "reference_graph"]

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 230, 40, 150, 26, 14
_DEPTH_MAX, _ROWS_MAX = 4, 9
_LABEL_MAX = 34


class _Arrow(NamedTuple):
    """References of one kind from one holder to one object."""

    holder: str
    target: str
    kind: str
    fields: tuple[str, ...]


def reference_graph(row: HuntRow) -> str:
    """Draw what holds the objects that a finding left behind; "" when nothing is known.

    The first object is at the right, what holds it to its left, and so on; a reference
    that leads back is a cycle.
    """
    arrows, labels, head = _arrows(row)
    if not head or not arrows:
        return ""
    column = _columns(arrows, head)
    shown: dict[int, list[str]] = defaultdict(list)
    for node, depth in column.items():
        if len(shown[depth]) < _ROWS_MAX:
            shown[depth].append(node)
    depth_max = max(shown)
    tall = max(len(nodes) for nodes in shown.values())
    width = 2 * _MARGIN + (depth_max + 1) * _WIDTH + depth_max * _GAP_X
    height = 2 * _MARGIN + tall * _HEIGHT + (tall - 1) * _GAP_Y + 50
    place = {}
    for depth, nodes in shown.items():
        x = _MARGIN + (depth_max - depth) * (_WIDTH + _GAP_X)
        top = (height - 50 - len(nodes) * _HEIGHT - (len(nodes) - 1) * _GAP_Y) / 2
        for number, node in enumerate(nodes):
            place[node] = (x, top + number * (_HEIGHT + _GAP_Y))
    parts = [
        f'<svg class="graph" role="img" viewBox="0 0 {width} {height:.0f}" width="{width}" '
        f'height="{height:.0f}" xmlns="http://www.w3.org/2000/svg">',
        f"<title>References around {escape(labels.get(head, head))}</title>",
    ]
    parts += [_draw(a, place, height) for a in arrows if a.holder in place and a.target in place]
    for node, (x, y) in place.items():
        kind = "head" if node == head else "node"
        label = labels.get(node, node)
        parts.append(
            f'<g class="{kind}"><title>{escape(label)}</title>'
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{_WIDTH}" height="{_HEIGHT}" rx="5"/>'
            f"{_label(label, x + _WIDTH / 2, y + _HEIGHT / 2)}</g>"
        )
    parts.append("</svg>")
    return "".join(parts)


def _arrows(row: HuntRow) -> tuple[list[_Arrow], dict[str, str], str]:
    """Return the arrows, the names of the nodes, and the object to begin with."""
    case = row.get("case") or ()
    left = row.get("objects_left") or ()
    labels = {item["address"]: f"{item['was']}\n{item['type']}" for item in left}
    head = case[0]["object"] if case else (left[0]["address"] if left else "")
    fields: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    edges = [edge for item in (*case, *left) for edge in item["references"]]
    for edge in edges:
        holder = edge["holder"]
        if holder == "0x0":
            holder = f"variable {edge['field']}"
        labels.setdefault(holder, edge.get("holder_label") or edge["holder_path"] or holder)
        found = fields[(holder, edge["target"], edge["kind"])]
        if edge["field"] not in found:
            found.append(edge["field"])
    return [_Arrow(*key, tuple(names)) for key, names in fields.items()], labels, head


def _columns(arrows: Sequence[_Arrow], head: str) -> dict[str, int]:
    column = {head: 0}
    todo = [head]
    while todo:
        node = todo.pop(0)
        if column[node] == _DEPTH_MAX:
            continue
        for arrow in arrows:
            if arrow.target == node and arrow.holder not in column:
                column[arrow.holder] = column[node] + 1
                todo.append(arrow.holder)
    return column


def _draw(arrow: _Arrow, place: Mapping[str, tuple[float, float]], height: float) -> str:
    (x1, y1), (x2, y2) = place[arrow.holder], place[arrow.target]
    count = f" x{len(arrow.fields)}" if len(arrow.fields) > 1 else ""
    tip = escape("\n".join(printable(field) for field in arrow.fields[:20]))
    if x1 < x2:
        a, b = x1 + _WIDTH, x2
        ya, yb = y1 + _HEIGHT / 2 - 5, y2 + _HEIGHT / 2 - 5
        path = (
            f"M{a:.0f},{ya:.0f} C{a + 60:.0f},{ya:.0f} {b - 60:.0f},{yb:.0f} {b - 7:.0f},{yb:.0f}"
        )
        text_x, text_y = (a + b) / 2, (ya + yb) / 2 - 6
        head = f"{b:.0f},{yb:.0f} {b - 8:.0f},{yb - 4:.0f} {b - 8:.0f},{yb + 4:.0f}"
    else:
        # From right to left, or within a column: below everything.
        a, b = x1 + _WIDTH / 2 + 20, x2 + _WIDTH / 2 - 20
        ya, yb, low = y1 + _HEIGHT, y2 + _HEIGHT, height - 8
        path = f"M{a:.0f},{ya:.0f} C{a:.0f},{low:.0f} {b:.0f},{low:.0f} {b:.0f},{yb + 7:.0f}"
        text_x, text_y = (a + b) / 2, low - 12
        head = f"{b:.0f},{yb:.0f} {b - 4:.0f},{yb + 8:.0f} {b + 4:.0f},{yb + 8:.0f}"
    return (
        f'<g class="arrow"><title>{tip}</title><path d="{path}"/><polygon points="{head}"/>'
        f'<text x="{text_x:.0f}" y="{text_y:.0f}" text-anchor="middle">'
        f"{escape(arrow.kind + count)}</text></g>"
    )


def _label(label: str, x: float, y: float) -> str:
    lines = [escape(_short(line)) for line in label.split("\n") if line][:2]
    y += 4 if len(lines) == 1 else -3
    return "".join(
        f'<text x="{x:.0f}" y="{y + 15 * number:.0f}" text-anchor="middle">{line}</text>'
        for number, line in enumerate(lines)
    )


def _short(label: str) -> str:
    label = printable(label)
    return label if len(label) <= _LABEL_MAX else "…" + label[len(label) - _LABEL_MAX + 1 :]


# Growth ----------------------------------------------------------------------------

_PLOT_W, _PLOT_H, _LEFT, _BOTTOM, _TOP = 420, 180, 62, 34, 24


def growth_plot(samples: Iterable[Sequence[int]]) -> str:
    """Draw objects and references over the cycles, side by side."""
    points = [tuple(sample) for sample in samples]
    if len(points) < 2:
        return ""
    plots = [
        _plot([(p[0], p[column]) for p in points], title)
        for column, title in ((1, "objects"), (2, "references"))
    ]
    return f'<div class="plots">{"".join(plots)}</div>'


def _plot(points: Sequence[tuple[int, int]], title: str) -> str:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    low, high = min(ys), max(ys)
    if low == high:
        low, high = low - 1, high + 1
    wide, tall = _PLOT_W - _LEFT - 12, _PLOT_H - _BOTTOM - _TOP
    span = max(1, xs[-1] - xs[0])

    def at(x: int, y: int) -> str:
        return (
            f"{_LEFT + (x - xs[0]) / span * wide:.1f},"
            f"{_TOP + tall - (y - low) / (high - low) * tall:.1f}"
        )

    line = " ".join(at(x, y) for x, y in points)
    base = _TOP + tall
    return (
        f'<svg class="plot" role="img" viewBox="0 0 {_PLOT_W} {_PLOT_H}" width="{_PLOT_W}" '
        f'height="{_PLOT_H}" xmlns="http://www.w3.org/2000/svg"><title>{title}</title>'
        f'<text x="{_LEFT}" y="14">{title}</text>'
        f'<path class="axis" d="M{_LEFT},{_TOP} V{base} H{_PLOT_W - 12}"/>'
        f'<text x="{_LEFT - 6}" y="{_TOP + 8}" text-anchor="end">{high}</text>'
        f'<text x="{_LEFT - 6}" y="{base}" text-anchor="end">{low}</text>'
        f'<text x="{_LEFT}" y="{base + 16}">{xs[0]}</text>'
        f'<text x="{_PLOT_W - 12}" y="{base + 16}" text-anchor="end">{xs[-1]} cycles</text>'
        f'<polyline points="{line}"/></svg>'
    )
