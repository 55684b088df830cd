"""Finding a layout
----------------

In order: the cache by build id, debug information, and the profiles that ship
with the package.  None is believed before it has been validated against the
process; a profile is named after the QEMU it was made from and may well fit others.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import LayoutError
from ..target.elf import ElfFile
from . import dwarf
from .model import Layout, load, save
from .schema import SCHEMA

__all__ = ["available", "cache_path", "candidates", "profiles"]

_PROFILES = Path(__file__).parent / "profiles"
# A cached layout of another schema lacks fields; its name tells.
_SCHEMA_ID = hashlib.sha256(json.dumps(SCHEMA, sort_keys=True).encode()).hexdigest()[:12]


def cache_path(build_id: str) -> Path:
    """Return where the layout of a build is cached."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "qmr" / "layouts" / f"{build_id}-{_SCHEMA_ID}.json"


def profiles() -> list[Path]:
    """Return the profiles that ship with the package."""
    return sorted(_PROFILES.glob("*.json"))


def candidates(elf: ElfFile, path: str, version: str) -> Iterator[Layout]:
    """Yield layouts worth trying, best first.

    :param path: where the program can be opened.
    :param version: its version text, stored with what is cached.
    """
    build_id = elf.build_id()
    cached = cache_path(build_id)
    if build_id and cached.exists():
        try:
            yield load(cached, "cache")
        except LayoutError:
            cached.unlink(missing_ok=True)
    if dwarf.has_debug_info(elf):
        try:
            layout = dwarf.from_program(path, build_id, version)
        except LayoutError:
            pass
        else:
            if build_id:
                remember(layout, cached)
            yield layout
    for profile in profiles():
        yield load(profile, f"profile:{profile.stem}")


def remember(layout: Layout, path: Path) -> None:
    """Cache a layout; a cache that cannot be written is none."""
    try:
        save(layout, path)
    except OSError:
        return


def available(elf: ElfFile, version: str) -> str:
    """Say in a word which layout a program will likely get, without reading any process.

    :param version: its version text.
    """
    if cache_path(elf.build_id()).exists():
        return "cache"
    if dwarf.has_debug_info(elf):
        return "dwarf"
    for profile in profiles():
        if load(profile, profile.stem).version.split()[:1] == version.split()[:1]:
            return f"profile:{profile.stem}"
    return "any profile that fits"
