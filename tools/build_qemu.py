#!/usr/bin/env python3
"""Build a QEMU with debug symbols from the distribution's own source package.

Debian ships no debug symbols with its QEMU.  This builds one for tests, layout
profiles and experiments: x86_64-softmmu, no optional features, KVM and TCG,
DWARF in the binary.  Nothing but the path of the binary goes to stdout.

    tools/build_qemu.py 7.2                           # bookworm's source package
    tools/build_qemu.py 10.0                          # trixie's
    tools/build_qemu.py 10.0 --policy owner-shared    # the same, one patch applied

The result is kept outside the repository, by source version and by a hash of the
recipe, and found again without a look at the archive.  ``--policy`` applies
``tools/patches/VERSION-POLICY.patch`` and compiles only what that touches; the
policies are those of the reference ledger, and ``owner-ref`` is the source as it is.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
BINARY = "qemu-system-x86_64"
UNPATCHED = "owner-ref"
POLICIES = (UNPATCHED, "subregion-ref", "owner-shared", "strict", "no-ref")

# The source package carries no firmware; Debian's own packages install it here.
FIRMWARE = "/usr/share/seabios:/usr/share/qemu:/usr/lib/ipxe/qemu"

# Both QEMUs need a newer meson than bookworm has or an older one than pip would
# choose, and their configure still imports pkg_resources, gone in setuptools 81.
PIP = ("meson==1.5.2", "setuptools<81", "wheel")

CONFIGURE = (
    "--target-list=x86_64-softmmu",
    "--without-default-features",
    "--enable-system",
    "--enable-debug-info",
    "--enable-kvm",
    "--enable-tcg",
    "--enable-fdt=system",
    "--enable-vhost-user",
    # With what changes the layout of the VNC server's structures: the profile of the
    # distribution's own build is made from this one.
    "--enable-vnc",
    "--enable-vnc-sasl",
    "--enable-vnc-jpeg",
    "--enable-png",
    "--disable-docs",
    "--disable-werror",
    "--disable-install-blobs",
    f"--firmwarepath={FIRMWARE}",
)

# Variables of a surrounding make or virtual environment that would leak into the build.
FOREIGN = ("CFLAGS", "CPPFLAGS", "LDFLAGS", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "NINJA_STATUS")
FOREIGN_PYTHON = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV")


@dataclass(frozen=True)
class Recipe:
    """One QEMU that can be built.

    :param suite: codename of the Debian release that has this version.
    :param configure: more arguments for QEMU's ``configure``; ``{venv}`` is
        replaced by the directory of the private virtual environment.
    """

    suite: str
    configure: tuple[str, ...]


RECIPES = {
    # 7.2 needs pixman and has no option for it; given --python it runs meson
    # with an interpreter that does not know the venv's packages.
    "7.2": Recipe("bookworm", ("--meson={venv}/bin/meson",)),
    "10.0": Recipe("trixie", ("--python={venv}/bin/python3", "--enable-pixman")),
}


class BuildError(Exception):
    """The build cannot go on; the text says what to do."""


def say(text: str) -> None:
    print(f"build_qemu: {text}", file=sys.stderr, flush=True)


def digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def write_atomically(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)


def copy_atomically(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    shutil.copyfile(source, partial)
    shutil.copymode(source, partial)
    os.replace(partial, target)


def remove(path: Path) -> None:
    """Remove a directory; a failure is one, since what is left would be used again."""
    if path.exists():
        shutil.rmtree(path)


class Shell:
    """Runs the commands of a build and keeps what they say in one log file.

    :param log: the file; it is started anew.
    :param lock: descriptor of the held lock.  The commands inherit it, so that
        the lock outlives a killed script for as long as its compiler runs.
    """

    def __init__(self, log: Path, lock: int) -> None:
        self.log = log
        self._lock = lock
        self.env = {k: v for k, v in os.environ.items() if k not in FOREIGN + FOREIGN_PYTHON}
        self.env["LC_ALL"] = "C.UTF-8"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("")

    def run(self, *command: str | Path, cwd: Path | None = None) -> str:
        """Run a command, show its ``[n/m]`` progress, and return its output.

        :raises BuildError: when it fails; the end of its output is shown.
        """
        words = [str(word) for word in command]
        lines: list[str] = []
        shown = time.monotonic()
        with self.log.open("a") as log:
            print("+", *words, file=log, flush=True)
            try:
                child = subprocess.Popen(
                    words,
                    cwd=cwd,
                    env=self.env,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    errors="replace",
                    pass_fds=(self._lock,),
                )
            except OSError as error:
                raise BuildError(f"cannot run {words[0]}: {error.strerror}") from error
            with child:
                assert child.stdout is not None
                for line in child.stdout:
                    lines.append(line)
                    log.write(line)
                    progress = re.match(r"\[(\d+)/(\d+)\]", line)
                    if progress and time.monotonic() - shown > 15:
                        shown = time.monotonic()
                        say(f"{progress[1]} of {progress[2]} steps")
        if child.returncode:
            for line in lines[-25:]:
                print("  " + line.rstrip(), file=sys.stderr)
            status = f"{words[0]} failed with status {child.returncode}"
            raise BuildError(f"{status}; its whole output is in {self.log}")
        return "".join(lines)


class Cache:
    """Where everything is kept.

    ========================  ====================================================
    ``index/RECIPE``          the source version that this recipe built last
    ``bin/KEY/``              finished binaries
    ``tree/KEY/src``, build   unpacked source and its build directory
    ``meson-HASH``            virtual environment that runs meson
    ``apt/SUITE``             private package lists
    ========================  ====================================================
    """

    def __init__(self) -> None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        self.root = Path(home) / "qmr" / "qemu"

    @contextlib.contextmanager
    def locked(self) -> Iterator[int]:
        """Hold the cache for one build at a time; gives the lock's descriptor."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("another build is running, waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield lock.fileno()


class Builder:
    """One version under one policy.

    :param family: a key of :data:`RECIPES`.
    :param policy: one of :data:`POLICIES`.
    :raises BuildError: when there is no patch for that policy.
    """

    def __init__(self, family: str, policy: str) -> None:
        self.family = family
        self.recipe = RECIPES[family]
        self.policy = policy
        self.cache = Cache()
        self.patch: Path | None = None
        if policy != UNPATCHED:
            self.patch = HERE / "patches" / f"{family}-{policy}.patch"
            if not self.patch.is_file():
                raise BuildError(f"QEMU {family} has no patch for policy {policy}: {self.patch}")
        configure = " ".join(CONFIGURE + self.recipe.configure)
        self.tree_hash = digest(self.recipe.suite, configure, " ".join(PIP))
        self.patch_hash = digest(self.patch.read_text()) if self.patch else "as-is"
        name = f"{family}-{policy}-{self.tree_hash}-{self.patch_hash}"
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
        return self.cache.root / "bin" / key / f"{self.policy}-{self.patch_hash}" / BINARY

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
            # Where any policy of this version was built, the others use its source.
            version = None if refresh else self.known_version()
            apt = None if version else Archive(shell, self.cache.root, self.recipe.suite)
            if apt:
                version = apt.version()
            assert version is not None
            binary = self.binary(version)
            if not binary.is_file():
                tree = self.cache.root / "tree" / f"{self.family}-{version}-{self.tree_hash}"
                self.prepare(shell, tree, apt)
                self.compile(shell, tree, binary)
                self.prune(tree)
            write_atomically(self.index, version + "\n")
            say(f"QEMU {version}, policy {self.policy}: {time.monotonic() - started:.0f} s")
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

    def prepare(self, shell: Shell, tree: Path, apt: Archive | None) -> None:
        """Unpack and configure; each step counts only once it is complete."""
        source, build, configured = tree / "src", tree / "build", tree / "configured"
        if not source.is_dir():
            remove(tree)
            tree.mkdir(parents=True)
            assert apt is not None
            apt.unpack(source)
        venv = self.meson(shell)
        shell.env["PATH"] = f"{venv}/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        if not configured.is_file():
            remove(build)
            build.mkdir()
            say("configure")
            more = [option.format(venv=venv) for option in self.recipe.configure]
            shell.run(source / "configure", *CONFIGURE, *more, cwd=build)
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
            shell.run("ninja", BINARY, cwd=tree / "build")
        finally:
            pristine.restore()
        copy_atomically(tree / "build" / BINARY, binary)

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


class Archive:
    """One release of the Debian archive that this machine's apt is set up for.

    Works on private lists, so that neither root nor a change of the machine's
    sources is needed.
    """

    def __init__(self, shell: Shell, root: Path, suite: str) -> None:
        self._shell = shell
        self._root = root / "apt" / suite
        self._suite = suite
        self._options: list[str] = []

    def version(self) -> str:
        """The source version of QEMU that the release has now.

        :raises BuildError: when no archive of this machine has one.
        """
        uris = self._uris()
        for uri in uris:
            say(f"looking for QEMU's source in {self._suite}")
            try:
                self._update(uri)
                listing = self._apt_get("source", "--download-only", "--print-uris", "qemu")
            except BuildError:
                if uri == uris[-1]:
                    raise
                continue
            found = re.search(r" qemu_(\S+)\.dsc ", listing)
            if found:
                return found[1]
        raise BuildError(
            f"apt knows no Debian archive with the source of QEMU in {self._suite}: "
            "add Debian's main archive to its sources"
        )

    def unpack(self, target: Path) -> None:
        """Download what :meth:`version` found and unpack it, whole or not at all."""
        download = self._root / "download"
        remove(download)
        download.mkdir(parents=True)
        say("download and unpack the source")
        self._apt_get("source", "--download-only", "qemu", cwd=download)
        dsc = next(download.glob("*.dsc"))
        partial = target.with_name(target.name + ".partial")
        remove(partial)
        self._shell.run("dpkg-source", "--no-copy", "--extract", dsc, partial, cwd=download)
        os.replace(partial, target)
        remove(download)

    def _uris(self) -> list[str]:
        # The archive that has this machine's own release has the others as well.
        codename = re.search(r"^VERSION_CODENAME=(\S+)", Path("/etc/os-release").read_text(), re.M)
        fields = "$(REPO_URI)|$(RELEASE)|$(CODENAME)|$(COMPONENT)|$(ORIGIN)"
        query = ("indextargets", "--format", fields, "Created-By: Packages")
        listing = self._apt_get(*query)
        if not listing.strip():
            # Images often come without package lists, and then apt tells nothing.
            self._options = self._private()
            self._apt_get("update")
            listing = self._apt_get(*query)
        uris: list[str] = []
        for line in listing.splitlines():
            uri, release, named, component, origin, *_ = [*line.split("|"), "", "", "", ""]
            debian = origin == "Debian" and component == "main"
            if debian and codename and codename[1] in (release, named) and uri not in uris:
                uris.append(uri)
        return uris

    def _private(self) -> list[str]:
        for name in ("lists/partial", "cache/archives/partial"):
            (self._root / name).mkdir(parents=True, exist_ok=True)
        settings = {
            "Dir::State::Lists": self._root / "lists",
            "Dir::Cache": self._root / "cache",
            # apt's own user may not enter this user's cache.
            "APT::Sandbox::User": "root",
        }
        return [word for k, v in settings.items() for word in ("-o", f"{k}={v}")]

    def _update(self, uri: str) -> None:
        self._options = self._private()
        sources = self._root / "sources.list"
        sources.write_text(f"deb-src [signed-by={KEYRING}] {uri} {self._suite} main\n")
        self._options += ["-o", f"Dir::Etc::SourceList={sources}"]
        self._options += ["-o", "Dir::Etc::SourceParts=/dev/null"]
        self._options += ["-o", "APT::Update::Error-Mode=any"]
        self._apt_get("update")

    def _apt_get(self, *arguments: str, cwd: Path | None = None) -> str:
        return self._shell.run("apt-get", "--quiet", *self._options, *arguments, cwd=cwd)


def check_packages() -> None:
    """See that everything a build needs is installed.

    :raises BuildError: with the packages that are missing.
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
        raise BuildError("this builds Debian's source package and needs a Debian") from error
    lines = [line.split() for line in answer.splitlines()]
    installed = {words[1] for words in lines if words[0] == "ii"}
    missing = [name for name in wanted if name not in installed]
    if missing:
        raise BuildError(
            "packages are missing, as root: apt-get install --no-install-recommends "
            + " ".join(missing)
        )


def main(arguments: Sequence[str] | None = None) -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("version", choices=sorted(RECIPES))
    parser.add_argument("--policy", choices=POLICIES, default=UNPATCHED)
    parser.add_argument("--refresh", action="store_true", help="look for a newer source package")
    options = parser.parse_args(arguments)
    try:
        print(Builder(options.version, options.policy).build(options.refresh))
    except (BuildError, OSError) as error:
        say(str(error))
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
