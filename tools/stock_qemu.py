#!/usr/bin/env python3
"""Provide QEMUs as Debian built them, of other releases than this machine's.

They need newer libraries than the machine has, so each is unpacked with all that it
depends on into a root of its own, and started there in a private mount namespace.  /tmp,
/dev, /proc, /sys, /run and the user's cache are the machine's own.

    tools/stock_qemu.py 10.0                      # prints the path of a program to start
    tools/stock_qemu.py 11.1 --target aarch64

What the archive serves moves on.  Where no release has the family any longer, the newest
QEMU that it serves is taken; stderr says which one it is.  Found again without a look at
the archive; ``--refresh`` looks.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import workshop
from archive import Archive
from workshop import Cache, Shell, ToolError, digest, remove, say, write_atomically

#: A family, and the releases that may have it, the best first.
SUITES = {"10.0": ("trixie",), "11.1": ("sid", "forky", "trixie-backports")}

TARGETS = ("x86_64", "aarch64", "arm")
PACKAGES = [
    *("qemu-system-x86", "qemu-system-arm", "qemu-system-modules-spice", "qemu-block-extra"),
    *("seabios", "ipxe-qemu"),
]
# What Mesa loads when it draws; nothing is linked to it, and it is half of all.
NEEDLESS = r"mesa-libgallium|libllvm\d|libz3-|libclc-"

SHARED = ("/dev", "/proc", "/sys", "/run", "/tmp", "/var/tmp")

# unshare(1), mount(8) and chroot(8) of the machine; the process stays the same throughout.
LAUNCHER = """\
#!/bin/sh
# Starts {program} in a root of its own.
export QMR_ROOT={root}
[ "$(id -u)" = 0 ] || set -- --user --map-root-user "$@"
exec unshare --mount --propagation private /bin/sh -c '
for directory in {shared} "${{TMPDIR:-/tmp}}"; do
    mkdir -p "$QMR_ROOT$directory"
    mount --rbind "$directory" "$QMR_ROOT$directory" || exit 126
done
exec chroot "$QMR_ROOT" {program} "$@"' {program} "$@"
"""


class Stock:
    """The emulators of one family, in one root.

    :param family: a key of :data:`SUITES`.
    """

    def __init__(self, family: str) -> None:
        self.family = family
        self.cache = Cache()
        self.index = self.cache.root / "index" / f"stock-{family}-{self._recipe()}"

    @staticmethod
    def _recipe() -> str:
        return digest(*PACKAGES, NEEDLESS, LAUNCHER)

    def provide(self, refresh: bool) -> Path:
        """Return the directory with ``bin`` and ``root``; make it where there is none.

        :raises ToolError: when the archive serves no QEMU of these releases.
        """
        found = None if refresh else self._known()
        if found:
            return found
        with self.cache.locked() as lock:
            found = None if refresh else self._known()
            if found:
                return found
            started = time.monotonic()
            shell = Shell(self.cache.root / f"stock-{self.family}.log", lock)
            found, suite = self._make(shell)
            write_atomically(self.index, found.name + "\n")
            self._prune(found)
            took = time.monotonic() - started
            say(f"stock QEMU {self._version(found)} of {suite}: {took:.0f} s")
            return found

    def _known(self) -> Path | None:
        try:
            place = self.cache.root / "stock" / self.index.read_text().strip()
        except OSError:
            return None
        return place if place.is_dir() else None

    def _make(self, shell: Shell) -> tuple[Path, str]:
        """Take the first release that serves the family, else the newest QEMU of any."""
        trouble: ToolError | None = None
        for family in (self.family, ""):
            for suite in SUITES[self.family]:
                archive = Archive(shell, self.cache.root, suite)
                try:
                    versions = archive.binaries("qemu-system-x86", family)
                    if not versions:
                        continue
                    version = versions[0].split(":", 1)[-1]
                    place = self.cache.root / "stock" / f"{version}-{self._recipe()}"
                    if not place.is_dir():
                        self._unpack(shell, archive, place)
                    return place, suite
                except ToolError as error:
                    trouble = error
        raise ToolError(
            f"no Debian archive of this machine's apt has QEMU {self.family} or a newer one"
            + (f": {trouble}" if trouble else "")
        )

    def _unpack(self, shell: Shell, archive: Archive, place: Path) -> None:
        say("download and unpack a QEMU and its libraries")
        packages = archive.download_closure(PACKAGES, NEEDLESS)
        partial = place.with_name(place.name + ".partial")
        remove(partial)
        root = partial / "root"
        # Where / is merged into /usr, no package has these links but base-files.
        for name in ("bin", "lib", "lib64", "sbin"):
            (root / "usr" / name).mkdir(parents=True)
            (root / name).symlink_to(f"usr/{name}")
        for package in packages:
            shell.run("dpkg-deb", "--extract", package, root)
        # An installed QEMU has its firmware in ../share: what starts QEMUs looks there.
        (partial / "share").symlink_to("root/usr/share")
        (partial / "bin").mkdir()
        for target in TARGETS:
            self._write_launcher(partial / "bin" / f"qemu-system-{target}", place / "root")
        os.replace(partial, place)
        remove(packages[0].parent)

    def _write_launcher(self, launcher: Path, root: Path) -> None:
        program = f"/usr/bin/{launcher.name}"
        if not (launcher.parent.parent / "root" / program[1:]).is_file():
            raise ToolError(f"the packages {', '.join(PACKAGES)} have no {program}")
        # What tests give to a QEMU is in these, and in TMPDIR.
        shared = shlex.join([*SHARED, str(self.cache.root.parent)])
        text = LAUNCHER.format(program=program, root=shlex.quote(str(root)), shared=shared)
        launcher.write_text(text)
        launcher.chmod(0o755)

    def _version(self, place: Path) -> str:
        return place.name.rpartition("-")[0]

    def _prune(self, keep: Path) -> None:
        """Drop this family's other roots."""
        family = re.compile(rf"{re.escape(self.family)}[.+~-]")
        for place in keep.parent.iterdir():
            if place != keep and family.match(place.name):
                remove(place)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = workshop.parser_of(__doc__)
    parser.add_argument("version", choices=sorted(SUITES))
    parser.add_argument("--target", choices=TARGETS, default=TARGETS[0])
    parser.add_argument("--refresh", action="store_true", help="look for a newer QEMU")
    options = parser.parse_args(arguments)
    program = Path("bin") / f"qemu-system-{options.target}"
    return workshop.main(lambda: [Stock(options.version).provide(options.refresh) / program])


if __name__ == "__main__":
    sys.exit(main())
