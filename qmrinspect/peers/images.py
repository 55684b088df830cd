"""Images that nothing else makes
------------------------------

Small disk images that QEMU opens, of the formats that it does not write, or not reliably.
"""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Callable

__all__ = ["IMAGES", "LUKS_SECRET", "SIZE", "bochs", "cloop", "dmg", "luks", "plain"]

#: Bytes of a disk, here and at the servers.
SIZE = 1 << 20

#: What opens :func:`luks`.
LUKS_SECRET = "secret"

# PBKDF2-HMAC-SHA256 of the master key, with a salt of zeros.
_LUKS_DIGEST = bytes.fromhex("a2a31f05b22c1439650b60a2cbd5d628335d3612")
_LUKS_ROUNDS = 1000

_SECTOR = 512
_EXTENT = 1 << 16


def plain() -> bytes:
    """Return a disk without a format."""
    return bytes(SIZE)


def bochs() -> bytes:
    """Return a growing image of Bochs."""
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
    """Return a compressed loop image."""
    # cloop_open() of block/cloop.c: after 128 bytes of script the size and the number
    # of the blocks, where each of them begins and the last one ends, and the blocks.
    block = zlib.compress(bytes(SIZE))
    begin = 128 + struct.calcsize(">IIQQ")
    return bytes(128) + struct.pack(">IIQQ", SIZE, 1, begin, begin + len(block)) + block


def dmg() -> bytes:
    """Return a disk image of macOS."""
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


def luks() -> bytes:
    """Return an encrypted disk that :data:`LUKS_SECRET` opens."""
    # LUKS1 (crypto/block-luks.c), with a key slot of zeros: decrypted with its secret they
    # are the parts of some master key, whose digest is below.  QEMU 7.2 makes such an
    # image only where it can measure how long a hash takes, and often it cannot
    # (qcrypto_pbkdf2_count_iters(), crypto/pbkdf.c).
    head, slots, room = 8, 8, 128  # in sectors, but for the number of slots
    payload = head + slots * room
    names = struct.pack("32s32s32s", b"aes", b"cbc-plain64", b"sha256")
    key = struct.pack(">II20s32xI40x", payload, 16, _LUKS_DIGEST, _LUKS_ROUNDS)
    header = b"LUKS\xba\xbe\0\1" + names + key
    for number in range(slots):
        state = 0x0000DEAD if number else 0x00AC71F3
        header += struct.pack(">II32xII", state, _LUKS_ROUNDS, head + number * room, 4000)
    return header.ljust(payload * _SECTOR + SIZE, b"\0")


#: What makes the content of an image, by the name of its peer.
IMAGES: dict[str, Callable[[], bytes]] = {
    "bochs": bochs,
    "cloop": cloop,
    "dmg": dmg,
    "image": plain,
    "luks": luks,
}
