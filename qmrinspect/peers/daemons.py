"""Programs and files of the host
------------------------------

What stands behind a backend where the host has a program for it: daemons, a second
QEMU, and files that only a tool can make.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Callable

from ..errors import PeerMissing
from ..monitor.connecting import answers as monitor_answers
from . import bridge_helper as helper
from .peer import Peer, ProgramPeer, find_program, last_line

__all__ = [
    "ConnectedSocket",
    "RemoteDevice",
    "answers",
    "bridge_helper",
    "certificates",
    "message_bus",
    "pipe",
    "run",
    "smart_card",
    "vde_switch",
]

# Seconds that a tool has; a key takes it some 0.1.
_TOOL_S = 20.0

# Days that certificates are valid.
_DAYS = "30"


def answers(path: Path) -> bool:
    """Whether somebody listens on a unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1.0)
        try:
            client.connect(str(path))
        except OSError:
            return False
        return True


def run(argv: list[str], directory: Path) -> None:
    """Run a program of the host in a directory, for 20 s at most.

    :raises PeerMissing: it is not installed, fails, or does not end.
    """
    command = [find_program(argv[0]), *argv[1:]]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TOOL_S,
            cwd=directory,
            check=False,
        )
        if not done.returncode:
            return
        reason = last_line(done.stderr or done.stdout) or f"exit status {done.returncode}"
    except subprocess.TimeoutExpired:
        reason = f"it takes more than {_TOOL_S:g} s"
    raise PeerMissing(f"needs the program {argv[0]} to work ({reason})")


def _filled(peer: Peer, fill: Callable[[Path], None]) -> Peer:
    try:
        fill(peer.directory)
    except BaseException:
        peer.close()
        raise
    return peer


# Files ----------------------------------------------------------------------------


def certificates() -> Peer:
    """Return a directory with an authority, and a server that it vouches for.

    The names are those of ``qcrypto_tls_creds_x509_load()`` (crypto/tlscredsx509.c).
    """
    return _filled(Peer(), _certify)


def _certify(directory: Path) -> None:
    new = "openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes".split()
    words = f"-x509 -subj /CN=qmr -days {_DAYS} -keyout ca-key.pem -out ca-cert.pem"
    run([*new, *words.split()], directory)
    words = "-subj /CN=localhost -keyout server-key.pem -out server.csr"
    run([*new, *words.split()], directory)
    words = "openssl x509 -req -in server.csr -CA ca-cert.pem -CAkey ca-key.pem"
    words += f" -set_serial 2 -days {_DAYS} -out server-cert.pem"
    run(words.split(), directory)


def smart_card() -> Peer:
    """Return a certificate database with one certificate, ``qmr`` (docs/ccid.txt)."""
    return _filled(Peer(), _imprint)


def _imprint(directory: Path) -> None:
    (directory / "noise").write_bytes(os.urandom(64))
    run("certutil -N -d sql:. --empty-password".split(), directory)
    words = "certutil -S -d sql:. -s CN=qmr -n qmr -x -t CT,CT,CT -k rsa -g 2048 -z noise"
    run(words.split(), directory)


def pipe() -> Peer:
    """Return a pair of named pipes, ``pipe.in`` and ``pipe.out`` (chardev/char-pipe.c)."""

    def make(directory: Path) -> None:
        os.mkfifo(directory / "pipe.in")
        os.mkfifo(directory / "pipe.out")

    return _filled(Peer("pipe"), make)


def bridge_helper() -> Peer:
    """Return a script that QEMU runs as its bridge helper.

    :raises PeerMissing: there are no tap interfaces to be had.
    """
    try:
        os.close(helper.open_tap())
    except OSError as error:
        raise PeerMissing(f"needs a tap interface of the host ({error.strerror})") from None
    # Inside GDB the program that runs is not Python.
    python = sys.executable
    if not python or "python" not in os.path.basename(python):
        python = find_program("python3")

    def write(directory: Path) -> None:
        words = shlex.join([python, "-I", os.path.abspath(helper.__file__)])
        (directory / "helper").write_text(f'exec {words} "$@"\n')

    return _filled(Peer("helper"), write)


# Programs -------------------------------------------------------------------------

_BUS_CONFIGURATION = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path={}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""


def message_bus() -> Peer:
    """Return a D-Bus daemon of our own, which starts no services; ``path`` is its socket."""

    def argv(directory: Path) -> list[str]:
        configuration = directory / "bus.conf"
        configuration.write_text(_BUS_CONFIGURATION.format(directory / "bus"))
        return ["dbus-daemon", f"--config-file={configuration}", "--nofork", "--nopidfile"]

    return ProgramPeer(argv, lambda directory: answers(directory / "bus"), "bus")


def vde_switch() -> Peer:
    """Return a VDE switch; ``path`` is its directory."""

    def argv(directory: Path) -> list[str]:
        # It makes the directory itself, and ends when its standard input does.
        return ["vde_switch", "--sock", str(directory / "switch"), "--mode", "600"]

    return ProgramPeer(argv, lambda directory: answers(directory / "switch" / "ctl"), "switch")


# Descriptors ----------------------------------------------------------------------


class ConnectedSocket(Peer):
    """A pair of connected sockets; QEMU is given one, and nobody is at the other."""

    def __init__(self) -> None:
        super().__init__()
        self._pair = socket.socketpair()
        self.descriptor = self._pair[0].fileno()

    def close(self) -> None:
        for end in self._pair:
            end.close()
        super().close()


class RemoteDevice(ProgramPeer):
    """A second QEMU, which has a device for the first (docs/system/multi-process.rst).

    ``descriptor`` is the first one's end of their connection.
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._ours = ours

        def argv(directory: Path) -> list[str]:
            return [
                "qemu-system-x86_64",
                *("-machine", "x-remote", "-accel", "tcg", "-nodefaults", "-display", "none"),
                *("-qmp", f"unix:{directory}/qmp,server=on,wait=off"),
                *("-device", "lsi53c895a,id=remote"),
                *("-object", f"x-remote-object,id=peer,devid=remote,fd={theirs.fileno()}"),
            ]

        # Its end is closed here, so that the first QEMU sees when the second is gone.
        with theirs:
            super().__init__(argv, _ready, timeout=10.0, pass_fds=(theirs.fileno(),))
        self.descriptor = ours.fileno()

    def close(self) -> None:
        super().close()
        self._ours.close()


def _ready(directory: Path) -> bool:
    return monitor_answers(str(directory / "qmp"), 1.0)
