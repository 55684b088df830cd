"""What stands behind a backend
----------------------------

Files, directories, and programs at the other end of a socket, as far as QEMU needs
them to make a backend.  They are there before the backend is made and go after it.

What can be emulated is served by qmr (:mod:`~qmrinspect.peers.servers`); where only a
program of the host will do and it is not installed, the refusal says which.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Callable

from ..errors import PeerMissing
from ..text import an
from . import servers, vhost_user
from .images import IMAGES
from .peer import LOOPBACK, Peer, SocketPeer

__all__ = ["PEERS", "Peer", "open_peer"]


def open_peer(kind: str) -> Peer:
    """Make a peer of a kind that :data:`PEERS` names.

    :raises PeerMissing: this machine does not have what it takes.
    """
    try:
        return PEERS[kind]()
    except OSError as error:
        raise PeerMissing(f"needs {an(kind)} of the host ({error})") from None


def _keys() -> Peer:
    # As psktool writes it: a user, and a key in hexadecimal.
    peer = Peer()
    Path(peer.path, "keys.psk").write_text("qemu:0123456789abcdef0123456789abcdef\n")
    return peer


def _of(module: str, name: str, *arguments: str) -> Callable[[], Peer]:
    # What few need is imported when it is needed.
    def make() -> Peer:
        peer: Peer = getattr(importlib.import_module(f".{module}", __name__), name)(*arguments)
        return peer

    return make


#: How a peer of each kind is made.
PEERS: dict[str, Callable[[], Peer]] = {
    **{name: _of("disks", "image", name) for name in IMAGES},
    "braille": _of("braille", "braille"),
    "bridge-helper": _of("daemons", "bridge_helper"),
    "ceph": _of("ceph", "Cluster"),
    "certificates": _of("daemons", "certificates"),
    "connected-socket": _of("daemons", "ConnectedSocket"),
    "d-bus": _of("daemons", "message_bus"),
    "directory": Peer,
    "ftp": _of("disks", "port", "ftp"),
    "ftps": _of("disks", "tls_port", "ftp"),
    "gluster": _of("disks", "gluster_server"),
    "http": _of("disks", "port", "http"),
    "https": _of("disks", "tls_port", "http"),
    "iscsi": _of("disks", "iscsi_target"),
    "ivshmem": lambda: SocketPeer(servers.ivshmem),
    "keys": _keys,
    "listener": lambda: SocketPeer(servers.sink, LOOPBACK),
    "nbd": _of("disks", "nbd_server"),
    "nfs": _of("disks", "nfs_server"),
    "pipe": _of("daemons", "pipe"),
    "pr-helper": lambda: SocketPeer(servers.pr_helper),
    "remote-device": _of("daemons", "RemoteDevice"),
    "secret-key": _of("keys", "SecretKey"),
    "smart-card": _of("daemons", "smart_card"),
    "ssh": _of("disks", "ssh_server"),
    "vde-switch": _of("daemons", "vde_switch"),
    "vhost-user": lambda: SocketPeer(vhost_user.vhost_user),
}
