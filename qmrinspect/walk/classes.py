"""QOM's types and classes
-----------------------

Types follow from the type table; each that was used has a class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from ..errors import ReadingError
from ..records.context import Context
from ..records.glib import HashTable
from ..snapshot import TypeInfo
from ..target.image import Unreadable
from .statics import static_table

__all__ = ["ANCESTORS_MAX", "Classes", "read_classes"]

#: How far parents are followed, of a type or of an object.
ANCESTORS_MAX = 64
# QOM itself registers a few types, each emulator hundreds.
_TYPES_MIN = 20
# So many types are looked at to recognise their table.
_TYPES_LOOK = 100
_TYPE_SIZE_MAX = 64 << 20
_TYPES_AT_ONCE = 16


class Classes:
    """Class pointers to type names, and each class's own property table."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self.tables: dict[int, int] = {}


def read_classes(context: Context) -> Classes:
    """Read every type, and the class of each that has one.

    The type table is a ``GHashTable`` in the program's zero-initialised data
    whose values begin with their key (qom/object.c, ``type_table_add``).

    :raises ReadingError: when there is no type table.
    """
    table = static_table(context, "type_table", lambda table: _holds_types(context, table))
    if table is None:
        raise ReadingError(
            "the table of QOM types was not found",
            "the layout does not fit this QEMU; see qmr layout",
        )
    classes = Classes()
    types: dict[str, TypeInfo] = {}
    addresses = [address for _, address in context.entries(table)]
    rows: dict[int, tuple[TypeInfo, int, int]] = {}
    # Neighbours in memory are registered together, and change together.
    ordered = sorted(addresses)
    for first in range(0, len(ordered), _TYPES_AT_ONCE):
        some = tuple(ordered[first : first + _TYPES_AT_ONCE])
        rows.update(context.recall(("types", some), None, partial(_classes, context, some)))
    for address in addresses:
        if address in rows:
            info, klass, own = rows[address]
            types[info.name] = info
            if klass:
                classes.names[klass], classes.tables[klass] = info.name, own
    # An instance_size of 0 means the parent's (type_object_get_size).
    for name, info in types.items():
        if not info.size:
            types[name] = info._replace(size=_size(types, name))
    context.adopt(types)
    return classes


def _classes(context: Context, addresses: Sequence[int]) -> dict[int, tuple[TypeInfo, int, int]]:
    """Return some types, by address, each with its class, 0 for none, and the class's table."""
    out = {}
    properties = context.layout.offset("ObjectClass", "properties")
    unpack = context.layout.unpacker("TypeImpl", "class", "instance_size")
    for address in addresses:
        try:
            raw, name, parent = _type(context, address)
            klass, size = unpack(raw)
            own = context.image.u64(klass + properties) if klass else 0
            owner = context.image.u64(klass) if klass else address
        except Unreadable:
            context.note(address, "a type cannot be read")
            continue
        if not name or not name.isprintable():
            context.note(address, "a type has no name that makes sense")
            continue
        if owner != address:
            context.note(address, f"the class of type {name} is of another one")
            klass = 0
        if size > _TYPE_SIZE_MAX:
            context.note(address, f"type {name} claims {size} bytes")
            size = 0
        out[address] = TypeInfo(name, parent, size), klass, own
    return out


def _type(context: Context, address: int) -> tuple[bytes, str, str]:
    """Return the bytes of a ``TypeImpl``, its name and its parent's name, empty for none."""
    raw = context.image.read(address, context.layout.size("TypeImpl"))
    known = context.known.types.get(address)
    if known is None or known[0] != raw:
        name, parent = context.layout.unpacker("TypeImpl", "name", "parent")(raw)
        known = raw, context.image.string(name), context.image.string(parent) if parent else ""
        context.known.types[address] = known
    return known


def _size(types: Mapping[str, TypeInfo], name: str) -> int:
    for _ in range(ANCESTORS_MAX):
        info = types.get(name)
        if info is None or info.size:
            return info.size if info else 0
        name = info.parent
    return 0


def _holds_types(context: Context, table: HashTable) -> bool:
    """Whether values begin with their key, and those with a class are its type.

    No other table is like that, so that most of some are enough: a damaged type shall
    not hide all others.
    """
    if table.nnodes < _TYPES_MIN:
        return False
    rows = context.entries(table)[:_TYPES_LOOK]
    held = classes = 0
    for key, value in rows:
        try:
            impl = context.record("TypeImpl", value)
            klass = impl["class"]
            if impl["name"] == key and (not klass or context.image.u64(klass) == value):
                held += 1
                classes += bool(klass)
        except Unreadable:
            continue
    return classes > 0 and held * 4 >= len(rows) * 3
