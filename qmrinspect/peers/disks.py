"""Places of disks
---------------

Image files, and the servers of QEMU's network disks.
"""

from __future__ import annotations

import random
import ssl
from pathlib import Path

from . import gluster, iscsi, nfs, ssh, storage
from .daemons import certificates
from .images import IMAGES
from .place import LOOPBACK, Place, PlaceMissing, SocketPlace

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


def image(name: str) -> Place:
    """Return a file with an image: one of those that :mod:`.images` makes, by its name."""
    place = Place("image")
    Path(place.path).write_bytes(IMAGES[name]())
    return place


def port(protocol: str) -> Place:
    """Return a server of ``ftp`` or ``http``; ``path`` is its port."""
    return SocketPlace(_PROTOCOLS[protocol], LOOPBACK)


def tls_port(protocol: str) -> Place:
    """Return the same behind TLS.

    :raises PlaceMissing: there is no openssl to make a certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made = certificates()
    try:
        directory = made.directory
        context.load_cert_chain(directory / "server-cert.pem", directory / "server-key.pem")
    finally:
        made.close()
    return SocketPlace(storage.behind_tls(context, _PROTOCOLS[protocol]), LOOPBACK)


def nbd_server() -> Place:
    """Return an NBD server; ``path`` is its socket."""
    return SocketPlace(storage.nbd)


def gluster_server() -> Place:
    """Return a GlusterFS server; ``path`` is its port.

    :raises PlaceMissing: the translators, which QEMU's library loads, are not installed.
    """
    if not any(Path("/usr").glob("lib*/**/glusterfs/*/xlator/mount/api.so")):
        raise PlaceMissing(
            "needs the translators of GlusterFS (Debian: apt-get install glusterfs-common)"
        )
    return SocketPlace(gluster.gluster, LOOPBACK)


def iscsi_target() -> Place:
    """Return an iSCSI target; ``path`` is its port."""
    return SocketPlace(iscsi.iscsi, LOOPBACK)


def nfs_server() -> Place:
    """Return an NFS server; ``path`` is its address, for libnfs always asks port 111.

    :raises PlaceMissing: the port is not to be had.
    """
    # An address of the loopback network that nobody else has.
    host = f"127.{random.randint(1, 254)}.{random.randint(0, 255)}.{random.randint(1, 254)}"
    try:
        place = SocketPlace(nfs.nfs, (host, nfs.PORT))
    except OSError as error:
        text = f"needs port {nfs.PORT} for an NFS server on this machine ({error.strerror})"
        raise PlaceMissing(text) from None
    place.path = host
    return place


def ssh_server() -> Place:
    """Return an SSH server; ``path`` is its port.

    :raises PlaceMissing: libssh is not installed.
    """
    try:
        ssh.library()
    except OSError:
        raise PlaceMissing("needs the library libssh (Debian: apt-get install libssh-4)") from None
    return SocketPlace(ssh.ssh, LOOPBACK)
