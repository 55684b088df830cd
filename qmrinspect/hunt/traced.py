"""A cycle that is traced
----------------------

Records who takes and who drops references while a device comes and goes, and ends the
text of each finding with the line that took what is still held.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..audit.cause import Cause
from ..trace.match import Balance
from ..trace.story import takers_text, unexplained_text
from ..trace.tracing import Trace
from .judge import Judgement

__all__ = ["with_takers"]


def with_takers(judgement: Judgement, trace: Trace) -> Judgement:
    """Return a judgement whose texts end with who took what is still held."""
    text, out = judgement.text, []
    for cause in judgement.causes:
        ending = _ending(cause, trace.balances.get(cause.object))
        out.append(cause._replace(text=cause.text + ending))
        text = text.replace(cause.text, cause.text + ending, 1)
    return judgement._replace(text=text, causes=tuple(out))


def _ending(cause: Cause, one: Balance | None) -> str:
    if one is None:
        return ""
    if one.life.refused is not None:
        return f" (who took it is not known: {one.life.refused})"
    edges: Sequence[object] = cause.edges
    if edges:
        takers = takers_text(held.step for held in one.held if held.edge in edges)
    else:
        takers = unexplained_text(one)
    return f", {takers}" if takers is not None else ""
