"""The code of a process
---------------------

Which file an address of the process belongs to: the program, its modules, the libraries.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator

from ..errors import TargetError
from ..target.elf import PT_LOAD, ElfFile
from ..target.image import Mapping, Target
from ..target.process import map_file
from .cfi import Frames

__all__ = ["Code", "Module"]

_EXECUTABLE = 1
# Every module of QEMU exports it, with the build's hash behind it (include/qemu/module.h).
_STAMP = "qemu_stamp"


class Module:
    """One file whose code a process runs.

    :param path: as the process maps it.
    :param file: where it can be opened.
    :param bias: what to add to a link-time address to have that of the process.
    """

    def __init__(self, path: str, file: str, elf: ElfFile, bias: int) -> None:
        self.path = path
        self.file = file
        self.elf = elf
        self.bias = bias
        self.frames = Frames(elf)
        self._starts: list[int] | None = None
        self._symbols: list[tuple[int, int, str]] = []

    @property
    def name(self) -> str:
        """The file's name without its directory."""
        return os.path.basename(self.path.split(" (deleted)")[0])

    @property
    def is_of_qemu(self) -> bool:
        """Whether it is a shared library that is a module of QEMU."""
        return any(name.startswith(_STAMP) for _, _, name in self.elf.functions())

    def code(self) -> Iterator[tuple[int, bytes]]:
        """Yield what is executable as (link-time address, bytes)."""
        for segment in self.elf.segments:
            if segment.type == PT_LOAD and segment.flags & _EXECUTABLE:
                end = segment.offset + segment.filesz
                yield segment.vaddr, bytes(self.elf.data[segment.offset : end])

    def symbol(self, address: int) -> tuple[int, str] | None:
        """Return the function symbol at a link-time address, its start and name; None for none."""
        if self._starts is None:
            # Of several names of one function the shortest is the plainest.
            self._symbols = sorted(self.elf.functions(), key=lambda f: (f[0], -len(f[2])))
            self._starts = [start for start, _, _ in self._symbols]
        i = bisect_right(self._starts, address) - 1
        if i >= 0:
            start, size, name = self._symbols[i]
            if address < start + max(size, 1):
                return start, name
        return None

    def neighbours(self, address: int) -> tuple[str | None, str | None]:
        """Return the names of the functions before and after an address, None at the ends."""
        self.symbol(0)
        i = bisect_right(self._starts or (), address)
        before = self._symbols[i - 1][2] if i else None
        return before, self._symbols[i][2] if i < len(self._symbols) else None

    def exported(self, name: str) -> tuple[int, int] | None:
        """Return (start, end) of a function by its name, None when there is none."""
        self.symbol(0)
        for start, size, known in self._symbols:
            if known == name:
                return start, start + size
        return None


class Code:
    """All the code of a process, as it is mapped now.

    :param target: the process.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._modules: dict[tuple[str, int], Module | None] = {}
        self._places: list[tuple[int, int, int, str, int]] = []
        self._starts: list[int] = []
        self.refresh()

    def refresh(self) -> list[Module]:
        """Look which files are mapped now; return those that were not before."""
        mappings = self._target.mappings()
        first: dict[str, int] = {}
        for mapping in mappings:
            if mapping.offset == 0:
                first[mapping.path] = mapping.start
        before = set(self._modules)
        self._places = [
            (m.start, m.end, m.offset, m.path, first.get(m.path, m.start))
            for m in mappings
            if "x" in m.perms and m.path.startswith("/")
        ]
        self._starts = [place[0] for place in self._places]
        for mapping in mappings:
            if "x" in mapping.perms and mapping.path.startswith("/"):
                self._open(mapping, first.get(mapping.path, mapping.start))
        return [m for key, m in self._modules.items() if key not in before and m is not None]

    def modules(self) -> list[Module]:
        """Return every file that could be opened, the program first."""
        known = [module for module in self._modules.values() if module is not None]
        return sorted(known, key=lambda module: module.path != self._target.exe)

    def program(self) -> Module:
        """Return the program itself."""
        for module in self.modules():
            if module.elf is self._target.elf():
                return module
        raise TargetError(f"{self._target.exe} is not mapped by its own process")

    def find(self, address: int) -> Module | None:
        """Return the file that an address of the process belongs to, None for no file's."""
        i = bisect_right(self._starts, address) - 1
        if i < 0 or address >= self._places[i][1]:
            return None
        return self._modules.get((self._places[i][3], self._places[i][4]))

    def _open(self, mapping: Mapping, base: int) -> None:
        key = mapping.path, base
        if key in self._modules:
            return
        self._modules[key] = None
        if mapping.path in (self._target.exe, f"{self._target.exe} (deleted)"):
            elf = self._target.elf()
            self._modules[key] = Module(
                mapping.path, self._target.program(), elf, self._target.base()
            )
            return
        for file in self._files(mapping):
            try:
                elf = ElfFile(memoryview(map_file(file)), mapping.path)
            except (OSError, TargetError):
                continue
            self._modules[key] = Module(mapping.path, file, elf, base - elf.load_base())
            return

    def _files(self, mapping: Mapping) -> Iterator[str]:
        pid = self._target.pid
        if not mapping.path.endswith(" (deleted)"):
            yield f"/proc/{pid}/root{mapping.path}"  # as the process sees it, in a container too
        yield f"/proc/{pid}/map_files/{mapping.start:x}-{mapping.end:x}"
