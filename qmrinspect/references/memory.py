"""Mapped guest memory
-------------------

``address_space_map`` and memory region caches reference the owner of the region behind
a guest address, and leave no trace but the pointer that they returned.  Declared here
are the devices that keep such pointers for long.
"""

from __future__ import annotations

from .record import Holder, Kind, OfListener, OfType, Reader

__all__ = ["HOLDERS", "KINDS"]

KINDS = (
    Kind(
        "vring-cache",
        "a cache of a started virtqueue holds the owner of the region that has the ring",
        "hw/virtio/virtio.c virtio_init_region_cache",
        on="owner",
    ),
    Kind(
        "queue-element",
        "a buffer of a popped queue element holds the owner of its region",
        "hw/virtio/virtio.c virtqueue_map_desc",
        transient=True,
        on="owner",
    ),
    Kind(
        "dma-map",
        "a mapping of guest memory holds the owner of its region",
        "system/physmem.c address_space_map, address_space_unmap",
        on="owner",
    ),
    Kind(
        "vhost-section",
        "a vhost device holds the owners of the regions that it shares with the back end",
        "hw/virtio/vhost.c vhost_region_add_section, vhost_commit",
        on="owner",
    ),
    Kind(
        "flatview-user",
        "a cache of a started virtqueue keeps the flat view it was made from",
        "system/physmem.c address_space_cache_init",
        on="view",
    ),
    Kind(
        "ram-discard",
        "a region holds the manager of its discarded memory, which each listener holds too",
        "system/memory.c memory_region_add_ram_discard_source; "
        "system/ram-discard-manager.c ram_discard_manager_register_listener",
        "since 11.0",
    ),
)

_CACHES = (
    "VirtIODevice.vq ->[1024 VirtQueue while VirtQueue.vring + VRing.num] "
    "+ VirtQueue.vring + VRing.caches -> "
    "VRingMemoryRegionCaches.{desc,avail,used}"
)
# The buffers of an element: the vectors are iovec structures.
_BUFFERS = (
    "-> VirtQueueElement.in_sg ->[VirtQueueElement.in_num iovec] + iovec.iov_base",
    "-> VirtQueueElement.out_sg ->[VirtQueueElement.out_num iovec] + iovec.iov_base",
)
_POPPED = "hw/virtio/virtio.c virtqueue_pop, virtqueue_map_desc"
_AHCI = "hw/ide/ahci.c map_page"
_VHOST = "hw/virtio/vhost.c vhost_memory_map, vhost_virtqueue_start"


def _popped(type: str, way: str) -> tuple[Holder, ...]:
    return tuple(
        Holder("queue-element", OfType(type), f"{way} {rest}", "ram", _POPPED) for rest in _BUFFERS
    )


def _ahci(type: str, struct: str) -> Holder:
    way = (
        f"{struct}.ahci + AHCIState.dev ->[AHCIState.ports AHCIDevice] + AHCIDevice.{{lst,res_fis}}"
    )
    return Holder("dma-map", OfType(type), way, "ram", _AHCI)


def _vhost(kind: str, way: str, target: str, when: str = "") -> Holder:
    start = OfListener("vhost", "vhost_dev.memory_listener")
    return Holder(kind, start, way, target, _VHOST, when=when)


HOLDERS = (
    Holder(
        "vring-cache",
        OfType("virtio-device"),
        f"{_CACHES} + MemoryRegionCache.mrs + MemoryRegionSection.mr",
        "memory-region",
        "hw/virtio/virtio.c virtio_init_region_cache",
    ),
    Holder(
        "flatview-user",
        OfType("virtio-device"),
        f"{_CACHES} + MemoryRegionCache.fv",
        "view",
        "system/physmem.c address_space_cache_init",
    ),
    *_popped("virtio-balloon-device", "VirtIOBalloon.stats_vq_elem"),
    *_popped("virtio-serial-port", "VirtIOSerialPort.elem"),
    # Packets that wait for their receiver (hw/net/virtio-net.c virtio_net_flush_tx).
    *_popped(
        "virtio-net-device",
        "VirtIONet.vqs ->[VirtIONet.max_queue_pairs VirtIONetQueue] + VirtIONetQueue.async_tx",
    ),
    Holder(
        "dma-map",
        OfType("virtio-gpu-device"),
        "VirtIOGPU.reslist list virtio_gpu_simple_resource.next + virtio_gpu_simple_resource.iov "
        "->[virtio_gpu_simple_resource.iov_cnt iovec] + iovec.iov_base",
        "ram",
        "hw/display/virtio-gpu.c virtio_gpu_create_mapping_iov",
    ),
    _ahci("ich9-ahci", "AHCIPCIState"),
    _ahci("sysbus-ahci", "SysbusAHCIState"),
    _vhost(
        "vhost-section",
        "vhost_dev.mem_sections ->[vhost_dev.n_mem_sections MemoryRegionSection] "
        "+ MemoryRegionSection.mr",
        "memory-region",
    ),
    # Renamed in 11.0.  A device that was stopped keeps the pointers to what it unmapped.
    _vhost(
        "dma-map",
        "vhost_dev.vqs ->[vhost_dev.nvqs vhost_virtqueue] "
        "+ vhost_virtqueue.{desc|desc_user,avail|avail_user,used|used_user}",
        "ram",
        when="vhost_dev.started",
    ),
    # One that is static in 7.2; later any number on the heap, with a mark.
    Holder(
        "dma-map",
        Reader("bounce_buffers"),
        "",
        "memory-region",
        "system/physmem.c address_space_map",
        needs="BounceBuffer.mr BounceBuffer.magic?",
    ),
    Holder(
        "ram-discard",
        OfType("memory-region"),
        "MemoryRegion.rdm",
        "ram-discard-manager",
        "system/memory.c memory_region_add_ram_discard_source",
        needs="RamDiscardManager.mr",
        since="since 11.0",
    ),
    Holder(
        "ram-discard",
        Reader("discard_listeners"),
        "",
        "ram-discard-manager",
        "system/ram-discard-manager.c ram_discard_manager_register_listener",
        needs="RamDiscardManager.mr RamDiscardManager.rdl_list RamDiscardListener.next",
        since="since 11.0",
    ),
)
