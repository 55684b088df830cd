"""Processors
----------

What tracing must know of the processor that QEMU runs on: the registers of a sample, how
DWARF numbers them, and how its code changes a count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..errors import TargetError
from ..target.elf import ElfFile

__all__ = ["X86_64", "Arch", "arch_of"]


class Arch(NamedTuple):
    """One processor.

    :param machine: ``e_machine`` of its programs.
    :param syscall: the number of perf_event_open(2).
    :param sampled: the names of the user registers of a sample, by their ``perf_regs.h`` bit.
    :param dwarf: the names by DWARF number, as far as frames are found by them.
    :param stack: the stack pointer's DWARF number.
    :param execute_len: the length that the kernel wants for an execution breakpoint, bytes.
    :param flags: the register with the condition flags, and ``zero`` the bit in it that says
        that the last result was 0.
    """

    machine: int
    syscall: int
    sampled: Mapping[int, str]
    dwarf: Sequence[str]
    stack: int
    execute_len: int
    flags: str
    zero: int

    def mask(self) -> int:
        """Return ``sample_regs_user``."""
        return sum(1 << bit for bit in self.sampled)


# arch/x86/include/uapi/asm/perf_regs.h; the psABI's DWARF numbers.
X86_64 = Arch(
    machine=62,
    syscall=298,
    sampled={
        **dict(enumerate("rax rbx rcx rdx rsi rdi rbp rsp rip eflags".split())),
        **{16 + i: f"r{8 + i}" for i in range(8)},
    },
    dwarf=("rax rdx rcx rbx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15 rip".split()),
    stack=7,
    execute_len=8,
    flags="eflags",
    zero=1 << 6,
)

_BY_MACHINE = {X86_64.machine: X86_64}


def arch_of(elf: ElfFile) -> Arch:
    """Return the processor of a program.

    :raises TargetError: its instructions are not known.
    """
    arch = _BY_MACHINE.get(elf.machine)
    if arch is None:
        raise TargetError(
            f"{elf.name} is a program for another processor than x86-64 (ELF machine "
            f"{elf.machine}), whose instructions qmr cannot tell",
            "without a trace, refs and why show who holds each reference",
        )
    return arch
