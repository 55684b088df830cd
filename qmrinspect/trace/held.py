"""A process that a debugger holds
-------------------------------

A process has one tracer at most, so that qmr cannot stop one that GDB holds.  It is read
as it is: while GDB has it stopped that is as good, and while it runs a look that
contradicts itself is taken again.
"""

from __future__ import annotations

import time

from ..target import proc
from ..target.elf import ElfFile
from ..target.image import PAGE, Capture, Image, Mapping, Ranges
from ..target.memory import BatchReader, Buffer
from ..target.pagemap import touched
from ..target.process import Process

__all__ = ["Held", "debugger_of"]


def debugger_of(pid: int) -> str | None:
    """Return the name of what traces a process, None for nothing."""
    tracer = proc.tracer(pid)
    return None if tracer is None else proc.name(tracer)


class Held:
    """As :class:`~qmrinspect.target.process.Process`, read without a stop."""

    kind = "process"

    def __init__(self, process: Process) -> None:
        self._process = process
        self.pid, self.exe, self.argv = process.pid, process.exe, process.argv
        self.symbol_files = process.symbol_files

    def elf(self) -> ElfFile:
        """Return the ELF file of the program."""
        return self._process.elf()

    def base(self) -> int:
        """Return the load address of the program."""
        return self._process.base()

    def program(self) -> str:
        """Return a path under which the program's file can be opened."""
        return self._process.program()

    def mappings(self) -> list[Mapping]:
        """Return the mappings, lowest first."""
        return self._process.mappings()

    def peek(self, address: int, size: int) -> bytes | None:
        """Read memory without a stop."""
        return self._process.peek(address, size)

    def capture(self, ranges: Ranges) -> tuple[Image, Capture]:
        """Copy ``ranges`` as they are."""
        begin = time.perf_counter_ns()
        kept = touched(self.pid, ranges)
        buffer = Buffer(sum(size for _, size in kept) + PAGE)
        reader = BatchReader(self.pid, kept, buffer)
        view = memoryview(buffer.memory).toreadonly()
        image = Image(
            [(start, view[at : at + size]) for start, at, size in reader.run()], self.peek
        )
        wall_us = (time.perf_counter_ns() - begin) // 1000
        return image, Capture(0, wall_us, reader.calls, image.size, 0, True, stops=0)

    def close(self) -> None:
        """Release the target."""
        self._process.close()
