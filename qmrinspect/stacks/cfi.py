"""Call frame information
----------------------

How to leave a function, by its ``.eh_frame``, which stripped programs have as well: the
table of ``.eh_frame_hdr`` leads to the entry of an address, whose rules say where the
caller's registers are (DWARF 5, section 6.4; LSB Core, Exception Frames).
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from typing import NamedTuple

from ..target.elf import PT_LOAD, ElfFile
from .expression import NoRule, leb

__all__ = ["Frames", "NoRule", "Rule", "Step"]

_PT_GNU_EH_FRAME = 0x6474E550
_U32 = struct.Struct("<I")
_MASK = (1 << 64) - 1
# Rules and expressions that take more steps, or go deeper, are damaged.
_STEPS_MAX = 100_000
_DEEP = 256

# Encodings of pointers in exception frames (DW_EH_PE_*): the form, and what it is added to.
_FORMS = {
    0x00: struct.Struct("<Q"),
    0x02: struct.Struct("<H"),
    0x03: struct.Struct("<I"),
    0x04: struct.Struct("<Q"),
    0x0A: struct.Struct("<h"),
    0x0B: struct.Struct("<i"),
    0x0C: struct.Struct("<q"),
}
_PE_OMIT, _PE_PCREL, _PE_INDIRECT = 0xFF, 0x10, 0x80
# What linkers write: a table of pairs of 32-bit offsets from the section's own start.
_HEADER = (0x1B, 0x03, 0x3B)


class Rule(NamedTuple):
    """Where a register of the caller is.

    :param how: ``offset`` (at this many bytes from the frame's address), ``value`` (it is
        that address), ``register``, ``at`` and ``is`` (an expression gives its place, or
        itself), or ``undefined``.
    """

    how: str
    number: int = 0
    code: bytes = b""


class Step(NamedTuple):
    """The way from a frame to its caller.

    :param cfa: the frame's address: ``register`` and an offset, or an expression.
    :param registers: the rules by DWARF number; the others keep their values.
    :param signal: whether a signal made the frame, so that the caller's address is one that
        has not been executed.
    """

    cfa: tuple[int, int] | bytes
    registers: tuple[tuple[int, Rule], ...]
    back: int
    signal: bool


class _Common(NamedTuple):
    """A CIE."""

    code_factor: int
    data_factor: int
    back: int
    encoding: int
    augmented: bool
    signal: bool
    begin: int
    end: int


class Frames:
    """The call frame information of one file.

    :param elf: the file; link-time addresses are used throughout.
    """

    def __init__(self, elf: ElfFile) -> None:
        self._data = elf.data
        self._loads = [s for s in elf.segments if s.type == PT_LOAD]
        self._starts: list[int] = []
        self._entries: list[int] = []
        self._common: dict[int, _Common] = {}
        self._steps: dict[int, Step | None] = {}
        header = next((s.vaddr for s in elf.segments if s.type == _PT_GNU_EH_FRAME), None)
        if header is not None:
            self._read_header(header)

    def _read_header(self, address: int) -> None:
        at = self.offset(address)
        if at is None or tuple(self._data[at + 1 : at + 4]) != _HEADER or self._data[at] != 1:
            return
        count = _U32.unpack_from(self._data, at + 8)[0]
        count = min(count, (len(self._data) - at - 12) // 8)
        pairs = struct.unpack_from(f"<{2 * count}i", self._data, at + 12)
        self._starts = [address + value for value in pairs[::2]]
        self._entries = [address + value for value in pairs[1::2]]

    def offset(self, address: int) -> int | None:
        """Return where in the file an address is, None where it is in no segment."""
        for s in self._loads:
            if s.vaddr <= address < s.vaddr + s.filesz:
                return address - s.vaddr + s.offset
        return None

    def start(self, address: int) -> int | None:
        """Return the start of the function (or the part of one) at an address, None for none."""
        i = bisect_right(self._starts, address) - 1
        return self._starts[i] if i >= 0 else None

    def is_start(self, address: int) -> bool:
        """Whether a function begins at an address."""
        return self.start(address) == address != 0

    def step(self, address: int) -> Step:
        """Return the way out of an address.

        :raises NoRule: there is none.
        """
        if address not in self._steps:
            try:
                self._steps[address] = self._find(address)
            except (NoRule, struct.error, IndexError, KeyError):
                self._steps[address] = None
        step = self._steps[address]
        if step is None:
            raise NoRule(address)
        return step

    def _find(self, address: int) -> Step:
        i = bisect_right(self._starts, address) - 1
        if i < 0:
            raise NoRule(address)
        entry = self._entries[i]
        at = self._at(entry)
        length = _U32.unpack_from(self._data, at)[0]
        if not 4 <= length < 0xFFFFFFF0:
            raise NoRule(address)
        end = at + 4 + length
        common = self._common_at(entry + 4 - _U32.unpack_from(self._data, at + 4)[0])
        start, here = self._pointer(at + 8, entry + 8, common.encoding)
        size, here = self._pointer(here, 0, common.encoding & 0x0F)
        if not start <= address < start + size:
            raise NoRule(address)
        if common.augmented:
            length, here = self._unsigned(here)
            here += length
        rows = _Rows(self, common)
        rows.run(common.begin, common.end, start, address)
        rows.begin()
        rows.run(here, end, start, address)
        if rows.cfa is None:
            raise NoRule(address)
        rules = tuple((n, rule) for n, rule in rows.rules.items() if rule is not None)
        return Step(rows.cfa, rules, common.back, common.signal)

    def _common_at(self, address: int) -> _Common:
        if address not in self._common:
            self._common[address] = self._read_common(address)
        return self._common[address]

    def _read_common(self, address: int) -> _Common:
        at = self._at(address)
        length = _U32.unpack_from(self._data, at)[0]
        end = at + 4 + length
        version = self._data[at + 8]
        text = bytes(self._data[at + 9 : at + 9 + 16])
        augmentation = text[: text.index(0)] if 0 in text else b"?"
        if augmentation and augmentation[:1] != b"z":
            raise NoRule(address)
        here = at + 9 + len(augmentation) + 1
        code_factor, here = self._unsigned(here)
        data_factor, here = self._signed(here)
        if version == 1:
            back, here = self._data[here], here + 1
        else:
            back, here = self._unsigned(here)
        encoding, signal = 0, False
        if augmentation:
            length, here = self._unsigned(here)
            part = here
            here += length
            for letter in augmentation[1:].decode("latin-1"):
                if letter == "R":
                    encoding, part = self._data[part], part + 1
                elif letter == "P":
                    personality = self._data[part]
                    _, part = self._pointer(part + 1, 0, personality)
                elif letter == "L":
                    part += 1
                elif letter == "S":
                    signal = True
        return _Common(
            code_factor, data_factor, back, encoding, bool(augmentation), signal, here, end
        )

    def _at(self, address: int) -> int:
        at = self.offset(address)
        if at is None:
            raise NoRule(address)
        return at

    def _pointer(self, at: int, address: int, encoding: int) -> tuple[int, int]:
        if encoding == _PE_OMIT:
            return 0, at
        form = _FORMS.get(encoding & 0x0F)
        if form is None:
            raise NoRule(address)
        value = form.unpack_from(self._data, at)[0]
        if encoding & 0x70 == _PE_PCREL:
            value += address
        return value & _MASK if encoding & 0x70 else value, at + form.size

    def _unsigned(self, at: int) -> tuple[int, int]:
        return leb(self._data, at, False)

    def _signed(self, at: int) -> tuple[int, int]:
        return leb(self._data, at, True)


class _Rows:
    """The rules as the instructions of an entry change them, up to an address."""

    def __init__(self, frames: Frames, common: _Common) -> None:
        self._data = frames._data
        self._common = common
        self.cfa: tuple[int, int] | bytes | None = None
        self.rules: dict[int, Rule | None] = {}
        self._initial: dict[int, Rule | None] = {}
        self._kept: list[tuple[tuple[int, int] | bytes | None, dict[int, Rule | None]]] = []
        self._steps = 0

    def begin(self) -> None:
        """Take the rules of the common part as those to go back to."""
        self._initial = dict(self.rules)

    def run(self, at: int, end: int, location: int, address: int) -> None:
        """Execute the instructions from ``at`` to ``end`` that are for ``address``."""
        data = self._data
        while at < end:
            self._steps += 1
            if self._steps > _STEPS_MAX:
                raise NoRule(address)
            byte = data[at]
            at += 1
            high, low = byte & 0xC0, byte & 0x3F
            if high == 0x40:
                location += low * self._common.code_factor
            elif high == 0x80:
                value, at = leb(data, at, False)
                self.rules[low] = Rule("offset", value * self._common.data_factor)
            elif high == 0xC0:
                self.rules[low] = self._initial.get(low)
            elif 0x01 <= byte <= 0x04:
                location, at = self._advance(byte, at, location)
            else:
                at = self._other(byte, at)
            if location > address:
                return

    def _advance(self, byte: int, at: int, location: int) -> tuple[int, int]:
        if byte == 0x01:  # DW_CFA_set_loc, which no compiler of x86-64 or arm64 writes
            raise NoRule(at)
        size = 1 << byte - 2
        delta = int.from_bytes(self._data[at : at + size], "little")
        return location + delta * self._common.code_factor, at + size

    def _other(self, byte: int, at: int) -> int:
        data, factor = self._data, self._common.data_factor
        if byte == 0x00:
            return at
        if byte == 0x0A:  # DW_CFA_remember_state
            if len(self._kept) >= _DEEP:
                raise NoRule(at)
            self._kept.append((self.cfa, dict(self.rules)))
            return at
        if byte == 0x0B:  # DW_CFA_restore_state
            self.cfa, self.rules = self._kept.pop()
            return at
        if byte in (0x0E, 0x13):  # DW_CFA_def_cfa_offset, _sf
            value, at = leb(data, at, byte == 0x13)
            self.cfa = self._by_register(at)[0], value * factor if byte == 0x13 else value
            return at
        if byte == 0x2E:  # DW_CFA_GNU_args_size
            return leb(data, at, False)[1]
        if byte == 0x0F:  # DW_CFA_def_cfa_expression
            code, at = self._block(at)
            self.cfa = code
            return at
        register, at = leb(data, at, False)
        if byte in (0x0C, 0x12):  # DW_CFA_def_cfa, _sf
            value, at = leb(data, at, byte == 0x12)
            self.cfa = register, value * factor if byte == 0x12 else value
        elif byte == 0x0D:  # DW_CFA_def_cfa_register
            self.cfa = register, self._by_register(at)[1]
        elif byte in (0x05, 0x11):  # DW_CFA_offset_extended, _sf
            value, at = leb(data, at, byte == 0x11)
            self.rules[register] = Rule("offset", value * factor)
        elif byte in (0x14, 0x15):  # DW_CFA_val_offset, _sf
            value, at = leb(data, at, byte == 0x15)
            self.rules[register] = Rule("value", value * factor)
        elif byte == 0x06:  # DW_CFA_restore_extended
            self.rules[register] = self._initial.get(register)
        elif byte == 0x07:
            self.rules[register] = Rule("undefined")
        elif byte == 0x08:  # DW_CFA_same_value
            self.rules[register] = None
        elif byte == 0x09:  # DW_CFA_register
            value, at = leb(data, at, False)
            self.rules[register] = Rule("register", value)
        elif byte in (0x10, 0x16):  # DW_CFA_expression, DW_CFA_val_expression
            code, at = self._block(at)
            self.rules[register] = Rule("at" if byte == 0x10 else "is", 0, code)
        else:
            raise NoRule(at)
        return at

    def _by_register(self, at: int) -> tuple[int, int]:
        """Return the rule of the frame's address, of which a part alone is changed.

        :raises NoRule: it is no register and offset, and the change is invalid (DWARF 6.4.2.2).
        """
        if not isinstance(self.cfa, tuple):
            raise NoRule(at)
        return self.cfa

    def _block(self, at: int) -> tuple[bytes, int]:
        size, at = leb(self._data, at, False)
        return bytes(self._data[at : at + size]), at + size
