"""Source lines
------------

Functions, files and lines of addresses, where there is debug information: binutils'
addr2line reads it where it is at hand, GDB where a server has it (debuginfod).
"""

from __future__ import annotations

import os
import posixpath
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ..layout.debugfiles import DebugFile, Origin
from ..layout.dwarf import DebugInfo
from ..layout.gdbchild import User, rights
from ..target.elf import ElfFile

__all__ = ["Line", "find_lines", "parse_addr2line", "relative", "source_root"]

_TIMEOUT_S = 120
_PLACE = re.compile(r"^(.*):(\d+)(?: \(discriminator \d+\))?$")


class Line(NamedTuple):
    """A place in the source; file and line are None when only the function is known."""

    function: str
    file: str | None = None
    line: int | None = None


def find_lines(elf: ElfFile, file: str, addresses: Iterable[int]) -> dict[int, list[Line]]:
    """Return the source of link-time addresses, inlined functions innermost first.

    What has no debug information, or no program to read it, is left out.

    :param file: where the program can be opened.
    """
    wanted = sorted(set(addresses))
    if not wanted:
        return {}
    try:
        real = os.path.realpath(file)
    except OSError:
        return {}  # /proc/PID/exe of a process that has ended meanwhile
    debug = DebugInfo(elf, Origin(file, real, "/", ()))
    tool = shutil.which("addr2line")
    if tool is not None:
        for found, _more in debug.with_dwarf(lambda line: None):
            return _by_addr2line(tool, found, debug.user_of(found), wanted)
    return _by_gdb(debug, wanted)


def _by_addr2line(
    tool: str, file: DebugFile, user: User, addresses: Sequence[int]
) -> dict[int, list[Line]]:
    try:
        done = subprocess.run(
            [tool, "-a", "-f", "-i", "-e", f"/proc/self/fd/{file.fd}"],
            input="".join(f"{address:#x}\n" for address in addresses),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            pass_fds=[file.fd],
            check=False,
            **rights(user),
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return parse_addr2line(done.stdout)


def parse_addr2line(text: str) -> dict[int, list[Line]]:
    """Read what ``addr2line -a -f -i`` prints."""
    out: dict[int, list[Line]] = {}
    at: int | None = None
    function: str | None = None
    for row in text.splitlines():
        if row.startswith("0x") and ":" not in row:
            at, function = int(row, 16), None
        elif not function:
            function = row
        else:
            match = _PLACE.match(row)
            line = Line(function)
            if match and match[1] not in ("", "??"):
                line = Line(function, posixpath.normpath(match[1]), int(match[2]))
            if at is not None and function != "??":
                out.setdefault(at, []).append(line)
            function = None
    return out


def _by_gdb(debug: DebugInfo, addresses: Sequence[int]) -> dict[int, list[Line]]:
    found = debug.ask("lines", addresses, lambda line: None) or {}
    return {
        int(address): [Line(function, posixpath.normpath(name), line) if name else Line(function)]
        for address, (function, name, line) in found.items()
    }


def relative(file: str, root: str | None) -> str:
    """Return a source file's path from the root of the source tree, if that is known."""
    return file[len(root) + 1 :] if root and file.startswith(root + "/") else file


def source_root(places: Mapping[int, list[Line]], known: str) -> str | None:
    """Return the root of the source tree, from a file whose path in it is known; None for none."""
    for lines in places.values():
        for line in lines:
            if line.file is not None and line.file.endswith("/" + known):
                return os.path.dirname(line.file[: -len(known)])
    return None
