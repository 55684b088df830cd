"""Backends
--------

What stands behind more than one kind of device, as plain data: see
:mod:`qmrinspect.hotplug.kinds` for what the records mean.
"""

from __future__ import annotations

from .kinds import Backend

__all__ = [
    "CHARDEV",
    "CRYPTO",
    "CXL_LABELS",
    "CXL_MEMORY",
    "DESCRIPTOR",
    "DRIVE",
    "HOST_DEVICE",
    "MEMORY",
    "ROOTDIR",
    "SMART_CARD",
    "VHOST_USER",
    "chardev_backend",
    "client",
    "object_backend",
    "only",
]

HOST_DEVICE = "needs {} of the host"


def object_backend(
    name: str, property: str | None = None, peer: str | None = None, **arguments: object
) -> Backend:
    """Return an object behind a device; underscores in the arguments' names stand for dashes."""
    data = {key.replace("_", "-"): value for key, value in arguments.items()}
    return Backend(property, name, "object-add", data, "object-del", "id", peer)


# A disk that reads as zeros and holds nothing (block/null.c).
DRIVE = Backend(
    "drive",
    "{id}-drive",
    "blockdev-add",
    {"driver": "null-co", "size": 1 << 26, "read-zeroes": True},
    "blockdev-del",
    "node-name",
)


def chardev_backend(
    backend: dict[str, object],
    property: str | None = "chardev",
    peer: str | None = None,
    name: str = "chardev",
) -> Backend:
    """Return a chardev behind a device, ``{id}-NAME``."""
    arguments: dict[str, object] = {"backend": backend}
    return Backend(property, "{id}-" + name, "chardev-add", arguments, "chardev-remove", "id", peer)


CHARDEV = chardev_backend({"type": "null", "data": {}})

_UNIX: dict[str, object] = {"type": "unix", "data": {"path": "{peer}"}}


def only(peer: str) -> Backend:
    """Return a peer behind a device, with nothing made in QEMU."""
    return Backend(None, "{peer}", None, {}, None, "", peer)


def client(peer: str) -> Backend:
    """Return a chardev that connects to the socket of a peer."""
    return chardev_backend(
        {"type": "socket", "data": {"addr": _UNIX, "server": False}}, "chardev", peer
    )


VHOST_USER = client("vhost-user")

# Sizes are in bytes; ivshmem's must be a power of two (hw/misc/ivshmem.c).
MEMORY = object_backend(
    "{id}-memory", "memdev", qom_type="memory-backend-ram", size=1 << 27, share=True
)
# A CXL memory device wants 256 MiB and a label area in a file (hw/mem/cxl_type3.c).
CXL_MEMORY = object_backend("{id}-memory", "memdev", qom_type="memory-backend-ram", size=1 << 28)
CXL_LABELS = object_backend(
    "{id}-lsa",
    "lsa",
    "directory",
    qom_type="memory-backend-file",
    size=1 << 20,
    share=True,
    mem_path="{peer}/lsa",
)
CRYPTO = object_backend("{id}-crypto", "cryptodev", qom_type="cryptodev-backend-builtin")
# One end of a socket, which the device takes; the other end is the peer's.
DESCRIPTOR = Backend("fd", "{id}-fd", "getfd", {}, "closefd", "fdname", "remote-device")
SMART_CARD = only("smart-card")._replace(property="db")
ROOTDIR = only("directory")._replace(property="rootdir")
