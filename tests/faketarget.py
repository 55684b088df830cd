"""The target of a fake QEMU
-------------------------

Where its program and its memory lie, its ELF file, and a target that is bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from qmrinspect.layout import Layout
from qmrinspect.target.elf import ElfFile
from qmrinspect.target.image import Capture, Image
from qmrinspect.target.image import Mapping as Mapped

BASE = 0x555555554000
TEXT, DATA, BSS, END = 0x1000, 0x3000, 0x4000, 0x6000
HEAP = 0x555556000000
LOW_HEAP = 0x1000000
RENDERED = 0x200000  # strings, tables and property structures are made anew at each build
GUEST, GUEST_SIZE = 0x7E0000000000, 0x4000

# Functions are told apart by their address only.
STR_HASH, DIRECT_HASH = BASE + TEXT + 0x100, BASE + TEXT + 0x110
PROPERTY_FREE, CHILD_RELEASE, LINK_RELEASE, STRING_RELEASE = (
    BASE + TEXT + 0x120 + 0x10 * i for i in range(4)
)
RCU_FREE = BASE + TEXT + 0x200
CALL_RCU1 = TEXT + 0x300

CURRENT_MACHINE, RAM_LIST, RCU_HEAD, RCU_TAIL, RCU_DUMMY = (
    DATA + at for at in (0x10, 0x40, 0x208, 0x200, 0x210)
)
TYPE_TABLE, FLAT_VIEWS, SPACES, SPACE_MEMORY, CONSOLES, UNASSIGNED = (
    BSS + at for at in (0x10, 0x18, 0x40, 0x100, 0x400, 0x600)
)


class FakeTarget:
    """A target whose memory is bytes."""

    kind = "process"
    pid = 4242
    exe = "/usr/bin/qemu-system-fake"
    symbol_files: tuple[str, ...] = ()

    def __init__(
        self, memory: Mapping[int, bytearray], symbols: Mapping[str, int], layout: Layout
    ) -> None:
        self.argv = [self.exe, "-machine", "pc"]
        self.memory = dict(memory)
        self.layout = layout
        self._elf = ElfFile(elf_file(symbols), self.exe)

    def corrupt(self, address: int, raw: bytes) -> FakeTarget:
        """Return the same target with other bytes at ``address``."""
        memory = {start: bytearray(data) for start, data in self.memory.items()}
        for start, data in memory.items():
            if start <= address and address + len(raw) <= start + len(data):
                data[address - start : address - start + len(raw)] = raw
                break
        else:
            raise AssertionError(f"{address:#x} is outside of the fake's memory")
        out = FakeTarget.__new__(FakeTarget)
        out.__dict__.update(self.__dict__, memory=memory)
        return out

    def field(self, struct_name: str, name: str, address: int) -> int:
        """Return the address of a field of the structure at ``address``."""
        return address + self.layout.offset(struct_name, name)

    def set(self, struct_name: str, name: str, address: int, value: int) -> FakeTarget:
        """As :meth:`corrupt`, for a field of a structure."""
        offset, size = self.layout.structs[struct_name].fields[name]
        raw = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        return self.corrupt(address + offset, raw)

    def u64(self, address: int) -> int:
        """Return the word at ``address``."""
        raw = self.peek(address, 8)
        assert raw is not None
        return int.from_bytes(raw, "little")

    def elf(self) -> ElfFile:
        """Return the program's ELF file."""
        return self._elf

    def base(self) -> int:
        """Return the load address."""
        return BASE

    def program(self) -> str:
        """There is no file."""
        return self.exe

    def mappings(self) -> list[Mapped]:
        """Return the mappings, lowest first."""
        out = []
        for start, data in sorted(self.memory.items()):
            perms = "r-xp" if start == BASE else "rw-p"
            out.append(Mapped(start, start + len(data), perms, 0, ""))
        return out

    def peek(self, address: int, size: int) -> bytes | None:
        """Read anything."""
        for start, data in self.memory.items():
            if start <= address and address + size <= start + len(data):
                return bytes(data[address - start : address - start + size])
        return None

    def capture(self, ranges: list[tuple[int, int]]) -> tuple[Image, Capture]:
        """Return what lies in ``ranges``."""
        segments = []
        for at, size in ranges:
            for start, data in self.memory.items():
                low, high = max(at, start), min(at + size, start + len(data))
                if low < high:
                    segments.append((low, bytes(data[low - start : high - start])))
        image = Image(segments, static=self.peek)
        return image, Capture(0, 0, len(segments), image.size, 0, True)

    def close(self) -> None:
        """Nothing is open."""


def elf_file(
    symbols: Mapping[str, int],
    version: str = "10.0.13 (fake)",
    build_id: bytes = b"\xfa\xce" * 10,
    **named: bytes,
) -> bytes:
    """Return a small position-independent program that exports ``symbols``.

    :param named: contents of sections whose names begin with ``.gnu_``, by the rest of it.
    """
    names = b"\0" + b"".join(name.encode() + b"\0" for name in symbols)
    rows = [struct.pack("<IBBHQQ", 0, 0, 0, 0, 0, 0)]
    at = 1
    for name, value in symbols.items():
        rows.append(struct.pack("<IBBHQQ", at, 0x11, 0, 1, value, 8))
        at += len(name) + 1
    table = b"".join(rows)
    note = struct.pack("<III", 4, len(build_id), 3) + b"GNU\0" + build_id
    text = f"QEMU emulator version {version}\0".encode()
    body, places = bytearray(), []
    start = 64 + 3 * 56
    titles = b"".join(f"\0.gnu_{name}".encode() for name in named) + b"\0"
    for part in (note, text, table, names, *named.values(), titles):
        body += b"\0" * (-len(body) % 16)
        places.append((start + len(body), len(part)))
        body += part
    body += b"\0" * (-len(body) % 16)
    sections = [(0, 0, 0, 0, 0), (0, 11, *places[2], 2), (0, 3, *places[3], 0)]
    for i, name in enumerate(named):
        sections.append((titles.index(f".gnu_{name}".encode()), 1, *places[4 + i], 0))
    sections.append((0, 3, *places[-1], 0))
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\2\1\1".ljust(16, b"\0"),
        3, 62, 1, TEXT, 64, start + len(body), 0, 64, 56, 3, 64, len(sections),
        len(sections) - 1,
    )  # fmt: skip
    programs = b"".join(
        struct.pack("<IIQQQQQQ", *row)
        for row in (
            (1, 5, 0, 0, 0, DATA, DATA, 4096),
            (1, 6, 0, DATA, DATA, BSS - DATA, END - DATA, 4096),
            (4, 4, places[0][0], places[0][0], 0, places[0][1], places[0][1], 4),
        )
    )
    tail = b"".join(
        struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, offset, size, link, 0, 8, 24)
        for name, kind, offset, size, link in sections
    )
    return header + programs + bytes(body) + tail
