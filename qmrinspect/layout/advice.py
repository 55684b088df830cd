"""What to do without a layout
---------------------------

The errors of a QEMU that cannot be read: what was tried, a line each, and what its user
can do on his distribution.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

from ..errors import LayoutError, TargetError
from ..target.image import Target
from ..target.rooted import open_in_root
from ..tuples import NamedTuple
from .debugfiles import origin_of
from .find import Wanted, own_directory

__all__ = ["no_layout", "no_names"]

_OS_RELEASE_MAX = 1 << 16


class _Distribution(NamedTuple):
    """Where a distribution keeps the debug information of its programs.

    :param server: its debuginfod, empty where it has none.
    :param packages: the command that installs it, with a place for the kind of emulator.
    """

    server: str
    packages: str


_DISTRIBUTIONS = {
    "debian": _Distribution(
        "https://debuginfod.debian.net",
        "apt install qemu-system-{}-dbgsym (from the archive debian-debug)",
    ),
    "ubuntu": _Distribution(
        "https://debuginfod.ubuntu.com",
        "apt install qemu-system-{}-dbgsym (from the archive ddebs.ubuntu.com)",
    ),
    "fedora": _Distribution(
        "https://debuginfod.fedoraproject.org", "dnf debuginfo-install qemu-system-{}-core"
    ),
    "centos": _Distribution("https://debuginfod.centos.org", "dnf debuginfo-install qemu-kvm-core"),
    "rhel": _Distribution("", "dnf debuginfo-install qemu-kvm-core"),
    "opensuse": _Distribution("https://debuginfod.opensuse.org", "zypper install qemu-debuginfo"),
    "suse": _Distribution("https://debuginfod.opensuse.org", "zypper install qemu-debuginfo"),
    "arch": _Distribution("https://debuginfod.archlinux.org", ""),
}
# It asks the servers of many distributions.
_ANY = _Distribution("https://debuginfod.elfutils.org", "")
# How packages are called that are not called as the emulator is.
_KINDS = {"x86_64": "x86", "i386": "x86", "aarch64": "arm", "ppc64": "ppc", "s390x": "s390x"}


def no_layout(wanted: Wanted) -> LayoutError:
    """Return the error of a QEMU that no known layout fits."""
    target = wanted.target
    version = f", QEMU {wanted.version}" if wanted.version else ""
    return LayoutError(
        f"no known layout fits {target.exe}{version}",
        "qmr needs its debug information, or a layout that was made from it",
        [
            *_tried(wanted.tried),
            *_advice(target),
            "  you can: where a build of its source has debug information, qmr layout --save FILE,",
            f"           and here --layout FILE (or put FILE into {own_directory()})",
        ],
    )


def no_names(target: Target, tried: Iterable[str]) -> TargetError:
    """Return the error of a QEMU that names none of its variables.

    :param tried: where its symbols were looked for.
    """
    build_id = target.elf().build_id()
    place = f"/usr/lib/debug/.build-id/{build_id[:2]}/{build_id[2:]}.debug"
    return TargetError(
        f"{target.exe} is a QEMU that names none of its variables",
        "it was stripped of its symbols and built without modules; qmr needs its debug file",
        [
            *_tried(tried),
            *_advice(target),
            *([f"  you can: put its debug file to {place}"] if build_id else []),
        ],
    )


def _tried(lines: Iterable[str]) -> Iterator[str]:
    yield from (f"  tried: {line}" for line in dict.fromkeys(lines))


def _advice(target: Target) -> Iterator[str]:
    known = next((_DISTRIBUTIONS[word] for word in _words(target) if word in _DISTRIBUTIONS), _ANY)
    if not os.environ.get("DEBUGINFOD_URLS", "").strip() and known.server:
        yield f"  you can: export DEBUGINFOD_URLS={known.server}, and run qmr again"
    if known.packages:
        kind = os.path.basename(target.exe).partition("qemu-system-")[2] or "x86_64"
        yield f"  you can: {known.packages.format(_KINDS.get(kind, kind))}"


def _words(target: Target) -> list[str]:
    """Return what the distribution of a process calls itself, and what it is like."""
    try:
        fd, _ = open_in_root(origin_of(target).root, "/etc/os-release")
        with os.fdopen(fd, "rb") as file:
            text = file.read(_OS_RELEASE_MAX).decode("utf-8", "replace")
    except OSError:
        return []
    rows = dict(re.findall(r'^(ID|ID_LIKE)="?([^"\n]*)"?$', text, re.MULTILINE))
    words = f"{rows.get('ID', '')} {rows.get('ID_LIKE', '')}".split()
    return [word.partition("-")[0] for word in words]
