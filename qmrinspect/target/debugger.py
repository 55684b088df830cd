"""Under a debugger
----------------

Targets that a debugger holds already: a live process whose threads it has
stopped, and anything else that it can read, a process behind a gdbserver above
all.  Nothing here knows GDB; it gives its memory as a function and the answers of
its commands as text.
"""

from __future__ import annotations

import os
import re
import shlex
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Callable, NamedTuple

from ..errors import TargetError
from .elf import ElfFile
from .image import PAGE, Capture, Image, Mapping, Peek
from .instant import Choose
from .malloc import Malloc
from .proc import stack_pointer, threads
from .process import Process, map_file
from .standing import worth_reading

__all__ = [
    "Attached",
    "Debugged",
    "Signal",
    "core_path",
    "exec_path",
    "parse_auxv",
    "parse_mappings",
    "parse_signal",
    "read_ranges",
]

# One piece of memory that is asked for at once.
_PIECE = 16 << 20
# Holes are narrowed down page by page; a range that is mostly holes is given up.
_MISSES_MAX = 4096
_AT_ENTRY = 9

Read = Callable[[int, int], "bytes | memoryview | None"]


def read_ranges(
    read: Read,
    ranges: Iterable[tuple[int, int]],
    tell: Callable[[int], None] = lambda done: None,
) -> tuple[list[tuple[int, bytes | memoryview]], int]:
    """Read (address, size) ranges in large pieces; leave out what cannot be read.

    :param read: returns exactly the bytes asked for, or None.
    :param tell: is told how many bytes are behind it.
    :return: the (address, bytes) segments, and how many reads it took.
    """
    segments: list[tuple[int, bytes | memoryview]] = []
    reads = misses = done = 0
    todo = [
        (at, min(_PIECE, start + size - at))
        for start, size in ranges
        for at in range(start, start + size, _PIECE)
    ]
    todo.reverse()
    while todo:
        at, size = todo.pop()
        data = read(at, size)
        reads += 1
        if data is not None:
            segments.append((at, data))
            done += size
            tell(done)
            continue
        misses += 1
        if size > PAGE and misses < _MISSES_MAX:
            half = max(PAGE, size // 2 // PAGE * PAGE)
            todo += [(at + half, size - half), (at, half)]
    return segments, reads


class Attached(Process):
    """A live process on this machine that stands still under a debugger.

    :param pid: its process id.
    """

    def capture(self, ranges: list[tuple[int, int]]) -> tuple[Image, Capture]:
        """Copy ``ranges``; the debugger keeps the threads stopped meanwhile."""
        return self.capture_all(lambda _: ranges)

    def capture_all(
        self, choose: Choose, quiet: Callable[[Peek], bool] | None = None
    ) -> tuple[Image, Capture]:
        """As :meth:`capture`; what to copy is said for the mappings as they are.

        :param quiet: is not asked: while it stands, no other moment comes.
        """
        begin = time.perf_counter_ns()
        copy = self.copy(choose)
        image = copy.patched(None, self.peek)
        image.stacks = self._stacks()
        wall_us = (time.perf_counter_ns() - begin) // 1000
        pages = image.size // PAGE
        return image, Capture(wall_us, wall_us, copy.reads, image.size, 0, True, "whole", 1, pages)

    def _stacks(self) -> list[int] | None:
        """Return the stack pointers; those of a process that runs would be out of date."""
        try:
            return [stack_pointer(self.pid, tid) for tid in threads(self.pid)] or None
        except (OSError, ValueError):
            return None


class Debugged:
    """Anything else that a debugger reads, through the debugger.

    :param pid: the process id, on whichever machine it runs.
    :param run: runs a GDB command and returns what it printed.
    :param read: reads memory, or returns None.
    :param exe: the program that the debugger has open, empty when it has none.
    :raises TargetError: when the program cannot be had.
    """

    kind = "remote"
    symbol_files: tuple[str, ...] = ()

    def __init__(self, pid: int, run: Callable[[str], str], read: Read, exe: str) -> None:
        self.pid = pid
        self._run = run
        self._read = read
        self._malloc = Malloc()
        #: Is told how far a long reading has come, and an empty text at its end.
        self.progress: Callable[[str | None], None] = lambda text: None
        self._fetched: tempfile.TemporaryDirectory[str] | None = None
        named = re.search(r"exe = '(.*)'", self._ask("info proc exe"))
        line = re.search(r"cmdline = '(.*)'", self._ask("info proc cmdline"), re.DOTALL)
        # "target:/usr/bin/qemu" is GDB's way to say that it lies on the other side.
        remote = exe[len("target:") :] if exe.startswith("target:") else ""
        self.exe = remote or exe or (named.group(1) if named else "")
        self.argv = _words(line.group(1)) if line else [self.exe]
        self._path = exe if exe and not remote else self._fetch()
        try:
            self._elf = ElfFile(memoryview(map_file(self._path)), self.exe)
        except OSError as error:
            raise TargetError(
                f"the program {self._path} cannot be read: {error.strerror}",
                "name it with GDB's command: file QEMU",
            ) from None
        entry = parse_auxv(self._ask("info auxv")).get(_AT_ENTRY, 0)
        if not entry:
            raise TargetError(
                f"the target does not say where {self.exe} was loaded",
                "the other side must serve the auxiliary vector, as gdbserver on Linux does",
            )
        self._base: int = entry - self._elf.entry

    def _ask(self, command: str) -> str:
        try:
            return self._run(command)
        except TargetError:
            return ""

    def _fetch(self) -> str:
        if not self.exe:
            raise TargetError(
                "GDB has no program for this target", "name it with GDB's command: file QEMU"
            )
        self._fetched = tempfile.TemporaryDirectory(prefix="qmr-")
        copy = Path(self._fetched.name) / "program"
        self._run(f"remote get {self.exe} {copy}")
        return str(copy)

    def elf(self) -> ElfFile:
        """Return the ELF file of the program."""
        return self._elf

    def base(self) -> int:
        """Return the load address of the program."""
        return self._base

    def program(self) -> str:
        """Return a path under which the program's file can be opened."""
        return self._path

    def mappings(self) -> list[Mapping]:
        """Return the mappings, lowest first.

        :raises TargetError: when the other side does not tell them.
        """
        found = parse_mappings(self._run("info proc mappings"))
        if not found:
            raise TargetError(
                "the target does not tell its memory mappings",
                "a gdbserver on Linux does; QEMU's own gdbstub shows the guest, not QEMU",
            )
        return found

    def peek(self, address: int, size: int) -> bytes | None:
        """Read memory through the debugger; None where there is none."""
        data = self._read(address, size)
        return None if data is None else bytes(data)

    def capture(self, ranges: list[tuple[int, int]]) -> tuple[Image, Capture]:
        """Copy ``ranges``; the debugger keeps the threads stopped meanwhile."""
        begin = time.perf_counter_ns()
        wanted = worth_reading(ranges, self.mappings(), self.peek, self._malloc)
        total = sum(size for _, size in wanted)

        def tell(done: int) -> None:
            self.progress(f"reading memory: {done >> 20} of {total >> 20} MB")

        segments, reads = read_ranges(self._read, wanted, tell)
        self.progress(None)
        image = Image(segments, static=self.peek)
        wall_us = (time.perf_counter_ns() - begin) // 1000
        return image, Capture(wall_us, wall_us, reads, image.size, 0, True)

    def close(self) -> None:
        """Remove the copy of the program, where one was fetched."""
        if self._fetched is not None:
            self._fetched.cleanup()


def _words(line: str) -> list[str]:
    # GDB joins the arguments with spaces and escapes what a shell would split.
    try:
        return shlex.split(line)
    except ValueError:
        return line.split()


def parse_auxv(text: str) -> dict[int, int]:
    """Parse GDB's ``info auxv`` into type and value; those that are strings are left out."""
    out = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 3 or not fields[0].isdigit():
            continue
        try:
            out[int(fields[0])] = int(fields[-1], 0)
        except ValueError:
            continue
    return out


def parse_mappings(text: str) -> list[Mapping]:
    """Parse GDB's ``info proc mappings``.

    A GDB before 12 does not tell the rights; what it shows is then taken as private
    and writable, so that nothing is missed.
    """
    out = []
    for line in text.splitlines():
        fields = line.split(None, 5)
        if len(fields) < 4 or not fields[0].startswith("0x"):
            continue
        try:
            start, end, _size, offset = (int(field, 16) for field in fields[:4])
        except ValueError:
            continue
        rest = line.split(None, 4)[4] if len(fields) > 4 else ""
        perms, _, path = rest.partition(" ")
        if not re.fullmatch("[r-][w-][x-][ps-]", perms):
            perms, path = "rw-p", rest
        out.append(Mapping(start, end, perms, offset, path.strip()))
    return sorted(out)


def core_path(text: str) -> str | None:
    """Return the core file that GDB's ``info files`` names, None when there is none."""
    return _path(text, "core dump file")


def exec_path(text: str) -> str | None:
    """Return the program that GDB's ``info files`` names, None when there is none."""
    return _path(text, "exec file")


def _path(text: str, what: str) -> str | None:
    match = re.search(rf"{what}:\s+[`'\u2018](.+)['\u2019], file type", text)
    return os.path.expanduser(match.group(1)) if match else None


class Signal(NamedTuple):
    """How GDB treats a signal: a row of ``info signals``."""

    name: str
    stop: bool
    print: bool
    passed: bool

    def command(self) -> str:
        """Return the GDB command that makes it so."""
        words = (
            "stop" if self.stop else "nostop",
            "print" if self.print else "noprint",
            "pass" if self.passed else "nopass",
        )
        return f"handle {self.name} {' '.join(words)}"


def parse_signal(text: str, name: str) -> Signal | None:
    """Parse GDB's ``info signals NAME``."""
    match = re.search(rf"^{name}\s+(Yes|No)\s+(Yes|No)\s+(Yes|No)\b", text, re.MULTILINE)
    return Signal(name, *(word == "Yes" for word in match.groups())) if match else None
