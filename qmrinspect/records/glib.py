"""GLib containers
---------------

QEMU keeps properties, types and flat views in ``GHashTable``.  GLib ships no
layout of it and has moved its fields twice, so the one in use is found by
trying the known ones on a table that must be there.
"""

from __future__ import annotations

import struct

from ..errors import LayoutError
from ..layout.model import unpacker
from ..target.image import Image, Unreadable
from ..tuples import NamedTuple

__all__ = ["HASH_VARIANTS", "HashTable", "HashVariant", "entries", "open_table", "probe"]

# The largest table that a QEMU with thousands of objects could make.
_SLOTS_MAX = 1 << 20
# QEMU takes one reference to a table; more than this is not a count.
_REF_MAX = 1 << 10


class HashVariant(NamedTuple):
    """Offsets of ``struct _GHashTable`` (glib/ghash.c) in bytes; ``wide`` sizes are 64 bit."""

    name: str
    wide: bool
    mod: int
    mask: int
    nnodes: int
    noccupied: int
    flags: int
    keys: int
    hashes: int
    values: int
    hash_func: int
    ref_count: int
    value_destroy: int
    bytes: int


HASH_VARIANTS = (
    HashVariant("glib-2.62", True, 8, 12, 16, 20, 24, 32, 40, 48, 56, 72, 88, 96),
    HashVariant("glib-2.60", False, 4, 8, 12, 16, 20, 24, 32, 40, 48, 64, 80, 88),
    HashVariant("glib-2.87", False, 4, 8, 12, 16, 20, 24, 32, 40, 48, 64, 88, 96),
)

_UNPACK = {
    v.name: unpacker(
        (
            (0, 8 if v.wide else 4),
            *((at, 4) for at in (v.mask, v.nnodes, v.noccupied)),
            (v.flags, 1),
            *((at, 8) for at in (v.keys, v.hashes, v.values, v.hash_func)),
            (v.ref_count, 4),
            (v.value_destroy, 8),
        )
    )
    for v in HASH_VARIANTS
}


class HashTable(NamedTuple):
    """A hash table that holds together: address, functions, and its arrays."""

    address: int
    nnodes: int
    slots: int
    big_keys: bool
    big_values: bool
    keys: int
    hashes: int
    values: int
    hash_func: int
    value_destroy: int


def open_table(image: Image, variant: HashVariant, address: int) -> HashTable | None:
    """Read the header of the ``GHashTable`` at ``address``; None when it cannot be one.

    One that was freed counts no reference, and keeps the rest of its header.
    """
    try:
        raw = image.read(address, variant.bytes)
    except Unreadable:
        return None
    size, mask, nnodes, noccupied, flags, keys, hashes, values, hash_func, ref_count, destroy = (
        _UNPACK[variant.name](raw)
    )
    if not 8 <= size <= _SLOTS_MAX or size & (size - 1):
        return None
    if mask != size - 1 or not nnodes <= noccupied <= size or not 0 < ref_count <= _REF_MAX:
        return None
    if not keys or not hashes or not values or not hash_func:
        return None
    return HashTable(
        address,
        nnodes,
        size,
        bool(flags & 1),
        bool(flags & 2),
        keys,
        hashes,
        values,
        hash_func,
        destroy,
    )


def entries(image: Image, table: HashTable) -> list[tuple[int, int]]:
    """Return the live (key, value) pairs.

    Their number is ``table.nnodes`` unless the table is damaged.

    :raises Unreadable: when an array is not there.
    """
    n = table.slots
    hashes = image.read(table.hashes, 4 * n)
    keys = _array(image, table.keys, n, table.big_keys)
    values = (
        keys if table.values == table.keys else _array(image, table.values, n, table.big_values)
    )
    # Hash 0 is an unused slot, 1 the tombstone of a removed entry.
    out = [(keys[i], values[i]) for i, h in enumerate(struct.unpack(f"<{n}I", hashes)) if h > 1]
    return out


def _array(image: Image, address: int, count: int, big: bool) -> tuple[int, ...]:
    # Small tables hold 4-byte entries until the first one that needs more.
    return struct.unpack(
        f"<{count}{'Q' if big else 'I'}", image.read(address, count * (8 if big else 4))
    )


def probe(image: Image, address: int) -> HashVariant:
    """Find the variant that makes sense of the table at ``address``.

    :raises LayoutError: when none does.
    """
    for variant in HASH_VARIANTS:
        table = open_table(image, variant, address)
        if table is None:
            continue
        try:
            if table.nnodes and len(entries(image, table)) == table.nnodes:
                return variant
        except Unreadable:
            continue
    raise LayoutError(
        "this QEMU's GLib keeps its hash tables in a way that qmr does not know",
        "report the version of libglib-2.0 that it uses",
    )
