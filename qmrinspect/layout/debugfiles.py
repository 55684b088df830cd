"""Debug files
-----------

Where the debug information of a program lies when it is not in the program: under
the name of its build id, beside it under the name that it says itself
(``.gnu_debuglink``), or wherever a debugger has loaded it from.

The program may be anybody's.  What it says of names is used inside of the directories
that are searched and nowhere else, and a file counts only when it is of this program:
its build id is the same, or its checksum is the one that the program says.
"""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Iterator
from typing import Callable

from ..errors import TargetError
from ..target.elf import ElfFile
from ..target.image import Target
from ..target.process import map_descriptor
from ..target.rooted import open_in_root
from ..tuples import NamedTuple

__all__ = [
    "DebugFile",
    "Note",
    "Origin",
    "by_build_id",
    "find",
    "open_file",
    "origin_of",
    "supplement",
]

_SYSTEM = ("/usr/lib/debug", "/usr/local/lib/debug")
_DWARF = (".debug_info", ".zdebug_info")
_NAME_MAX = 255
_PATH_MAX = 4096
# Debug information of the largest QEMU is a tenth of this.
_SIZE_MAX = 4 << 30

#: Called with a line where nothing was found.
Note = Callable[[str], None]


class Origin(NamedTuple):
    """Where a program is from.

    :param path: under which it can be opened.
    :param exe: its own name, as the process's root directory has it.
    :param root: the root directory of its process, ``/proc/PID/root`` or ``/``.
    :param loaded: debug files that a debugger has loaded for it.
    """

    path: str
    exe: str
    root: str
    loaded: tuple[str, ...]


class Descriptor:
    """A file descriptor that is closed when nobody has it any more."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        """Return its number."""
        return self._fd

    def __del__(self) -> None:
        os.close(self._fd)


class DebugFile(NamedTuple):
    """An open file that may have debug information.

    :param path: its name, for people.
    :param root: the root directory that it was found under.
    :param real: its path without links, as seen from there.
    """

    path: str
    descriptor: Descriptor
    elf: ElfFile
    root: str
    real: str

    @property
    def fd(self) -> int:
        """The number of its descriptor."""
        return self.descriptor.fileno()

    @property
    def has_dwarf(self) -> bool:
        """Whether there is DWARF in it."""
        return any(self.elf.has_section(name) for name in _DWARF)


def origin_of(target: Target) -> Origin:
    """Return where a target's program is from."""
    root = f"/proc/{target.pid}/root" if target.kind == "process" else "/"
    exe = target.exe
    if exe.endswith(" (deleted)") and target.kind == "process":
        exe = exe[: -len(" (deleted)")]
    return Origin(target.program(), exe, root, target.symbol_files)


def open_file(path: str, name: str = "") -> DebugFile:
    """Open a file that the user named, or a program under its name in ``/proc``.

    :param name: how to call it, where that is another name.
    :raises OSError: it cannot be read.
    :raises TargetError: it is no 64-bit little-endian ELF file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    return _file(fd, name or path, "/", os.path.realpath(path))


def find(elf: ElfFile, origin: Origin, note: Note) -> Iterator[DebugFile]:
    """Yield the debug files of a program that are on this machine."""
    for path in origin.loaded:
        try:
            if not os.path.samefile(path, origin.path):
                yield open_file(path)
        except (OSError, TargetError) as error:
            note(f"{path}, which the debugger has loaded, cannot be read: {error}")
    yield from by_build_id(elf.build_id(), origin, note)
    yield from _by_name(elf, origin, note)


def supplement(file: DebugFile) -> tuple[str, DebugFile | None]:
    """Find what ``dwz`` took out of a file and put into another one.

    :return: the build id of that other file, empty where there is none; and the file,
        None when it is not where ``file`` says.
    :raises TargetError: that leads out of the directories that are searched.
    """
    name, _, build_id = bytes(file.elf.section(".gnu_debugaltlink")[:_PATH_MAX]).partition(b"\0")
    if not name:
        return "", None
    text = os.fsdecode(name)
    home = os.path.dirname(file.real)
    try:
        fd, real = open_in_root(file.root, os.path.join(home, text))
    except OSError:
        return build_id.hex(), None
    if not any(_inside(real, place, file.root, False) for place in (home, *_directories())):
        os.close(fd)
        raise TargetError(
            f"the debug information of {file.path} goes on in {text!r}, which is in none of the "
            "directories for debug files"
        )
    return build_id.hex(), _file(fd, _shown(real, file.root), file.root, real)


def _file(fd: int, name: str, root: str, real: str) -> DebugFile:
    descriptor = Descriptor(fd)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_size > _SIZE_MAX:
        raise TargetError(f"{name} is not a debug file")
    elf = ElfFile(memoryview(map_descriptor(fd)), name)
    return DebugFile(name, descriptor, elf, root, real)


def _roots(origin: Origin) -> list[str]:
    """Return the root directories to search, the process's own first."""
    try:
        if os.path.samefile(origin.root, "/"):
            return ["/"]
    except OSError:
        return ["/"]
    return [origin.root, "/"]


def _directories() -> list[str]:
    named = os.environ.get("NIX_DEBUG_INFO_DIRS", "").split(":")
    return [*(path for path in named if path.startswith("/")), *_SYSTEM]


def by_build_id(build_id: str, origin: Origin, note: Note) -> Iterator[DebugFile]:
    """Yield the files under the name of a build id, of the container's root and of ours."""
    if not build_id:
        note("by build id: the program has none")
        return
    name = f".build-id/{build_id[:2]}/{build_id[2:]}.debug"
    for root in _roots(origin):
        for directory in _directories():
            found = _open(f"{directory}/{name}", root, directory, note)
            if found is not None:
                if found.elf.build_id() == build_id:
                    yield found
                else:
                    note(f"{found.path} is of another program")


def _by_name(elf: ElfFile, origin: Origin, note: Note) -> Iterator[DebugFile]:
    """Follow ``.gnu_debuglink``: a file name, and the checksum of the file."""
    raw = bytes(elf.section(".gnu_debuglink")[: _NAME_MAX + 8])
    if not raw:
        note("by name: the program names no debug file (.gnu_debuglink)")
        return
    name, end, _ = raw.partition(b"\0")
    at = (len(name) + 4) & ~3
    text = os.fsdecode(name)
    if not end or len(raw) < at + 4 or "/" in text or text in ("", ".", ".."):
        note(f"by name: the program names {text!r}, which is not the name of a file")
        return
    checksum = int.from_bytes(raw[at : at + 4], "little")
    home = os.path.dirname(origin.exe)
    places = [(home, home), (f"{home}/.debug", f"{home}/.debug")]
    places += [(directory + home, directory) for directory in _directories()]
    for root in _roots(origin):
        for place, directory in places:
            found = _open(f"{place}/{text}", root, directory, note)
            if found is None:
                continue
            same = found.elf.build_id() == elf.build_id() != ""
            if same or zlib.crc32(found.elf.data) == checksum:
                yield found
            else:
                note(f"{found.path} is of another program")


def _open(path: str, root: str, directory: str, note: Note) -> DebugFile | None:
    """Open a file in a directory that is searched; None when there is none that will do."""
    shown = _shown(path, root)
    try:
        fd, real = open_in_root(root, path)
    except OSError:
        note(f"no {shown}")
        return None
    if not _inside(real, directory, root, root == "/" and directory in _directories()):
        os.close(fd)
        note(f"{shown} leads out of {directory}")
        return None
    try:
        return _file(fd, shown, root, real)
    except TargetError as error:
        note(error.text)
    except OSError as error:
        note(f"{shown}: {error.strerror}")
    return None


def _inside(real: str, directory: str, root: str, trusted: bool) -> bool:
    """Whether a path without links is in a directory.

    :param trusted: whether the links in it are the administrator's, and may lead anywhere.
    """
    if trusted:
        return True
    try:
        fd, base = open_in_root(root, directory)
    except OSError:
        return False
    os.close(fd)
    return real.startswith(base.rstrip("/") + "/")


def _shown(path: str, root: str) -> str:
    return path if root == "/" else f"{path} (in the container of the process)"
