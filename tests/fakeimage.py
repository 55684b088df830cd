"""The memory of a fake QEMU
-------------------------
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from faketarget import (
    BASE,
    CALL_RCU1,
    CHILD_RELEASE,
    CONSOLES,
    CURRENT_MACHINE,
    DATA,
    DIRECT_HASH,
    END,
    FLAT_VIEWS,
    GUEST,
    GUEST_SIZE,
    LINK_RELEASE,
    PROPERTY_FREE,
    RAM_LIST,
    RCU_DUMMY,
    RCU_FREE,
    RCU_HEAD,
    RCU_TAIL,
    RENDERED,
    SPACES,
    STR_HASH,
    STRING_RELEASE,
    TEXT,
    TYPE_TABLE,
    FakeTarget,
)

if TYPE_CHECKING:
    from fakemodel import FakeObject
    from fakes import FakeMachine

    from qmrinspect.layout import Layout

LINK_STRONG, LINK_DIRECT, LINK_CLASS = 1, 2, 4


class Begun(NamedTuple):
    """An image with its types, which most machines have in common."""

    layout: Layout  # keeps its id its own
    memory: dict[int, bytes]
    next: int
    strings: dict[str, int]


class FakeImage:
    """Writes one machine into memory."""

    _begun: ClassVar[dict[Hashable, Begun]] = {}

    def __init__(self, machine: FakeMachine) -> None:
        self.machine = machine
        self.layout = machine.layout
        self.memory = {
            BASE: bytearray(DATA),
            BASE + DATA: bytearray(END - DATA),
            machine.heap: bytearray(RENDERED),
            machine.heap + RENDERED: bytearray(0x40000),
        }
        self._next = machine.heap + RENDERED
        self._last = BASE, self.memory[BASE]
        self._strings: dict[str, int] = {}
        self._begin()
        for obj in machine.objects:
            self._object(obj)
        self._spaces()
        self._views()
        self._rcu()
        self._ram()
        self.word(BASE + CURRENT_MACHINE, machine.machine.address)
        for address, size, value in machine.pokes:
            self.put(address, (value & (1 << 8 * size) - 1).to_bytes(size, "little"))

    def _begin(self) -> None:
        machine = self.machine
        links = tuple((name, tuple(rows)) for name, rows in machine.class_links.items())
        key = (id(self.layout), machine.glib, machine.heap, tuple(machine.types.items()), links)
        places = (tuple(machine.type_at.values()), tuple(machine.class_at.values()))
        begun = self._begun.get((key, places))
        if begun is None:
            self._types()
            memory = {start: bytes(data) for start, data in self.memory.items()}
            begun = Begun(self.layout, memory, self._next, dict(self._strings))
            self._begun[key, places] = begun
        for start, raw in begun.memory.items():
            self.memory[start][:] = raw
        self._next, self._strings = begun.next, dict(begun.strings)

    def _find(self, address: int) -> tuple[bytearray, int]:
        start, data = self._last
        if start <= address < start + len(data):
            return data, address - start
        for start, data in self.memory.items():
            if start <= address < start + len(data):
                self._last = start, data
                return data, address - start
        raise AssertionError(f"{address:#x} is outside of the fake's memory")

    def put(self, address: int, raw: bytes) -> None:
        data, at = self._find(address)
        assert at + len(raw) <= len(data)
        data[at : at + len(raw)] = raw

    def word(self, address: int, value: int) -> None:
        self.put(address, struct.pack("<Q", value & (1 << 64) - 1))

    def fill(self, struct_name: str, address: int, **fields: int) -> None:
        """Write the fields that this layout has."""
        row = self.layout.structs.get(struct_name)
        for name, value in fields.items():
            if row is not None and name in row.fields:
                offset, size = row.fields[name]
                if not 0 <= value < 1 << 8 * size:
                    value &= (1 << 8 * size) - 1
                self.put(address + offset, int(value).to_bytes(size, "little"))

    def allocate(self, size: int) -> int:
        address = self._next
        self._next += (size + 15) & ~15
        return address

    def string(self, text: str) -> int:
        if text not in self._strings:
            raw = text.encode("utf-8", "surrogateescape") + b"\0"
            self._strings[text] = self.allocate(len(raw))
            self.put(self._strings[text], raw)
        return self._strings[text]

    def table(self, rows: Mapping[int, int], hash_func: int, destroy: int) -> int:
        """A ``GHashTable``, with a tombstone where there is room for one."""
        glib = self.machine.glib
        size = 8
        while size < 2 * len(rows):
            size *= 2
        big_keys = any(key >> 32 for key in rows)
        big_values = any(value >> 32 for value in rows.values())
        same = all(key == value for key, value in rows.items())
        keys = self.allocate(size * (8 if big_keys else 4))
        values = keys if same else self.allocate(size * (8 if big_values else 4))
        hashes = self.allocate(4 * size)
        for i, (key, value) in enumerate(rows.items()):
            at = (i * 2 + 1) % size
            self.put(hashes + 4 * at, struct.pack("<I", 2 + i * 7919))
            self._entry(keys, at, key, big_keys)
            if not same:
                self._entry(values, at, value, big_values)
        self.put(hashes, struct.pack("<I", 1))
        address = self.allocate(glib.bytes)
        if glib.wide:
            self.word(address, size)
        else:
            self.put(address, struct.pack("<I", size))
        for at, number in (
            (glib.mask, size - 1),
            (glib.nnodes, len(rows)),
            (glib.noccupied, len(rows) + 1),
            (glib.flags, big_keys | big_values << 1),
            (glib.ref_count, 1),
        ):
            self.put(address + at, struct.pack("<I", number))
        for at, pointer in (
            (glib.keys, keys),
            (glib.hashes, hashes),
            (glib.values, values),
            (glib.hash_func, hash_func),
            (glib.value_destroy, destroy),
        ):
            self.word(address + at, pointer)
        return address

    def _entry(self, array: int, at: int, value: int, big: bool) -> None:
        self.put(array + at * (8 if big else 4), struct.pack("<Q" if big else "<I", value))

    def _types(self) -> None:
        machine = self.machine
        rows = {}
        for name, (parent, size) in machine.types.items():
            at, klass = machine.type_at[name], machine.class_at[name]
            rows[self.string(name)] = at
            self.fill(
                "TypeImpl",
                at,
                name=self.string(name),
                parent=self.string(parent) if parent else 0,
                parent_type=machine.type_at[parent] if parent else 0,
                instance_size=size,
                **{"class": klass},
            )
            props = [self._property("type", STRING_RELEASE, 0)] if name == "object" else []
            for link, flags, where in machine.class_links.get(name, ()):
                props.append(self._link(link, flags, where))
            self.fill("ObjectClass", klass, type=at, properties=self._properties(props))
        self.word(BASE + TYPE_TABLE, self.table(rows, STR_HASH, 0))

    def _property(self, name: str, release: int, opaque: int) -> tuple[int, int]:
        at = self.allocate(self.layout.size("ObjectProperty"))
        key = self.string(name)
        self.fill("ObjectProperty", at, name=key, release=release, opaque=opaque)
        return key, at

    def _link(self, name: str, flags: int, where: int) -> tuple[int, int]:
        at = self.allocate(self.layout.size("LinkProperty"))
        self.fill("LinkProperty", at, targetp=where, flags=flags)
        return self._property(name, LINK_RELEASE, at)

    def _properties(self, props: Iterable[tuple[int, int]]) -> int:
        return self.table(dict(props), STR_HASH, PROPERTY_FREE)

    def _object(self, obj: FakeObject) -> None:
        props = [
            self._property(name, CHILD_RELEASE, child.address)
            for name, child in obj.children.items()
        ]
        for name, (target, flags) in obj.links.items():
            where = target.address
            if not flags & LINK_DIRECT:
                where = self.allocate(8)
                self.word(where, target.address)
            props.append(self._link(name, flags, where))
        if obj.links or obj.children:
            props.append(self._property("realized", STRING_RELEASE, 0))
        if self.machine.is_a(obj, "memory-region"):
            where = obj.address + self.layout.offset("MemoryRegion", "addr")
            props.append(self._property("addr", STRING_RELEASE, where))
        self.fill(
            "Object",
            obj.address,
            free=BASE + TEXT + 0x400 if obj.heap else 0,
            properties=self._properties(props),
            ref=obj.ref,
            parent=obj.parent.address if obj.parent else 0,
            **{"class": self.machine.class_at[obj.type]},
        )
        for (name, member), value in obj.fields.items():
            self.fill(name, obj.address, **{member: value})
        is_a = self.machine.is_a
        if is_a(obj, "device"):
            self._device(obj)
        elif is_a(obj, "bus"):
            self._bus(obj)
        elif is_a(obj, "memory-region"):
            self._region(obj)
        elif obj.type == "resettable-container":
            self._resets(obj)
        elif is_a(obj, "qemu-console"):
            self._console(obj)

    def _device(self, obj: FakeObject) -> None:
        at = obj.address
        self.fill(
            "DeviceState",
            at,
            id=self.string(obj.id) if obj.id else 0,
            realized=1,
            parent_bus=obj.bus.address if obj.bus else 0,
        )
        rows = []
        for address, name, lines in obj.gpios:
            array = self.allocate(8 * len(lines))
            for i, line in enumerate(lines):
                self.word(array + 8 * i, line.address)
            rows.append(address)
            self.fill(
                "NamedGPIOList",
                address,
                name=self.string(name) if name else 0,
                num_in=len(lines),
                **{"in": array},
            )
            for i, line in enumerate(lines):
                self.fill("IRQState", line.address, handler=BASE + TEXT, n=i)
        self._qlist("DeviceState", "gpios", at, "NamedGPIOList.node", rows)
        buses = [o.address for o in self.machine.objects if o.parent is obj and self._is_bus(o)]
        self._qlist("DeviceState", "child_bus", at, "BusState.sibling", buses)
        for address, name, clock, output, alias in obj.clocks:
            self.fill(
                "NamedClockList",
                address,
                name=self.string(name),
                clock=clock.address,
                output=output,
                alias=alias,
            )
        clocks = [clock[0] for clock in obj.clocks]
        self._qlist("DeviceState", "clocks", at, "NamedClockList.node", clocks)

    def _is_bus(self, obj: FakeObject) -> bool:
        return self.machine.is_a(obj, "bus")

    def _qlist(self, struct_name: str, member: str, at: int, by: str, rows: list[int]) -> None:
        """A ``QLIST``: the head is one pointer, a link is {next, pointer to the next before}."""
        before = at + self.layout.offset(struct_name, member)
        link = self.layout.offset(*by.split("."))
        self.word(before, 0)
        for row in rows:
            self.word(before, row)
            self.word(row + link, 0)
            self.word(row + link + 8, before)
            before = row + link

    def _qtailq(self, head: int, link: int, rows: list[int]) -> None:
        """A ``QTAILQ``: head and links are {next, link before}; the last is behind the head."""
        before = head
        self.word(head, 0)
        for row in rows:
            self.word(before, row)
            self.word(row + link, 0)
            self.word(row + link + 8, before)
            before = row + link
        self.word(head + 8, before)

    def _bus(self, obj: FakeObject) -> None:
        at, is_a = obj.address, self.machine.is_a
        self.fill(
            "BusState",
            at,
            name=self.string(obj.name or "bus"),
            parent=obj.parent.address if obj.parent and is_a(obj.parent, "device") else 0,
            num_children=len(obj.kids),
        )
        self._qtailq(
            at + self.layout.offset("BusState", "children"),
            self.layout.offset("BusChild", "sibling"),
            [kid.address for kid in obj.kids],
        )
        for kid in obj.kids:
            self.fill("BusChild", kid.address, child=kid.child.address, index=kid.index)
            if is_a(kid.child, "pci-device"):
                self.fill("PCIDevice", kid.child.address, devfn=kid.index)

    def _region(self, obj: FakeObject) -> None:
        at = obj.address
        self.fill(
            "MemoryRegion",
            at,
            name=self.string(obj.name) if obj.name else 0,
            owner=obj.owner.address if obj.owner else 0,
            container=obj.container.address if obj.container else 0,
            alias=obj.alias.address if obj.alias else 0,
            addr=obj.addr,
            size=obj.extent,
            enabled=1,
            terminates=not obj.subregions or any(obj in v.ranges for v in self.machine.views),
            mapped_via_alias=sum(
                other.alias is obj and other.container is not None for other in self.machine.objects
            ),
        )
        for (name, member), value in obj.fields.items():
            self.fill(name, at, **{member: value})
        self._qtailq(
            at + self.layout.offset("MemoryRegion", "subregions"),
            self.layout.offset("MemoryRegion", "subregions_link"),
            [sub.address for sub in obj.subregions],
        )

    def _resets(self, obj: FakeObject) -> None:
        array = self.allocate(16)
        data = self.allocate(8 * max(1, len(obj.resets)))
        self.word(array, data)
        self.put(array + 8, struct.pack("<I", len(obj.resets)))
        for i, reset in enumerate(obj.resets):
            self.word(data + 8 * i, reset.address)
        self.fill("ResettableContainer", obj.address, children=array)

    def _console(self, obj: FakeObject) -> None:
        consoles = [c.address for c in self.machine.consoles]
        if obj is self.machine.consoles[0]:
            link = self.layout.offset("QemuConsole", "next")
            self._qtailq(BASE + CONSOLES, link, consoles)

    def _spaces(self) -> None:
        spaces = self.machine.spaces
        for space in [*spaces, *self.machine.dead_spaces]:
            self.fill(
                "AddressSpace",
                space.address,
                name=self.string(space.name),
                root=space.root.address,
                current_map=space.view.address,
            )
            if space not in spaces:
                continue
            self._qtailq(
                space.address + self.layout.offset("AddressSpace", "listeners"),
                self.layout.offset("MemoryListener", "link_as"),
                [at for at, _ in space.listeners],
            )
            for at, name in space.listeners:
                self.fill("MemoryListener", at, name=self.string(name), address_space=space.address)
        self._qtailq(
            BASE + SPACES,
            self.layout.offset("AddressSpace", "address_spaces_link"),
            [space.address for space in spaces],
        )

    def _views(self) -> None:
        layout = self.layout
        for view in self.machine.views:
            ranges = self.allocate(layout.size("FlatRange") * max(1, len(view.ranges)))
            start = 0
            for i, region in enumerate(view.ranges):
                at = ranges + i * layout.size("FlatRange")
                self.fill("FlatRange", at, mr=region.address, addr=start | region.extent << 128)
                start += region.extent
            sections = self.allocate(layout.size("MemoryRegionSection") * len(view.sections))
            for i, region in enumerate(view.sections):
                at = sections + i * layout.size("MemoryRegionSection")
                self.fill("MemoryRegionSection", at, mr=region.address, fv=view.address)
            dispatch = self.allocate(layout.size("AddressSpaceDispatch"))
            self.fill(
                "PhysPageMap",
                dispatch + layout.offset("AddressSpaceDispatch", "map"),
                sections_nb=len(view.sections),
                sections=sections,
            )
            self.fill(
                "FlatView",
                view.address,
                ref=view.ref,
                ranges=ranges,
                nr=len(view.ranges),
                nr_allocated=len(view.ranges),
                dispatch=dispatch,
                root=view.root.address,
            )
        rows = {view.root.address: view.address for view in self.machine.cached}
        self.word(BASE + FLAT_VIEWS, self.table(rows, DIRECT_HASH, RCU_FREE))

    def _rcu(self) -> None:
        """``xchg %rax,tail(%rip)`` in the code, the queue behind the dummy node in the data."""
        rest = BASE + RCU_TAIL - (BASE + CALL_RCU1 + 0x17)
        code = b"\x48\x89\x77\x08\x48\xc7\x07\0\0\0\0\x48\x89\xf8\x90\x90"
        self.put(BASE + CALL_RCU1, code + b"\x48\x87\x05" + struct.pack("<i", rest) + b"\xc3")
        nodes = [BASE + RCU_DUMMY, *self.machine.pending]
        for node, after in zip(nodes, [*nodes[1:], 0]):
            self.fill("rcu_head", node, next=after, func=RCU_FREE)
        for kid in self.machine.dead_kids:
            self.fill("BusChild", kid.address, child=kid.child.address, index=kid.index)
        self.word(BASE + RCU_HEAD, nodes[0])
        at_next = self.layout.offset("rcu_head", "next")
        self.word(BASE + RCU_TAIL, nodes[-1] + at_next)

    def _ram(self) -> None:
        """One block of guest memory; a guest may write there whatever it likes."""
        block = self.allocate(self.layout.size("RAMBlock"))
        self.fill("RAMBlock", block, host=GUEST, max_length=GUEST_SIZE, used_length=GUEST_SIZE)
        self.fill("RAMBlock", block, mr=self.machine.ram.address)
        self.put(block + self.layout.offset("RAMBlock", "idstr"), b"pc.ram\0")
        self.word(BASE + RAM_LIST + self.layout.offset("RAMList", "blocks"), block)
        fake = struct.pack("<QQQI", self.machine.class_at["nic"], 0, 0, 3)
        self.memory[GUEST] = bytearray(fake.ljust(GUEST_SIZE, b"\0"))

    def target(self) -> FakeTarget:
        return FakeTarget(self.memory, self.machine.symbols, self.layout)
