"""References in JSON
------------------
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..index import Index
from .edges import Edge

if TYPE_CHECKING:
    from ..documents import EdgeJson

__all__ = ["edge_json"]


def edge_json(index: Index, edge: Edge, label: bool = False) -> EdgeJson:
    """Return a reference as the contract writes it.

    ``holder_path`` is that of the holder, or of the object it works for.

    :param label: with what people call the holder, and the object it is part of, for who has
        no snapshot to ask.
    """
    objects = index.snapshot.objects
    holder = edge.holder if edge.holder in objects else edge.owner
    out: EdgeJson = {
        "kind": edge.kind,
        "count": 1,
        "holder": hex(edge.holder),
        "holder_path": index.path(holder) if holder in objects else "",
    }
    if label:
        out["owner"] = hex(edge.owner)
        out["holder_label"] = index.label(edge.holder) if edge.holder else ""
    out["field"] = edge.field
    out["rule"] = edge.rule
    out["target"] = hex(edge.target)
    return out
