"""What a peer is
---------------

A directory, a server in this process, or a program of the host.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Callable

from ..errors import PeerMissing, TargetError

if TYPE_CHECKING:
    import subprocess

__all__ = [
    "DIRECTORY_PREFIX",
    "LOOPBACK",
    "Peer",
    "ProgramPeer",
    "SocketPeer",
    "find_program",
    "last_line",
]

#: How the name of every peer's directory begins.
DIRECTORY_PREFIX = "qmr-peer-"

#: A port of this machine that the kernel chooses, for :class:`SocketPeer`.
LOOPBACK = ("127.0.0.1", 0)

# How often a program that starts is looked at, in seconds.
_START_POLL = 0.005

# The Debian packages of programs that are not named like theirs.
_PACKAGES = {
    "certutil": "libnss3-tools",
    "monmaptool": "ceph-mon ceph-osd",
    "qemu-system-x86_64": "qemu-system-x86",
    "vde_switch": "vde-switch",
}


class Peer:
    """A directory with what a backend needs; :meth:`close` takes it away.

    :param name: of the file in it that the backend is given, None for the directory.
    :ivar path: what stands for ``{peer}``.
    :ivar names: what stands for ``{peer.NAME}``: what the peer calls what it serves.
    :ivar descriptor: the file descriptor that QEMU is given, None where it is given none.
    """

    descriptor: int | None = None

    def __init__(self, name: str | None = None) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=DIRECTORY_PREFIX))
        self.path = str(self.directory if name is None else self.directory / name)
        self.names: dict[str, str] = {}

    def close(self) -> None:
        """End what runs there and remove the files; harmless when repeated."""
        shutil.rmtree(self.directory, ignore_errors=True)


class SocketPeer(Peer):
    """A server in threads of this process, which ends with it.

    :param serve: talks to one client; what it raises when the client goes is ignored.
    :param address: the path of a unix socket, by default one in the directory of the peer;
        or the host and the port of an internet one, whose port ``path`` is then.
    :raises OSError: there can be no such socket.
    """

    def __init__(
        self,
        serve: Callable[[socket.socket], None],
        address: str | tuple[str, int] | None = None,
    ) -> None:
        super().__init__("socket")
        self._serve = serve
        self._clients: list[socket.socket] = []
        inet = isinstance(address, tuple)
        self._listener = socket.socket(socket.AF_INET if inet else socket.AF_UNIX)
        try:
            self._listener.bind(self.path if address is None else address)
            self._listener.listen(8)
        except OSError:
            self.close()
            raise
        name = self._listener.getsockname()
        self.path = str(name[1]) if inet else name
        threading.Thread(target=self._accept, name="qmr-peer", daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                self._clients.append(client)
                threading.Thread(target=self._talk, args=(client,), daemon=True).start()

    def _talk(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError), client:
            self._serve(client)

    def close(self) -> None:
        # A close alone would not wake the thread that waits in accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for client in self._clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        super().close()


class ProgramPeer(Peer):
    """A program of the host, which ends with this peer, and with this process at the latest.

    :param argv: its command line, for the directory of the peer.
    :param ready: whether it serves already, for that directory.
    :param timeout: seconds that it has for that.
    :param pass_fds: descriptors that it inherits.
    :raises PeerMissing: it is not installed, or does not come up.
    """

    def __init__(
        self,
        argv: Callable[[Path], list[str]],
        ready: Callable[[Path], bool],
        name: str | None = None,
        timeout: float = 5.0,
        pass_fds: tuple[int, ...] = (),
    ) -> None:
        super().__init__(name)
        self._process: subprocess.Popen[bytes] | None = None
        self._failure: str | None = None
        self._stderr = self.directory / "stderr"
        try:
            words = argv(self.directory)
            started = threading.Event()
            # It dies with the thread that starts it, and ours may be one of GDB's steps.
            command = [find_program(words[0]), *words[1:]]
            threading.Thread(
                target=self._keep, args=(command, pass_fds, started), daemon=True
            ).start()
            started.wait()
            self._wait(words[0], ready, timeout)
        except BaseException:
            self.close()
            raise

    def _keep(self, argv: list[str], pass_fds: tuple[int, ...], started: threading.Event) -> None:
        import subprocess

        from ..spawn import spawn

        try:
            # Some end when there is nobody to give them commands.
            self._process = spawn(argv, self._stderr, pass_fds, subprocess.PIPE)
        except TargetError as error:
            self._failure = error.text
        finally:
            started.set()
        if self._process is not None:
            self._process.wait()

    def _wait(self, name: str, ready: Callable[[Path], bool], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while self._process is not None and self._process.poll() is None:
            if ready(self.directory):
                return
            if time.monotonic() > deadline:
                break
            time.sleep(_START_POLL)
        with contextlib.suppress(OSError):
            self._failure = self._failure or last_line(self._stderr.read_bytes())
        raise PeerMissing(f"needs the program {name} to run ({self._failure or 'it does not'})")

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdin is not None:
                self._process.stdin.close()
        super().close()


def find_program(name: str) -> str:
    """Return the path of a program of the host.

    :raises PeerMissing: it is not installed.
    """
    # Daemons may be where only root's PATH leads.
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        package = _PACKAGES.get(name, name)
        raise PeerMissing(f"needs the program {name} (Debian: apt-get install {package})")
    return found


def last_line(output: bytes) -> str | None:
    """Return the last line of what a program wrote, None where it wrote nothing."""
    lines = output.decode("utf-8", "replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), None)
