"""What stands behind a backend
----------------------------

Files, directories, and programs at the other end of a socket, as far as QEMU needs
them to make a backend.  They are there before the backend is made and go after it.

What can be played is played (:mod:`qmrinspect.hotplug.servers`); where only a program of
the host will do and it is not installed, the refusal says which.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import socket
import tempfile
import threading
from functools import partial
from pathlib import Path
from typing import Callable

from ..errors import QmrError
from . import iscsi, nfs, servers, ssh, storage
from .images import IMAGES

__all__ = ["PLACES", "Place", "PlaceMissing", "SocketPlace", "open_place"]


class PlaceMissing(QmrError):
    """This machine does not have what a backend needs; the text begins with "needs"."""


class Place:
    """A directory with what a backend needs; :meth:`close` takes it away.

    :param name: of the file in it that the backend is told, or "" for the directory.
    :ivar path: what stands for ``{place}``.
    """

    def __init__(self, name: str = "") -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="qmr-place-"))
        self.path = str(self.directory / name) if name else str(self.directory)

    def close(self) -> None:
        """End what runs there and remove the files; harmless when repeated."""
        shutil.rmtree(self.directory, ignore_errors=True)


class SocketPlace(Place):
    """A server in threads of this process, which ends with it.

    :param serve: talks to one client; what it raises when the client goes is ignored.
    :param family: ``AF_UNIX``, so that ``path`` is the socket's; or ``AF_INET`` on the
        loopback address, so that it is the number of the port.
    """

    def __init__(
        self,
        serve: Callable[[socket.socket], None],
        family: socket.AddressFamily = socket.AF_UNIX,
        address: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:
        super().__init__("socket")
        self._serve = serve
        self._clients: list[socket.socket] = []
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._listener.bind(address if family == socket.AF_INET else self.path)
            self._listener.listen(8)
        except OSError:
            self.close()
            raise
        if family == socket.AF_INET:
            self.path = str(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, name="qmr-place", daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                self._clients.append(client)
                threading.Thread(target=self._talk, args=(client,), daemon=True).start()

    def _talk(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError), client:
            self._serve(client)

    def close(self) -> None:
        # A close alone would not wake the thread that waits in accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for client in self._clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        super().close()


def open_place(kind: str) -> Place:
    """Make a place of a kind that :data:`PLACES` names.

    :raises PlaceMissing: this machine does not have what it takes.
    """
    try:
        return PLACES[kind]()
    except OSError as error:
        raise PlaceMissing(f"needs a {kind} of the host ({error})") from None


def _image(content: Callable[[], bytes]) -> Place:
    place = Place("image")
    Path(place.path).write_bytes(content())
    return place


def _port(serve: Callable[[socket.socket], None]) -> Place:
    return SocketPlace(serve, socket.AF_INET)


def _nfs() -> Place:
    # At an address of the loopback network that nobody else has.
    host = f"127.{random.randint(1, 254)}.{random.randint(0, 255)}.{random.randint(1, 254)}"
    try:
        place = SocketPlace(nfs.nfs, socket.AF_INET, (host, nfs.PORT))
    except OSError as error:
        text = f"needs port {nfs.PORT} for an NFS server on this machine ({error.strerror})"
        raise PlaceMissing(text) from None
    place.path = host
    return place


def _ssh() -> Place:
    try:
        ssh.library()
    except OSError:
        raise PlaceMissing("needs the library libssh (Debian: apt-get install libssh-4)") from None
    return _port(ssh.ssh)


def _tls_port(serve: Callable[[socket.socket], None]) -> Place:
    openssl = shutil.which("openssl")
    if openssl is None:
        raise PlaceMissing("needs the program openssl (Debian: apt-get install openssl)")
    return _port(storage.behind_tls(storage.certified(openssl), serve))


def _keys() -> Place:
    # As psktool writes it: a user, and a key in hexadecimal.
    place = Place()
    Path(place.path, "keys.psk").write_text("qemu:0123456789abcdef0123456789abcdef\n")
    return place


#: How a place of each kind is made.
PLACES: dict[str, Callable[[], Place]] = {
    **{name: partial(_image, content) for name, content in IMAGES.items()},
    "directory": Place,
    "ftp": lambda: _port(storage.ftp),
    "ftps": lambda: _tls_port(storage.ftp),
    "http": lambda: _port(storage.http),
    "https": lambda: _tls_port(storage.http),
    "iscsi": lambda: _port(iscsi.iscsi),
    "ivshmem": lambda: SocketPlace(servers.ivshmem),
    "keys": _keys,
    "nbd": lambda: SocketPlace(storage.nbd),
    "nfs": _nfs,
    "pr-helper": lambda: SocketPlace(servers.pr_helper),
    "ssh": _ssh,
    "vhost-user": lambda: SocketPlace(servers.vhost_user),
}
