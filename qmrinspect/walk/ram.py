"""Where the guest's memory is
---------------------------
"""

from __future__ import annotations

from bisect import bisect_right

from ..records.context import Context
from ..target.image import Unreadable
from ..tuples import NamedTuple

__all__ = ["RAM_FIELDS", "RamMap"]

#: What the list of RAM blocks needs.
RAM_FIELDS = "RAMList.blocks RAMBlock.mr RAMBlock.host RAMBlock.max_length RAMBlock.next"


class _Block(NamedTuple):
    host: int
    size: int
    region: int


class RamMap:
    """Host addresses to the RAM regions behind them (``ram_list``, system/physmem.c)."""

    def __init__(self, context: Context) -> None:
        blocks = []
        variable = context.statics.first("ram_list")
        if variable and all(context.layout.has(*field.split(".")) for field in RAM_FIELDS.split()):
            try:
                first = context.image.u64(variable + context.layout.offset("RAMList", "blocks"))
                following = context.layout.offset("RAMBlock", "next")
                for at in context.queue(first, following, "RAM blocks"):
                    row = context.record("RAMBlock", at)
                    blocks.append(_Block(row["host"], row["max_length"], row["mr"]))
            except Unreadable:
                context.note(variable, "the RAM blocks cannot be read")
        self._blocks = sorted(blocks)
        self._starts = [block.host for block in self._blocks]

    def region(self, host: int) -> int:
        """Return the region that a host address belongs to, 0 when none does."""
        i = bisect_right(self._starts, host) - 1
        if i >= 0 and host < self._blocks[i].host + self._blocks[i].size:
            return self._blocks[i].region
        return 0
