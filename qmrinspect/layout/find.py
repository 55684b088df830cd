"""Finding a layout
----------------

In order: the cache by build id, debug information (in the program, beside it, from a
server), the user's own files, and the profiles that ship with the package.  None is
believed before it has been validated against the process; a profile is named after the
QEMU it was made from and may well fit others.
"""

from __future__ import annotations

import contextlib
import json
import os
from binascii import crc32
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

from ..errors import LayoutError, UsageError
from ..target.image import Target
from .dwarf import DebugInfo
from .gdbchild import User
from .model import Layout, load, save
from .schema import SCHEMA

__all__ = [
    "SOURCES",
    "Wanted",
    "cache_directory",
    "cache_path",
    "candidates",
    "described",
    "given",
    "own_directory",
    "profiles",
]

_PROFILES = Path(__file__).parent / "profiles"
# A cached layout of another schema lacks fields; its name tells.  To import hashlib, for a better
# hash, takes longer than all else here.
_SCHEMA_ID = f"{crc32(json.dumps(SCHEMA, sort_keys=True).encode()):08x}"
# A directory of layouts that holds more is something else.
_OWN_MAX = 64


class Wanted:
    """A QEMU that a layout is wanted for.

    :param debug: its debug information.
    :param version: its version text, stored with what is cached.

    :ivar tried: in a line each, where no layout was found, and which did not fit.
    """

    def __init__(self, target: Target, debug: DebugInfo, version: str) -> None:
        self.target, self.debug, self.version = target, debug, version
        self.tried: list[str] = []


def cache_path(build_id: str, user: User = None) -> Path:
    """Return where the layout of a build is cached.

    :param user: whose program it was; what he says of it is believed of his alone.
    """
    whose = f"-uid{user[0]}" if user else ""
    return cache_directory() / "layouts" / f"{build_id}{whose}-{_SCHEMA_ID}.json"


def cache_directory() -> Path:
    """Return where qmr keeps what it can make anew."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "qmr"


def own_directory() -> Path:
    """Return the directory of the user's own layouts."""
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return Path(base) / "qmr" / "layouts"


def profiles() -> list[Path]:
    """Return the profiles that ship with the package."""
    return sorted(_PROFILES.glob("*.json"))


def described(debug: DebugInfo) -> str:
    """Say which layout a program has for certain, without reading it: cache, dwarf or ""."""
    build_id = debug.elf.build_id()
    if build_id:
        with contextlib.suppress(OSError, LayoutError):
            load(cache_path(build_id, debug.user), "cache")
            return "cache"
    return "dwarf" if debug.has_dwarf() else ""


def candidates(wanted: Wanted) -> Iterator[Layout]:
    """Yield layouts worth trying, best first."""
    for source in SOURCES:
        yield from source(wanted)


def given(path: Path) -> Layout:
    """Return the layout of a file that the user named.

    :raises UsageError: it cannot be read.
    :raises LayoutError: it is none.
    """
    if not path.is_file():
        raise UsageError(f"there is no layout file {path}", "qmr layout --save FILE writes one")
    return load(path, f"file:{path.stem}")


def _cached(wanted: Wanted) -> Iterator[Layout]:
    build_id = wanted.debug.elf.build_id()
    path = cache_path(build_id, wanted.debug.user)
    if not build_id or not path.exists():
        wanted.tried.append(f"cache: nothing for build id {build_id or 'none'}")
        return
    try:
        yield load(path, "cache")
    except LayoutError as error:
        wanted.tried.append(error.text)
        path.unlink(missing_ok=True)


def _described(wanted: Wanted) -> Iterator[Layout]:
    layout = wanted.debug.layout(wanted.version, wanted.tried.append)
    if layout is not None:
        if layout.build_id:
            remember(layout, cache_path(layout.build_id, wanted.debug.user))
        yield layout


def _own(wanted: Wanted) -> Iterator[Layout]:
    directory = own_directory()
    paths = sorted(directory.glob("*.json"))[:_OWN_MAX]
    if not paths:
        wanted.tried.append(f"your own layouts: none in {directory}")
    found = []
    for path in paths:
        try:
            found.append(load(path, f"file:{path.stem}"))
        except LayoutError as error:
            wanted.tried.append(error.text)
    build_id = wanted.debug.elf.build_id()
    # Those of this very build first.
    yield from sorted(found, key=lambda layout: not build_id or layout.build_id != build_id)


def _shipped(wanted: Wanted) -> Iterator[Layout]:
    # Which one fits is seen; the one of this version most likely does, and is tried first.
    for profile in sorted(profiles(), key=lambda p: p.stem.split("-")[-1] not in wanted.version):
        yield load(profile, f"profile:{profile.stem}")


#: Where layouts come from, best first.  Each yields what is worth trying and writes into
#: :attr:`Wanted.tried` what was not there.
SOURCES: tuple[Callable[[Wanted], Iterator[Layout]], ...] = (_cached, _described, _own, _shipped)


def remember(layout: Layout, path: Path) -> None:
    """Cache a layout; a cache that cannot be written is none."""
    try:
        save(layout, path)
    except OSError:
        return
