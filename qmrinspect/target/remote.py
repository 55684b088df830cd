"""A gdbserver
-----------

Reads a QEMU on another machine through gdbserver, by GDB's remote protocol (see
"Remote Protocol" in GDB's manual).  gdbserver has stopped the process before
anyone connects, and it stands until qmr detaches.  It is never let run and stopped
again in between: gdbserver can only send SIGINT to the whole process group for that.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import tempfile
import time
from collections.abc import Iterable, Iterator
from typing import Callable

from ..errors import TargetError
from .elf import ElfFile
from .image import PAGE, Capture, Image, Mapping, Ranges
from .malloc import Malloc
from .process import map_file, parse_maps
from .standing import worth_reading

__all__ = ["Remote"]


_TIMEOUT_S = 10.0
_AT_ENTRY = 9
# Requests on their way at once, so that the network's delay is paid once for many.
_WINDOW = 32
_CHUNK_MAX = 64 * 1024
_FILE_MAX = 1 << 30
_TELL = 1 << 20  # bytes between two words about how far it is


class Remote:
    """A process behind a gdbserver as a target.

    :param address: ``HOST:PORT``.
    :raises TargetError: it cannot be reached, or is no gdbserver of a process.
    """

    kind = "remote"
    symbol_files: tuple[str, ...] = ()

    def __init__(self, address: str) -> None:
        self._packets = _Packets(address)
        self._since = time.perf_counter_ns()
        self._copy = ""
        self._malloc = Malloc()
        #: Called with how far a long reading has come, and with an empty text at its end.
        self.progress: Callable[[str | None], None] = lambda text: None
        self.pid = 0
        try:
            self._connect(address)
        except BaseException:
            self.close()
            raise

    def _connect(self, address: str) -> None:
        packets = self._packets
        features = packets.ask(b"qSupported:multiprocess+;xmlRegisters=i386").decode("latin-1")
        packets.stop_acknowledging()
        size = re.search(r"PacketSize=([0-9a-fA-F]+)", features)
        # A reply carries some bytes of its own, and escapes may double the data.
        self._chunk = max(256, min(_CHUNK_MAX, int(size.group(1), 16) // 2 - 64)) if size else 256
        if "qXfer:exec-file:read+" not in features or "qXfer:auxv:read+" not in features:
            raise TargetError(
                f"{address} is no gdbserver of a process",
                "start one: gdbserver --attach HOST:PORT PID (QEMU's own -gdb debugs the guest)",
            )
        thread = re.match(rb"QCp?([0-9a-f]+)", packets.ask(b"qC"))
        if thread is None:
            raise TargetError(f"the gdbserver at {address} has no process", "attach it to a QEMU")
        self.pid = int(thread.group(1), 16)
        # Until a thread is chosen, gdbserver knows of no process to read from.
        packets.ask(b"Hgp%x.0" % self.pid)
        self.exe = self._object("exec-file", f"{self.pid:x}").decode("utf-8", "replace")
        packets.ask(b"vFile:setfs:0")
        command = self._file("cmdline")
        self.argv = [os.fsdecode(part) for part in command.split(b"\0")[:-1]]
        auxv = self._object("auxv")
        entry = 0
        for kind, value in struct.iter_unpack("<QQ", auxv[: len(auxv) // 16 * 16]):
            entry = int(value) if kind == _AT_ENTRY else entry
        self._elf = self._here(entry) or ElfFile(memoryview(self._file("exe")), self.exe)
        self._base: int = entry - self._elf.entry
        self._constants = [
            (s.vaddr + self._base, s.offset, s.filesz)
            for s in self._elf.segments
            if s.type == 1 and not s.flags & 2
        ]

    def _here(self, entry: int) -> ElfFile | None:
        """Return the program's file on this machine, if it is the one of the same build."""
        try:
            elf = ElfFile(memoryview(map_file(self.exe)), self.exe)
        except (OSError, TargetError):
            return None
        # The first page of a program has its notes.
        first = b"".join(
            data for _, data in self._read([(entry - elf.entry + elf.load_base(), PAGE)])
        )
        known = bytes.fromhex(elf.build_id())
        return elf if known and known in first and first == bytes(elf.data[:PAGE]) else None

    def elf(self) -> ElfFile:
        """Return the ELF file that the process runs."""
        return self._elf

    def base(self) -> int:
        """Return the load address of the program."""
        return self._base

    def program(self) -> str:
        """Return a path under which a copy of the program's file can be opened."""
        if not self._copy:
            handle, self._copy = tempfile.mkstemp(prefix="qmr-program-")
            with os.fdopen(handle, "wb") as file:
                file.write(self._elf.data)
        return self._copy

    def mappings(self) -> list[Mapping]:
        """Return the mappings, lowest first."""
        return parse_maps(self._file("maps").decode("utf-8", "replace"))

    def peek(self, address: int, size: int) -> bytes | None:
        """Read without a capture: constants come from the program's file."""
        for start, offset, length in self._constants:
            if start <= address and address + size <= start + length:
                at = offset + address - start
                return bytes(self._elf.data[at : at + size])
        rows = list(self._read([(address, size)]))
        return rows[0][1] if rows and len(rows[0][1]) == size else None

    def capture(self, ranges: list[tuple[int, int]]) -> tuple[Image, Capture]:
        """Copy ``ranges``; the process stands since the connection was made."""
        begin, calls = time.perf_counter_ns(), self._packets.calls
        ranges = worth_reading(ranges, self.mappings(), self.peek, self._malloc)
        image = Image(_joined(self._reporting(ranges)), static=self.peek)
        end = time.perf_counter_ns()
        cost = Capture(
            (end - self._since) // 1000,
            (end - begin) // 1000,
            self._packets.calls - calls,
            image.size,
            0,
            True,
        )
        return image, cost

    def _reporting(self, ranges: Ranges) -> Iterator[tuple[int, bytes]]:
        """Read memory, and say how far it has come."""
        total, done, reported = sum(size for _, size in ranges), 0, 0
        for at, data in self._read(ranges):
            done += len(data)
            if done - reported >= _TELL:
                reported = done
                self.progress(f"reading memory: {done >> 20} of {total >> 20} MB")
            yield at, data
        self.progress(None)

    def close(self) -> None:
        """Let the process run, and gdbserver go."""
        # It may have gone, or there never was one.
        with contextlib.suppress(TargetError):
            self._packets.ask(b"D;%x" % self.pid if self.pid else b"D")
        self._packets.close()
        if self._copy:
            os.unlink(self._copy)
            self._copy = ""

    # Files and memory --------------------------------------------------------------

    def _object(self, name: str, annex: str = "") -> bytes:
        out = b""
        while True:
            request = f"qXfer:{name}:read:{annex}:{len(out):x},{self._chunk:x}"
            reply = self._packets.ask(request.encode())
            if reply[:1] not in (b"l", b"m"):
                raise TargetError(f"gdbserver does not tell its process's {name}")
            out += reply[1:]
            if reply[:1] == b"l":
                return out

    def _open(self, name: str) -> int:
        path = f"/proc/{self.pid}/{name}".encode().hex()
        reply = self._packets.ask(f"vFile:open:{path},0,0".encode())
        if not reply.startswith(b"F") or reply.startswith(b"F-"):
            raise TargetError(
                f"gdbserver cannot open /proc/{self.pid}/{name}", "it needs the right to read QEMU"
            )
        return int(reply[1:].partition(b";")[0], 16)

    def _file(self, name: str) -> bytes:
        """Read a whole file of the process in ``/proc``."""
        handle = self._open(name)
        out = bytearray()
        try:
            while len(out) < _FILE_MAX:
                want = [(len(out) + i * self._chunk, self._chunk) for i in range(_WINDOW)]
                # Every reply has to be taken, used or not.
                for _, data in list(self._pread(handle, want)):
                    out += data
                    if not data:
                        return bytes(out)
                    if len(data) < self._chunk:
                        break  # less may come at a time: go on from there
        finally:
            self._packets.ask(b"vFile:close:%x" % handle)
        raise TargetError(f"/proc/{self.pid}/{name} is too large")

    def _pread(self, handle: int, places: Iterable[tuple[int, int]]) -> Iterator[tuple[int, bytes]]:
        places = list(places)
        requests = [b"vFile:pread:%x,%x,%x" % (handle, size, at) for at, size in places]
        for (at, _), reply in zip(places, self._packets.ask_all(requests)):
            head, _, data = reply.partition(b";")
            failed = not head.startswith(b"F") or head.startswith(b"F-")
            yield at, b"" if failed else data

    def _read(self, ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, bytes]]:
        """Read memory; what cannot be read is left out, by page."""
        # Memory comes as hex digits, two for each byte.
        chunk = max(PAGE, self._chunk // PAGE * PAGE)
        places = [
            (at, min(chunk, start + size - at))
            for start, size in ranges
            for at in range(start, start + size, chunk)
        ]
        while places:
            again: list[tuple[int, int]] = []
            for (at, size), data in zip(places, self._memory(places)):
                if data:
                    yield at, data
                # A hole ends a reply, or fails it as a whole: try what is left by page.
                left = size - len(data)
                if left and (data or size > PAGE):
                    again += _pages(at + len(data), left)
            places = again

    def _memory(self, places: list[tuple[int, int]]) -> Iterator[bytes]:
        for reply in self._packets.ask_all([b"m%x,%x" % place for place in places]):
            yield b"" if reply.startswith(b"E") else bytes.fromhex(reply.decode("ascii"))


def _pages(start: int, size: int) -> Iterator[tuple[int, int]]:
    """Cut a range at the borders of pages."""
    end = start + size
    while start < end:
        part = min(end, (start // PAGE + 1) * PAGE) - start
        yield start, part
        start += part


def _joined(pieces: Iterable[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Put pieces that touch each other together."""
    out: list[tuple[int, list[bytes]]] = []
    end = -1
    for at, data in sorted(pieces):
        if at == end:
            out[-1][1].append(data)
        else:
            out.append((at, [data]))
        end = at + len(data)
    return [(at, b"".join(parts)) for at, parts in out]


class _Packets:
    """GDB's remote protocol: ``$data#checksum``, escapes and repetitions."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        if not port.isdigit() or not 0 < int(port) < 65536:
            raise TargetError(f"{address!r} is no address", "give a gdbserver as HOST:PORT")
        self._address = address
        try:
            place = (host.strip("[]") or "localhost", int(port))
            self._socket = socket.create_connection(place, _TIMEOUT_S)
        except OSError as error:
            raise TargetError(
                f"no gdbserver answers at {address} ({error.strerror or error})",
                "start one: gdbserver --attach HOST:PORT PID",
            ) from None
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()
        self._acknowledge = True
        #: Requests sent.
        self.calls = 0

    def send(self, data: bytes) -> None:
        self._write(b"$%s#%02x" % (data, sum(data) % 256))

    def ask(self, data: bytes) -> bytes:
        self.send(data)
        self.calls += 1
        return self._receive()

    def ask_all(self, requests: list[bytes]) -> Iterator[bytes]:
        """Send many requests, some ahead of their replies."""
        self.calls += len(requests)
        sent = 0
        for number in range(len(requests)):
            while sent < len(requests) and sent - number < _WINDOW:
                self.send(requests[sent])
                sent += 1
            yield self._receive()

    def stop_acknowledging(self) -> None:
        if self.ask(b"QStartNoAckMode") == b"OK":
            self._acknowledge = False

    def close(self) -> None:
        self._socket.close()

    def _write(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise self._lost(error) from None

    def _receive(self) -> bytes:
        while True:
            start = self._buffer.find(b"$")
            end = self._buffer.find(b"#", start) if start >= 0 else -1
            if end >= 0 and end + 3 <= len(self._buffer):
                raw = bytes(self._buffer[start + 1 : end])
                del self._buffer[: end + 3]
                if self._acknowledge:
                    self._write(b"+")
                return _decoded(raw)
            try:
                more = self._socket.recv(1 << 18)
            except OSError as error:
                raise self._lost(error) from None
            if not more:
                raise self._lost(None)
            self._buffer += more

    def _lost(self, error: OSError | None) -> TargetError:
        if isinstance(error, socket.timeout):
            return TargetError(
                f"{self._address} does not answer", "it is no gdbserver, or another GDB uses it"
            )
        return TargetError(
            f"the gdbserver at {self._address} closed the connection", "start it again"
        )


_SPECIAL = re.compile(rb"\}.|\*.", re.S)


def _decoded(raw: bytes) -> bytes:
    """Undo escapes (``}``) and repetitions (``*`` and a count, plus 29)."""
    if b"}" not in raw and b"*" not in raw:
        return raw
    out = bytearray()
    at = 0
    for match in _SPECIAL.finditer(raw):
        out += raw[at : match.start()]
        mark, value = match.group()
        if mark == 0x7D:
            out.append(value ^ 0x20)
        elif out:
            out += out[-1:] * (value - 29)
        at = match.end()
    return bytes(out + raw[at:])
