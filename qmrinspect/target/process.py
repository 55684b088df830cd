"""A running process
-----------------

Reads a live QEMU without GDB: what has to be of one instant while its threads stand
(:mod:`qmrinspect.target.threads`), everything else while they run.
"""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path
from typing import Callable

from ..errors import TargetError
from ..tuples import NamedTuple
from .denied import denied, ended
from .elf import ElfFile
from .image import PAGE, Capture, Image, Mapping, Peek, Ranges, without
from .instant import Choose, Copy, Frozen
from .malloc import Free, Malloc, whole_pages
from .memory import BatchReader, Buffer, Buffers
from .pagemap import touched
from .proc import command_line, dead, maps
from .thin import copied
from .threads import Stopped, while_stopped

__all__ = ["Process", "map_descriptor", "map_file", "parse_maps"]

# What a process may have touched more in the stop than shortly before, 1 in so many and these.
_SLACK = 8


def parse_maps(text: str) -> list[Mapping]:
    """Parse ``/proc/PID/maps``."""
    out = []
    for line in text.splitlines():
        fields = line.split(None, 5)
        if len(fields) < 5:
            continue
        start, end = (int(part, 16) for part in fields[0].split("-"))
        path = fields[5] if len(fields) > 5 else ""
        out.append(Mapping(start, end, fields[1], int(fields[2], 16), path))
    return out


def map_file(path: str | Path) -> bytes | mmap.mmap:
    """Map a file read-only."""
    with open(path, "rb") as file:
        return map_descriptor(file.fileno())


def map_descriptor(fd: int) -> bytes | mmap.mmap:
    """Map an open file read-only."""
    if os.fstat(fd).st_size == 0:
        return b""
    return mmap.mmap(fd, 0, access=mmap.ACCESS_READ)


_programs: dict[tuple[int, int, int, int, str], ElfFile] = {}


def _program(path: Path, name: str) -> ElfFile:
    """Open the program of a process; processes that run the same share it."""
    with open(path, "rb") as file:
        info = os.fstat(file.fileno())
        key = (info.st_dev, info.st_ino, info.st_mtime_ns, info.st_size, name)
        if key not in _programs:
            elf = ElfFile(memoryview(map_descriptor(file.fileno())), name)
            _programs.clear()
            _programs[key] = elf
        return _programs[key]


class _Kept(NamedTuple):
    """What is worth copying, what is zeros, and what may change."""

    ranges: Ranges
    absent: Ranges
    writable: Ranges
    mappings: list[Mapping]


class Process:
    """A live process as a target.

    :param pid: its process id.
    :raises TargetError: when there is no such process or it may not be read.
    """

    kind = "process"
    symbol_files: tuple[str, ...] = ()

    def __init__(self, pid: int) -> None:
        self.pid = pid
        proc = Path("/proc") / str(pid)
        self.argv = command_line(pid)
        try:
            self.exe = os.readlink(proc / "exe")
            # Through /proc, so that an upgraded or containered program is read as it runs.
            self._elf = _program(proc / "exe", self.exe)
            self._mem = os.open(proc / "mem", os.O_RDONLY)
        except PermissionError:
            raise denied(pid) from None
        except (FileNotFoundError, ProcessLookupError):
            if not proc.exists():
                raise TargetError(
                    f"there is no process {pid}", "qmr ps lists the QEMUs that run here"
                ) from None
            if dead(pid):
                raise ended(pid) from None
            raise TargetError(
                f"process {pid} has no program to read", "it is a kernel thread"
            ) from None
        self._malloc = Malloc()
        self._buffers: dict[str, Buffer] = {}
        self._spare = Buffers()
        self._room = 0  # bytes that the last capture of all had
        self._free: list[Free] = []  # before a stop that came to nothing
        # Link-time addresses of a position-independent program start at zero.
        self._base = self._find_base()

    def _find_base(self) -> int:
        inode = os.stat(f"/proc/{self.pid}/exe")
        for mapping, (device, number) in self._identified():
            if mapping.offset == 0 and (device, number) == (inode.st_dev, inode.st_ino):
                return mapping.start - self._elf.load_base()
        for mapping in self.mappings():
            if mapping.offset == 0 and mapping.path in (self.exe, self.exe + " (deleted)"):
                return mapping.start - self._elf.load_base()
        raise TargetError(f"process {self.pid} does not map its own program {self.exe}")

    def _identified(self) -> list[tuple[Mapping, tuple[int, int]]]:
        out = []
        for line in self._read_maps().splitlines():
            mapping = parse_maps(line)[0]
            fields = line.split(None, 5)
            major, minor = (int(part, 16) for part in fields[3].split(":"))
            out.append((mapping, (os.makedev(major, minor), int(fields[4]))))
        return out

    def _read_maps(self) -> str:
        try:
            text = maps(self.pid)
        except PermissionError:
            raise denied(self.pid) from None
        except (FileNotFoundError, ProcessLookupError):
            text = ""
        if not text:  # nor has a process that nobody has waited for
            raise ended(self.pid)
        return text

    def elf(self) -> ElfFile:
        """Return the ELF file that the process runs."""
        return self._elf

    def base(self) -> int:
        """Return the load address of the program."""
        return self._base

    def program(self) -> str:
        """Return a path under which the program's file can be opened."""
        return f"/proc/{self.pid}/exe"

    def mappings(self) -> list[Mapping]:
        """Return the mappings, lowest first."""
        return parse_maps(self._read_maps())

    def peek(self, address: int, size: int) -> bytes | None:
        """Read without a stop; None where nothing is mapped."""
        try:
            data = os.pread(self._mem, size, address)
        except (OSError, OverflowError):
            return None
        return data if len(data) == size else None

    def capture(self, ranges: Ranges) -> tuple[Image, Capture]:
        """Stop all threads, copy ``ranges``, let them run on.

        :raises TargetError: when the process may not be stopped, or has ended.
        :raises NotStopping: when it does not stop; it runs on.
        """
        return self.capture_all(lambda _: ranges)

    def capture_all(
        self, choose: Choose, quiet: Callable[[Peek], bool] | None = None
    ) -> tuple[Image, Capture]:
        """As :meth:`capture`; what to copy is found out in the stop, but for what is free.

        What was free before is looked at again in the stop, where it takes a tenth of the time.
        See :class:`~qmrinspect.target.instant.Stoppable`.
        """
        begin = time.perf_counter_ns()
        text = self._read_maps()
        mappings = parse_maps(text)
        blocks = self._free = self._free or self._malloc.blocks(self.peek, mappings)
        free = whole_pages(blocks)
        if not self._room:
            kept = self._kept(mappings, choose(mappings), free)
            self._room = sum(size for _, size in kept.ranges)
        # Pages of the buffer are touched beforehand, not while the VM waits.
        buffer = self._spare.take(self._room)
        signs = b"".join(data for block in blocks for _, data in block.signs)
        heads = Buffer(len(signs))
        places = [(at, len(data)) for block in blocks for at, data in block.signs]
        again = BatchReader(self.pid, places, heads)
        kept, done, calls = _Kept([], [], [], []), list[tuple[int, int, int]](), 0
        stacks: list[int] | None = None
        settled = False

        def work(stopped: Stopped) -> None:
            nonlocal free, buffer, kept, done, calls, stacks, settled
            settled = quiet is None or quiet(self.peek)
            if settled:
                read, now = again.run(), self._read_maps()
                if heads.memory[: len(signs)] != signs:
                    said = {at: heads.memory[i : i + size] for at, i, size in read}
                    free = whole_pages(block for block in blocks if block.stands(said))
                found = mappings if now == text else parse_maps(now)
                kept = self._kept(found, choose(found), free)
                self._room = sum(size for _, size in kept.ranges)
                if self._room > buffer.size:
                    buffer = self._spare.take(self._room)
                reader = BatchReader(self.pid, kept.ranges, buffer)
                done, stacks = reader.run(), stopped.stacks()
                calls = reader.calls

        stop_us = while_stopped(self.pid, work)
        view = memoryview(buffer.memory).toreadonly()
        segments = [(start, view[at : at + size]) for start, at, size in done]
        image = Image(segments, self.peek, kept.absent, kept.writable)
        image.mappings, image.stacks = kept.mappings, stacks
        if settled:
            self._free = []
        wall_us = (time.perf_counter_ns() - begin) // 1000
        pages = sum(size for _, _, size in done) // PAGE
        cost = Capture(stop_us, wall_us, calls, image.size, 0, settled, "whole", 1, pages)
        return image, cost

    def freeze(self, ranges: Ranges, quiet: Callable[[Peek], bool] | None = None) -> Frozen:
        """See :class:`~qmrinspect.target.instant.Stoppable`."""
        buffer, reader = self._prepared("stop", ranges)
        done: list[tuple[int, int, int]] = []
        stacks: list[int] | None = None
        settled = False

        def work(stopped: Stopped) -> None:
            nonlocal done, stacks, settled
            settled = quiet is None or quiet(self.peek)
            if settled:
                done, stacks = reader.run(), stopped.stacks()

        stop_us = while_stopped(self.pid, work)
        view = memoryview(buffer.memory).toreadonly()
        segments = [(start, view[at : at + size]) for start, at, size in done]
        return Frozen(segments, stop_us, reader.calls, settled, stacks)

    def glance(self, ranges: Ranges) -> Image:
        """See :class:`~qmrinspect.target.instant.Stoppable`."""
        buffer, reader = self._prepared("glance", ranges)
        view = memoryview(buffer.memory).toreadonly()
        return Image((start, view[at : at + size]) for start, at, size in reader.run())

    def _prepared(self, what: str, ranges: Ranges) -> tuple[Buffer, BatchReader]:
        """Return a buffer whose pages were touched before, and what reads into it."""
        total = sum(size for _, size in ranges)
        buffer = self._buffers.get(what)
        if buffer is None or buffer.size < total:
            buffer = self._buffers[what] = Buffer(total + total // _SLACK)
        return buffer, BatchReader(self.pid, ranges, buffer)

    def copy(self, choose: Choose) -> Copy:
        """See :class:`~qmrinspect.target.instant.Stoppable`."""
        mappings = self.mappings()
        free = self._malloc.free(self.peek, mappings)
        kept = self._kept(mappings, choose(mappings), free)
        segments, reads, left_out = copied(self.pid, kept.ranges, self._spare)
        return Copy(segments, kept.absent, kept.writable, reads, left_out, kept.mappings)

    def _kept(self, mappings: list[Mapping], chosen: Ranges, free: Ranges) -> _Kept:
        """Leave out what was never touched, and what is free."""
        ranges = without(chosen, free)
        # What was not touched of a file is no zeros; it is in memory anyway.
        files = [(m.start, m.end - m.start) for m in mappings if m.path.startswith("/")]
        anonymous = without(ranges, files)
        present = touched(self.pid, anonymous)
        kept = sorted([*present, *without(ranges, anonymous)])
        absent = without(anonymous, present)
        writable = [(m.start, m.end - m.start) for m in mappings if "w" in m.perms]
        return _Kept(kept, absent, writable, mappings)

    def close(self) -> None:
        """Close what is open in ``/proc``."""
        os.close(self._mem)
