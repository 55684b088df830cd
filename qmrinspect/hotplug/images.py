"""Images that nothing else makes
------------------------------

The smallest disk images that QEMU opens of the formats that it reads and does not write.
All of them read as zeros.
"""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Callable

__all__ = ["IMAGES", "SIZE", "bochs", "cloop", "dmg", "plain"]

#: Bytes of a disk, here and at the servers.
SIZE = 1 << 20

_SECTOR = 512
_EXTENT = 1 << 16


def plain() -> bytes:
    return bytes(SIZE)


def bochs() -> bytes:
    # struct bochs_header of block/bochs.c; a catalog in which no extent is allocated.
    extents = SIZE // _EXTENT
    header = struct.pack(
        "<32s16s16sIIIIIIQ",
        b"Bochs Virtual HD Image",
        b"Redolog",
        b"Growing",
        0x00020000,
        _SECTOR,
        extents,
        _SECTOR,
        _EXTENT,
        0,
        SIZE,
    )
    return header.ljust(_SECTOR, b"\0") + b"\xff" * 4 * extents


def cloop() -> bytes:
    # cloop_open() of block/cloop.c: after 128 bytes of script the size and the number
    # of the blocks, where each of them begins and the last one ends, and the blocks.
    block = zlib.compress(bytes(SIZE))
    begin = 128 + struct.calcsize(">IIQQ")
    return bytes(128) + struct.pack(">IIQQ", SIZE, 1, begin, begin + len(block)) + block


def dmg() -> bytes:
    # dmg_open() of block/dmg.c: a property list with a table of chunks, here a single
    # one of zeros (UDZE), and the trailer that says where the list is.
    sectors = SIZE // _SECTOR
    table = struct.pack(">4sIQQQ", b"mish", 1, 0, sectors, 0).ljust(204, b"\0")
    chunk = struct.pack(">IIQQQQ", 0, 0, 0, sectors, 0, 0)
    plist = b"<plist><data>" + base64.b64encode(table + chunk) + b"</data></plist>"
    trailer = bytearray(_SECTOR)
    struct.pack_into(">4sII", trailer, 0, b"koly", 4, _SECTOR)
    struct.pack_into(">QQ", trailer, 0xD8, 0, len(plist))
    struct.pack_into(">Q", trailer, 0x1EC, sectors)
    return plist + trailer


#: What makes the content of an image, by the name of its place.
IMAGES: dict[str, Callable[[], bytes]] = {
    "bochs": bochs,
    "cloop": cloop,
    "dmg": dmg,
    "image": plain,
}
