"""DWARF expressions
-----------------

As far as call frames use them: those of ``.plt`` and of signal frames do.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

__all__ = ["NoRule", "evaluate", "leb"]

_MASK = (1 << 64) - 1
# An expression that takes more steps does not end.
_STEPS_MAX = 1000


class NoRule(Exception):
    """There is no way out of an address: no entry, or one that makes no sense."""


def leb(data: bytes | memoryview, at: int, signed: bool) -> tuple[int, int]:
    """Read a LEB128 number; return it and where the next byte is."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
        if shift > 70:
            raise NoRule(at)
    if signed and byte & 0x40:
        value -= 1 << shift
    return value, at


_BINARY: Mapping[int, Callable[[int, int], int]] = {
    0x1A: lambda a, b: a & b,
    0x1C: lambda a, b: a - b,
    0x1E: lambda a, b: a * b,
    0x21: lambda a, b: a | b,
    0x22: lambda a, b: a + b,
    0x24: lambda a, b: a << min(b, 64),
    0x25: lambda a, b: a >> min(b, 64),
    0x27: lambda a, b: a ^ b,
    0x29: lambda a, b: int(a == b),
    0x2A: lambda a, b: int(_value(a) >= _value(b)),
    0x2B: lambda a, b: int(_value(a) > _value(b)),
    0x2C: lambda a, b: int(_value(a) <= _value(b)),
    0x2D: lambda a, b: int(_value(a) < _value(b)),
    0x2E: lambda a, b: int(a != b),
}
_CONSTANTS = {
    0x08: struct.Struct("<B"),
    0x09: struct.Struct("<b"),
    0x0A: struct.Struct("<H"),
    0x0B: struct.Struct("<h"),
    0x0C: struct.Struct("<I"),
    0x0D: struct.Struct("<i"),
    0x0E: struct.Struct("<Q"),
    0x0F: struct.Struct("<q"),
}


def _value(word: int) -> int:
    return word - (1 << 64) if word & 1 << 63 else word


def evaluate(
    code: bytes, registers: list[int | None], read: Callable[[int], int], *begin: int
) -> int:
    """Evaluate a DWARF expression, as far as call frames use them (those of ``.plt`` do).

    :param read: returns the word at an address of the stack.
    :param begin: what is on the stack of the expression at the start.
    :raises NoRule: it makes no sense.
    """
    stack, at, steps = list(begin), 0, 0
    try:
        while at < len(code):
            byte = code[at]
            at, steps = at + 1, steps + 1
            if steps > _STEPS_MAX:
                raise NoRule(code)
            if 0x70 <= byte <= 0x8F or byte == 0x92:  # DW_OP_breg, DW_OP_bregx
                number = byte - 0x70
                if byte == 0x92:
                    number, at = leb(code, at, False)
                offset, at = leb(code, at, True)
                register = registers[number]
                if register is None:
                    raise NoRule(code)
                stack.append(register + offset & _MASK)
            elif 0x30 <= byte <= 0x4F:
                stack.append(byte - 0x30)
            elif byte in _CONSTANTS:
                stack.append(_CONSTANTS[byte].unpack_from(code, at)[0] & _MASK)
                at += _CONSTANTS[byte].size
            elif byte in (0x10, 0x11):  # DW_OP_constu, DW_OP_consts
                value, at = leb(code, at, byte == 0x11)
                stack.append(value & _MASK)
            elif byte == 0x06:
                stack.append(read(stack.pop()))
            elif byte == 0x12:
                stack.append(stack[-1])
            elif byte == 0x23:  # DW_OP_plus_uconst
                value, at = leb(code, at, False)
                stack.append(stack.pop() + value & _MASK)
            elif byte in _BINARY:
                right, left = stack.pop(), stack.pop()
                stack.append(_BINARY[byte](left, right) & _MASK)
            elif byte != 0x96:
                raise NoRule(code)
        return stack[-1]
    except (IndexError, struct.error):
        raise NoRule(code) from None
