"""Functions of the program and its modules
----------------------------------------

Which addresses are code, and what they are called where a symbol says so.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence

from ..errors import TargetError
from ..target.elf import ElfFile
from ..target.image import Mapping, Target
from ..target.process import map_file

__all__ = ["Code", "is_glib", "names_of"]


class Code:
    """Code of QEMU's own: the program's, and that of modules in a directory of QEMU's.

    :param mappings: of the process, lowest first.
    :param program: (start, end) of the program.
    """

    def __init__(self, mappings: Sequence[Mapping], program: tuple[int, int]) -> None:
        low, high = program
        own = [m for m in mappings if low <= m.start < high or _is_module(m.path)]
        self.text = sorted((m.start, m.end) for m in own if "x" in m.perms)
        #: All that is mapped of them: constants as well.
        self.all = sorted([(m.start, m.end) for m in own if _is_module(m.path)] + [program])
        self._starts = [start for start, _ in self.text]

    def has(self, address: int) -> bool:
        """Whether there is code at an address."""
        i = bisect_right(self._starts, address) - 1
        return i >= 0 and address < self.text[i][1]


def is_glib(name: str) -> bool:
    """Whether a function is GLib's, which a program without libraries has among its own."""
    return name.startswith("g_")


def _is_module(path: str) -> bool:
    directory, name = os.path.split(path)
    return "qemu" in os.path.basename(directory) and ".so" in name


def names_of(target: Target, mappings: Sequence[Mapping], addresses: Sequence[int]) -> list[str]:
    """Name each function; one without a symbol is its file's name and the place in it."""
    files: dict[str, tuple[int, ElfFile | None]] = {}
    out = []
    for address in addresses:
        i = bisect_right([m.start for m in mappings], address) - 1
        path = mappings[i].path if i >= 0 and address < mappings[i].end else ""
        if path not in files:
            files[path] = _file(target, mappings, path)
        base, elf = files[path]
        at = address - base
        name = elf.function_at(at) if elf is not None else ""
        out.append(name or f"{os.path.basename(path) or 'code'}+{at:#x}")
    return out


def _file(target: Target, mappings: Sequence[Mapping], path: str) -> tuple[int, ElfFile | None]:
    """Return where a file is loaded, and it."""
    if not path or path.removesuffix(" (deleted)") == target.exe:
        return target.base(), target.elf()
    start = min((m.start - m.offset for m in mappings if m.path == path), default=0)
    try:
        file = f"/proc/{target.pid}/root{path}" if target.kind == "process" else path
        elf = ElfFile(memoryview(map_file(file)), path)
    except (OSError, TargetError):
        return start, None
    return start - elf.load_base(), elf
