"""Strict relations
----------------

What QEMU's structures say of each other, field by field.  Balanced books do not prove a
layout: most fields can be moved by a word and nothing is missed.  Each relation here names the
fields it rests on, and is tried on every instance: where it holds its fields were *seen* to be
right, where it does not one of them is wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ..records.context import Context
from ..snapshot import Snapshot
from . import channels, devices, holders, lists, memory, overlap, unplugs, virtio
from .displaced import displaced
from .tally import Relation, Tally

__all__ = ["Relation", "displaced", "doubted", "relations"]


def relations(
    context: Context, snapshot: Snapshot, types: Collection[str] | None = None
) -> Mapping[str, Relation]:
    """Return every strict relation of which this QEMU has the fields, by name.

    :param context: that the snapshot was taken with.
    :param types: of QOM; only what their instances hold is looked at.
    """
    tally = Tally(context)
    if types is None:
        for module in (overlap, memory, lists, devices, virtio, channels, unplugs):
            module.relate(tally, snapshot)
    holders.relate(tally, snapshot, types)
    return tally.relations


def doubted(shown: Mapping[str, Relation]) -> set[str]:
    """Return the fields, as ``Struct.field``, that relations contradict.

    Of those that a broken relation rests on, the ones that nothing else proves.
    """
    proved = {field for row in shown.values() if row.seen for field in row.fields}
    out: set[str] = set()
    for row in shown.values():
        if not row.ok:
            out.update([field for field in row.fields if field not in proved] or row.fields)
    return out
