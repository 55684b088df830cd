"""Character devices
-----------------
"""

from __future__ import annotations

from .record import Holder, Kind, OfType

__all__ = ["HOLDERS", "KINDS"]

KINDS = (
    Kind(
        "chardev",
        "a character device holds its channels, its listener and its TLS credentials",
        "chardev/char-socket.c tcp_chr_new_client, chardev/char-fd.c qemu_chr_open_fd",
    ),
)

_SOCKET = "chardev/char-socket.c tcp_chr_new_client, qmp_chardev_open_socket_server"
# The same channel twice for a two-way file.
_FD = "chardev/char-fd.c qemu_chr_open_fd"


def _holder(type: str, way: str, target: str, source: str) -> Holder:
    return Holder("chardev", OfType(type), way, target, source)


HOLDERS = (
    _holder("chardev-socket", "SocketChardev.ioc", "qio-channel", _SOCKET),
    _holder("chardev-socket", "SocketChardev.sioc", "qio-channel-socket", _SOCKET),
    _holder("chardev-socket", "SocketChardev.listener", "qio-net-listener", _SOCKET),
    _holder("chardev-socket", "SocketChardev.tls_creds", "tls-creds", _SOCKET),
    _holder("chardev-socket", "SocketChardev.connect_task -> QIOTask.source", "object", _SOCKET),
    _holder("chardev-fd", "FDChardev.{ioc_in,ioc_out}", "qio-channel", _FD),
    _holder("chardev-pty", "PtyChardev.ioc", "qio-channel", "chardev/char-pty.c char_pty_open"),
    _holder("chardev-udp", "UdpChardev.ioc", "qio-channel", "chardev/char-udp.c qmp_chardev_open"),
)
