"""Objects and properties
----------------------

From one exported pointer, ``current_machine``, ``Object.parent`` leads to the
root.  Objects follow from a scan for words that point to a class (:mod:`.classes`): so
that an object which nothing names any more is found as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from ..errors import ReadingError
from ..records.context import Context, Handles
from ..records.glib import HashTable
from ..records.scan import find_words
from ..snapshot import Obj, Prop
from ..target.image import Unreadable
from .classes import ANCESTORS_MAX, Classes

__all__ = [
    "find_handles",
    "find_root",
    "read_objects",
    "read_props",
    "table_properties",
]

# A reference count beyond this is not one.
_REF_MAX = 1_000_000
# Objects within so many bytes are read again when one of them is.
_BLOCK = 1 << 16
_LINK_STRONG, _LINK_DIRECT, _LINK_CLASS = 1, 2, 4


def find_root(context: Context, machine: int) -> int:
    """Follow ``Object.parent`` from the machine to the root object.

    :param machine: ``MachineState *``.
    :raises ReadingError: when the chain does not end.
    """
    offset = context.layout.offset("Object", "parent")
    at = machine
    for _ in range(ANCESTORS_MAX):
        try:
            parent = context.image.u64(at + offset)
        except Unreadable:
            break
        if not parent:
            return at
        at = parent
    raise ReadingError(
        "the machine's parents do not lead to a root object",
        "the layout does not fit this QEMU (see qmr layout), or its machine is not created yet",
    )


def find_handles(context: Context, classes: Classes, root: int) -> Handles:
    """Learn which release function marks a child, and which a link.

    ``object_finalize_child_property`` releases the root's property "machine",
    ``object_release_link_property`` the class property "parent_bus" of "device"
    (hw/core/qdev.c).  A property's type string would do neither: aliases carry
    those of their targets.

    :raises ReadingError: when one of the two is not there.
    """
    table = context.table(context.image.u64(root + context.layout.offset("Object", "properties")))
    child = link = 0
    if table is not None:
        for prop in table_properties(context, table):
            if prop[0] == "machine":
                child = prop[1]
    for klass, name in classes.names.items():
        if name == "device":
            properties = context.table(classes.tables[klass])
            for prop in table_properties(context, properties) if properties else ():
                if prop[0] == "parent_bus":
                    link = prop[1]
    if table is None or not child or not link:
        raise ReadingError(
            "the properties of the root object or of the device class make no sense",
            "the layout does not fit this QEMU; see qmr layout",
        )
    return Handles(child, link, table.hash_func, table.value_destroy)


def table_properties(context: Context, table: HashTable) -> Iterator[tuple[str, int, int]]:
    """Yield (name, release, opaque) of each property in a table."""
    for _key, address in context.entries(table):
        try:
            prop = context.record("ObjectProperty", address)
            yield context.image.string(prop["name"]), prop["release"], prop["opaque"]
        except Unreadable:
            context.note(address, "a property cannot be read")


def read_objects(context: Context, classes: Classes) -> dict[int, Obj]:
    """Find every live object in the captured memory.

    A word that points to a class starts an object when a sane count and a
    property table of QOM's own making follow.  What is left of a freed object that was
    finalized keep such words until their memory is used again, and then their count
    may be any number; their table is gone, or another's by now (see :func:`_owners`).
    An object with a count of 0 and a table of its own was released once too often.
    """
    layout, image = context.layout, context.image
    at_class = layout.offset("Object", "class")
    size = layout.size("Object")
    unpack = layout.unpacker("Object", "free", "properties", "ref", "parent")
    out: dict[int, Obj] = {}
    claims: dict[int, list[Obj]] = defaultdict(list)

    def read() -> list[tuple[Obj, int]]:
        rows = []
        for word, klass in some:
            address = word - at_class
            try:
                free, properties, ref, parent = unpack(image.read(address, size))
            except Unreadable:
                continue
            if ref >= _REF_MAX or properties & 7 or not properties:
                continue
            table = context.table(properties)
            if (
                table is not None
                and table.hash_func == context.handles.string_hash
                and table.value_destroy == context.handles.property_free
            ):
                obj = Obj(address, classes.names[klass], ref, parent, bool(free))
                rows.append((obj, table.address))
        return rows

    found = find_words(image, classes.names, context.known.words, context.live.coroutines())
    # Most of the words start no object, and to recall one takes longer than to read it.
    for block, neighbours in groupby(found, lambda hit: hit[0] // _BLOCK):
        some = list(neighbours)
        for obj, table in context.recall(("objects", block), some, read):
            out[obj.address] = obj
            claims[table].append(obj)
    for address, those in claims.items():
        if len(those) > 1:
            for obj in set(those).difference(_owners(context, address, those)):
                del out[obj.address]
    return out


def _owners(context: Context, address: int, claimants: Sequence[Obj]) -> Sequence[Obj]:
    """Tell the object that has a property table from freed ones that had it.

    The table's properties point into its object, or to children whose parent that
    is; and the object may be a child itself.  More than one is returned where
    nothing tells them apart.

    :param address: of the table.
    """
    live = [obj for obj in claimants if obj.ref]
    if len(live) < 2:
        return live or claimants[:1]
    at_parent = context.layout.offset("Object", "parent")
    parents, inside = set(), set()
    for _, release, opaque in _properties_at(context, address):
        if release == context.handles.child:
            parents.add(_word(context, opaque + at_parent))
        else:
            inside.add(opaque)

    def shown(obj: Obj) -> bool:
        end = obj.address + context.types[obj.type].size
        return (
            obj.address in parents
            or any(obj.address <= opaque < end for opaque in inside)
            or _is_child(context, obj)
        )

    return [obj for obj in live if shown(obj)] or live


def _is_child(context: Context, obj: Obj) -> bool:
    """Whether the object that an object names as its parent has it as a child."""
    if not obj.parent:
        return False
    table = _word(context, obj.parent + context.layout.offset("Object", "properties"))
    return any(
        release == context.handles.child and opaque == obj.address
        for _, release, opaque in _properties_at(context, table)
    )


def _properties_at(context: Context, address: int) -> Iterator[tuple[str, int, int]]:
    table = context.table(address)
    return table_properties(context, table) if table is not None else iter(())


def _word(context: Context, address: int) -> int:
    """Return the word at an address, 0 when it is not there."""
    try:
        return context.image.u64(address)
    except Unreadable:
        return 0


def read_props(context: Context, classes: Classes, objects: Mapping[int, Obj]) -> Iterator[Prop]:
    """Yield the child and link properties of all objects, those of their classes included.

    Instance properties live in ``Object.properties``, class properties in
    ``ObjectClass.properties`` of every class in the chain; a class link keeps its
    target at an offset in the object (qom/object.c, ``object_link_get_targetp``).
    """
    offset = context.layout.offset("Object", "properties")
    class_links = _ClassLinks(context, classes)

    def read() -> list[Prop]:
        out: list[Prop] = []
        table = context.table(context.image.u64(address + offset))
        if table is None:
            return out
        for prop in _relevant(context, table):
            name, release, opaque = prop
            if release == context.handles.child:
                out.append(Prop(address, name, opaque, "child", "instance"))
            else:
                out += _link(context, address, name, opaque, "instance")
        for name, opaque in links:
            out += _link(context, address, name, opaque, "class")
        return out

    for address, obj in objects.items():
        links = class_links.of(obj.type)
        yield from context.recall(("properties", address), links, read)


def _relevant(context: Context, table: HashTable) -> Iterator[tuple[str, int, int]]:
    """As :func:`table_properties`, but only children and links; the name is read last."""
    size = context.layout.size("ObjectProperty")
    unpack = context.layout.unpacker("ObjectProperty", "name", "release", "opaque")
    handles, image = context.handles, context.image
    for _key, address in context.entries(table):
        try:
            name, release, opaque = unpack(image.read(address, size))
            if release == handles.child or release == handles.link:
                yield image.string(name), release, opaque
        except Unreadable:
            context.note(address, "a property cannot be read")


def _link(context: Context, holder: int, name: str, opaque: int, level: str) -> Iterable[Prop]:
    try:
        link = context.record("LinkProperty", opaque)
        flags, where = link["flags"], link["targetp"]
        if flags & _LINK_DIRECT:
            target = where
        elif flags & _LINK_CLASS:
            # The union's member is a ptrdiff_t here.
            target = context.image.u64((holder + where) & (1 << 64) - 1)
        else:
            target = context.image.u64(where)
    except Unreadable:
        context.note(holder, f"the link {name} cannot be read")
        return ()
    role = "strong" if flags & _LINK_STRONG else "weak"
    return (Prop(holder, name, target, role, level),) if target else ()


class _ClassLinks:
    """The link properties that a type's classes define, each chain read once."""

    def __init__(self, context: Context, classes: Classes) -> None:
        self._context = context
        self._tables = {classes.names[k]: t for k, t in classes.tables.items()}
        self._own: dict[str, list[tuple[str, int]]] = {}
        self._all: dict[str, list[tuple[str, int]]] = {}

    def of(self, name: str) -> list[tuple[str, int]]:
        if name not in self._all:
            out: list[tuple[str, int]] = []
            at = name
            for _ in range(ANCESTORS_MAX):
                out += self._of_class(at)
                info = self._context.types.get(at)
                if info is None or not info.parent:
                    break
                at = info.parent
            self._all[name] = out
        return self._all[name]

    def _of_class(self, name: str) -> list[tuple[str, int]]:
        if name not in self._own:
            address = self._tables.get(name, 0)

            def read() -> list[tuple[str, int]]:
                table = self._context.table(address) if address else None
                return [
                    (prop, opaque)
                    for prop, release, opaque in (_relevant(self._context, table) if table else ())
                    if release == self._context.handles.link
                ]

            self._own[name] = self._context.recall(("class", name), address, read)
        return self._own[name]
