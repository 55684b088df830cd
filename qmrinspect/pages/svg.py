"""Pictures laid out by hand
-------------------------

The references around a finding where Graphviz is not installed, and the growth over the cycles, as
inline SVG that needs nothing else to be seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

__all__ = ["Box", "Line", "growth_plot", "hand_laid"]

_ROW, _GAP_X, _GAP_Y, _MARGIN, _PADDING = 15, 40, 26, 14, 12
# Of a letter in the fonts that pages ask for, at 12 and at 11 pixels.
_LETTER, _SMALL = 7.4, 6.8
# A line that leads back runs below everything.
_LANE = 22
# What lies between two lines that begin at one box.
_LABEL = 18


_PICTURE = Markup(
    '<svg class="graph" role="img" viewBox="0 0 {wide:.0f} {tall:.0f}" width="{wide:.0f}" '
    'height="{tall:.0f}" xmlns="http://www.w3.org/2000/svg"><title>{title}</title>{parts}</svg>'
)
_ARROW = Markup(
    '<g class="arrow {look}"><title>{tip}</title><path d="{path}"/><polygon points="{head}"/>'
    '<text x="{x:.0f}" y="{y:.0f}" text-anchor="middle">{label}</text></g>'
)
_BOX = Markup(
    '<g class="box {look}"><title>{tip}</title><rect x="{x:.0f}" y="{y:.0f}" width="{wide:.0f}" '
    'height="{tall:.0f}" rx="5"/>{texts}</g>'
)
_TEXT = Markup('<text x="{x:.0f}" y="{y:.0f}" text-anchor="middle">{text}</text>')


class Box(NamedTuple):
    """A node: its text, and the class it is shown as (``head``, ``ring``, ``node``)."""

    name: str
    lines: tuple[str, ...]
    look: str


class Line(NamedTuple):
    """An arrow with its label; ``tip`` shows when it is pointed at."""

    start: str
    end: str
    label: str
    tip: str
    look: str


class _Place(NamedTuple):
    x: float
    y: float
    wide: float
    tall: float


def hand_laid(boxes: Sequence[Box], lines: Sequence[Line], title: str) -> Markup:
    """Lay a picture out in columns: the first box at the right, what holds it to its left."""
    columns = _columns(boxes, lines)
    back = [line for line in lines if columns[line.start] <= columns[line.end]]
    place, width, low = _places(boxes, lines, columns)
    lane = {id(line): low + _LANE * number for number, line in enumerate(back, 1)}
    height = low + _LANE * len(back) + _MARGIN + 4 * bool(back)
    parts = []
    starts: dict[str, int] = {}
    for line in lines:
        at = starts[line.start] = starts.get(line.start, -1) + 1
        parts.append(_line(line, place, lane.get(id(line)), at))
    parts += [_box(box, place[box.name]) for box in boxes]
    return _PICTURE.format(wide=width, tall=height, title=title, parts=Markup().join(parts))


def _columns(boxes: Sequence[Box], lines: Sequence[Line]) -> dict[str, int]:
    column, todo = {boxes[0].name: 0}, [boxes[0].name]
    while todo:
        node = todo.pop(0)
        for line in lines:
            if line.end == node and line.start not in column:
                column[line.start] = column[node] + 1
                todo.append(line.start)
    return {box.name: column.get(box.name, 0) for box in boxes}


def _places(
    boxes: Sequence[Box], lines: Sequence[Line], columns: Mapping[str, int]
) -> tuple[dict[str, _Place], float, float]:
    """Return where the boxes are, how wide the picture is, and where the lowest box ends."""
    labels = max((len(line.label) for line in lines), default=0) * _SMALL
    place, x, low = {}, float(_MARGIN), 0.0
    for depth in sorted(set(columns.values()), reverse=True):
        here = [box for box in boxes if columns[box.name] == depth]
        wide = 2 * _PADDING + _LETTER * max(len(text) for box in here for text in box.lines)
        y = float(_MARGIN)
        for box in here:
            # Each line that begins here has room for its label.
            starts = sum(line.start == box.name for line in lines)
            tall = 2 * _PADDING + max(_ROW * (len(box.lines) - 1) + 8, _LABEL * (starts - 1))
            place[box.name] = _Place(x, y, wide, tall)
            y += tall + _GAP_Y
        low = max(low, y - _GAP_Y)
        x += wide + labels + _GAP_X
    return place, x - labels - _GAP_X + _MARGIN, low


def _line(line: Line, place: Mapping[str, _Place], lane: float | None, number: int) -> Markup:
    """Draw an arrow; ``number`` tells those that begin at one box apart."""
    one, two = place[line.start], place[line.end]
    if lane is None:
        a, b = one.x + one.wide, two.x
        ya, yb = one.y + _PADDING + 4 + _LABEL * number, two.y + two.tall / 2
        # Flat below its label, and then to where it leads.
        flat = b - _GAP_X
        path = (
            f"M{a:.0f},{ya:.0f} H{flat:.0f} C{flat + 20:.0f},{ya:.0f} {b - 24:.0f},{yb:.0f} "
            f"{b - 7:.0f},{yb:.0f}"
        )
        head = f"{b:.0f},{yb:.0f} {b - 8:.0f},{yb - 4:.0f} {b - 8:.0f},{yb + 4:.0f}"
        x, y = (a + flat) / 2, ya - 4
    else:
        # Lines that lead back do not meet on their way down and up.
        a, b = one.x + one.wide * 0.6 + 9 * number, two.x + two.wide * 0.4 - 9 * number
        ya, yb = one.y + one.tall, two.y + two.tall
        path = f"M{a:.0f},{ya:.0f} V{lane:.0f} H{b:.0f} V{yb + 7:.0f}"
        head = f"{b:.0f},{yb:.0f} {b - 4:.0f},{yb + 8:.0f} {b + 4:.0f},{yb + 8:.0f}"
        x, y = (a + b) / 2, lane - 5
    shape = {"path": path, "head": head, "x": x, "y": y}
    return _ARROW.format(look=line.look, tip=line.tip, label=line.label, **shape)


def _box(box: Box, at: _Place) -> Markup:
    x, y = at.x + at.wide / 2, at.y + _PADDING + 8
    texts = [_TEXT.format(x=x, y=y + _ROW * n, text=text) for n, text in enumerate(box.lines)]
    inside = Markup().join(texts)
    return _BOX.format(look=box.look, tip=" ".join(box.lines), texts=inside, **at._asdict())


# Growth ----------------------------------------------------------------------------

_PLOT_W, _PLOT_H, _LEFT, _BOTTOM, _TOP = 420, 180, 62, 34, 24


def growth_plot(samples: Iterable[Sequence[int]]) -> Markup | None:
    """Draw objects and references over the cycles, side by side; None for less than two."""
    points = [tuple(sample) for sample in samples]
    if len(points) < 2:
        return None
    plots = [
        _plot([(p[0], p[column]) for p in points], title)
        for column, title in ((1, "objects"), (2, "references"))
    ]
    return Markup('<div class="plots">{}</div>').format(Markup().join(plots))


def _plot(points: Sequence[tuple[int, int]], title: str) -> Markup:
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
    # Numbers and words of ours.
    return Markup(
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
