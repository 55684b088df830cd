"""Layouts from debug information
------------------------------

Of the program's own file or of its debug file, whichever has it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Callable

from ..errors import LayoutError, QmrError, TargetError
from ..target.elf import PT_LOAD, ElfFile
from ..target.image import Target
from .debugfiles import DebugFile, Note, Origin, by_build_id, find, open_file, origin_of, supplement
from .debuginfod import fetch
from .gdbchild import Supplement, User, ask_gdb, gdb_command, user_of
from .model import FORMAT, Layout, from_json
from .schema import SCHEMA

__all__ = ["DebugInfo", "Report", "debug_info", "silent"]

# The user that what comes from another machine is read as: nobody.
_NOBODY = (65534, 65534)

#: Is given what takes long; an empty text ends it.
Report = Callable[[str], None]


def silent(_text: str) -> None:
    """Report nobody."""


class DebugInfo:
    """The debug information of a program.

    :param elf: the program.
    :param pid: of its process on this machine, 0 when there is none.
    :param servers: whether the user's debuginfod servers are asked.
    :param report: is given what takes long.
    """

    def __init__(
        self,
        elf: ElfFile,
        origin: Origin,
        pid: int = 0,
        user: User = None,
        servers: bool = True,
        report: Report = silent,
    ) -> None:
        self.elf, self.origin = elf, origin
        self._servers, self._report = servers, report
        #: Whose rights are enough to read the program.
        self.user = user or user_of(pid, origin.path)

    def files(self, note: Note) -> Iterator[DebugFile]:
        """Yield the files that may have it: the program, its debug files, a server's last.

        :param note: called with a line where there was none.
        """
        yield from self._local(note)
        yield from self._fetch(self.elf.build_id(), self.elf.name, note)

    def _local(self, note: Note) -> Iterator[DebugFile]:
        try:
            yield open_file(self.origin.path, self.elf.name)
        except (OSError, TargetError) as error:
            note(f"{self.elf.name} cannot be opened: {error}")
        yield from find(self.elf, self.origin, note)

    def _fetch(self, build_id: str, name: str, note: Note) -> Iterator[DebugFile]:
        if not self._servers:
            note("debuginfod: not asked now")
            return
        fetched = fetch(build_id, name, note, self._report)
        if fetched is not None:
            yield fetched

    def has_dwarf(self) -> bool:
        """Whether there is a file with DWARF on this machine, and a GDB to read it."""
        if not gdb_command():
            return False
        return any(file.has_dwarf for file in self._local(lambda line: None))

    def ask(self, question: str, argument: object, note: Note) -> dict[str, Any] | None:
        """Have GDB answer from the first file that has DWARF, None where there is none."""
        for file, more in self.with_dwarf(note):
            try:
                return ask_gdb(file, question, argument, self.user_of(file), more, self._report)
            except QmrError as error:
                note(str(error))
        return None

    def with_dwarf(self, note: Note) -> Iterator[tuple[DebugFile, Supplement | None]]:
        """Yield the files that have DWARF, and what ``dwz`` took out of them."""
        for file in self.files(note):
            if not file.has_dwarf:
                note(f"no debug information in {file.path}")
                continue
            try:
                more = self._supplement(file, note)
            except TargetError as error:
                note(error.text)
            else:
                yield file, more

    def user_of(self, file: DebugFile) -> User:
        """Return whose rights are enough to read a file."""
        return self.user or user_of(0, f"/proc/self/fd/{file.fd}")

    def _supplement(self, file: DebugFile, note: Note) -> Supplement | None:
        build_id, found = supplement(file)
        if not build_id:
            return None
        if found is None:
            found = next(by_build_id(build_id, self.origin, note), None)
        if found is None:
            found = next(self._fetch(build_id, f"{file.path} (dwz)", note), None)
        if found is None:
            note(f"what dwz took out of {file.path} was not found")
            return None
        return Supplement(build_id, found)

    def layout(self, version: str, note: Note) -> Layout | None:
        """Return the layout that it describes, None where there is none.

        :param version: of the QEMU, for people.
        """
        structs = self.ask("layout", SCHEMA, note)
        if structs is None:
            return None
        data = {"format": FORMAT, "build_id": self.elf.build_id(), "version": version}
        try:
            layout = from_json({**data, "structs": structs}, "dwarf")
        except LayoutError as error:
            note(error.text)
            return None
        missing = layout.missing()
        if missing:
            note(f"the debug information of {self.elf.name} lacks {', '.join(missing[:5])}")
            return None
        return layout

    def symbols(
        self, names: Iterable[str], needed: Iterable[str], note: Note
    ) -> Mapping[str, list[int]]:
        """Return link-time addresses by name, as :meth:`ElfFile.symbols`, of debug files too.

        :param needed: a server is asked only where one of these is missing otherwise.
        """
        wanted = list(names)
        found = {name: list(values) for name, values in self.elf.symbols(wanted).items()}
        if self.elf.has_symtab():
            return found
        for file in self._with_symbols(lambda: not found.keys() >= set(needed), note):
            for name, values in file.elf.symbols(wanted).items():
                known = found.setdefault(name, [])
                known += [value for value in values if value not in known]
            break
        return found

    def objects(self) -> list[tuple[int, int, str]]:
        """Return every data symbol, as :meth:`ElfFile.objects`, of debug files too."""
        rows = set(self.elf.objects())
        if not self.elf.has_symtab():
            for file in self._with_symbols(lambda: False, lambda line: None):
                rows.update(file.elf.objects())
                break
        return sorted(rows)

    def _with_symbols(self, ask: Callable[[], bool], note: Note) -> Iterator[DebugFile]:
        for file in find(self.elf, self.origin, note):
            if not file.elf.has_symtab():
                note(f"no symbols in {file.path}")
            elif not _same_places(file.elf, self.elf):
                note(f"{file.path} is of another program")
            else:
                yield file
        if ask():
            for file in self._fetch(self.elf.build_id(), self.elf.name, note):
                if file.elf.has_symtab():
                    yield file


def debug_info(target: Target, servers: bool = True, report: Report = silent) -> DebugInfo:
    """Return the debug information of a target's program, as :class:`DebugInfo`."""
    local = target.kind == "process"
    foreign = target.kind == "remote" and os.geteuid() == 0
    return DebugInfo(
        target.elf(),
        origin_of(target),
        target.pid if local else 0,
        _NOBODY if foreign else None,
        servers,
        report,
    )


def _same_places(one: ElfFile, other: ElfFile) -> bool:
    """Whether what two files say of addresses is of the same program."""
    if one.build_id() or other.build_id():
        return one.build_id() == other.build_id()
    spans = [
        [(s.vaddr, s.memsz) for s in elf.segments if s.type == PT_LOAD] for elf in (one, other)
    ]
    return spans[0] == spans[1]
