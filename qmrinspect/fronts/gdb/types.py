"""Types for a stripped QEMU
-------------------------

Where GDB has no debug information, it gets the structures of the layout under which
qmr reads: ``print *(Object *) 0x55...`` shows the fields that the layout knows.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import gdb

from ...errors import TargetError
from ...layout import Layout
from ...layout.find import cache_directory
from ...layout.typefile import type_file
from .targets import ask

__all__ = ["give_types", "known_type"]

# By program space, what was loaded into it; a space is gone when its number comes anew.
_loaded: dict[gdb.Progspace, str] = {}


def known_type(name: str) -> gdb.Type | None:
    """Return a structure that GDB knows, None when it knows none of that name."""
    for text in (name, f"struct {name}"):
        try:
            return gdb.lookup_type(text)
        except gdb.error:
            continue
    return None


def give_types(layout: Layout) -> None:
    """Load the structures of a layout, unless GDB knows those of the program itself."""
    space = gdb.current_progspace()
    if space is None:
        return
    raw = type_file(layout)
    path = cache_directory() / "types" / f"{hashlib.sha256(raw).hexdigest()[:24]}.o"
    before = _loaded.pop(space, None)
    if before is not None:
        if before == str(path):
            _loaded[space] = before
            return
        _silently(f"remove-symbol-file {before}")
    if known_type("Object") is not None:
        return
    place = _written(path, raw)
    if _silently(f"add-symbol-file {place}"):
        _loaded[space] = str(place)


def _written(path: Path, raw: bytes) -> Path:
    """Write a file that GDB may read as long as it runs."""
    try:
        if not path.exists() or path.read_bytes() != raw:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            part.write_bytes(raw)
            part.replace(path)
    except OSError:
        with tempfile.NamedTemporaryFile(prefix="qmr-types-", suffix=".o", delete=False) as file:
            file.write(raw)
        return Path(file.name)
    return path


def _silently(command: str) -> bool:
    try:
        ask(f"with confirm off -- {command}")
    except TargetError:
        return False
    return True
