"""Why the VM stands
-----------------
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Stop"]

# Signals that end a program that does not expect them.
_FATAL = ("SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP")


class Stop(NamedTuple):
    """Why the VM stands again.

    :param kind: ``signal``, ``breakpoint`` or ``exit``.
    :param name: the signal's name, the breakpoints' numbers, or the exit status, None for unknown.
    :param text: the function that a signal came in, None for unknown.
    """

    kind: str
    name: str | None = None
    text: str | None = None

    @property
    def asked(self) -> bool:
        """Whether it looks like the stop that was asked for; Ctrl-C looks the same."""
        return self.kind == "signal" and self.name == "SIGINT"

    @property
    def fatal(self) -> bool:
        """Whether the VM is no more, or would be if it ran on."""
        return self.kind == "exit" or (self.kind == "signal" and self.name in _FATAL)

    def sentence(self) -> str:
        """Say it in one sentence."""
        if self.kind == "exit":
            return f"QEMU has ended ({self.name})" if self.name else "QEMU has ended"
        if self.kind == "breakpoint":
            return f"QEMU stopped at {self.name}"
        return f"QEMU received {self.name}" + (f" in {self.text}" if self.text else "")
