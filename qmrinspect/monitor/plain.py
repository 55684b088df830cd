"""QMP over a plain socket
-----------------------

The monitor for the Python inside GDB, where no third-party package can be imported.

There is no thread: the socket is read while a method runs, and only then.
"""

from __future__ import annotations

import array
import json
import socket
import time
from typing import Any

from ..errors import MonitorError
from .base import Arguments, Event, Wanted
from .connecting import (
    SocketMonitor,
    busy_error,
    check_greeting,
    closed_error,
    garbled_error,
    late_error,
    lost_error,
    peer_pid,
    reply_error,
)

__all__ = ["PlainMonitor"]

# The longest line that is still taken for QMP; qemu.qmp and libvirt have the same.
_LONGEST_LINE = 10 * 1024 * 1024

# Sockets are read in pieces of this size.
_PIECE = 65536


class PlainMonitor(SocketMonitor):
    """A QMP session on a blocking socket."""

    def _negotiate(self, timeout: float) -> None:
        self._buffer = bytearray()
        self._scanned = 0
        self._last_id = 0
        try:
            deadline = time.monotonic() + timeout
            greeting = self._read(deadline)
            if greeting is None:
                raise busy_error(self.address, timeout, peer_pid(self._socket))
            self.peer = peer_pid(self._socket)
            self.version = check_greeting(greeting, self.address)
            self.execute("qmp_capabilities", timeout=timeout)
        except BaseException:
            self._socket.close()
            raise

    def _exchange(
        self, command: str, arguments: Arguments, timeout: float, descriptor: int | None = None
    ) -> object:
        deadline = time.monotonic() + timeout
        self._last_id += 1
        request: dict[str, object] = {"execute": command, "id": self._last_id}
        if arguments:
            request["arguments"] = dict(arguments)
        self._send(json.dumps(request).encode() + b"\r\n", command, timeout, descriptor)
        while True:
            message = self._read(deadline, command)
            if message is None:
                raise late_error(self.address, command, timeout)
            if "event" in message:
                self._queue.put(Event.from_message(message))
            elif message.get("id") == self._last_id and "return" in message:
                return message["return"]
            elif "error" in message and message.get("id", self._last_id) == self._last_id:
                raise reply_error(command, message["error"])
            # Anything else is the late answer to a command that was given up.

    def events(self) -> list[Event]:
        self._pump()
        return self._queue.drain()

    def wait_event(self, wanted: Wanted, timeout: float) -> Event | None:
        deadline = time.monotonic() + timeout
        event = self._queue.take(wanted)
        while event is None:
            message = self._read(deadline)
            if message is None:
                return None
            if "event" in message:
                self._queue.put(Event.from_message(message))
                event = self._queue.take(wanted)
        return event

    def close(self) -> None:
        self._queue.fail(closed_error(self.address))
        self._socket.close()

    def _pump(self) -> None:
        # At most one full queue at a time, so that a flood cannot hold us here.
        for _ in range(self._queue.maxlen):
            message = self._read(0.0)
            if message is None:
                return
            if "event" in message:
                self._queue.put(Event.from_message(message))

    def _fail(self, error: MonitorError) -> MonitorError:
        # After this the session stays lost, with the first reason.
        self._queue.fail(error)
        self._socket.close()
        return error

    def _send(self, data: bytes, command: str, timeout: float, descriptor: int | None) -> None:
        self._check()
        try:
            self._socket.settimeout(timeout)
            if descriptor is not None:
                # It comes with the first byte (unix(7)).
                rights = array.array("i", [descriptor])
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
                data = data[self._socket.sendmsg([data], ancillary) :]
            self._socket.sendall(data)
        except socket.timeout:
            # Part of a line may be out: nothing that follows would be understood.
            raise self._fail(late_error(self.address, command, timeout)) from None
        except OSError:
            raise self._fail(lost_error(self.address, command)) from None

    def _read(self, deadline: float, during: str | None = None) -> dict[str, Any] | None:
        """Return the next message, or None when none is complete at ``deadline``."""
        while True:
            end = self._buffer.find(b"\n", self._scanned)
            if end >= 0:
                line = bytes(self._buffer[:end]).strip()
                del self._buffer[: end + 1]
                self._scanned = 0
                if line:
                    return self._decode(line)
                continue
            self._scanned = len(self._buffer)
            self._check()
            if self._scanned > _LONGEST_LINE:
                raise self._fail(garbled_error(self.address, bytes(self._buffer[:60])))
            try:
                self._socket.settimeout(max(0.0, deadline - time.monotonic()))
                piece = self._socket.recv(_PIECE)
            except (socket.timeout, BlockingIOError):
                return None
            except OSError:
                piece = b""
            if not piece:
                if self._scanned and during is None:
                    raise self._fail(garbled_error(self.address, bytes(self._buffer)))
                raise self._fail(lost_error(self.address, during))
            self._buffer += piece

    def _decode(self, line: bytes) -> dict[str, Any]:
        try:
            message = json.loads(line)
        except ValueError:
            raise self._fail(garbled_error(self.address, line)) from None
        if not isinstance(message, dict):
            raise self._fail(garbled_error(self.address, line))
        return message
