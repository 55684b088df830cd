"""References that a field keeps
-----------------------------

Kinds whose holders the walk reads as slots: a field of a known structure with a
counted pointer in it.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..index import Index
from .edges import Edge, EdgeSource, Kind
from .policies import Policy

__all__ = ["KINDS"]


def _on_object(kind: str) -> EdgeSource:
    """References on the object that the field points to."""

    def edges(index: Index, policy: Policy) -> Iterator[Edge]:
        for slot in index.slots(kind):
            yield Edge(kind, slot.target, slot.holder, index.enclosing(slot.holder), slot.field)

    return edges


def _on_owner(kind: str) -> EdgeSource:
    """References on the owner of the region that the field points to or maps."""

    def edges(index: Index, policy: Policy) -> Iterator[Edge]:
        for slot in index.slots(kind):
            region = index.snapshot.regions.get(slot.target)
            if region is not None and region.owner:
                holder = index.enclosing(slot.holder)
                yield Edge(kind, region.owner, slot.holder, holder, slot.field)

    return edges


def _kind(
    name: str, holds: str, source: str, since: str = "", ends: bool = False, region: bool = False
) -> Kind:
    edges = _on_owner(name) if region else _on_object(name)
    return Kind(name, holds, source, since, ends, edges)


KINDS = (
    _kind(
        "chardev",
        "a character device holds its channels, its listener and its TLS credentials",
        "chardev/char-socket.c tcp_chr_new_client, chardev/char-fd.c qemu_chr_open_fd",
    ),
    _kind(
        "channel",
        "a channel on top of another holds the one below",
        "io/channel-tls.c qio_channel_tls_new_server, io/channel-websock.c",
    ),
    _kind(
        "listener",
        "a network listener holds its sockets",
        "io/net-listener.c qio_net_listener_add",
    ),
    _kind(
        "watch",
        "an event source holds the channel it watches, and what it calls back",
        "io/channel-watch.c qio_channel_create_fd_watch, io/net-listener.c",
    ),
    _kind("vnc-client", "a VNC client holds its channels", "ui/vnc.c vnc_connect"),
    _kind("vnc-display", "a VNC server holds its listeners", "ui/vnc.c vnc_display_listen"),
    _kind("netdev", "a stream netdev holds its listener and its channel", "net/stream.c"),
    _kind("nbd-client", "an NBD client holds its channels", "nbd/server.c nbd_client_new"),
    _kind(
        "iothread-user",
        "a device that runs in an iothread holds it, besides the link",
        "hw/block/dataplane/virtio-blk.c (7.2), hw/block/virtio-blk.c (10.0), "
        "hw/scsi/virtio-scsi-dataplane.c (10.0), hw/virtio/virtio-balloon.c",
    ),
    _kind("tpm-backend", "a TPM backend holds its front", "backends/tpm/tpm_backend.c"),
    _kind(
        "numa-node",
        "a NUMA node holds the memory backend it was given",
        "hw/core/numa.c parse_numa_node",
    ),
    _kind(
        "throttle-member",
        "a member of a throttle group holds the group",
        "block/throttle-groups.c throttle_group_incref",
    ),
    _kind(
        "scsi-request",
        "a SCSI request holds its device and the device of the bus",
        "hw/scsi/scsi-bus.c scsi_req_alloc",
        "until 10.1",
        ends=True,
    ),
    _kind(
        "vring-cache",
        "a cache of a started virtqueue holds the owner of the region that has the ring",
        "hw/virtio/virtio.c virtio_init_region_cache",
        region=True,
    ),
    _kind(
        "queue-element",
        "a buffer of a popped queue element holds the owner of its region",
        "hw/virtio/virtio.c virtqueue_map_desc",
        ends=True,
        region=True,
    ),
    _kind(
        "dma-map",
        "a mapping of guest memory holds the owner of its region",
        "system/physmem.c address_space_map, address_space_unmap",
        region=True,
    ),
    _kind(
        "vhost-section",
        "a vhost device holds the owners of the regions that it told the back end",
        "hw/virtio/vhost.c vhost_region_add_section, vhost_commit",
        region=True,
    ),
)
