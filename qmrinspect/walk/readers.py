"""Holders that no way describes
-----------------------------

One function for each :class:`~qmrinspect.references.Reader`.  It is called once a walk,
when the layout has the fields that its declaration needs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from ..records.context import Context
from ..records.scan import find_words
from ..records.ways import Found, follow
from ..snapshot import Obj
from ..target.image import Unreadable
from . import inflight
from .scene import ReaderFunction, Scene, WordsFunction, attempt, of_type

__all__ = ["READERS", "WORDS"]

_FUNCTIONS_MAX = 256  # of one device, PCIE_SRIOV's TotalVFs in QEMU
_ISA_IRQS = 16  # ISA_NUM_IRQS, include/hw/isa/isa.h
_PORTIO_MAX = 32  # the longest list in QEMU, VGA's, has 5 ranges
_DEVICE_MAX = 1 << 20  # bytes of a device that are looked at
_BOUNCE_MAGIC = 0xB4017CEB4FFE12ED  # BOUNCE_BUFFER_MAGIC, inverted when it is freed


def _listener_watches(context: Context, scene: Scene) -> Iterator[Found]:
    """Each watch of a listener's socket was given the listener with a reference."""
    way = "QIONetListener.io_source ->[QIONetListener.nsioc]"

    def read(address: int) -> Iterator[Found]:
        for found in follow(context, address, way):
            yield found._replace(value=address)

    yield from attempt(context, of_type(context, scene.objects, "qio-net-listener"), read)


def _listener_sources(context: Context, scene: Scene) -> Iterator[Found]:
    """The same since 10.2; under an AioContext it holds itself once, for all its sockets."""
    way = "QIONetListener.source ->[QIONetListener.nsioc] -> QIONetListenerSource.io_source"

    def read(address: int) -> Iterator[Found]:
        row = context.record("QIONetListener", address)
        if row["aio_context"]:
            if row["io_func"] and row["nsioc"]:
                yield Found(address, "QIONetListener.io_func", address)
            return
        for found in follow(context, address, way):
            yield found._replace(value=address)

    yield from attempt(context, of_type(context, scene.objects, "qio-net-listener"), read)


def _virtual_functions(context: Context, scene: Scene) -> Iterator[Found]:
    """The virtual functions that a physical one made (hw/pci/pcie_sriov.c register_vfs)."""
    layout, image = context.layout, context.image
    express = layout.offset("PCIDevice", "exp")
    at_vf = (
        express + layout.offset("PCIExpressDevice", "sriov_pf") + layout.offset("PCIESriovPF", "vf")
    )
    at_pf = (
        express + layout.offset("PCIExpressDevice", "sriov_vf") + layout.offset("PCIESriovVF", "pf")
    )

    def read(device: int) -> Iterator[Found]:
        array = image.u64(device + at_vf)
        for i in range(_FUNCTIONS_MAX if array else 0):
            function = image.u64(array + 8 * i)
            # The array's length is in config space; its end is where a pointer is no VF's.
            if function not in scene.objects or image.u64(function + at_pf) != device:
                return
            yield Found(device, f"PCIESriovPF.vf[{i}]", function)

    yield from attempt(context, of_type(context, scene.objects, "pci-device"), read)


def _throttle_members(context: Context, scene: Scene) -> Iterator[Found]:
    """The members of a throttle group, each with a reference on it."""
    link = context.layout.offset("ThrottleGroupMember", "round_robin")

    def read(group: int) -> Iterator[Found]:
        first = context.image.u64(group + context.layout.offset("ThrottleGroup", "head"))
        for member in context.queue(first, link, "throttle group members"):
            yield Found(member, "ThrottleGroupMember.throttle_state", group)

    yield from attempt(context, of_type(context, scene.objects, "throttle-group"), read)


def _kvm_pic(context: Context, scene: Scene) -> Iterator[Found]:
    """The vector that KVM's i8259 returned (hw/i386/kvm/i8259.c), kept by ``GSIState``.

    The state is what the machine's own lines were allocated with.
    """
    layout, image = context.layout, context.image

    def read(machine: int) -> Iterator[Found]:
        lines = image.u64(machine + layout.offset("X86MachineState", "gsi"))
        line = image.u64(lines) if lines else 0
        if line not in scene.objects:
            return
        state = image.u64(line + layout.offset("IRQState", "opaque"))
        for i in range(_ISA_IRQS if state else 0):
            irq = image.u64(state + layout.offset("GSIState", "i8259_irq") + 8 * i)
            yield Found(state, f"GSIState.i8259_irq[{i}]", irq)

    yield from attempt(context, of_type(context, scene.objects, "x86-machine"), read)


def _consoles(context: Context, scene: Scene) -> Iterator[Found]:
    """The consoles on the static list ``consoles`` (ui/console.c).

    Every console's link leads back to the list's head, which is a variable.
    """
    link = context.layout.offset("QemuConsole", "next")
    low, high = context.statics.data

    def read(address: int) -> Iterator[Found]:
        before = context.image.u64(address + link + 8)
        if context.image.u64(before) != address:
            return
        if low <= before < high:
            yield Found(0, "consoles", address)
        else:
            yield Found(before - link, "QemuConsole.next", address)

    yield from attempt(context, of_type(context, scene.objects, "qemu-console"), read)


def _port_lists(context: Context, scene: Scene) -> Iterator[Found]:
    """The ranges of I/O ports (system/ioport.c portio_list_add_1), objects since 8.0.

    Each holds the region inside itself; it is held by the array of a ``PortioList``,
    which has the region's address.  The list is part of the device that the region is
    a child of, or of a bus, mostly.
    """
    objects = scene.objects
    at_mr = context.layout.offset("MemoryRegionPortioList", "mr")
    ranges = {a + at_mr: a for a, o in objects.items() if o.type == "memory-region-portio-list"}
    homes = {objects[region].parent for region in ranges if region in objects}
    homes |= {a for a, o in objects.items() if ranges and context.is_a(o.type, "bus")}
    # A bus may be part of the device, and the list is in both then.
    found: dict[int, Sequence[int]] = {}
    for start in homes & objects.keys():
        found.update(_port_list_at(context, _words(context, objects[start]), ranges))
    missing = ranges.keys() - {region for members in found.values() for region in members}
    if missing:
        # An array begins with one of them.
        arrays = {word for word, _ in find_words(context.image, missing, context.known.words)}
        words = find_words(context.image, arrays, context.known.words)
        lists = dict(_port_list_at(context, words, missing))
        if len({members[0] for members in lists.values()}) < len(lists):
            # One that was freed may lead to an array that another has now.
            lists = {at: row for at, row in lists.items() if context.live.alive(at) is not False}
        found.update(lists)
    for start, members in sorted(found.items()):
        for i, region in enumerate(members):
            yield Found(start, f"PortioList.regions[{i}]", ranges[region])


def _words(context: Context, obj: Obj) -> Iterator[tuple[int, int]]:
    """Yield (address, word) for the words of an object that may be pointers."""
    size = min(context.types[obj.type].size, _DEVICE_MAX)
    try:
        words = context.image.words(obj.address, size // 8)
    except Unreadable:
        return
    for index, word in enumerate(words):
        if 0x1000 < word < 1 << 47 and not word & 7:
            yield obj.address + 8 * index, word


def _port_list_at(
    context: Context, words: Iterable[tuple[int, int]], ranges: Collection[int]
) -> Iterator[tuple[int, Sequence[int]]]:
    """Yield each ``PortioList`` of which a word is the pointer to its regions, with those."""
    layout, image = context.layout, context.image
    at_regions, at_count = layout.offset("PortioList", "regions"), layout.offset("PortioList", "nr")
    for word, array in words:
        start = word - at_regions
        try:
            count = image.u32(start + at_count)
            # A list has all its regions, and each of them is a range's.
            if 0 < count <= _PORTIO_MAX and image.u64(array) in ranges:
                members = image.words(array, count)
                if all(region in ranges for region in members):
                    yield start, members
        except Unreadable:
            continue


def _register_blocks(context: Context, scene: Scene) -> Iterator[Found]:
    """The registers of a block (hw/core/register.c register_init_block), objects until 10.2.

    The block has the region that shows it to the guest, whose functions are given the block.
    """
    layout = context.layout
    at_mem = layout.offset("RegisterInfoArray", "mem")
    at_opaque = layout.offset("MemoryRegion", "opaque")
    way = "RegisterInfoArray.r ->[RegisterInfoArray.num_elements]"

    registers = set(of_type(context, scene.objects, "qemu-register"))

    def is_block(region: int) -> bool:
        # Others give their functions themselves, which looks like a block until 7.2.
        block = region - at_mem
        try:
            if context.image.u64(region + at_opaque) != block:
                return False
            row = context.record("RegisterInfoArray", block)
            return row["num_elements"] > 0 and context.image.u64(row["r"]) in registers
        except Unreadable:
            return False

    def read(region: int) -> Iterator[Found]:
        yield from follow(context, region - at_mem, way)

    regions = of_type(context, scene.objects, "memory-region") if registers else ()
    yield from attempt(context, [region for region in regions if is_block(region)], read)


def _discard_listeners(context: Context, scene: Scene) -> Iterator[Found]:
    """Each listener of a region's discarded memory holds the manager."""
    layout = context.layout
    link = layout.offset("RamDiscardListener", "next")

    def read(manager: int) -> Iterator[Found]:
        first = context.image.u64(manager + layout.offset("RamDiscardManager", "rdl_list"))
        for listener in context.queue(first, link, "listeners of discarded memory"):
            yield Found(listener, "RamDiscardListener.next", manager)

    yield from attempt(context, of_type(context, scene.objects, "ram-discard-manager"), read)


def _bounce_buffers(context: Context, scene: Scene) -> Iterator[Found]:
    """Bounce buffers: one that is static in 7.2, later any number on the heap, with a mark."""
    layout, image = context.layout, context.image
    if layout.has("BounceBuffer", "magic"):
        at_magic = layout.offset("BounceBuffer", "magic")
        marks = find_words(image, _bounce_marks(context, scene), context.known.words)
        buffers = [word - at_magic for word, _ in marks]
    else:
        buffers = context.statics.symbols.get("bounce", [])
    for buffer in buffers:
        try:
            region = image.u64(buffer + layout.offset("BounceBuffer", "mr"))
        except Unreadable:
            continue
        if region:
            yield Found(buffer, "BounceBuffer.mr", region)


def _bounce_marks(context: Context, scene: Scene) -> Collection[int]:
    return {_BOUNCE_MAGIC} if context.layout.has("BounceBuffer", "magic") else ()


WORDS: dict[str, WordsFunction] = {**inflight.WORDS, "bounce_buffers": _bounce_marks}

READERS: dict[str, ReaderFunction] = {
    **inflight.READERS,
    "bounce_buffers": _bounce_buffers,
    "consoles": _consoles,
    "discard_listeners": _discard_listeners,
    "kvm_pic": _kvm_pic,
    "listener_sources": _listener_sources,
    "listener_watches": _listener_watches,
    "port_lists": _port_lists,
    "register_blocks": _register_blocks,
    "throttle_members": _throttle_members,
    "virtual_functions": _virtual_functions,
}
