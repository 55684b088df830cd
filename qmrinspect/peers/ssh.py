"""An SSH server
-------------

One file of zeros behind SFTP, for whoever comes: no sshd lets QEMU in without touching
somebody's keys.  Served by the package asyncssh.
"""

from __future__ import annotations

import asyncio
import socket

import asyncssh

from .images import SIZE

__all__ = ["ssh"]

_REGULAR_FILE = 0o100666


class _Server(asyncssh.SSHServer):
    def begin_auth(self, username: str) -> bool:
        return False  # whoever asks gets in


class _Files(asyncssh.SFTPServer):
    """What block/ssh.c of QEMU needs to open a file, whatever its name."""

    def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> object:
        return path

    def fstat(self, file_obj: object) -> asyncssh.SFTPAttrs:
        return asyncssh.SFTPAttrs(size=SIZE, permissions=_REGULAR_FILE)

    def close(self, file_obj: object) -> None:
        pass


def ssh(client: socket.socket) -> None:
    """Serve one file of zeros by SFTP.

    :raises EOFError: the client goes, or sends what is no SSH.
    """
    asyncio.run(_serve(client.dup()))


async def _serve(client: socket.socket) -> None:
    try:
        connection = await asyncssh.run_server(
            client,
            server_factory=_Server,
            server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
            sftp_factory=_Files,
            config=None,
        )
        await connection.wait_closed()
    except asyncssh.Error as error:
        raise EOFError from error
