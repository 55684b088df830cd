"""Layouts from debug information
------------------------------

GDB reads the DWARF, so that separate debug files, ``dwz`` and debuginfod work as
they do for everybody else.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import LayoutError
from ..target.elf import ElfFile
from .model import Layout, from_json

__all__ = ["debug_file", "from_program", "has_debug_info", "instance_structs", "lines"]

_TIMEOUT_S = 300
_DEBUG_DIRECTORY = Path("/usr/lib/debug/.build-id")


def has_debug_info(elf: ElfFile) -> bool:
    """Whether it is worth asking GDB: DWARF in the file, beside it, or on a server."""
    if elf.has_section(".debug_info") or os.environ.get("DEBUGINFOD_URLS"):
        return True
    return debug_file(elf) is not None


def debug_file(elf: ElfFile) -> Path | None:
    """Return the file beside a stripped one that has its debug information, None for none."""
    build_id = elf.build_id()
    path = _DEBUG_DIRECTORY / build_id[:2] / f"{build_id[2:]}.debug"
    return path if build_id and path.exists() else None


def from_program(path: str, build_id: str, version: str) -> Layout:
    """Let GDB read the structures of a program.

    :param path: where the program can be opened, ``/proc/PID/exe`` say.
    :raises LayoutError: when there is no GDB, or no debug information.
    """
    data = _ask_gdb(path, "dump_layout")
    data.update(build_id=build_id, version=version)
    layout = from_json(data, "dwarf")
    missing = layout.missing()
    if missing:
        raise LayoutError(f"the debug information of {path} lacks {', '.join(missing[:5])}")
    return layout


def instance_structs(path: str) -> dict[str, Any]:
    """Let GDB name every field of every structure that begins with an ``Object``.

    :param path: where the program can be opened.
    :return: by structure: ``size``, ``first`` (the structure at its start) and ``fields``
        as [offset, size, name, stride] in bytes.
    :raises LayoutError: when there is no GDB, or no debug information.
    """
    return _ask_gdb(path, "dump_instance_structs")


def lines(path: str, addresses: Sequence[int]) -> dict[str, Any]:
    """Let GDB name the source of addresses.

    :param path: where the program can be opened.
    :param addresses: link-time.
    :return: by address: function, file, line; what GDB does not know is left out.
    :raises LayoutError: when there is no GDB, or no debug information.
    """
    return _ask_gdb(path, "dump_lines", list(addresses))


def _ask_gdb(path: str, function: str, *arguments: object) -> dict[str, Any]:
    """Have GDB open a program and run a function of the GDB front that writes JSON."""
    gdb = shutil.which("gdb")
    if gdb is None:
        raise LayoutError("GDB is needed to read debug information", "apt-get install gdb")
    package = str(Path(__file__).resolve().parents[2])
    with tempfile.TemporaryDirectory(prefix="qmr-") as directory:
        out = Path(directory) / "out.json"
        script = (
            f"import sys; sys.path.insert(0, {package!r}); "
            f"from qmrinspect.fronts.gdb import structs; "
            f"structs.{function}({', '.join(map(repr, (str(out), *arguments)))})"
        )
        command = [gdb, "-nx", "-batch", "-iex", "set auto-load no", "-ex", f"python {script}"]
        try:
            done = subprocess.run(
                [*command, path],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise LayoutError(f"GDB took longer than {_TIMEOUT_S} s to read {path}") from None
        try:
            data: dict[str, Any] = json.loads(out.read_text())
        except (OSError, ValueError):
            last = (done.stderr.strip().splitlines() or ["it wrote nothing"])[-1]
            raise LayoutError(f"GDB could not read the structures of {path}: {last}") from None
    return data
