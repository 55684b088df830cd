"""Requests in flight
------------------

What a device has begun and not finished holds the device, and the owners of the guest
memory that it maps.  Few requests are on a list; the others are found by what they point
to.  A freed one keeps most of its bytes, but not its head, which the allocator uses.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from ..heap.chunks import HEADER
from ..records.context import Context
from ..records.route import place_of
from ..records.scan import find_words
from ..records.ways import Found, follow, used
from ..references.requests import NVME
from ..target.image import Unreadable
from .scene import Objects, ReaderFunction, Scene, WordsFunction, attempt, of_type

__all__ = ["READERS", "WORDS"]

_QUEUES_MAX = 1024  # VIRTIO_QUEUE_MAX, include/hw/virtio/virtio.h
_BUFFERS_MAX = 1024  # VIRTQUEUE_MAX_SIZE
_ELEMENT_MAX = 64 << 10  # of memory that an element and its vectors take
_PIECES_MAX = 1 << 16  # of one scatter list
_ENTRY = 16  # bytes of a ScatterGatherEntry, include/system/dma.h
_FLAGS, _MAPPED, _IN_USE = 7, 2, 1  # of a block's size, malloc/malloc.c
_BLOCK_MAX = 1 << 40  # bytes of a heap; addresses are more
# References on one request; what malloc keeps in front of a block, its size, is more.
_REFS_MAX = 32
_REQUEST_MAX = 64 << 10  # bytes of a SCSI request of any device
_TABLE_WORDS = 3  # of an AIOCBInfo: up to 7.2 two functions and a size, since then one
_ALLOCATED_MAX = 4096  # bytes of such a request
_NVME_QUEUES_MAX = 0xFFFF  # NVME_MAX_IOQPAIRS
_NVME_REQUESTS_MAX = 4096  # on one queue
_NVME_LISTS = ("sq", "NvmeSQueue", "out_req_list"), ("cq", "NvmeCQueue", "req_list")
_ENTRY_OF = "NvmeRequest", "entry"
_VECTOR = "QEMUIOVector.iov ->[QEMUIOVector.niov iovec] + iovec.iov_base"


def _scsi_requests(context: Context, scene: Scene) -> Iterator[Found]:
    """SCSI requests hold their device and the bus's (hw/scsi/scsi-bus.c scsi_req_alloc).

    Those that are queued are on the device's list; the others have its bus, functions of the
    program, and memory of their own.
    """
    layout, image = context.layout, context.image
    link, parent = layout.offset("SCSIRequest", "next"), layout.offset("BusState", "parent")
    at_dev, at_bus = layout.offset("SCSIRequest", "dev"), layout.offset("SCSIRequest", "bus")
    home = layout.offset("DeviceState", "parent_bus")
    requests: dict[int, int] = {}

    def listed(device: int) -> Iterator[Found]:
        first = image.u64(device + layout.offset("SCSIDevice", "requests"))
        requests.update(
            (request, device) for request in context.queue(first, link, "SCSI requests")
        )
        return iter(())

    devices = _scsi_devices(context, scene)
    yield from attempt(context, devices, listed)
    low, high = context.statics.program
    in_blocks = find_words(image, devices, context.known.words, context.live.coroutines())
    for word, device in in_blocks:
        request = word - at_dev
        try:
            row = context.record("SCSIRequest", request)
            # QTAILQ_REMOVE clears the way back.
            queued = image.u64(request + link + 8)
        except Unreadable:
            continue
        counted = 0 < row["refcount"] < _REFS_MAX and not queued
        bus = row["bus"]
        if not (counted and bus and bus == image.u64(device + home) and low <= row["ops"] < high):
            continue
        if _is_block(context, request, layout.size("SCSIRequest"), _REQUEST_MAX):
            requests[request] = device

    def held(request: int) -> Iterator[Found]:
        yield Found(request, "SCSIRequest.dev", requests[request])
        bus = image.u64(request + at_bus)
        if bus in scene.objects:
            yield Found(request, "SCSIRequest.bus->qbus.parent", image.u64(bus + parent))

    yield from attempt(context, sorted(requests), held)


def _scatter_lists(context: Context, scene: Scene) -> Iterator[Found]:
    """A scatter list in use holds its device (system/dma-helpers.c qemu_sglist_init)."""
    for address, device in _lists(context, scene):
        yield Found(address, "QEMUSGList.dev", device)


def _lists(context: Context, scene: Scene) -> Sequence[tuple[int, int]]:
    if scene.lists is None:
        scene.lists = list(_find_lists(context, scene))
    return scene.lists


def _find_lists(context: Context, scene: Scene) -> Iterator[tuple[int, int]]:
    """Yield (address, device) of each ``QEMUSGList``: it has an address space and a device.

    qemu_sglist_destroy clears all of it.
    """
    layout, image = context.layout, context.image
    at_as, at_qsg = layout.offset("QEMUSGList", "as"), 0
    found = [word - at_as for word, _ in find_words(image, scene.spaces, context.known.words)]
    scene.requests = list(_nvme_requests(context, scene))
    if scene.requests:
        at_qsg = layout.offset("NvmeRequest", "sg") + layout.offset("NvmeSg", "qsg")
    for address in dict.fromkeys((*found, *(request + at_qsg for request in scene.requests))):
        device = _device_of(context, scene, address)
        if device:
            yield address, device


def _device_of(context: Context, scene: Scene, address: int) -> int:
    """Return the device that a scatter list is of, 0 where there is no list in use."""
    try:
        row = context.record("QEMUSGList", address)
        obj = scene.objects.get(row["dev"])
    except Unreadable:
        return 0
    if obj is None or not context.is_a(obj.type, "device") or row["as"] not in scene.spaces:
        return 0
    used, room = row.signed("nsg"), row.signed("nalloc")
    good = 0 <= used <= room and 0 < room <= _PIECES_MAX and _has_room(context, row["sg"], room)
    return row["dev"] if good else 0


def _nvme_requests(context: Context, scene: Scene) -> Iterator[int]:
    """Yield the requests that NVMe controllers have on their lists (hw/nvme/ctrl.c).

    One that has ended keeps its scatter list on the completion queue, until nvme_post_cqes has
    told the guest.  Requests are in arrays that are used round and round, so that a word elsewhere
    may have been copied too late to find the one that was in flight.
    """
    layout, image = context.layout, context.image
    fits = "NvmeCtrl" in layout.structs and "nvme" in context.types
    if not fits or layout.size("NvmeCtrl") != context.types["nvme"].size:
        return
    if not all(layout.has(*field.split(".")) for field in NVME.split()):
        return
    at_params = layout.offset("NvmeCtrl", "params")
    for controller in of_type(context, scene.objects, "nvme"):
        try:
            pairs = context.record("NvmeParams", controller + at_params)["max_ioqpairs"]
        except Unreadable:
            continue
        # One more is for administration.
        count = min(pairs, _NVME_QUEUES_MAX) + 1
        for array, struct, head in _NVME_LISTS:
            try:
                queues = image.u64(controller + layout.offset("NvmeCtrl", array))
                for queue in filter(None, image.words(queues, count) if queues else ()):
                    if image.u64(queue + layout.offset(struct, "ctrl")) == controller:
                        first = image.u64(queue + layout.offset(struct, head))
                        yield from _nvme_listed(context, controller, first)
            except Unreadable:
                continue


def _nvme_listed(context: Context, controller: int, request: int) -> Iterator[int]:
    layout, image = context.layout, context.image
    at_queue, at_owner = layout.offset("NvmeRequest", "sq"), layout.offset("NvmeSQueue", "ctrl")
    left = _NVME_REQUESTS_MAX
    while request and left and image.u64(image.u64(request + at_queue) + at_owner) == controller:
        yield request
        request, left = image.u64(request + layout.offset(*_ENTRY_OF)), left - 1


def _is_block_request(context: Context, request: int) -> bool:
    """Whether a request to a block device is where a pointer to a scatter list says.

    The list's address is in the stacks and requests of all who passed it on as well.  What
    qemu_aio_get allocates begins with the address of its table (util/aiocb.c), which has the
    size of what it allocates.  Blocks of malloc are no judge: they may be copied after the
    request, which has ended by then.
    """
    layout, (low, high) = context.layout, context.statics.data
    least = layout.offset("DMAAIOCB", "iov") + layout.size("QEMUIOVector")
    try:
        table = context.image.u64(request)
        if not low <= table < high:
            return False
    except Unreadable:
        return False
    try:
        words = context.image.words(table, _TABLE_WORDS)
        return any(least <= word <= _ALLOCATED_MAX for word in words)
    except Unreadable:
        # A core may be without constants.
        return True


def _is_block(context: Context, address: int, least: int, most: int) -> bool:
    """Whether a block of malloc begins at an address, by what lies in front of it and behind it.

    What is left of a freed structure lies in a free block that begins before it, or in blocks
    that were made of that.  Both words are of the instant at which the structure was read, as the
    blocks may not be (see :func:`_has_room`).
    """
    try:
        size = context.image.u64(address - 8) & ~_FLAGS
        if address % 16 == size % 16 == 0 and least <= size <= most + HEADER:
            # Of the block behind it one flag says whether this is in use.
            behind = context.image.u64(address - 8 + size)
            if behind & _IN_USE and behind < _BLOCK_MAX:
                return True
    except Unreadable:
        pass
    return not context.live.heap.is_glibc


def _has_room(context: Context, entries: int, count: int) -> bool:
    """Whether a scatter list's entries have memory of their own, with room for so many.

    What malloc keeps in front of a block gives its size, and is of the instant at which the list
    was read.  Whether the block is live is not asked: blocks are walked in what may have been
    copied later, and a list that gave its entries back is empty.  Of another allocator nothing
    is known but that something lies there.
    """
    if not entries:
        return False
    need = count * _ENTRY + HEADER
    try:
        head = context.image.u64(entries - 8)
    except Unreadable:
        return False
    size = head & ~_FLAGS
    # What is left of a chunk that fits nearly stays with it.
    fits = size >= need - HEADER if head & _MAPPED else need <= size <= need + HEADER
    if fits and entries % 16 == size % 16 == 0:
        return True
    return not context.live.heap.is_glibc and context.image.held(entries, 1) is not None


def _block_requests(context: Context, scene: Scene) -> Iterator[Found]:
    """The memory that a request to a block device maps (system/dma-helpers.c dma_blk_cb)."""
    lists = {address for address, _ in _lists(context, scene)}
    at_sg = context.layout.offset("DMAAIOCB", "sg")

    def read(request: int) -> Iterator[Found]:
        yield from follow(context, request, f"DMAAIOCB.iov + {_VECTOR}")

    requests = [word - at_sg for word, _ in find_words(context.image, lists, context.known.words)]
    for request in scene.requests:
        try:
            block = context.image.u64(request + context.layout.offset("NvmeRequest", "aiocb"))
            if block and context.image.u64(block + at_sg) in lists:
                requests.append(block)
        except Unreadable:
            continue
    found = [r for r in dict.fromkeys(requests) if _is_block_request(context, r)]
    yield from attempt(context, found, read)


def _usb_packets(context: Context, scene: Scene) -> Iterator[Found]:
    """The memory that a packet of a USB host maps (hw/usb/libhw.c usb_packet_map).

    The packet lies beside the scatter list that it was made from; its vector stays as it is
    when the memory was given back, and the list does not.
    """
    layout = context.layout
    for address, device in _lists(context, scene):
        kind = scene.objects[device].type
        struct = "XHCITransfer" if "xhci" in kind else "EHCIPacket" if "ehci" in kind else ""
        if not layout.has(struct, "packet") or not layout.has(struct, "sgl"):
            continue
        start = address - layout.offset(struct, "sgl")

        def read(start: int, struct: str = struct) -> Iterator[Found]:
            yield from follow(context, start, f"{struct}.packet + USBPacket.iov + {_VECTOR}")

        yield from attempt(context, [start], read)


def _virtio_blk_requests(context: Context, scene: Scene) -> Iterator[Found]:
    yield from _requests(context, scene.objects, "virtio-blk-device", "VirtIOBlockReq")


def _virtio_scsi_requests(context: Context, scene: Scene) -> Iterator[Found]:
    yield from _requests(context, scene.objects, "virtio-scsi-device", "VirtIOSCSIReq")


def _requests(context: Context, objects: Objects, kind: str, struct: str) -> Iterator[Found]:
    """The buffers of requests in flight of virtio block and SCSI devices.

    No list has them all; each points to its device and to its queue, and carries the
    element that it was popped with.  A freed one keeps these pointers, but not the
    head of its memory, which the allocator uses.
    """
    layout = context.layout
    busy = {
        address: count
        for address in of_type(context, objects, kind)
        if (count := _in_use(context, address))
    }
    found: dict[int, list[int]] = {device: [] for device in busy}
    for word, device in find_words(context.image, busy, context.known.words):
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
        yield from attempt(context, requests, read)


def _in_use(context: Context, device: int) -> int:
    """Return how many elements of a device's queues are popped."""
    layout, image = context.layout, context.image
    try:
        queues = image.u64(device + layout.offset("VirtIODevice", "vq"))
        stride, at = layout.size("VirtQueue"), layout.offset("VirtQueue", "inuse")
        ends = place_of(layout, "VirtQueue.vring + VRing.num")
        count = used(context, queues, _QUEUES_MAX, stride, ends) if queues else 0
        raw = image.read(queues, stride * count)
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
    fits = 0 < row["in_num"] + row["out_num"] <= _BUFFERS_MAX and all(
        element < vector < element + _ELEMENT_MAX for vector in vectors
    )
    return fits and _is_block(context, request, layout.size(struct), _ELEMENT_MAX)


def _scsi_devices(context: Context, scene: Scene) -> Collection[int]:
    return list(of_type(context, scene.objects, "scsi-device"))


def _spaces(context: Context, scene: Scene) -> Collection[int]:
    return scene.spaces.keys()


WORDS: dict[str, WordsFunction] = {"scatter_lists": _spaces, "scsi_requests": _scsi_devices}

READERS: dict[str, ReaderFunction] = {
    "block_requests": _block_requests,
    "scatter_lists": _scatter_lists,
    "scsi_requests": _scsi_requests,
    "usb_packets": _usb_packets,
    "virtio_blk_requests": _virtio_blk_requests,
    "virtio_scsi_requests": _virtio_scsi_requests,
}
