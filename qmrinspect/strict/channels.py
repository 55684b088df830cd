"""I/O channels
------------
"""

from __future__ import annotations

import re

from ..records.ways import follow
from ..snapshot import Snapshot
from ..target.image import Unreadable
from .tally import Tally

__all__ = ["relate"]

_REFS_MAX = 1000  # of a GSource
_FIELD = re.compile(r"\w+\.\w+")

_WATCHES = (
    "QIONetListener.io_source ->[QIONetListener.nsioc]",
    "QIONetListener.source ->[QIONetListener.nsioc] -> QIONetListenerSource.io_source",
)


def relate(tally: Tally, snapshot: Snapshot) -> None:
    """Count the watches of network listeners that are event sources, and what these call."""
    _calls(tally, snapshot)
    if not tally.has("_GSource.source_funcs _GSource.ref_count"):
        return
    for way in _WATCHES:
        put = tally.asks(f"{way} leads to event sources", " ".join(_FIELD.findall(way)))
        if put is None:
            continue
        for address, obj in snapshot.objects.items():
            if obj.type != "qio-net-listener":
                continue
            try:
                for hit in follow(tally.context, address, way):
                    put(_is_source(tally, hit.value))
            except Unreadable:
                put(False)


def _calls(tally: Tally, snapshot: Snapshot) -> None:
    """A listener that is watched has a function to call (qio_net_listener_channel_func)."""
    for way in _WATCHES:
        fields = " ".join(_FIELD.findall(way)) + " QIONetListener.io_func"
        put = tally.asks(f"a listener that is watched by {way.split()[0]} calls code", fields)
        low, high = tally.context.statics.program
        data = tally.context.statics.data
        for address, obj in snapshot.objects.items() if put else ():
            if obj.type != "qio-net-listener":
                continue
            function = tally.word(address + tally.offset("QIONetListener.io_func"))
            try:
                watched = any(hit.value for hit in follow(tally.context, address, way))
            except Unreadable:
                continue
            if put and watched:
                put(low <= function < high and not data[0] <= function < data[1])


def _is_source(tally: Tally, address: int) -> bool:
    low, high = tally.context.statics.program
    source = tally.record("_GSource", address)
    return (
        source is not None
        and low <= source["source_funcs"] < high
        and 0 < source["ref_count"] < _REFS_MAX
    )
