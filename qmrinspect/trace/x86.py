"""Where x86-64 code changes a count
---------------------------------

QEMU changes ``Object.ref`` by atomic operations alone (``qatomic_fetch_inc``,
``qatomic_fetch_dec``: qom/object.c, object_ref, object_unref), for which compilers have
few instructions.  They are found by their bytes, wherever they were inlined.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

__all__ = ["Change", "Write", "find_writes"]

_REGISTERS = "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15".split()
_STACK = 4

# A lock prefix, REX (without W for 4 bytes, with W for 8) and the operation.
_LOCKED = {
    4: re.compile(rb"\xf0(?:[\x40-\x47])?(?:\x0f[\xb1\xc1]|[\x01\x29\x81\x83\xff])", re.DOTALL),
    8: re.compile(rb"\xf0[\x48-\x4f](?:\x0f[\xb1\xc1]|[\x01\x29\x81\x83\xff])", re.DOTALL),
}
# How far around an instruction its meaning shows, bytes.
_AROUND = 28
# Jumps within a function are not longer, bytes.
_JUMP = 0x400
_SHORT, _NEAR = struct.Struct("<b"), struct.Struct("<i")
# object_ref asserts that the old count is below INT_MAX.
_LIMITS = (b"\xfe\xff\xff\x7f", b"\xff\xff\xff\x7f")


class Write(NamedTuple):
    """An instruction that may change a count.

    :param address: of the instruction; link-time, as ``watch``.
    :param watch: where to break: at the instruction after it, whose registers say what the
        count was, or at the instruction itself where other code jumps to the next.
    :param end: behind it.
    :param operation: ``xadd``, ``add``, ``sub`` or ``cmpxchg``.
    :param place: registers whose sum, each times its factor, is the place of the count when
        ``displacement`` is added.
    :param displacement: bytes.
    :param register: the operand in a register, None for an immediate one.
    :param amount: what is added or taken off, None when a register has it.
    :param doubt: 0 in a function that is known to change a count, 1 where a count would be in
        an object, 2 where only the code around it looks like object_ref's or object_unref's.
    """

    address: int
    watch: int
    end: int
    operation: str
    place: tuple[tuple[str, int], ...]
    displacement: int
    register: str | None
    amount: int | None
    doubt: int

    @property
    def by_xadd(self) -> bool:
        """Whether the instruction also returns what the count was."""
        return self.operation == "xadd"

    def count_at(self, registers: dict[str, int]) -> int:
        """Return the address of the count, from the registers of a sample."""
        return (
            sum(registers[name] * factor for name, factor in self.place) + self.displacement
        ) & (1 << 64) - 1

    def change(self, registers: dict[str, int], zero: bool, after: bool) -> Change | None:
        """Return what a sample says, None when the instruction changed nothing.

        :param zero: the zero flag.
        :param after: whether the sample was taken behind the instruction, not at it.
        """
        value = registers[self.register] & 0xFFFFFFFF if self.register is not None else 0
        if self.operation == "cmpxchg":
            old = registers["rax"] & 0xFFFFFFFF
            return Change(_signed(value - old), old) if zero or not after else None
        if self.operation == "xadd":
            if not after:
                return Change(_signed(value), None)
            return Change(self.amount, value)
        amount = self.amount if self.amount is not None else _signed(value)
        by = -amount if self.operation == "sub" else amount
        return Change(by, -by if after and zero else None)


class Change(NamedTuple):
    """What became of a count: ``by`` was added, ``old`` is what it was; None when unknown."""

    by: int | None
    old: int | None


def _signed(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value & 1 << 31 else value


class _Operand(NamedTuple):
    """A memory operand: ``end`` is behind it."""

    place: tuple[tuple[str, int], ...]
    displacement: int
    register: int
    end: int


def find_writes(
    code: bytes, start: int, offset: int, size: int, functions: Sequence[tuple[int, int]] = ()
) -> list[Write]:
    """Find the instructions that may change a count.

    :param code: executable bytes.
    :param start: their link-time address.
    :param offset: of the count in an object, bytes.
    :param size: of the count, bytes: 4 or 8.
    :param functions: (start, end) of those that are known to change a count.
    """
    out = []
    for match in _LOCKED[size].finditer(code):
        found = _decode(code, match, offset)
        if found is None:
            continue
        write, end = found
        at = start + match.start()
        inside = any(first <= at < last for first, last in functions)
        alike = _looks_like(code, match.start(), end, write)
        if inside or alike or write.displacement == offset:
            watch = at if _needs_before(write) or _jumped_to(code, end) else start + end
            doubt = 0 if inside else 1 if write.displacement == offset else 2
            out.append(
                _Found(write._replace(address=at, watch=watch, end=start + end, doubt=doubt), alike)
            )
    # In an object within another the count is elsewhere.  Its drop looks like that of many a
    # count, its take like none: where no take was inlined, neither was a drop.
    takes = [f.write for f in out if f.alike and f.write.amount == 1 and f.write.by_xadd]
    copies = any(w.doubt for w in takes) and bool(functions or len(takes) > 1)
    return [f.write for f in out if f.write.doubt < 2 or copies]


class _Found(NamedTuple):
    write: Write
    alike: bool  # the code around it is like that of object_ref or object_unref


def _decode(code: bytes, match: re.Match[bytes], offset: int) -> tuple[Write, int] | None:
    raw = match.group()
    rex = raw[1] if 0x40 <= raw[1] <= 0x4F else 0
    opcode = raw[-1] | (0x0F00 if raw[-2] == 0x0F else 0)
    operand = _operand(code, match.end(), rex)
    if operand is None:
        return None
    register, amount, end = None, None, operand.end
    try:
        if opcode in (0x0FC1, 0x0FB1, 0x01, 0x29):
            register = _REGISTERS[operand.register | (rex & 4) << 1]
            operation = {0x0FC1: "xadd", 0x0FB1: "cmpxchg", 0x01: "add", 0x29: "sub"}[opcode]
            if operation == "xadd":
                amount = _set_before(code, match.start(), operand.register | (rex & 4) << 1)
        elif operand.register in (0, 5) and opcode in (0x81, 0x83):
            operation = "add" if operand.register == 0 else "sub"
            form, width = ("<i", 4) if opcode == 0x81 else ("<b", 1)
            amount = struct.unpack_from(form, code, end)[0]
            end += width
        elif operand.register in (0, 1) and opcode == 0xFF:
            operation, amount = ("add", 1) if operand.register == 0 else ("sub", 1)
        else:
            return None
    except struct.error:
        return None
    if amount is not None and abs(amount) != 1:
        return None  # counts change by one
    return Write(0, 0, 0, operation, operand.place, operand.displacement, register, amount, 0), end


def _operand(code: bytes, at: int, rex: int) -> _Operand | None:
    """Decode ModRM and SIB; None for what is no object: a register, a variable, the stack."""
    try:
        mode, register, base = code[at] >> 6, code[at] >> 3 & 7, code[at] & 7
        at += 1
        place: list[tuple[str, int]] = []
        if mode == 3:
            return None
        if base == _STACK:
            scale, index, base = 1 << (code[at] >> 6), code[at] >> 3 & 7, code[at] & 7
            at += 1
            if base == _STACK and not rex & 1:
                return None
            if index != _STACK or rex & 2:
                place.append((_REGISTERS[index | (rex & 2) << 2], scale))
        if base == 5 and mode == 0:
            return None
        place.insert(0, (_REGISTERS[base | (rex & 1) << 3], 1))
        displacement = 0
        if mode:
            form, width = ("<b", 1) if mode == 1 else ("<i", 4)
            displacement = struct.unpack_from(form, code, at)[0]
            at += width
    except (IndexError, struct.error):
        return None
    return _Operand(tuple(place), displacement, register, at)


def _set_before(code: bytes, at: int, register: int) -> int | None:
    """Return 1 or -1 when a register is set to it shortly before, None when that is not seen."""
    before = code[max(0, at - _AROUND) : at]
    rex = b"\x41" if register & 8 else b""
    found = {}
    for value, text in (
        (1, rex + bytes([0xB8 | register & 7]) + b"\1\0\0\0"),
        (-1, rex + bytes([0xB8 | register & 7]) + b"\xff\xff\xff\xff"),
        (-1, rex + bytes([0xB8 | register & 7]) + b"\1\0\0\0" + rex + _neg(register)),
        (-1, rex + b"\x83" + bytes([0xC8 | register & 7]) + b"\xff"),
    ):
        at = before.rfind(text)
        if at >= 0:
            found[at, len(text)] = value
    return found[max(found)] if found else None


def _neg(register: int) -> bytes:
    return b"\xf7" + bytes([0xD8 | register & 7])


def _looks_like(code: bytes, at: int, end: int, write: Write) -> bool:
    """Whether the code around is object_ref's or object_unref's: both assert on the count."""
    if write.operation == "xadd" and write.amount == 1:
        return any(limit in code[end : end + _AROUND] for limit in _LIMITS)
    if write.operation not in ("sub", "xadd"):
        return False
    # g_assert(obj->ref > 0): the same operand is read, or compared with 0, before.
    before = code[max(0, at - _AROUND) : at]
    return any(operand == write.place for operand in _reads(before, write.displacement))


def _reads(code: bytes, displacement: int) -> Iterator[tuple[tuple[str, int], ...]]:
    """Yield the memory operands of 32-bit loads, and of compares with 0, at a displacement."""
    for at, byte in enumerate(code):
        if byte not in (0x8B, 0x83):
            continue
        rex = code[at - 1] if at and 0x40 <= code[at - 1] <= 0x47 else 0
        operand = _operand(code, at + 1, rex)
        if operand is None or operand.displacement != displacement:
            continue
        if byte == 0x83 and (operand.register != 7 or code[operand.end : operand.end + 1] != b"\0"):
            continue
        yield operand.place


def _needs_before(write: Write) -> bool:
    """Whether the operand's register must be seen before it is used."""
    if write.operation == "xadd":
        return write.amount is None
    return write.operation in ("add", "sub") and write.amount is None


def _jumped_to(code: bytes, target: int) -> bool:
    """Whether a jump close by leads to a place, by the shape of short and near jumps."""
    low, high = max(0, target - _JUMP), min(len(code), target + _JUMP)
    for at in range(low, high - 5):
        byte = code[at]
        if byte == 0xEB or 0x70 <= byte <= 0x7F:
            form, size, skip = _SHORT, 2, 1
        elif byte == 0xE9:
            form, size, skip = _NEAR, 5, 1
        elif byte == 0x0F and 0x80 <= code[at + 1] <= 0x8F:
            form, size, skip = _NEAR, 6, 2
        else:
            continue
        if at + size + form.unpack_from(code, at + skip)[0] == target:
            return True
    return False
