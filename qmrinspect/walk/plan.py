"""What to capture
---------------

All writable private memory of the program except the guest's.
"""

from __future__ import annotations

from typing import Callable

from ..errors import ReadingError
from ..layout import Layout
from ..records.context import LIST_MAX
from ..target.image import Mapping

__all__ = ["guest_ram", "ranges"]

_PAGE = 4096


def guest_ram(
    peek: Callable[[int, int], bytes | None], layout: Layout, ram_list: int
) -> list[tuple[int, int]]:
    """Return the (host address, size) of every RAM block.

    RAM blocks come and go rarely, so they are read without a stop.

    :param ram_list: address of ``ram_list`` (system/physmem.c).
    :raises ReadingError: when the list makes no sense under this layout.
    """
    needed = [("RAMList", "blocks"), *(("RAMBlock", f) for f in ("host", "max_length", "next"))]
    if not ram_list or not all(layout.has(*pair) for pair in needed):
        return []
    at_host, at_max = layout.offset("RAMBlock", "host"), layout.offset("RAMBlock", "max_length")
    at_next = layout.offset("RAMBlock", "next")
    at_id = layout.offset("RAMBlock", "idstr") if layout.has("RAMBlock", "idstr") else None

    def word(address: int) -> int:
        raw = peek(address, 8)
        if raw is None:
            raise ReadingError(f"the list of RAM blocks leads out of memory at {address:#x}")
        return int.from_bytes(raw, "little")

    out = []
    seen: set[int] = set()
    block = word(ram_list + layout.offset("RAMList", "blocks"))
    while block:
        if block in seen or len(seen) > LIST_MAX:
            raise ReadingError("the list of RAM blocks does not end")
        seen.add(block)
        name = (peek(block + at_id, 256) or b"") if at_id is not None else b""
        host, size = word(block + at_host), word(block + at_max)
        if host % _PAGE or size % _PAGE or not name.split(b"\0")[0].isascii():
            raise ReadingError("the list of RAM blocks makes no sense")
        out.append((host, size))
        block = word(block + at_next)
    return out


def ranges(mappings: list[Mapping], ram: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the (address, size) ranges to capture, lowest first."""
    out: list[tuple[int, int]] = []
    holes = sorted(ram)
    for mapping in mappings:
        # Shared mappings are guest memory or devices; code buffers hold no structures.
        if not mapping.perms.startswith("rw-p") or mapping.path.startswith(("/dev/", "[v")):
            continue
        at = mapping.start
        for host, size in holes:
            if host + size <= at or host >= mapping.end:
                continue
            if host > at:
                out.append((at, host - at))
            at = max(at, host + size)
        if at < mapping.end:
            out.append((at, mapping.end - at))
    return out
