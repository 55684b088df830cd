"""Pictures of balance trees
-------------------------

Who took and who dropped the references of an object that remains, as inline SVG: callers
above what they call, what balances left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from ..documents import BalanceJson, TreeJson
from ..text import printable

__all__ = ["balance_picture"]

_WIDTH, _ROW, _INDENT, _MARGIN = 900, 24, 22, 8
_ROWS_MAX, _DEPTH_MAX, _LABEL_MAX = 60, 24, 110
_PICTURE = Markup(
    '<svg class="balance" role="img" viewBox="0 0 {wide} {tall}" width="{wide}" height="{tall}" '
    'xmlns="http://www.w3.org/2000/svg"><title>{title}</title>{rows}</svg>'
)
_BAR = Markup(
    '<g class="{look}"><rect x="{x}" y="{y}" width="{wide}" height="{tall}" rx="3"/>'
    '<text x="{left}" y="{low}">{label}</text></g>'
)


def balance_picture(one: BalanceJson) -> Markup | None:
    """Draw the ``tree`` of an object of ``qmr-trace/1``; None when there is nothing to draw."""
    rows = list(_rows(one.get("tree") or (), 0))[:_ROWS_MAX]
    if not rows:
        return None
    bars = []
    for number, (depth, net, text) in enumerate(rows):
        x, y = _MARGIN + depth * _INDENT, _MARGIN + number * _ROW
        look = "bad" if net > 0 else "good"
        label = printable(f"{net:+d}  {text}", _LABEL_MAX)
        wide, tall = _WIDTH - x - _MARGIN, _ROW - 4
        place = {"x": x, "y": y, "left": x + 6, "low": y + 14}
        bars.append(_BAR.format(look=look, wide=wide, tall=tall, label=label, **place))
    title = f"Balance of {printable(one['path'] or one['type'])}"
    height = 2 * _MARGIN + len(rows) * _ROW
    return _PICTURE.format(wide=_WIDTH, tall=height, title=title, rows=Markup().join(bars))


def _rows(nodes: Sequence[TreeJson], depth: int) -> Iterator[tuple[int, int, str]]:
    """Yield depth, net and text; a function that only calls another shares its row."""
    for node in sorted(nodes, key=lambda n: -abs(n["taken"] - n["dropped"])):
        texts, last = [node["text"]], node
        while len(last["below"]) == 1 and len(texts) < _DEPTH_MAX:
            only = last["below"][0]
            if (only["taken"], only["dropped"]) != (node["taken"], node["dropped"]):
                break
            texts.append(only["text"])
            last = only
        yield depth, node["taken"] - node["dropped"], " > ".join(texts[-3:])
        if depth < _DEPTH_MAX:
            yield from _rows(last["below"], depth + 1)
