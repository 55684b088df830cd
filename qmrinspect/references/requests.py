"""Requests in flight
------------------

What a device has begun and not finished.
"""

from __future__ import annotations

from .record import Holder, Kind, Reader

__all__ = ["HOLDERS", "KINDS", "NVME"]

KINDS = (
    Kind(
        "scsi-request",
        "a SCSI request holds its device and the device of the bus",
        "hw/scsi/scsi-bus.c scsi_req_alloc",
        "until 10.1",
        transient=True,
    ),
    Kind(
        "scatter-list",
        "a request's list of guest memory holds the device that made it",
        "system/dma-helpers.c qemu_sglist_init, qemu_sglist_destroy",
        transient=True,
    ),
    Kind(
        "request-map",
        "a request in flight holds the owners of the guest memory that it maps",
        "system/dma-helpers.c dma_blk_cb, hw/usb/libhw.c usb_packet_map",
        transient=True,
        on="owner",
    ),
)

# What tells a request in flight of a virtio device from a freed one.
_REQUEST = (
    "VirtIODevice.vq VirtQueue.inuse VirtQueue.vring VRing.num "
    "VirtQueueElement.in_num VirtQueueElement.out_num VirtQueueElement.in_sg "
    "VirtQueueElement.out_sg iovec.iov_base"
)
_POPPED = "hw/virtio/virtio.c virtqueue_pop, virtqueue_map_desc"
_LIST = "QEMUSGList.sg QEMUSGList.nsg QEMUSGList.nalloc QEMUSGList.dev QEMUSGList.as"
#: By which the requests of an NVMe controller are found.
NVME = (
    "NvmeCtrl.sq NvmeCtrl.cq NvmeCtrl.params NvmeParams.max_ioqpairs NvmeSQueue.ctrl "
    "NvmeSQueue.out_req_list NvmeCQueue.ctrl NvmeCQueue.req_list NvmeRequest.sq "
    "NvmeRequest.aiocb NvmeRequest.sg NvmeRequest.entry NvmeSg.qsg"
)
_NVME = " ".join(f"{field}?" for field in NVME.split())
_VECTOR = "QEMUIOVector.iov QEMUIOVector.niov iovec.iov_base"

HOLDERS = (
    Holder(
        "scsi-request",
        Reader("scsi_requests"),
        "",
        "device",
        "hw/scsi/scsi-bus.c scsi_req_alloc",
        needs="SCSIDevice.requests SCSIRequest.next SCSIRequest.dev SCSIRequest.bus "
        "SCSIRequest.ops SCSIRequest.refcount BusState.parent",
        since="until 10.1",
        unsure="a SCSI request holds its device",
        mark="!QIONetListenerSource.sioc",
    ),
    Holder(
        "queue-element",
        Reader("virtio_blk_requests"),
        "",
        "ram",
        _POPPED,
        needs=f"{_REQUEST} VirtIOBlockReq.elem VirtIOBlockReq.dev VirtIOBlockReq.vq",
    ),
    Holder(
        "queue-element",
        Reader("virtio_scsi_requests"),
        "",
        "ram",
        _POPPED,
        needs=f"{_REQUEST} VirtIOSCSIReq.elem VirtIOSCSIReq.dev VirtIOSCSIReq.vq",
    ),
    Holder(
        "scatter-list",
        Reader("scatter_lists"),
        "",
        "device",
        "system/dma-helpers.c qemu_sglist_init",
        needs=f"{_LIST} {_NVME}",
    ),
    Holder(
        "request-map",
        Reader("block_requests"),
        "",
        "ram",
        "system/dma-helpers.c dma_blk_cb, dma_blk_unmap",
        needs=f"{_LIST} DMAAIOCB.sg DMAAIOCB.iov {_VECTOR}",
    ),
    Holder(
        "request-map",
        Reader("usb_packets"),
        "",
        "ram",
        "hw/usb/libhw.c usb_packet_map, usb_packet_unmap",
        needs=f"{_LIST} USBPacket.iov EHCIPacket.packet? EHCIPacket.sgl? XHCITransfer.packet? "
        f"XHCITransfer.sgl? {_VECTOR}",
    ),
)
