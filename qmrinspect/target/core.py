"""A core dump
-----------

The same reading as of a live process, from the file that the kernel or GDB's
``gcore`` wrote.  What a core leaves out, constants that are in files anyway, is
read from those files.
"""

from __future__ import annotations

import struct
import time
from pathlib import Path

from ..errors import TargetError
from .elf import EM_X86_64, ET_CORE, PT_LOAD, ElfFile
from .image import Capture, Image, Mapping
from .process import map_file

__all__ = ["Core"]

_NT_PRSTATUS, _NT_PRPSINFO, _NT_AUXV, _NT_FILE = 1, 3, 6, 0x46494C45
_AT_ENTRY = 9
_PRSTATUS_PID = 32
# pr_reg of struct elf_prstatus, and rsp of struct user_regs_struct in it.
_PRSTATUS_RSP = 112 + 19 * 8
_PRPSINFO_ARGS, _PRPSINFO_ARGS_SIZE = 56, 80


class Core:
    """A core dump as a target.

    :param path: the core file.
    :param exe: the program; taken from the core's own list of files when left out.
    :raises TargetError: when the core is cut short, or the program is another one.
    """

    kind = "core"
    symbol_files: tuple[str, ...] = ()

    def __init__(self, path: str | Path, exe: str | Path | None = None) -> None:
        self.path = str(path)
        try:
            self._data = memoryview(map_file(path))
        except OSError as error:
            raise TargetError(f"{path} cannot be read: {error.strerror}") from None
        core = ElfFile(self._data, self.path)
        if core.type != ET_CORE:
            raise TargetError(f"{path} is a program, not a core dump", "give the core to --core")
        self._loads = [s for s in core.segments if s.type == PT_LOAD]
        if any(s.offset + s.filesz > len(self._data) for s in core.segments):
            raise TargetError(
                f"{path} is truncated", "lift the limit on its size (ulimit -c unlimited)"
            )
        self.pid, self.argv, entry, self._files = 0, [], 0, []
        self._stacks: list[int] = []
        for name, kind, desc in core.notes():
            if name != "CORE":
                continue
            if kind == _NT_PRSTATUS:
                if not self.pid:
                    (self.pid,) = struct.unpack_from("<i", desc, _PRSTATUS_PID)
                if len(desc) >= _PRSTATUS_RSP + 8:
                    self._stacks += struct.unpack_from("<Q", desc, _PRSTATUS_RSP)
            elif kind == _NT_PRPSINFO:
                raw = desc[_PRPSINFO_ARGS : _PRPSINFO_ARGS + _PRPSINFO_ARGS_SIZE]
                self.argv = raw.split(b"\0")[0].decode("utf-8", "replace").split()
            elif kind == _NT_AUXV:
                pairs = dict(struct.iter_unpack("<QQ", desc[: len(desc) // 16 * 16]))
                entry = pairs.get(_AT_ENTRY, 0)
            elif kind == _NT_FILE:
                self._files = _file_note(desc)
        self.exe = str(exe) if exe else self._program(entry)
        try:
            self._elf = ElfFile(memoryview(map_file(self.exe)), self.exe)
        except OSError as error:
            raise TargetError(
                f"the program {self.exe} cannot be read: {error.strerror}", "name it with --exe"
            ) from None
        self._base = entry - self._elf.entry if entry else 0
        self._check_program()
        self._opened: dict[str, memoryview | None] = {}

    def _program(self, entry: int) -> str:
        for mapping in self._files:
            if mapping.start <= entry < mapping.end:
                return mapping.path
        raise TargetError(f"{self.path} does not say which program it is of", "name it with --exe")

    def _check_program(self) -> None:
        """Compare the program's build id with the one in the core, where it has one."""
        # The first page of a program, with its notes, is in every core by default.
        first = self._dumped(self._base + self._elf.load_base(), 4096)
        if first is None:
            return
        build_id = bytes.fromhex(self._elf.build_id())
        if not first.startswith(b"\x7fELF") or (build_id and build_id not in first):
            raise TargetError(
                f"{self.exe} is not the program that {self.path} is of",
                "name the right one, of the same build, with --exe",
            )

    def _dumped(self, address: int, size: int) -> bytes | None:
        for s in self._loads:
            if s.vaddr <= address and address + size <= s.vaddr + s.filesz:
                at = s.offset + address - s.vaddr
                return bytes(self._data[at : at + size])
        return None

    def elf(self) -> ElfFile:
        """Return the ELF file of the program."""
        return self._elf

    def base(self) -> int:
        """Return the load address of the program."""
        return self._base

    def program(self) -> str:
        """Return a path under which the program's file can be opened."""
        return self.exe

    def mappings(self) -> list[Mapping]:
        """Return the memory of the process, dumped or not, lowest first."""
        out = []
        for s in sorted(self._loads, key=lambda s: s.vaddr):
            perms = "".join(c if s.flags & bit else "-" for c, bit in zip("rwx", (4, 2, 1)))
            # A core does not tell shared from private; what is not guest RAM is private.
            path = next((f.path for f in self._files if f.start <= s.vaddr < f.end), "")
            out.append(Mapping(s.vaddr, s.vaddr + s.memsz, perms + "p", 0, path))
        return out

    def peek(self, address: int, size: int) -> bytes | None:
        """Read what was dumped, or else what the mapped file says."""
        data = self._dumped(address, size)
        if data is not None:
            return data
        for mapping in self._files:
            if mapping.start <= address and address + size <= mapping.end:
                file = self._open(mapping.path)
                at = mapping.offset + address - mapping.start
                if file is not None and at < len(file):
                    return bytes(file[at : at + size]).ljust(size, b"\0")
        return None

    def _open(self, path: str) -> memoryview | None:
        if path not in self._opened:
            try:
                self._opened[path] = memoryview(map_file(path))
            except OSError:
                self._opened[path] = None
        return self._opened[path]

    def capture(self, ranges: list[tuple[int, int]]) -> tuple[Image, Capture]:
        """Return the dumped memory in ``ranges``; nothing is stopped or copied."""
        begin = time.perf_counter_ns()
        segments = []
        for start, size in ranges:
            for s in self._loads:
                low, high = max(start, s.vaddr), min(start + size, s.vaddr + s.filesz)
                if low < high:
                    at = s.offset + low - s.vaddr
                    segments.append((low, self._data[at : at + high - low]))
        image = Image(segments, static=self.peek)
        if self._elf.machine == EM_X86_64:
            image.stacks = self._stacks
        wall_us = (time.perf_counter_ns() - begin) // 1000
        return image, Capture(0, wall_us, len(segments), image.size, 0, True)

    def close(self) -> None:
        """Nothing is held open but mappings, which end with the object."""


def _file_note(desc: bytes) -> list[Mapping]:
    """Parse ``NT_FILE``: count, page size, (start, end, offset) triples, then names."""
    count, page = struct.unpack_from("<QQ", desc)
    if 16 + count * 24 > len(desc):
        return []
    names = desc[16 + count * 24 :].split(b"\0")
    out = []
    for i in range(min(count, len(names))):
        start, end, offset = struct.unpack_from("<3Q", desc, 16 + i * 24)
        path = names[i].decode("utf-8", "surrogateescape")
        out.append(Mapping(start, end, "", offset * page, path))
    return out
