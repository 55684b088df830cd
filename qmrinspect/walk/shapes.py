"""Structures around a pointer
---------------------------

What is no object and hangs on no known list is found by the pointers to what it holds,
and believed when the structure around the pointer holds together.
"""

from __future__ import annotations

from typing import Callable

from ..heap.model import NOT_KNOWN
from ..records.context import Context

__all__ = ["SHAPES", "Shape"]

#: Says whether there is such a structure at an address: the address, its name, its link.
Shape = Callable[[Context, int, str, str], bool]

_REFS_MAX = 1000  # of a GSource
_ALIGNED = 16  # what malloc returns is
_NETDEV_MAX = 1 << 20  # bytes


def linked(context: Context, address: int, struct: str, link: str) -> bool:
    """Whether a QLIST or QTAILQ link closes.

    Both are {next, where the element before has its pointer to this one}.
    """
    owner, _, field = link.partition(".")
    before = context.image.u64(address + context.layout.offset(owner, field) + 8)
    return bool(before) and context.image.u64(before) == address


def source(context: Context, address: int, struct: str, link: str) -> bool:
    """Whether there is an attached ``GSource`` at ``address`` (glib/gmain.c).

    Its functions are constants of QEMU, its context is set, and its neighbours in
    the context's list point back to it.
    """
    row = context.record("_GSource", address)
    low, high = context.statics.program
    if not low <= row["source_funcs"] < high or not 0 < row["ref_count"] < _REFS_MAX:
        return False
    layout, image = context.layout, context.image
    if not row["context"]:
        return False
    if layout.has(struct, "fd") and "poll_fds" in row:
        # The list of polled descriptors is freed with the source, so that a freed one
        # are recognised.  A GSList begins with its data.
        own = address + layout.offset(struct, "fd")
        if not row["poll_fds"] or image.u64(row["poll_fds"]) != own:
            return False
    before, after = row["prev"], row["next"]
    if before and image.u64(before + layout.offset("_GSource", "next")) != address:
        return False
    return not after or image.u64(after + layout.offset("_GSource", "prev")) == address


def netdev(context: Context, address: int, struct: str, link: str) -> bool:
    """Whether there is a netdev whose description has the size of ``struct``."""
    return _netdev_size(context, address, struct, link) == context.layout.size(struct)


def netdev_head(context: Context, address: int, struct: str, link: str) -> bool:
    """Whether there is a netdev that ``struct`` may be the head of."""
    size = _netdev_size(context, address, struct, link)
    return context.layout.size(struct) <= size < _NETDEV_MAX


def _netdev_size(context: Context, address: int, struct: str, link: str) -> int:
    """Return the size that a netdev's description has (net/net.h NetClientInfo), 0 for none."""
    if not linked(context, address, struct, link):
        return 0
    layout, image = context.layout, context.image
    low, high = context.statics.program
    info = image.u64(address + layout.offset("NetClientState", "info"))
    if not low <= info < high:
        return 0
    return image.u64(info + layout.offset("NetClientInfo", "size"))


def variable(context: Context, address: int, struct: str, link: str) -> bool:
    """Whether a variable of the program points to the structure, a block of its own."""
    if address % _ALIGNED or not context.in_data(address):
        return False
    block = context.live.heap.at(address)
    if block is None or block.state == NOT_KNOWN:
        return True
    return block.start == address and block.size >= context.layout.size(struct)


SHAPES: dict[str, Shape] = {
    "linked": linked,
    "source": source,
    "netdev": netdev,
    "netdev-head": netdev_head,
    "variable": variable,
}
