"""Peers of disks
--------------

Image files, and the servers of QEMU's network disks.
"""

from __future__ import annotations

import random
import ssl
from pathlib import Path

from ..errors import PeerMissing
from . import gluster, iscsi, nfs, storage
from .daemons import certificates
from .images import IMAGES, LUKS_SECRET
from .peer import LOOPBACK, Peer, SocketPeer

__all__ = [
    "gluster_server",
    "image",
    "iscsi_target",
    "nbd_server",
    "nfs_server",
    "port",
    "ssh_server",
    "tls_port",
]

_PROTOCOLS = {"ftp": storage.ftp, "http": storage.http}


def _named(peer: Peer, **names: str) -> Peer:
    peer.names.update(names)
    return peer


def image(name: str) -> Peer:
    """Return a file with an image: one of those that :mod:`.images` makes, by its name."""
    peer = Peer("image")
    Path(peer.path).write_bytes(IMAGES[name]())
    return _named(peer, secret=LUKS_SECRET) if name == "luks" else peer


def port(protocol: str) -> Peer:
    """Return a server of ``ftp`` or ``http``; ``path`` is its port."""
    return SocketPeer(_PROTOCOLS[protocol], LOOPBACK)


def tls_port(protocol: str) -> Peer:
    """Return the same behind TLS.

    :raises PeerMissing: there is no openssl to make a certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made = certificates()
    try:
        directory = made.directory
        context.load_cert_chain(directory / "server-cert.pem", directory / "server-key.pem")
    finally:
        made.close()
    return SocketPeer(storage.behind_tls(context, _PROTOCOLS[protocol]), LOOPBACK)


def nbd_server() -> Peer:
    """Return an NBD server; ``path`` is its socket."""
    return SocketPeer(storage.nbd)


def gluster_server() -> Peer:
    """Return a GlusterFS server; ``path`` is its port.

    :raises PeerMissing: the translators, which QEMU's library loads, are not installed.
    """
    if not any(Path("/usr").glob("lib*/**/glusterfs/*/xlator/mount/api.so")):
        raise PeerMissing(
            "needs the translators of GlusterFS (Debian: apt-get install glusterfs-common)"
        )
    return _named(SocketPeer(gluster.gluster, LOOPBACK), volume=gluster.VOLUME, path=gluster.PATH)


def iscsi_target() -> Peer:
    """Return an iSCSI target; ``path`` is its port."""
    return _named(SocketPeer(iscsi.iscsi, LOOPBACK), target=iscsi.NAME)


def nfs_server() -> Peer:
    """Return an NFS server; ``path`` is its address, for libnfs always asks port 111.

    :raises PeerMissing: the port is not to be had.
    """
    # An address of the loopback network that nobody else has.
    host = f"127.{random.randint(1, 254)}.{random.randint(0, 255)}.{random.randint(1, 254)}"
    try:
        peer = SocketPeer(nfs.nfs, (host, nfs.PORT))
    except OSError as error:
        text = f"needs port {nfs.PORT} for an NFS server on this machine ({error.strerror})"
        raise PeerMissing(text) from None
    peer.path = host
    return peer


def ssh_server() -> Peer:
    """Return an SSH server; ``path`` is its port.

    :raises PeerMissing: asyncssh is not installed.
    """
    try:
        from . import ssh
    except ImportError:
        raise PeerMissing(
            "needs the Python package asyncssh (pip install 'qmrinspect[peers]')"
        ) from None
    return SocketPeer(ssh.ssh, LOOPBACK)
