"""Mapped guest memory
-------------------

``address_space_map`` and memory region caches reference the owner of the region
behind a guest address, and leave no trace but the pointer that they returned.
The devices that keep such pointers for long are read here; a slot's target is
the region, whose owner the reference is on.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ..snapshot import Listener, Obj, Slot, Space
from ..target.image import Unreadable
from .context import LIST_MAX, Context
from .scan import find_words

__all__ = ["RamMap", "cached_views", "read_maps"]

_QUEUES_MAX = 1024  # VIRTIO_QUEUE_MAX, include/hw/virtio/virtio.h
_BUFFERS_MAX = 1024  # VIRTQUEUE_MAX_SIZE
_ELEMENT_MAX = 64 << 10  # of memory that an element and its vectors take
_BOUNCE_MAGIC = 0xB4017CEB4FFE12ED  # BOUNCE_BUFFER_MAGIC, inverted when it is freed
_PORTS_MAX = 32  # AHCI_MAX_PORTS
_PARTS = ("desc", "avail", "used")


class _Block(NamedTuple):
    host: int
    size: int
    region: int


class RamMap:
    """Host addresses to the RAM regions behind them (``ram_list``, system/physmem.c)."""

    def __init__(self, context: Context) -> None:
        blocks = []
        variable = context.statics.first("ram_list")
        if variable and context.layout.has("RAMBlock", "mr"):
            first = context.image.u64(variable + context.layout.offset("RAMList", "blocks"))
            following = context.layout.offset("RAMBlock", "next")
            for at in context.queue(first, following, "RAM blocks"):
                row = context.record("RAMBlock", at)
                blocks.append(_Block(row["host"], row["max_length"], row["mr"]))
        self._blocks = sorted(blocks)
        self._starts = [block.host for block in self._blocks]

    def region(self, host: int) -> int:
        """Return the region that a host address belongs to, 0 when none does."""
        i = bisect_right(self._starts, host) - 1
        if i >= 0 and host < self._blocks[i].host + self._blocks[i].size:
            return self._blocks[i].region
        return 0


def read_maps(
    context: Context,
    objects: Mapping[int, Obj],
    spaces: Mapping[int, Space],
    listeners: Mapping[int, Listener],
) -> Iterator[Slot]:
    """Yield the references that mapped guest memory holds."""
    try:
        ram = RamMap(context)
    except Unreadable:
        context.note(context.statics.first("ram_list"), "the RAM blocks cannot be read")
        return
    readers = (
        ("virtio-device", _queues),
        ("virtio-balloon-device", _balloon),
        ("virtio-serial-port", _port),
        ("virtio-net-device", _net),
        ("virtio-gpu-device", _gpu),
        ("ich9-ahci", _ahci_pci),
        ("sysbus-ahci", _ahci_sysbus),
    )
    for address, obj in objects.items():
        for name, read in readers:
            if context.is_a(obj.type, name):
                try:
                    yield from read(context, ram, address)
                except Unreadable:
                    context.note(address, f"the mapped memory of a {obj.type} cannot be read")
    for listener in listeners.values():
        if listener.name == "vhost":
            try:
                yield from _vhost(context, ram, listener.address)
            except Unreadable:
                context.note(listener.address, "a vhost device cannot be read")
    yield from _requests(context, ram, objects)
    yield from _bounce(context)


def _queues(context: Context, ram: RamMap, device: int) -> Iterator[Slot]:
    """The caches of started queues (hw/virtio/virtio.c virtio_init_region_cache)."""
    for index, caches in _started(context, device):
        for part, region, _view in _parts(context, caches):
            yield Slot("vring-cache", device, f"VirtQueue[{index}].vring.caches->{part}", region)


def _started(context: Context, device: int) -> Iterator[tuple[int, int]]:
    layout, image = context.layout, context.image
    queues = image.u64(device + layout.offset("VirtIODevice", "vq"))
    if not queues:
        return
    stride = layout.size("VirtQueue")
    at_caches = layout.offset("VirtQueue", "vring") + layout.offset("VRing", "caches")
    raw = image.read(queues, stride * _QUEUES_MAX)
    for i in range(_QUEUES_MAX):
        at = i * stride + at_caches
        caches = int.from_bytes(raw[at : at + 8], "little")
        if caches:
            yield i, caches


def _parts(context: Context, caches: int) -> Iterator[tuple[str, int, int]]:
    """Yield (part, region, view) of the three caches of a queue."""
    layout, image = context.layout, context.image
    at_section = layout.offset("MemoryRegionCache", "mrs")
    at_region = at_section + layout.offset("MemoryRegionSection", "mr")
    for part in _PARTS:
        at = caches + layout.offset("VRingMemoryRegionCaches", part)
        region = image.u64(at + at_region)
        if region:
            yield part, region, image.u64(at + layout.offset("MemoryRegionCache", "fv"))


def cached_views(context: Context, objects: Mapping[int, Obj]) -> set[int]:
    """Return the flat views that the caches of virtqueues keep alive."""
    out = set()
    for address, obj in objects.items():
        if context.is_a(obj.type, "virtio-device") and context.layout.has("VirtIODevice", "vq"):
            try:
                for _index, caches in _started(context, address):
                    out |= {view for _, _, view in _parts(context, caches) if view}
            except Unreadable:
                continue  # read_maps takes note of it
    return out


def _element(context: Context, ram: RamMap, holder: int, field: str) -> Iterator[Slot]:
    """The buffers of the ``VirtQueueElement`` that ``field`` points to."""
    struct, _, name = field.partition(".")
    if not context.layout.has(struct, name):
        return
    element = context.image.u64(holder + context.layout.offset(struct, name))
    if element:
        yield from _buffers(context, ram, holder, field, element)


def _buffers(
    context: Context, ram: RamMap, holder: int, field: str, element: int
) -> Iterator[Slot]:
    row = context.record("VirtQueueElement", element)
    for numbers, vector in (("in_num", "in_sg"), ("out_num", "out_sg")):
        count = row[numbers]
        if count > _BUFFERS_MAX:
            context.note(element, f"a queue element claims {count} buffers")
            return
        for i in range(count):
            region = ram.region(context.image.u64(row[vector] + 16 * i))
            if region:
                yield Slot("queue-element", holder, f"{field}->{vector}[{i}]", region)


def _requests(context: Context, ram: RamMap, objects: Mapping[int, Obj]) -> Iterator[Slot]:
    """The requests in flight of virtio block and SCSI devices.

    No list has them all; each points to its device and to its queue, and carries the
    element that it was popped with.  A freed one keeps these pointers, but not the
    head of its memory, which the allocator uses.
    """
    for kind, struct in (
        ("virtio-blk-device", "VirtIOBlockReq"),
        ("virtio-scsi-device", "VirtIOSCSIReq"),
    ):
        if not context.layout.has(struct, "elem"):
            continue
        busy = {
            address: count
            for address, obj in objects.items()
            if context.is_a(obj.type, kind) and (count := _in_use(context, address))
        }
        found: dict[int, list[int]] = {device: [] for device in busy}
        for word, device in find_words(context.image, busy):
            request = word - context.layout.offset(struct, "dev")
            if _is_request(context, struct, request, device):
                found[device].append(request)
        for device, requests in found.items():
            if len(requests) > busy[device]:
                context.note(device, f"{len(requests)} requests for {busy[device]} in flight")
                continue
            for request in requests:
                element = request + context.layout.offset(struct, "elem")
                try:
                    yield from _buffers(context, ram, request, f"{struct}.elem", element)
                except Unreadable:
                    context.note(request, "a request in flight cannot be read")


def _in_use(context: Context, device: int) -> int:
    """Return how many elements of a device's queues are popped."""
    layout, image = context.layout, context.image
    if not layout.has("VirtQueue", "inuse"):
        return 0
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


def _balloon(context: Context, ram: RamMap, device: int) -> Iterator[Slot]:
    yield from _element(context, ram, device, "VirtIOBalloon.stats_vq_elem")


def _port(context: Context, ram: RamMap, device: int) -> Iterator[Slot]:
    yield from _element(context, ram, device, "VirtIOSerialPort.elem")


def _net(context: Context, ram: RamMap, device: int) -> Iterator[Slot]:
    """Packets that wait for their receiver (hw/net/virtio-net.c virtio_net_flush_tx)."""
    layout, image = context.layout, context.image
    if not layout.has("VirtIONet", "max_queue_pairs") or not layout.has(
        "VirtIONetQueue", "async_tx"
    ):
        return
    queues = image.u64(device + layout.offset("VirtIONet", "vqs"))
    count = image.u16(device + layout.offset("VirtIONet", "max_queue_pairs"))
    for i in range(min(count, _QUEUES_MAX) if queues else 0):
        at = (
            queues + i * layout.size("VirtIONetQueue") + layout.offset("VirtIONetQueue", "async_tx")
        )
        element = image.u64(at)
        if element:
            field = f"VirtIONetQueue[{i}].async_tx.elem"
            yield from _buffers(context, ram, device, field, element)


def _gpu(context: Context, ram: RamMap, device: int) -> Iterator[Slot]:
    """The backing pages of resources (hw/display/virtio-gpu.c virtio_gpu_create_mapping_iov)."""
    layout = context.layout
    struct = "virtio_gpu_simple_resource"
    if not layout.has("VirtIOGPU", "reslist") or not layout.has(struct, "iov"):
        return
    first = context.image.u64(device + layout.offset("VirtIOGPU", "reslist"))
    for at in context.queue(first, layout.offset(struct, "next"), "GPU resources"):
        row = context.record(struct, at)
        count = row["iov_cnt"] if row["iov"] else 0
        if count > LIST_MAX:
            context.note(at, f"a GPU resource claims {count} pieces")
            continue
        for i in range(count):
            region = ram.region(context.image.u64(row["iov"] + 16 * i))
            if region:
                yield Slot("dma-map", device, f"{struct}.iov[{i}]", region)


def _ahci_pci(context: Context, ram: RamMap, device: int) -> Iterator[Slot]:
    yield from _ahci(context, ram, device, "AHCIPCIState")


def _ahci_sysbus(context: Context, ram: RamMap, device: int) -> Iterator[Slot]:
    yield from _ahci(context, ram, device, "SysbusAHCIState")


def _ahci(context: Context, ram: RamMap, device: int, struct: str) -> Iterator[Slot]:
    """The command list and the receive buffer of a started port (hw/ide/ahci.c map_page)."""
    layout, image = context.layout, context.image
    if not layout.has(struct, "ahci") or not layout.has("AHCIDevice", "lst"):
        return
    state = device + layout.offset(struct, "ahci")
    ports = image.u32(state + layout.offset("AHCIState", "ports"))
    first = image.u64(state + layout.offset("AHCIState", "dev"))
    for i in range(min(ports, _PORTS_MAX) if first else 0):
        port = first + i * layout.size("AHCIDevice")
        for field in ("lst", "res_fis"):
            region = ram.region(image.u64(port + layout.offset("AHCIDevice", field)))
            if region:
                yield Slot("dma-map", device, f"AHCIDevice[{i}].{field}", region)


def _vhost(context: Context, ram: RamMap, listener: int) -> Iterator[Slot]:
    """Sections and rings of a vhost device (hw/virtio/vhost.c)."""
    layout, image = context.layout, context.image
    device = listener - layout.offset("vhost_dev", "memory_listener")
    row = context.record("vhost_dev", device)
    count = row["n_mem_sections"]
    if count > LIST_MAX:
        context.note(device, f"a vhost device claims {count} sections")
        return
    stride, at_mr = layout.size("MemoryRegionSection"), layout.offset("MemoryRegionSection", "mr")
    for i in range(count):
        region = image.u64(row["mem_sections"] + i * stride + at_mr)
        yield Slot("vhost-section", device, f"vhost_dev.mem_sections[{i}].mr", region)
    for i in range(min(row["nvqs"], _QUEUES_MAX)):
        queue = row["vqs"] + i * layout.size("vhost_virtqueue")
        for part in _PARTS:
            region = ram.region(image.u64(queue + layout.offset("vhost_virtqueue", part)))
            if region:
                yield Slot("dma-map", device, f"vhost_dev.vqs[{i}].{part}", region)


def _bounce(context: Context) -> Iterator[Slot]:
    """Bounce buffers: one that is static in 7.2, later any number on the heap, with a mark."""
    layout, image = context.layout, context.image
    if not layout.has("BounceBuffer", "mr"):
        return
    at_mr = layout.offset("BounceBuffer", "mr")
    if layout.has("BounceBuffer", "magic"):
        at_magic = layout.offset("BounceBuffer", "magic")
        buffers = [word - at_magic for word, _ in find_words(image, {_BOUNCE_MAGIC})]
    else:
        buffers = context.statics.symbols.get("bounce", [])
    for buffer in buffers:
        try:
            region = image.u64(buffer + at_mr)
        except Unreadable:
            continue
        if region:
            yield Slot("dma-map", buffer, "BounceBuffer.mr", region)
