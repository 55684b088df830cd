"""Call stacks
-----------

From the registers and the top of a thread's stack to the addresses that it was called
from, the way that exceptions go.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from .arch import Arch
from .code import Code
from .expression import NoRule, evaluate

__all__ = ["Stack", "Unwinder"]

_DEPTH_MAX = 128
_WORD = struct.Struct("<Q")
_MASK = (1 << 64) - 1


class Stack(NamedTuple):
    """A call stack, innermost frame first.

    :param pcs: the address in each frame: of the next instruction, for callers the one that
        the call returns to.
    :param tops: the stack pointer in each frame.  A frame's own words lie between its and
        the next one's; a caller's and its address together name one activation of it.
    :param end: why it ends: ``outermost``, ``short`` (the copy of the stack ends),
        ``no frame information`` or ``deep``.
    """

    pcs: tuple[int, ...]
    tops: tuple[int, ...]
    end: str


class _Short(Exception):
    """The copy of the stack does not reach so far."""


class Unwinder:
    """Unwinds the samples of one process.

    :param code: what the process runs; refreshed by whoever maps more.
    """

    def __init__(self, arch: Arch, code: Code) -> None:
        self._arch = arch
        self._code = code
        order = list(arch.sampled.values())
        self._order = [order.index(name) for name in arch.dwarf]
        self._pc = len(arch.dwarf) - 1

    def unwind(self, registers: tuple[int, ...], stack: bytes) -> Stack:
        """Return the call stack of a sample.

        :param registers: in the order of the processor's ``sampled``.
        :param stack: the bytes from the stack pointer up.
        """
        values: list[int | None] = [registers[i] for i in self._order]
        low, size = registers[self._order[self._arch.stack]], len(stack)
        pcs: list[int] = []
        tops: list[int] = []
        exact = True

        def read(address: int) -> int:
            at = address - low
            if not 0 <= at <= size - 8:
                raise _Short
            return int(_WORD.unpack_from(stack, at)[0])

        while len(pcs) < _DEPTH_MAX:
            pc, top = values[self._pc], values[self._arch.stack]
            if not pc:
                return Stack(tuple(pcs), tuple(tops), "outermost")
            if top is None:
                return Stack(tuple(pcs), tuple(tops), "no frame information")
            pcs.append(pc)
            tops.append(top)
            # The address of a call that does not return may lie behind its function.
            module = self._code.find(pc if exact else pc - 1)
            if module is None:
                return Stack(tuple(pcs), tuple(tops), "no frame information")
            try:
                step = module.frames.step((pc if exact else pc - 1) - module.bias)
                if isinstance(step.cfa, tuple):
                    base = values[step.cfa[0]]
                    if base is None:
                        raise NoRule(pc)
                    frame = base + step.cfa[1] & _MASK
                else:
                    frame = evaluate(step.cfa, values, read)
                caller = list(values)
                caller[self._arch.stack] = frame
                found = False
                for number, rule in step.registers:
                    if number >= len(caller):
                        continue
                    if number == step.back:
                        if rule.how == "undefined":
                            return Stack(tuple(pcs), tuple(tops), "outermost")
                        found = True
                        number = self._pc
                    how = rule.how
                    if how == "offset":
                        caller[number] = read(frame + rule.number)
                    elif how == "value":
                        caller[number] = frame + rule.number & _MASK
                    elif how == "register":
                        caller[number] = values[rule.number]
                    elif how == "at":
                        caller[number] = read(evaluate(rule.code, values, read, frame))
                    elif how == "is":
                        caller[number] = evaluate(rule.code, values, read, frame)
                    else:
                        caller[number] = None
            except _Short:
                return Stack(tuple(pcs), tuple(tops), "short")
            except (NoRule, IndexError):
                return Stack(tuple(pcs), tuple(tops), "no frame information")
            if not found:
                return Stack(tuple(pcs), tuple(tops), "outermost")
            above = caller[self._arch.stack]
            if above is not None and above <= top and not step.signal:
                return Stack(tuple(pcs), tuple(tops), "no frame information")
            exact = step.signal
            values = caller
        return Stack(tuple(pcs), tuple(tops), "deep")
