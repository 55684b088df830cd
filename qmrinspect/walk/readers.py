"""Holders that no way describes
-----------------------------

One function for each :class:`~qmrinspect.references.Reader`.  It is called once a walk,
when the layout has the fields that its declaration needs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Callable

from ..snapshot import Obj
from ..target.image import Unreadable
from .context import Context
from .ram import RamMap
from .scan import find_words
from .ways import Found, follow

__all__ = ["READERS", "Objects", "ReaderFunction"]

Objects = Mapping[int, Obj]
ReaderFunction = Callable[[Context, Objects, RamMap], Iterator[Found]]

_FUNCTIONS_MAX = 256  # of one device, PCIE_SRIOV's TotalVFs in QEMU
_ISA_IRQS = 16  # ISA_NUM_IRQS, include/hw/isa/isa.h
_PORTIO_MAX = 32  # the longest list in QEMU, VGA's, has 5 ranges
_DEVICE_MAX = 1 << 20  # bytes of a device that are looked at
_QUEUES_MAX = 1024  # VIRTIO_QUEUE_MAX, include/hw/virtio/virtio.h
_BUFFERS_MAX = 1024  # VIRTQUEUE_MAX_SIZE
_ELEMENT_MAX = 64 << 10  # of memory that an element and its vectors take
_BOUNCE_MAGIC = 0xB4017CEB4FFE12ED  # BOUNCE_BUFFER_MAGIC, inverted when it is freed


def _of_type(context: Context, objects: Objects, name: str) -> Iterator[int]:
    for address, obj in objects.items():
        if context.is_a(obj.type, name):
            yield address


def _attempt(
    context: Context, addresses: Iterable[int], read: Callable[[int], Iterable[Found]]
) -> Iterator[Found]:
    """Read each of them; what cannot be read becomes a note and ends nothing else."""
    for address in addresses:
        try:
            yield from read(address)
        except Unreadable as error:
            context.note(address, f"a holder cannot be read at {error.args[0]:#x}")


def _listener_watches(context: Context, objects: Objects, ram: RamMap) -> Iterator[Found]:
    """Each watch of a listener's socket was given the listener with a reference."""
    way = "QIONetListener.io_source ->[QIONetListener.nsioc]"

    def read(address: int) -> Iterator[Found]:
        for found in follow(context, address, way):
            yield found._replace(value=address)

    yield from _attempt(context, _of_type(context, objects, "qio-net-listener"), read)


def _listener_sources(context: Context, objects: Objects, ram: RamMap) -> Iterator[Found]:
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

    yield from _attempt(context, _of_type(context, objects, "qio-net-listener"), read)


def _virtual_functions(context: Context, objects: Objects, ram: RamMap) -> Iterator[Found]:
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
            if function not in objects or image.u64(function + at_pf) != device:
                return
            yield Found(device, f"PCIESriovPF.vf[{i}]", function)

    yield from _attempt(context, _of_type(context, objects, "pci-device"), read)


def _throttle_members(context: Context, objects: Objects, ram: RamMap) -> Iterator[Found]:
    """The members of a throttle group, each with a reference on it."""
    link = context.layout.offset("ThrottleGroupMember", "round_robin")

    def read(group: int) -> Iterator[Found]:
        first = context.image.u64(group + context.layout.offset("ThrottleGroup", "head"))
        for member in context.queue(first, link, "throttle group members"):
            yield Found(member, "ThrottleGroupMember.throttle_state", group)

    yield from _attempt(context, _of_type(context, objects, "throttle-group"), read)


def _scsi_requests(context: Context, objects: Objects, ram: RamMap) -> Iterator[Found]:
    """The requests of a SCSI device hold it and its bus's device (scsi_req_alloc)."""
    layout, image = context.layout, context.image
    link, parent = layout.offset("SCSIRequest", "next"), layout.offset("BusState", "parent")

    def read(device: int) -> Iterator[Found]:
        first = image.u64(device + layout.offset("SCSIDevice", "requests"))
        for request in context.queue(first, link, "SCSI requests"):
            yield Found(request, "SCSIRequest.dev", device)
            bus = image.u64(request + layout.offset("SCSIRequest", "bus"))
            if bus in objects:
                yield Found(request, "SCSIRequest.bus->qbus.parent", image.u64(bus + parent))

    yield from _attempt(context, _of_type(context, objects, "scsi-device"), read)


def _kvm_pic(context: Context, objects: Objects, ram: RamMap) -> Iterator[Found]:
    """The vector that KVM's i8259 returned (hw/i386/kvm/i8259.c), kept by ``GSIState``.

    The state is what the machine's own lines were allocated with.
    """
    layout, image = context.layout, context.image

    def read(machine: int) -> Iterator[Found]:
        lines = image.u64(machine + layout.offset("X86MachineState", "gsi"))
        line = image.u64(lines) if lines else 0
        if line not in objects:
            return
        state = image.u64(line + layout.offset("IRQState", "opaque"))
        for i in range(_ISA_IRQS if state else 0):
            irq = image.u64(state + layout.offset("GSIState", "i8259_irq") + 8 * i)
            yield Found(state, f"GSIState.i8259_irq[{i}]", irq)

    yield from _attempt(context, _of_type(context, objects, "x86-machine"), read)


def _consoles(context: Context, objects: Objects, ram: RamMap) -> Iterator[Found]:
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

    yield from _attempt(context, _of_type(context, objects, "qemu-console"), read)


def _port_lists(context: Context, objects: Objects, ram: RamMap) -> Iterator[Found]:
    """The ranges of I/O ports (system/ioport.c portio_list_add_1), objects since 8.0.

    Each holds the region inside itself; it is held by the array of a ``PortioList``,
    which has the region's address.  The list is part of the device that the region is
    a child of, or of a bus, mostly.
    """
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
        arrays = {word for word, _ in find_words(context.image, missing)}
        found.update(_port_list_at(context, find_words(context.image, arrays), missing))
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


def _discard_listeners(context: Context, objects: Objects, ram: RamMap) -> Iterator[Found]:
    """Each listener of a region's discarded memory holds the manager."""
    layout = context.layout
    link = layout.offset("RamDiscardListener", "next")

    def read(manager: int) -> Iterator[Found]:
        first = context.image.u64(manager + layout.offset("RamDiscardManager", "rdl_list"))
        for listener in context.queue(first, link, "listeners of discarded memory"):
            yield Found(listener, "RamDiscardListener.next", manager)

    yield from _attempt(context, _of_type(context, objects, "ram-discard-manager"), read)


def _virtio_blk_requests(context: Context, objects: Objects, ram: RamMap) -> Iterator[Found]:
    yield from _requests(context, objects, "virtio-blk-device", "VirtIOBlockReq")


def _virtio_scsi_requests(context: Context, objects: Objects, ram: RamMap) -> Iterator[Found]:
    yield from _requests(context, objects, "virtio-scsi-device", "VirtIOSCSIReq")


def _requests(context: Context, objects: Objects, kind: str, struct: str) -> Iterator[Found]:
    """The buffers of requests in flight of virtio block and SCSI devices.

    No list has them all; each points to its device and to its queue, and carries the
    element that it was popped with.  A freed one keeps these pointers, but not the
    head of its memory, which the allocator uses.
    """
    layout = context.layout
    busy = {
        address: count
        for address in _of_type(context, objects, kind)
        if (count := _in_use(context, address))
    }
    found: dict[int, list[int]] = {device: [] for device in busy}
    for word, device in find_words(context.image, busy):
        request = word - layout.offset(struct, "dev")
        if _is_request(context, struct, request, device):
            found[device].append(request)
    ways = [
        f"{struct}.elem + VirtQueueElement.{way}_sg ->[VirtQueueElement.{way}_num iovec] "
        "+ iovec.iov_base"
        for way in ("in", "out")
    ]

    def read(request: int) -> Iterator[Found]:
        for way in ways:
            yield from follow(context, request, way)

    for device, requests in found.items():
        if len(requests) > busy[device]:
            context.note(device, f"{len(requests)} requests for {busy[device]} in flight")
            continue
        yield from _attempt(context, requests, read)


def _in_use(context: Context, device: int) -> int:
    """Return how many elements of a device's queues are popped."""
    layout, image = context.layout, context.image
    try:
        queues = image.u64(device + layout.offset("VirtIODevice", "vq"))
        stride, at = layout.size("VirtQueue"), layout.offset("VirtQueue", "inuse")
        raw = image.read(queues, stride * _QUEUES_MAX) if queues else b""
    except Unreadable:
        return 0
    counts = (
        int.from_bytes(raw[i + at : i + at + 4], "little") for i in range(0, len(raw), stride)
    )
    return sum(count for count in counts if count <= _BUFFERS_MAX)


def _is_request(context: Context, struct: str, request: int, device: int) -> bool:
    layout, image = context.layout, context.image
    try:
        queues = image.u64(device + layout.offset("VirtIODevice", "vq"))
        queue = image.u64(request + layout.offset(struct, "vq"))
        element = request + layout.offset(struct, "elem")
        row = context.record("VirtQueueElement", element)
    except Unreadable:
        return False
    stride = layout.size("VirtQueue")
    if not queues <= queue < queues + stride * _QUEUES_MAX or (queue - queues) % stride:
        return False
    # virtqueue_alloc_element: the vectors follow the element in the same allocation.
    vectors = (row["in_sg"], row["out_sg"])
    return 0 < row["in_num"] + row["out_num"] <= _BUFFERS_MAX and all(
        element < vector < element + _ELEMENT_MAX for vector in vectors
    )


def _bounce_buffers(context: Context, objects: Objects, ram: RamMap) -> Iterator[Found]:
    """Bounce buffers: one that is static in 7.2, later any number on the heap, with a mark."""
    layout, image = context.layout, context.image
    if layout.has("BounceBuffer", "magic"):
        at_magic = layout.offset("BounceBuffer", "magic")
        marks = find_words(image, {_BOUNCE_MAGIC}, context.known.bounce)
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


READERS: dict[str, ReaderFunction] = {
    "bounce_buffers": _bounce_buffers,
    "consoles": _consoles,
    "discard_listeners": _discard_listeners,
    "kvm_pic": _kvm_pic,
    "listener_sources": _listener_sources,
    "listener_watches": _listener_watches,
    "port_lists": _port_lists,
    "scsi_requests": _scsi_requests,
    "throttle_members": _throttle_members,
    "virtio_blk_requests": _virtio_blk_requests,
    "virtio_scsi_requests": _virtio_scsi_requests,
    "virtual_functions": _virtual_functions,
}
