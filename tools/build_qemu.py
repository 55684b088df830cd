#!/usr/bin/env python3
"""Build a QEMU with debug symbols from the distribution's own source package.

Debian ships no debug symbols with its QEMU.  This builds one for tests, layout
profiles and experiments: KVM and TCG, what qmr's catalogue can plug, DWARF in the
binary.  Nothing but the path of the binary goes to stdout.

    tools/build_qemu.py 7.2                           # bookworm's source package
    tools/build_qemu.py 11.1 --target aarch64         # another emulator of the same tree
    tools/build_qemu.py 10.0 --policy owner-shared    # the same, one patch applied

The result is kept outside the repository, by source version and by a hash of the
recipe, and found again without a look at the archive.  Of a family the newest version
that the archive lists and serves is taken, else one pinned by its SHA-256.  ``--policy``
applies ``tools/patches/VERSION-POLICY.patch`` and compiles only what that touches; the
policies are those of the reference ledger, and ``owner-ref`` is the source as it is.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import workshop
from archive import Archive
from workshop import Cache, Shell, ToolError, copy_atomically, digest, remove, say, write_atomically

HERE = Path(__file__).resolve().parent
TARGETS = ("x86_64", "aarch64")
AS_IT_IS = "owner-ref"
POLICIES = (AS_IT_IS, "subregion-ref", "subregion-ref-v7", "owner-shared", "strict", "no-ref")
POOL = "pool/main/q/qemu"

# The source package carries no firmware; Debian's own packages install it here.
FIRMWARE = "/usr/share/seabios:/usr/share/qemu:/usr/lib/ipxe/qemu"

# All QEMUs need a newer meson than bookworm has or an older one than pip would choose; the
# configure of some still imports pkg_resources, gone in setuptools 81, or wants pycotap.
PIP = ("meson==1.5.2", "pycotap", "setuptools<81", "wheel")

# What stands behind devices and backends that can be plugged; and what changes structures,
# as in the distribution's own builds, whose profiles are made from these.
FEATURES = (
    "alsa attr bochs brlapi cap-ng cloop curl dmg gio gnutls keyring l2tpv3 libiscsi libnfs "
    "libssh libusb linux-aio linux-io-uring multiprocess numa oss parallels plugins png qcow1 "
    "qed replication slirp smartcard spice spice-protocol tpm usb-redir vde vdi vhost-crypto "
    "vhost-kernel vhost-net vhost-user vhost-vdpa virtfs vnc vnc-jpeg vnc-sasl vvfat"
).split()
NEWER_FEATURES = "colo-proxy hv-balloon libkeyutils pixman vhdx vmdk vpc".split()

CONFIGURE = (
    "--target-list=" + ",".join(f"{target}-softmmu" for target in TARGETS),
    "--without-default-features",
    "--enable-system",
    "--enable-debug-info",
    "--enable-kvm",
    "--enable-tcg",
    "--enable-fdt=system",
    "--disable-docs",
    "--disable-werror",
    "--disable-install-blobs",
    f"--firmwarepath={FIRMWARE}",
)


@dataclass(frozen=True)
class Recipe:
    """One family of QEMUs that can be built.

    :param suites: codenames of the Debian releases that may have it, the best first.
    :param configure: more arguments for QEMU's ``configure``; ``{venv}`` is
        replaced by the directory of the private virtual environment.
    :param features: more names of what to enable.
    :param pinned: version to its files and their SHA-256, for when no index lists what
        the archive serves.
    """

    suites: tuple[str, ...]
    configure: tuple[str, ...]
    features: Sequence[str] = ()
    pinned: Mapping[str, dict[str, str]] = field(default_factory=dict)

    def arguments(self) -> list[str]:
        """All arguments of ``configure``."""
        features = [f"--enable-{name}" for name in (*FEATURES, *self.features)]
        return [*CONFIGURE, *features, *self.configure]


_NEWER = ("--python={venv}/bin/python3",)

RECIPES = {
    # 7.2 needs pixman and has no option for it; given --python it runs meson
    # with an interpreter that does not know the venv's packages.
    "7.2": Recipe(("bookworm",), ("--meson={venv}/bin/meson",)),
    "10.0": Recipe(("trixie",), _NEWER, NEWER_FEATURES),
    "10.2": Recipe(("sid", "forky"), _NEWER, (*NEWER_FEATURES, "passt")),
    "11.1": Recipe(
        ("sid", "forky", "trixie-backports"),
        _NEWER,
        (*NEWER_FEATURES, "passt"),
        {
            "11.1.1+ds-1": {
                "qemu_11.1.1+ds-1.dsc": (
                    "dfd4fbdd38517e2467002091bbcd938bbff8b2c851cc3f56b019236c7d1f21da"
                ),
                "qemu_11.1.1+ds.orig.tar.xz": (
                    "0b1376e75dbe3e2fea4e408f8669f88a723f419f36a5b7d74cc6a4cfe07e4f5e"
                ),
                "qemu_11.1.1+ds-1.debian.tar.xz": (
                    "870a1193f28ce522ac91f68100d75dce5527e08d8958344b389c9fa24b44968f"
                ),
            }
        },
    ),
}


class Source(NamedTuple):
    """A source package.

    :param dsc: what was downloaded, None where its binary or its tree is there already.
    :param why: why it is not the newest one that is listed, or "".
    """

    version: str
    dsc: Path | None
    why: str = ""


class Builder:
    """One emulator of one version under one policy.

    :param family: a key of :data:`RECIPES`.
    :param target: one of :data:`TARGETS`.
    :param policy: one of :data:`POLICIES`.
    :raises ToolError: when there is no patch for that policy.
    """

    def __init__(self, family: str, target: str, policy: str) -> None:
        self.family = family
        self.recipe = RECIPES[family]
        self.program = f"qemu-system-{target}"
        self.policy = policy
        self.cache = Cache()
        self.patch: Path | None = None
        if policy != AS_IT_IS:
            self.patch = HERE / "patches" / f"{family}-{policy}.patch"
            if not self.patch.is_file():
                raise ToolError(f"QEMU {family} has no patch for policy {policy}: {self.patch}")
        self.tree_hash = digest(*self.recipe.arguments(), *PIP)
        self.patch_hash = digest(self.patch.read_text()) if self.patch else "as-is"
        name = f"{family}-{target}-{policy}-{self.tree_hash}-{self.patch_hash}"
        self.index = self.cache.root / "index" / name

    def cached(self) -> Path | None:
        """The binary that this recipe built last, if it is still there."""
        try:
            binary = self.binary(self.index.read_text().strip())
        except OSError:
            return None
        return binary if binary.is_file() else None

    def binary(self, version: str) -> Path:
        key = f"{version}-{self.tree_hash}"
        return self.cache.root / "bin" / key / f"{self.policy}-{self.patch_hash}" / self.program

    def tree(self, version: str) -> Path:
        return self.cache.root / "tree" / f"{self.family}-{version}-{self.tree_hash}"

    def build(self, refresh: bool) -> Path:
        """Give the binary; build it where the cache has none.

        :param refresh: look for a newer source package first.
        """
        found = None if refresh else self.cached()
        if found:
            return found
        check_packages()
        with self.cache.locked() as lock:
            found = None if refresh else self.cached()
            if found:
                return found
            started = time.monotonic()
            shell = Shell(self.cache.root / f"{self.family}-{self.policy}.log", lock)
            # Where anything of this version was built, the others use its source.
            version = None if refresh else self.known_version()
            source = Source(version, None) if version else self.find(shell)
            binary = self.binary(source.version)
            if not binary.is_file():
                tree = self.tree(source.version)
                self.prepare(shell, tree, source)
                self.compile(shell, tree, binary)
                self.prune(tree)
            write_atomically(self.index, source.version + "\n")
            why = f" ({source.why})" if source.why else ""
            took = time.monotonic() - started
            say(f"QEMU {source.version}{why}, {self.program}, policy {self.policy}: {took:.0f} s")
            return binary

    def known_version(self) -> str | None:
        """The version of the finished source tree of this recipe, newest first."""
        trees = self.cache.root / "tree"
        pattern = re.compile(rf"{re.escape(self.family)}-(.+)-{self.tree_hash}")
        ready = [p for p in trees.glob("*") if (p / "src").is_dir() and pattern.fullmatch(p.name)]
        if not ready:
            return None
        newest = max(ready, key=lambda p: (p / "src").stat().st_ctime)
        match = pattern.fullmatch(newest.name)
        return match[1] if match else None

    def find(self, shell: Shell) -> Source:
        """Take the newest version that is listed and served, else a pinned one."""
        missing: list[str] = []
        trouble: ToolError | None = None
        archives = [Archive(shell, self.cache.root, suite) for suite in self.recipe.suites]
        for archive in archives:
            try:
                listed = archive.sources("qemu", self.family)
            except ToolError as error:
                trouble = error
                continue
            for epoch_version in listed:
                version = epoch_version.split(":", 1)[-1]
                if version in missing:
                    continue
                try:
                    return self.take(version, missing, archive, epoch_version)
                except ToolError as error:
                    trouble = error
                    missing.append(version)
        for version, files in self.recipe.pinned.items():
            try:
                return self.take(version, missing, archives[0], files)
            except ToolError as error:
                trouble = error
        raise ToolError(
            f"no Debian archive of this machine's apt has the source of QEMU {self.family}"
            + (f": {trouble}" if trouble else "")
        )

    def take(
        self, version: str, missing: list[str], archive: Archive, source: str | dict[str, str]
    ) -> Source:
        """Download a version, if it is not there already."""
        why = "which the archive serves, unlike " + " and ".join(missing) if missing else ""
        if self.binary(version).is_file() or (self.tree(version) / "src").is_dir():
            return Source(version, None, why)
        say(f"download the source of QEMU {version}")
        if isinstance(source, str):
            return Source(version, archive.download_source("qemu", source), why)
        return Source(version, archive.download_pinned(POOL, source), why)

    def prepare(self, shell: Shell, tree: Path, source: Source) -> None:
        """Unpack and configure; each step counts only once it is complete."""
        src, build, configured = tree / "src", tree / "build", tree / "configured"
        if not src.is_dir():
            remove(tree)
            tree.mkdir(parents=True)
            assert source.dsc is not None
            partial = tree / "src.partial"
            shell.run("dpkg-source", "--no-copy", "--extract", source.dsc, partial)
            os.replace(partial, src)
            remove(source.dsc.parent)
        venv = self.meson(shell)
        shell.env["PATH"] = f"{venv}/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        if not configured.is_file():
            remove(build)
            build.mkdir()
            say("configure")
            options = [option.format(venv=venv) for option in self.recipe.arguments()]
            shell.run(src / "configure", *options, cwd=build)
            configured.touch()

    def meson(self, shell: Shell) -> Path:
        """A virtual environment with a meson that suits every recipe."""
        venv = self.cache.root / ("meson-" + digest(*PIP))
        ready = venv / "ready"
        # A new Python of the system leaves an old environment without its packages.
        python = os.path.realpath("/usr/bin/python3")
        if not ready.is_file() or ready.read_text() != python:
            say("meson")
            remove(venv)
            shell.run("/usr/bin/python3", "-m", "venv", venv)
            shell.run(venv / "bin/pip", "install", "--quiet", *PIP)
            write_atomically(ready, python)
        return venv

    def compile(self, shell: Shell, tree: Path, binary: Path) -> None:
        """Patch, compile, keep the binary, restore the source."""
        pristine = Pristine(tree)
        pristine.restore()  # an interrupted run may have left its patch
        if self.patch:
            pristine.save(self.patch)
            shell.run("patch", "-p1", "--no-backup-if-mismatch", "-i", self.patch, cwd=tree / "src")
        say("compile (a few minutes the first time)")
        try:
            shell.run("ninja", self.program, cwd=tree / "build")
        finally:
            pristine.restore()
        copy_atomically(tree / "build" / self.program, binary)

    def prune(self, keep: Path) -> None:
        """Drop this version's other trees: their binaries stay, objects are large."""
        for tree in keep.parent.glob(f"{self.family}-*"):
            if tree != keep:
                remove(tree)


class Pristine:
    """Copies of the files that patches change, beside the source tree.

    They make a patched tree recoverable whenever a build was interrupted.
    """

    def __init__(self, tree: Path) -> None:
        self._source = tree / "src"
        self._copies = tree / "pristine"

    def save(self, patch: Path) -> None:
        for name in re.findall(r"^\+\+\+ b/(\S+)", patch.read_text(), re.MULTILINE):
            if not (self._copies / name).is_file():
                copy_atomically(self._source / name, self._copies / name)

    def restore(self) -> None:
        for copy in self._copies.rglob("*"):
            if copy.is_file() and copy.suffix != ".partial":
                target = self._source / copy.relative_to(self._copies)
                if target.read_bytes() != copy.read_bytes():
                    copy_atomically(copy, target)


def check_packages() -> None:
    """See that everything a build needs is installed.

    :raises ToolError: with the packages that are missing.
    """
    wanted = (HERE / "qemu-build-packages").read_text().split()
    try:
        answer = subprocess.run(
            ["dpkg-query", "-W", "-f", "${db:Status-Abbrev} ${Package}\n", *wanted],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=False,
        ).stdout
    except OSError as error:
        raise ToolError("this builds Debian's source package and needs a Debian") from error
    lines = [line.split() for line in answer.splitlines()]
    installed = {words[1] for words in lines if words[0] == "ii"}
    missing = [name for name in wanted if name not in installed]
    if missing:
        raise ToolError(
            "packages are missing, as root: apt-get install --no-install-recommends "
            + " ".join(missing)
        )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = workshop.parser_of(__doc__)
    parser.add_argument("version", choices=sorted(RECIPES))
    parser.add_argument("--target", choices=TARGETS, default=TARGETS[0])
    parser.add_argument("--policy", choices=POLICIES, default=AS_IT_IS)
    parser.add_argument("--refresh", action="store_true", help="look for a newer source package")
    options = parser.parse_args(arguments)

    def work() -> Iterator[object]:
        builder = Builder(options.version, options.target, options.policy)
        if os.environ.get("QMR_BUILD_QEMU") != "never":
            yield builder.build(options.refresh)
            return
        built = builder.cached()
        if built is None:
            raise ToolError(f"QEMU {options.version} is not built yet: run make qemus")
        yield built

    return workshop.main(work)


if __name__ == "__main__":
    sys.exit(main())
