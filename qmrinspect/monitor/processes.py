"""Which QEMUs run here
--------------------

A look at ``/proc`` only: nothing is stopped, and no memory is read.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..errors import QmrError, TargetError
from ..target.elf import ElfFile
from ..target.proc import command_line, pids, tracer
from ..target.process import Process, map_file
from ..text import nearest, printable
from .addresses import addresses_here
from .qemuopts import qemu_options

__all__ = ["Running", "find_by_name", "running"]

# A program with another name is looked into only when it was started like a QEMU.
_QEMU_OPTIONS = frozenset(
    "-machine -M -accel -enable-kvm -qmp -mon -monitor -device -drive -nographic -display".split()
)
_SYMBOLS = ("current_machine", "address_space_memory")


class Running(NamedTuple):
    """A QEMU that runs.

    :param version: None where the program does not show it.
    :param qmp: addresses of its QMP monitors, from its command line.
    :param refused: why it may not be read, None when it may.
    :param program: device and inode of its program, None of another user's.
    """

    pid: int
    name: str
    machine: str
    version: str | None
    qmp: Sequence[str]
    refused: str | None
    program: tuple[int, int] | None


def running() -> list[Running]:
    """Return the QEMUs, by process id."""
    known: dict[tuple[int, int], str | None] = {}
    found = []
    for pid in pids():
        argv = command_line(pid)
        if not argv or not _looks_like_qemu(pid, argv):
            continue
        with contextlib.suppress(OSError):  # it may end at any time
            process = _describe(pid, argv, known)
            if process is not None:
                found.append(process)
    return found


def find_by_name(name: str) -> int:
    """Return the process id of the QEMU that goes by a name.

    :raises TargetError: when none does, or several do.
    """
    here = running()
    found = [process for process in here if process.name == name]
    if len(found) == 1:
        return found[0].pid
    if found:
        pids = ", ".join(str(process.pid) for process in found)
        raise TargetError(
            f"{len(found)} QEMUs go by the name {printable(name)}", f"name one by its pid: {pids}"
        )
    names = [process.name for process in here]
    near = nearest(name, names)
    if os.path.exists(name):
        hint = "a file is read by --core FILE or --snapshot FILE; a target is what qmr ps shows"
    elif near:
        hint = "did you mean " + " or ".join(near) + "?"
    elif names:
        hint = "these run: " + ", ".join(names)
    else:
        hint = "no QEMU runs here that qmr can see"
    raise TargetError(f"no QEMU goes by the name {printable(name)}", hint)


def _looks_like_qemu(pid: int, argv: Sequence[str]) -> bool:
    try:
        program = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    except OSError:
        program = os.path.basename(argv[0])  # another user's
    return program.startswith(("qemu-system", "qemu-kvm")) or not _QEMU_OPTIONS.isdisjoint(
        "-" + word.lstrip("-") for word in argv[1:] if word.startswith("-")
    )


def _describe(
    pid: int, argv: list[str], known: dict[tuple[int, int], str | None]
) -> Running | None:
    options = _Options(argv)
    name = options.name or str(pid)
    qmp = addresses_here(pid, argv)
    refused = _refused(pid)
    try:
        status = os.stat(f"/proc/{pid}/exe")
    except PermissionError:
        # Another user's: what the command line says is all there is.
        if not os.path.basename(argv[0]).startswith(("qemu-system", "qemu-kvm")):
            return None
        return Running(pid, name, options.machine, None, qmp, refused or "no permission", None)
    key = (status.st_dev, status.st_ino)
    if key not in known:
        known[key] = _version(pid)
    version = known[key]
    if version is None:
        return None
    return Running(pid, name, options.machine, version or None, qmp, refused, key)


def _version(pid: int) -> str | None:
    """Return the version that a program has in it, maybe an empty one; None when it is no QEMU."""
    from ..walk import version_of

    try:
        elf = ElfFile(memoryview(map_file(f"/proc/{pid}/exe")), f"/proc/{pid}/exe")
        version = version_of(elf)
        if not version and not all(elf.symbols(_SYMBOLS).get(symbol) for symbol in _SYMBOLS):
            return None
    except QmrError:
        return None
    return version


def _refused(pid: int) -> str | None:
    """Say why a process may not be read; the right to open its memory is that to stop it."""
    debugger = tracer(pid)
    if debugger is not None:
        return f"pid {debugger} is debugging it"
    try:
        Process(pid).close()
    except TargetError as error:
        return str(error)
    except (OSError, ValueError) as error:
        return str(error)
    return None


class _Options:
    """What a QEMU's command line says of its name and machine."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.name: str | None = None
        self.machine = "default"
        for option, value in _pairs(argv):
            if option == "-name":
                self.name = printable(qemu_options(value, "guest").get("guest", ""))
            elif option in ("-machine", "-M"):
                kind = qemu_options(value, "type").get("type")
                self.machine = printable(kind) if kind else self.machine


def _pairs(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    for option, value in zip(argv[1:], argv[2:]):
        if option.startswith("-"):
            yield "-" + option.lstrip("-"), value
