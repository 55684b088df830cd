"""An SSH server
-------------

One file of zeros behind SFTP 3 (draft-ietf-secsh-filexfer-02), for whoever comes: no
sshd lets QEMU in without touching somebody's keys, and libssh, which QEMU's own driver
(block/ssh.c) brings along, has a server as well.
"""

from __future__ import annotations

import ctypes
import functools
import socket
import struct
from typing import Any, Callable

from .images import SIZE

__all__ = ["library", "ssh"]

_PACKET_MAX = 1 << 15

# SFTP: what is asked, and the answers.
_INIT, _OPEN, _CLOSE, _FSTAT = 1, 3, 4, 8
_VERSION, _STATUS, _HANDLE, _ATTRIBUTES = 2, 101, 102, 105
_OK, _UNSUPPORTED = 0, 8
_SIZE_AND_MODE = 1 | 4
_REGULAR_FILE = 0o100666

# libssh/libssh.h and libssh/server.h.
_ED25519 = 5
_IMPORT_KEY = 10
_AUTHENTICATION, _CHANNEL_OPEN, _CHANNEL = 1, 2, 3

_POINTER = ctypes.c_void_p
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "ssh_new": (_POINTER,),
    "ssh_free": (None, _POINTER),
    "ssh_bind_new": (_POINTER,),
    "ssh_bind_free": (None, _POINTER),
    "ssh_bind_options_set": (ctypes.c_int, _POINTER, ctypes.c_int, _POINTER),
    "ssh_bind_accept_fd": (ctypes.c_int, _POINTER, _POINTER, ctypes.c_int),
    "ssh_pki_generate": (ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.POINTER(_POINTER)),
    "ssh_handle_key_exchange": (ctypes.c_int, _POINTER),
    "ssh_message_get": (_POINTER, _POINTER),
    "ssh_message_free": (None, _POINTER),
    "ssh_message_type": (ctypes.c_int, _POINTER),
    "ssh_message_reply_default": (ctypes.c_int, _POINTER),
    "ssh_message_auth_reply_success": (ctypes.c_int, _POINTER, ctypes.c_int),
    "ssh_message_channel_request_open_reply_accept": (_POINTER, _POINTER),
    "ssh_message_channel_request_reply_success": (ctypes.c_int, _POINTER),
    "ssh_channel_read": (ctypes.c_int, _POINTER, ctypes.c_char_p, ctypes.c_uint32, ctypes.c_int),
    "ssh_channel_write": (ctypes.c_int, _POINTER, ctypes.c_char_p, ctypes.c_uint32),
}


@functools.cache
def library() -> Any:
    """Return libssh.

    :raises OSError: it is not installed, or is a client only.
    """
    found = ctypes.CDLL("libssh.so.4")
    for name, (result, *arguments) in _SIGNATURES.items():
        try:
            function = getattr(found, name)
        except AttributeError as error:
            raise OSError(str(error)) from None
        function.restype, function.argtypes = result, arguments
    return found


def ssh(client: socket.socket) -> None:
    lib = library()
    session, binding, key = lib.ssh_new(), lib.ssh_bind_new(), _POINTER()
    try:
        _good(lib.ssh_pki_generate(_ED25519, 0, ctypes.byref(key)))
        _good(lib.ssh_bind_options_set(binding, _IMPORT_KEY, key))
        # libssh closes what it is given.
        _good(lib.ssh_bind_accept_fd(binding, session, client.dup().detach()))
        _good(lib.ssh_handle_key_exchange(session))
        channel = _channel(lib, session)
        _sftp(
            functools.partial(_take, lib, channel),
            lambda data: lib.ssh_channel_write(channel, data, len(data)),
        )
    finally:
        lib.ssh_free(session)
        lib.ssh_bind_free(binding)


def _good(status: int) -> None:
    if status:
        raise EOFError


def _channel(lib: Any, session: int) -> int:
    # Whoever asks gets in, and the first thing to run in the channel is sftp.
    channel = 0
    while True:
        message = lib.ssh_message_get(session)
        if not message:
            raise EOFError
        kind = lib.ssh_message_type(message)
        if kind == _AUTHENTICATION:
            lib.ssh_message_auth_reply_success(message, 0)
        elif kind == _CHANNEL_OPEN and not channel:
            channel = lib.ssh_message_channel_request_open_reply_accept(message)
        elif kind == _CHANNEL:
            lib.ssh_message_channel_request_reply_success(message)
        else:
            lib.ssh_message_reply_default(message)
        lib.ssh_message_free(message)
        if kind == _CHANNEL:
            return channel


def _take(lib: Any, channel: int, size: int) -> bytes:
    data = b""
    piece = ctypes.create_string_buffer(size)
    while len(data) < size:
        count = lib.ssh_channel_read(channel, piece, size - len(data), 0)
        if count <= 0:
            raise EOFError
        data += piece.raw[:count]
    return data


def _sftp(take: Callable[[int], bytes], send: Callable[[bytes], object]) -> None:
    while True:
        size, kind = struct.unpack(">IB", take(5))
        if not 5 <= size <= _PACKET_MAX:
            return
        number = take(size - 1)[:4]
        if kind == _INIT:
            answer = struct.pack(">BI", _VERSION, 3)
        elif kind == _OPEN:
            answer = struct.pack(">B4sI4s", _HANDLE, number, 4, b"file")
        elif kind == _FSTAT:
            data = struct.pack(">IQI", _SIZE_AND_MODE, SIZE, _REGULAR_FILE)
            answer = struct.pack(">B4s", _ATTRIBUTES, number) + data
        else:
            status = _OK if kind == _CLOSE else _UNSUPPORTED
            answer = struct.pack(">B4sIII", _STATUS, number, status, 0, 0)
        send(struct.pack(">I", len(answer)) + answer)
