"""ELF files and core dumps: real ones, truncated ones, foreign ones."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from faketarget import elf_file

from qmrinspect.audit import check
from qmrinspect.errors import QmrError, TargetError
from qmrinspect.hotplug.vm import Vm
from qmrinspect.reading import read
from qmrinspect.snapshot import Snapshot
from qmrinspect.target.core import Core
from qmrinspect.target.elf import ElfFile
from qmrinspect.target.image import Capture
from qmrinspect.target.process import Process, map_file
from qmrinspect.walk import version_of


class Dump(NamedTuple):
    path: Path
    live: Snapshot


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dump]:
    """A core of the stock QEMU with 16 MiB of guest memory, and the live reading of it."""
    directory = tmp_path_factory.mktemp("core")
    with Vm(machine="pc", extra=("-m", "16", "-device", "virtio-net-pci,id=nic0")) as vm:
        live = read(Process(vm.pid))
        done = subprocess.run(
            ["gcore", "-o", str(directory / "core"), str(vm.pid)],
            capture_output=True,
            text=True,
            check=False,
        )
        path = directory / f"core.{vm.pid}"
        assert path.exists(), done.stderr
    yield Dump(path, live)


# ELF


def test_symbols_build_id_and_version() -> None:
    elf = ElfFile(elf_file({"current_machine": 0x1234, "machine": 0x10}, "9.9.9", b"\1" * 20), "x")
    assert elf.symbols(["current_machine", "machine", "missing"]) == {
        "current_machine": [0x1234],
        "machine": [0x10],
    }
    assert elf.build_id() == "01" * 20
    assert version_of(elf) == "9.9.9"
    assert not elf.has_symtab() and not elf.has_section(".debug_info")
    assert (0x1234, 8, "current_machine") in elf.objects()


def use(elf: ElfFile) -> None:
    """Everything that can be asked of a file."""
    list(elf.notes())
    elf.build_id()
    elf.load_base()
    elf.has_section(".debug_info")
    elf.has_symtab()
    elf.symbols(["current_machine", "a"])
    elf.objects()
    version_of(elf)


def test_a_truncated_file_is_refused_or_read_as_far_as_it_goes() -> None:
    data = elf_file({"current_machine": 0x1234, "address_space_memory": 0x10})
    refused = 0
    for length in range(len(data)):
        try:
            use(ElfFile(data[:length], "cut"))
        except TargetError as error:
            assert "cut" in error.text
            refused += 1
    assert refused >= 64


def test_damaged_headers_are_refused_or_harmless() -> None:
    data = elf_file({"current_machine": 0x1234})
    for at in range(len(data)):
        for value in (0, 0x7F, 0xFF):
            changed = data[:at] + bytes([value]) + data[at + 1 :]
            try:
                use(ElfFile(changed, "damaged"))
            except TargetError:
                continue
    for at in range(0, len(data) - 8, 2):
        for word in (b"\xff" * 8, b"\xff\xff\xff\xff\0\0\0\0", b"\0\0\0\x80\0\0\0\0"):
            try:
                use(ElfFile(data[:at] + word + data[at + 8 :], "damaged"))
            except TargetError:
                continue


@pytest.mark.parametrize(
    ("data", "words"),
    (
        (b"", "not an ELF file"),
        (b"#!/bin/sh\n" * 20, "not an ELF file"),
        (b"\x7fELF", "not an ELF file"),
        (b"\x7fELF\1\1\1".ljust(64, b"\0"), "not a 64-bit little-endian program"),
        (b"\x7fELF\2\2\1".ljust(64, b"\0"), "not a 64-bit little-endian program"),
    ),
    ids=("empty", "script", "short", "32-bit", "big-endian"),
)
def test_a_foreign_file_is_said_to_be_one(data: bytes, words: str) -> None:
    with pytest.raises(TargetError, match=words):
        ElfFile(data, "it")


def test_the_stock_qemu() -> None:
    program = shutil.which("qemu-system-x86_64")
    assert program is not None
    elf = ElfFile(memoryview(map_file(program)), program)
    assert len(elf.build_id()) == 40
    assert version_of(elf)
    found = elf.symbols(["current_machine", "address_space_memory"])
    assert all(len(values) == 1 for values in found.values()) and len(found) == 2
    # By its hash table, and by address, a symbol is what it is in the table of all.
    functions = elf.functions()[::100]
    rows = [*functions, *elf.objects()[::100]]
    found = elf.symbols([*(name for *_, name in rows), "nowhere"])
    assert len(rows) > 100 and all(at in found[name] for at, _, name in rows)
    assert "nowhere" not in found
    assert all(elf.function_at(at + size - 1) == name for at, size, name in functions)
    assert elf.function_at(0) == ""


# Cores


def shape(snapshot: Snapshot) -> tuple[object, ...]:
    """Everything that a reading of the same instant must have in common."""
    return snapshot._replace(
        target=snapshot.target._replace(kind="", pid=0, layout="", host="", command=""),
        capture=Capture(0, 0, 0, 0, 0, True),
    )


def test_a_core_equals_the_live_reading(dump: Dump) -> None:
    core = Core(dump.path)
    snapshot = read(core)
    assert shape(snapshot) == shape(dump.live)
    assert snapshot.target.kind == "core"
    # A core keeps the beginning of the command line alone.
    assert dump.live.target.command.startswith(snapshot.target.command)
    assert snapshot.target.pid == dump.live.target.pid
    report = check(snapshot)
    assert report.exact == report.objects and not report.findings
    core.close()


def test_a_core_with_its_program_named(dump: Dump) -> None:
    core = Core(dump.path, shutil.which("qemu-system-x86_64"))
    assert shape(read(core)) == shape(dump.live)


def test_a_core_of_another_program_is_refused(dump: Dump, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(elf_file({"current_machine": 0x1234}))
    for exe in (other, sys.executable):
        with pytest.raises(TargetError, match="is not the program that") as caught:
            Core(dump.path, exe)
        assert "--exe" in caught.value.hint


def test_a_program_that_is_not_there(dump: Dump, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="cannot be read"):
        Core(dump.path, tmp_path / "missing")
    with pytest.raises(TargetError, match="not an ELF file"):
        (tmp_path / "text").write_text("hello")
        Core(dump.path, tmp_path / "text")


def test_what_is_no_core(dump: Dump, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="is a program, not a core dump"):
        Core(sys.executable)
    with pytest.raises(TargetError, match="cannot be read"):
        Core(tmp_path / "missing")
    with pytest.raises(TargetError, match="cannot be read"):
        Core(tmp_path)
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(TargetError, match="not an ELF file"):
        Core(tmp_path / "empty")


def test_a_truncated_core_is_said_to_be_one(dump: Dump, tmp_path: Path) -> None:
    data = map_file(dump.path)
    cut = tmp_path / "cut"
    size = len(data)
    # What comes behind the memory, section headers, is not needed.
    end = max(s.offset + s.filesz for s in ElfFile(memoryview(data), "core").segments)
    shutil.copyfile(dump.path, cut)
    for length in (end - 1, end - 4096, size // 2, size // 4, 50_000, 5000, 1000, 100, 10):
        os.truncate(cut, length)
        with pytest.raises(TargetError, match=r"truncated|not an ELF file") as caught:
            Core(cut)
        assert str(cut) in caught.value.text


def test_a_core_with_damaged_notes_or_headers(dump: Dump, tmp_path: Path) -> None:
    data = bytearray(map_file(dump.path)[: 1 << 16])
    (phoff,) = struct.unpack_from("<Q", data, 32)
    (count,) = struct.unpack_from("<H", data, 56)
    notes = next(
        struct.unpack_from("<Q", data, phoff + i * 56 + 8)[0]
        for i in range(count)
        if struct.unpack_from("<I", data, phoff + i * 56)[0] == 4
    )
    path = tmp_path / "damaged"
    for at in (*range(16, 64, 4), *range(phoff, phoff + 112, 8), *range(notes, notes + 600, 4)):
        for word in (b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f"):
            changed = bytearray(data)
            changed[at : at + 4] = word
            path.write_bytes(changed)
            try:
                Core(path)
            except QmrError as error:
                assert error.text


def test_a_core_of_something_else_is_no_qemu(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; print(1, flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        subprocess.run(
            ["gcore", "-o", str(tmp_path / "core"), str(process.pid)],
            capture_output=True,
            check=True,
        )
    finally:
        process.communicate()
    with pytest.raises(TargetError, match="is not a QEMU system emulator"):
        read(Core(tmp_path / f"core.{process.pid}"))
