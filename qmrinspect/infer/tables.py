"""Offsets that a process tells
----------------------------

Every QEMU initialises all its classes when it starts, so that the properties and
the migration tables of all types are there without any instance.  What is embedded in
an instance shows where there is one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator

from ..target.elf import ElfFile
from ..target.image import Unreadable
from ..walk import qom
from .anchors import Anchors, TypeAnchors
from .code import offsets
from .core import Core
from .vmstate import Tables, descriptions

__all__ = ["read_anchors"]

_LINK_DIRECT, _LINK_CLASS = 2, 4
# A class begins with its ObjectClass; a device's vmsd comes behind that.
_CLASS_HEAD_WORDS = 12
_CLASS_MAX = 1 << 16
# So many instances of a type are looked at.
_INSTANCES = 8


def read_anchors(core: Core, elf: ElfFile) -> Anchors:
    """Return every offset that the tables, the objects and the code of a process name.

    :param elf: its program.
    """
    types = core.context.types
    found: dict[str, dict[str, int]] = {name: {} for name in types}
    words = _class_words(core)
    tables = Tables(core.image, core.pages, descriptions(words, core.pages))
    for klass, name in core.classes.names.items():
        for anchor, offset in _class_properties(core, klass, tables):
            if offset < types[name].size:
                found[name].setdefault(anchor, offset)
    for name, row in words.items():
        inherited = set(words.get(types[name].parent, ()))
        for word in row:
            if word in tables.known and word not in inherited:
                for field in tables.fields(word, types[name].size):
                    found[name].setdefault("vmstate:" + field.name, field.offset)
    for name, anchor, offset in _instances(core):
        found[name].setdefault(anchor, offset)
    rows = {name: TypeAnchors(t.parent, t.size, found[name]) for name, t in types.items()}
    return Anchors(rows, offsets(elf))


def _class_properties(core: Core, klass: int, tables: Tables) -> Iterator[tuple[str, int]]:
    """Yield what the properties of a class say of its instances.

    A qdev property's opaque is its ``Property`` (include/hw/qdev-properties.h): name, info,
    offset.  A link's target may be an offset (qom/object.c, OBJ_PROP_LINK_CLASS).
    """
    context = core.context
    table = context.table(core.classes.tables[klass])
    for name, release, opaque in qom.table_properties(context, table) if table else ():
        try:
            if release == context.handles.link:
                link = context.record("LinkProperty", opaque)
                if link["flags"] & _LINK_CLASS:
                    yield f"link:{name}", link["targetp"]
            elif opaque in core.pages:
                text, info, offset = core.image.words(opaque, 3)
                if tables.name(text) == name and info in core.pages:
                    yield f"property:{name}", offset
        except Unreadable:
            continue


def _class_words(core: Core) -> dict[str, tuple[int, ...]]:
    """Return the words of each device's class, the head of all classes left out."""
    context = core.context
    layout = context.layout
    unpack = layout.unpacker("TypeImpl", "class_size", "class")
    own: dict[str, int] = {}
    for klass, name in core.classes.names.items():
        try:
            raw = core.image.read(core.image.u64(klass), layout.size("TypeImpl"))
        except Unreadable:
            continue
        own[name] = unpack(raw)[0]
    out = {}
    for klass, name in core.classes.names.items():
        if not context.is_a(name, "device"):
            continue
        # A class_size of 0 means the parent's (type_class_get_size).
        size = next((own[part] for part in context.chain(name) if own.get(part)), 0)
        count = min(size, _CLASS_MAX) // 8 - _CLASS_HEAD_WORDS
        try:
            if count > 0:
                out[name] = core.image.words(klass + 8 * _CLASS_HEAD_WORDS, count)
        except Unreadable:
            continue
    return out


def _instances(core: Core) -> Iterator[tuple[str, str, int]]:
    """Yield (type, anchor, offset) of what lies inside objects."""
    context, objects = core.context, core.objects
    types = context.types
    for prop in core.props:
        if prop.role == "child" and prop.holder in objects and prop.target in objects:
            kind = objects[prop.holder].type
            offset = prop.target - prop.holder
            if 0 < offset < types[kind].size:
                yield kind, f"child:{prop.name}", offset
    starts = sorted(objects)
    seen: Counter[str] = Counter()
    for address, obj in objects.items():
        seen[obj.type] += 1
        if seen[obj.type] > _INSTANCES:
            continue
        end = address + types[obj.type].size
        counts: Counter[str] = Counter()
        for start in starts[bisect_right(starts, address) :]:
            if start >= end:
                break
            inner = objects[start].type
            yield obj.type, f"inside:{inner}#{counts[inner]}", start - address
            counts[inner] += 1
        for name, opaque in _opaques(core, address):
            if address < opaque < end:
                yield obj.type, f"opaque:{name}", opaque - address


def _opaques(core: Core, address: int) -> Iterator[tuple[str, int]]:
    """Yield (name, pointer) of the properties of an object that are no children."""
    context = core.context
    try:
        table = context.table(
            core.image.u64(address + context.layout.offset("Object", "properties"))
        )
    except Unreadable:
        return
    for name, release, opaque in qom.table_properties(context, table) if table else ():
        if release == context.handles.child:
            continue
        try:
            if release == context.handles.link:
                link = context.record("LinkProperty", opaque)
                if link["flags"] & (_LINK_DIRECT | _LINK_CLASS):
                    continue
                opaque = link["targetp"]
        except Unreadable:
            continue
        yield name, opaque
