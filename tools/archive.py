"""What the Debian archive of this machine's apt serves of one release.

Works on private lists, so that neither root nor a change of the machine's sources is
needed.  Which archive that is, and how it is reached, is apt's own configuration.
"""

from __future__ import annotations

import functools
import re
import subprocess
from pathlib import Path
from urllib.parse import unquote

from workshop import Shell, ToolError, remove, say

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
APT_HELPER = "/usr/lib/apt/apt-helper"


class Archive:
    """One release.

    :param root: where private lists and downloads are kept.
    :param suite: its codename.
    """

    def __init__(self, shell: Shell, root: Path, suite: str) -> None:
        self._shell = shell
        self._root = root / "apt" / suite
        self._suite = suite
        self._options: list[str] = []

    def sources(self, package: str, family: str) -> list[str]:
        """Return the versions of a source package that begin with ``family``, newest first.

        :raises ToolError: when no archive of this machine has the release.
        """
        self._open("deb-src")
        listing = self._apt_cache("showsrc", "--only-source", package)
        return self._versions(r"^Version: (\S+)$", listing, family)

    def download_source(self, package: str, version: str) -> Path:
        """Download one of :meth:`sources`; return its ``.dsc``.

        :raises ToolError: when the archive lists and does not serve it.
        """
        directory = self._download()
        self._apt_get(
            "source", "--only-source", "--download-only", f"{package}={version}", cwd=directory
        )
        return next(directory.glob("*.dsc"))

    def download_pinned(self, pool: str, files: dict[str, str]) -> Path:
        """Download files that no index lists any longer; return the ``.dsc`` among them.

        :param pool: their directory in the archive.
        :param files: name to SHA-256, which stands for the signature of an index.
        """
        uris = self._uris()
        directory = self._download()
        for uri in uris:
            try:
                for name, sha256 in files.items():
                    target = directory / name
                    source = f"{uri.rstrip('/')}/{pool}/{name}"
                    self._helper("download-file", source, str(target), f"SHA256:{sha256}")
                return next(directory.glob("*.dsc"))
            except ToolError:
                if uri == uris[-1]:
                    raise
        raise self._unknown()

    def binaries(self, package: str, family: str) -> list[str]:
        """Return the versions of a binary package that begin with ``family``, newest first.

        :param family: ``""`` for all.
        :raises ToolError: when no archive of this machine has the release.
        """
        self._open("deb")
        listing = self._apt_cache("madison", package)
        return self._versions(r"^[^|]*\|\s*(\S+)", listing, family)

    def download_closure(self, packages: list[str], but: str) -> list[Path]:
        """Download packages with all that they depend on, as on a machine that has nothing.

        To be called after :meth:`binaries`.

        :param but: a pattern of names of packages to leave out.
        :raises ToolError: when the archive does not serve one of them.
        """
        directory = self._download()
        nothing = ("-o", "Dir::State::Status=/dev/null", "--target-release", self._suite)
        plan = ("--no-install-recommends", "--print-uris", "--yes", "install")
        listing = unquote(self._apt_get(*nothing, *plan, *packages))
        wanted = re.findall(r"^'\S+' ([^_ ]+)_([^_ ]+)_\w+\.deb ", listing, re.MULTILINE)
        names = [f"{name}={version}" for name, version in wanted if not re.match(but, name)]
        self._apt_get(*nothing, "download", *names, cwd=directory)
        return sorted(directory.glob("*.deb"))

    def _versions(self, pattern: str, listing: str, family: str) -> list[str]:
        found = set(re.findall(pattern, listing, re.MULTILINE))
        right = re.compile(rf"(\d+:)?{re.escape(family)}[.+~-]" if family else "")

        def newer(one: str, other: str) -> int:
            command = ("dpkg", "--compare-versions", one, "gt", other)
            return -1 if subprocess.run(command, check=False).returncode == 0 else 1

        return sorted(filter(right.match, found), key=functools.cmp_to_key(newer))

    def _download(self) -> Path:
        directory = self._root / "download"
        remove(directory)
        directory.mkdir(parents=True)
        return directory

    def _open(self, kind: str) -> None:
        """Fetch the release's list, from the first archive that has it."""
        uris = self._uris()
        for uri in uris:
            say(f"looking for QEMU in {self._suite}")
            try:
                return self._update(kind, uri)
            except ToolError:
                if uri == uris[-1]:
                    raise
        raise self._unknown()

    def _unknown(self) -> ToolError:
        return ToolError(
            f"apt knows no Debian archive with QEMU in {self._suite}: "
            "add Debian's main archive to its sources"
        )

    def _uris(self) -> list[str]:
        # The archive that has this machine's own release has the others as well.
        codename = re.search(r"^VERSION_CODENAME=(\S+)", Path("/etc/os-release").read_text(), re.M)
        fields = "$(REPO_URI)|$(RELEASE)|$(CODENAME)|$(COMPONENT)|$(ORIGIN)"
        query = ("indextargets", "--format", fields, "Created-By: Packages")
        self._options = []
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

    def _update(self, kind: str, uri: str) -> None:
        self._options = self._private()
        sources = self._root / f"{kind}.list"
        # Backports depend on what they are for.
        suites = dict.fromkeys((self._suite, self._suite.removesuffix("-backports")))
        lines = [f"{kind} [signed-by={KEYRING}] {uri} {suite} main\n" for suite in suites]
        sources.write_text("".join(lines))
        self._options += ["-o", f"Dir::Etc::SourceList={sources}"]
        self._options += ["-o", "Dir::Etc::SourceParts=/dev/null"]
        self._options += ["-o", "APT::Update::Error-Mode=any"]
        self._apt_get("update")

    def _apt_get(self, *arguments: str, cwd: Path | None = None) -> str:
        # What the archive does not have is no failure: another release may have it.
        command = ("apt-get", "--quiet", *self._options, *arguments)
        return self._shell.run(*command, cwd=cwd, tell=False)

    def _apt_cache(self, *arguments: str) -> str:
        return self._shell.run("apt-cache", *self._options, *arguments, tell=False)

    def _helper(self, *arguments: str) -> str:
        return self._shell.run(APT_HELPER, *self._options, *arguments, tell=False)
