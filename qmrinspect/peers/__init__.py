"""What stands behind a backend
----------------------------

Files, directories, and programs at the other end of a socket, as far as QEMU needs
them to make a backend.  They are there before the backend is made and go after it.

What can be played is played (:mod:`~qmrinspect.peers.servers`); where only a
program of the host will do and it is not installed, the refusal says which.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Callable

from . import servers, vhost_user
from .images import IMAGES
from .place import LOOPBACK, Place, PlaceMissing, SocketPlace

__all__ = ["PLACES", "Place", "PlaceMissing", "open_place"]


def open_place(kind: str) -> Place:
    """Make a place of a kind that :data:`PLACES` names.

    :raises PlaceMissing: this machine does not have what it takes.
    """
    try:
        return PLACES[kind]()
    except OSError as error:
        raise PlaceMissing(f"needs a {kind} of the host ({error})") from None


def _keys() -> Place:
    # As psktool writes it: a user, and a key in hexadecimal.
    place = Place()
    Path(place.path, "keys.psk").write_text("qemu:0123456789abcdef0123456789abcdef\n")
    return place


def _of(module: str, name: str, *arguments: str) -> Callable[[], Place]:
    # What few need is imported when it is needed.
    def make() -> Place:
        place: Place = getattr(importlib.import_module(f".{module}", __name__), name)(*arguments)
        return place

    return make


#: How a place of each kind is made.
PLACES: dict[str, Callable[[], Place]] = {
    **{name: _of("disks", "image", name) for name in IMAGES},
    "braille": _of("braille", "braille"),
    "bridge-helper": _of("daemons", "bridge_helper"),
    "ceph": _of("ceph", "Cluster"),
    "certificates": _of("daemons", "certificates"),
    "connected-socket": _of("daemons", "ConnectedSocket"),
    "d-bus": _of("daemons", "message_bus"),
    "directory": Place,
    "ftp": _of("disks", "port", "ftp"),
    "ftps": _of("disks", "tls_port", "ftp"),
    "gluster": _of("disks", "gluster_server"),
    "http": _of("disks", "port", "http"),
    "https": _of("disks", "tls_port", "http"),
    "iscsi": _of("disks", "iscsi_target"),
    "ivshmem": lambda: SocketPlace(servers.ivshmem),
    "keys": _keys,
    "listener": lambda: SocketPlace(servers.sink, LOOPBACK),
    "nbd": _of("disks", "nbd_server"),
    "nfs": _of("disks", "nfs_server"),
    "pipe": _of("daemons", "pipe"),
    "pr-helper": lambda: SocketPlace(servers.pr_helper),
    "remote-device": _of("daemons", "RemoteDevice"),
    "secret-key": _of("keys", "SecretKey"),
    "smart-card": _of("daemons", "smart_card"),
    "ssh": _of("disks", "ssh_server"),
    "vde-switch": _of("daemons", "vde_switch"),
    "vhost-user": lambda: SocketPlace(vhost_user.vhost_user),
}
