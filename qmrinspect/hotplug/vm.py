"""A QEMU of our own
-----------------

Starts a QEMU without a guest in a temporary directory, and takes it down again
whatever happens.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Callable

from ..closing import Closing
from ..errors import MonitorError, TargetError
from ..monitor.base import Monitor
from ..monitor.connecting import answers
from ..monitor.open import open_monitor
from ..spawn import spawn

__all__ = ["Vm"]

# sockaddr_un.sun_path, with its final NUL (unix(7)).
_SUN_PATH = 108

# Seconds that a killed QEMU has to be gone.
_KILL_S = 10.0

# How often a starting QEMU is looked at, in seconds.
_START_POLL = 0.002

# Where distributions keep what a QEMU needs at start, for one that brings nothing itself.
_FIRMWARE = ("/usr/share/seabios", "/usr/share/qemu", "/usr/lib/ipxe/qemu")

# How many of QEMU's last messages are quoted.
_LAST_LINES = 4


class Vm(Closing):
    """A QEMU process that ends with this object, or with its thread at the latest.

    The machine has its default devices but no network.  The kernel kills QEMU when the
    *thread* that made this object ends (``PR_SET_PDEATHSIG``, prctl(2)), so that no QEMU
    outlives a ``kill -9``; make it in a thread that lives as long as the QEMU is needed.

    :param qemu: the program, a name in ``PATH`` or a path.
    :param machine: QEMU's ``-machine``, with its options.
    :param accel: QEMU's ``-accel``.
    :param extra: more arguments for QEMU.
    :param stopped: do not run the virtual CPUs (``-S``).
    :param firmware: directories for ``-L``.  By default those of ``QMR_FIRMWARE`` (separated
        by colons); without it, those of the distribution for a QEMU that is not part of it.
    :param timeout: seconds that QEMU may take to open its monitor.
    :raises TargetError: there is no such program, or it ended at once or did not start
        in time; the text quotes QEMU's own words.
    """

    def __init__(
        self,
        qemu: str = "qemu-system-x86_64",
        machine: str = "pc",
        accel: str = "tcg",
        extra: Iterable[str] = (),
        stopped: bool = True,
        firmware: Iterable[str] | None = None,
        timeout: float = 20.0,
    ) -> None:
        extra = tuple(extra)
        program = shutil.which(qemu)
        if program is None:
            raise TargetError(
                f"there is no QEMU program {qemu!r}",
                "install it (Debian: apt-get install qemu-system-x86), or name another with --qemu",
            )
        #: The temporary directory of this VM, gone after :meth:`kill`.
        self.directory = _short_directory()
        #: The address of its QMP socket.
        self.qmp = str(self.directory / "qmp")
        self._stderr = self.directory / "stderr"
        #: The command line.
        self.argv = [
            program,
            *("-machine", machine, "-accel", accel, "-nic", "none"),
            *("-display", "none", "-monitor", "none", "-no-user-config"),
            *("-qmp", f"unix:{self.qmp.replace(',', ',,')},server=on,wait=off"),
            *(["-S"] if stopped else []),
            *(word for place in _firmware(program, firmware) for word in ("-L", place)),
            *extra,
        ]
        self._again = (qemu, machine, accel, tuple(extra), stopped, firmware, timeout)
        self._last_words: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._process = spawn(self.argv, self._stderr)
            self._cleanup = weakref.finalize(self, _clean, self._process, self.directory)
            self._wait_started(timeout)
        except BaseException:
            _clean(self._process, self.directory)
            raise

    def another(self) -> Vm:
        """Start one like this."""
        return Vm(*self._again)

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        assert self._process is not None
        return self._process.pid

    def alive(self) -> bool:
        """Say whether QEMU runs."""
        assert self._process is not None
        return self._process.poll() is None

    def wait(self, timeout: float) -> bool:
        """Wait until QEMU has ended, for ``timeout`` seconds at most; say whether it has."""
        assert self._process is not None
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def exit_text(self) -> str | None:
        """Say how QEMU ended, in one line: signal or status, and its last messages.

        None while it runs.
        """
        assert self._process is not None
        status = self._process.poll()
        if status is None:
            return None
        ending = f"exit status {status}"
        if status < 0:
            # Real-time signals have no name.
            with contextlib.suppress(ValueError):
                ending = f"killed by {signal.Signals(-status).name}"
        words = self.last_words()
        return f"{ending}: {words}" if words is not None else ending

    def last_words(self) -> str | None:
        """Return the last lines that QEMU wrote to its standard error, as one line, if any."""
        with contextlib.suppress(OSError), open(self._stderr, "rb") as stderr:
            stderr.seek(max(0, os.path.getsize(self._stderr) - 4096))
            lines = stderr.read().decode("utf-8", "replace").splitlines()
            wanted = [line.strip() for line in lines if line.strip(" *\t")]
            self._last_words = "; ".join(wanted[-_LAST_LINES:]) or None
        return self._last_words

    def monitor(self, opener: Callable[[str], Monitor] = open_monitor) -> Monitor:
        """Open its monitor, which serves one client at a time.

        :param opener: the kind of monitor, for one :class:`RecordingMonitor`.
        :raises MonitorError: another client holds it, or QEMU has ended.
        """
        try:
            return opener(self.qmp)
        except MonitorError as error:
            # A dying QEMU closes its socket a little before it is gone.
            if not self.wait(_START_POLL * 5):
                raise
            raise MonitorError(f"QEMU has ended ({self.exit_text()})") from error

    def close(self) -> None:
        """End QEMU with SIGKILL and remove its directory; harmless when repeated."""
        self.last_words()
        self._cleanup()

    def _wait_started(self, timeout: float) -> None:
        # QEMU listens before it makes the machine.
        deadline = time.monotonic() + timeout
        while not os.path.exists(self.qmp):
            self._check_start(deadline, timeout)
            time.sleep(_START_POLL)
        # It is bound a little before it is listened on.
        while not answers(self.qmp, max(0.1, deadline - time.monotonic())):
            # Either it is about to end, or it will answer.
            self.wait(_START_POLL * 5)
            self._check_start(deadline, timeout)

    def _check_start(self, deadline: float, timeout: float) -> None:
        if not self.alive():
            raise TargetError(f"QEMU did not start ({self.exit_text()})", " ".join(self.argv))
        if time.monotonic() > deadline:
            raise TargetError(
                f"QEMU did not open its monitor within {timeout:g} s",
                self.last_words() or "start it by hand: " + " ".join(self.argv),
            )


def _clean(process: subprocess.Popen[bytes] | None, directory: Path) -> None:
    if process is not None:
        process.kill()
        # One that waits in the kernel is a zombie of ours until we end.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_KILL_S)
    shutil.rmtree(directory, ignore_errors=True)


def _short_directory() -> Path:
    place = Path(tempfile.mkdtemp(prefix="qmr-"))
    if len(os.fsencode(place / "qmp")) < _SUN_PATH:
        return place
    place.rmdir()
    return Path(tempfile.mkdtemp(prefix="qmr-", dir="/tmp"))


def _firmware(program: str, wanted: Iterable[str] | None) -> list[str]:
    if wanted is not None:
        return list(wanted)
    named = os.environ.get("QMR_FIRMWARE")
    if named is not None:
        return [place for place in named.split(":") if place]
    home = Path(os.path.realpath(program)).parent
    # An installed QEMU finds its own beside itself (PREFIX/bin, PREFIX/share/qemu).
    if (home.parent / "share" / "qemu").is_dir():
        return []
    return [place for place in _FIRMWARE if os.path.isdir(place)]
