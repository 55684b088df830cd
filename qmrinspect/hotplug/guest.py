"""A Linux guest
-------------

Boots a kernel with an initramfs that leaves a shell on the serial port, has it use what
was plugged, and has it release it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ..errors import TargetError, UsageError
from .plugging import Plugged
from .vm import Vm

__all__ = ["GUEST_PATIENCE_S", "GUEST_START_OPTIONS", "Guest", "find_guest"]

#: Seconds that the guest has to release a device: it polls for the attention button.
GUEST_PATIENCE_S = 12.0

# Seconds that it takes to boot under TCG on a busy machine, and to use a device.
_BOOT_S = 45.0
_USE_S = 20.0

_MEMORY = "512M"

#: The exclusive start options of the catalogue that a VM with a guest has.
GUEST_START_OPTIONS = ("shared-memory",)

_READY = b"QMR-GUEST-READY"
_USED = b"QMR-USED-"

# Brings every link up and reads a little of every disk; what is not there yet comes
# within a moment.
_USE = (
    "sleep 1; for n in /sys/class/net/*; do ip link set ${n##*/} up; done 2>/dev/null; "
    "for d in /sys/block/[hnsv]*; do dd if=/dev/${d##*/} of=/dev/null bs=64k count=4; done "
    "2>/dev/null; cd /sys/class/net; echo QMR-USED-$((%d + 0)): $(ls | grep -v lo) "
    "$(cd /sys/block; ls | grep '^[hnsv]') :\n"
)


def find_guest(text: str) -> str:
    """Return ``KERNEL:INITRD`` for what ``--guest`` says.

    ``linux`` is made from the distribution's packages by ``tools/make_guest.py``.

    :raises UsageError: there is no such guest.
    """
    if text == "linux":
        tool = Path(__file__).resolve().parents[2] / "tools" / "make_guest.py"
        if not tool.is_file():
            raise UsageError(
                "the guest's maker is not installed", "name a guest: --guest KERNEL:INITRD"
            )
        made = subprocess.run(
            [sys.executable, str(tool)], capture_output=True, text=True, check=False
        )
        if made.returncode:
            raise UsageError("no guest can be made", made.stderr.strip().splitlines()[-1])
        return ":".join(made.stdout.split())
    kernel, colon, initrd = text.partition(":")
    if not colon or not os.path.isfile(kernel) or not os.path.isfile(initrd):
        raise UsageError(f"there is no guest {text!r}", "--guest takes none, linux, or a pid")
    return text


class Guest:
    """A guest and the shell on its serial port.

    :param paths: of its kernel and initramfs, joined by a colon.
    """

    def __init__(self, paths: str) -> None:
        kernel, _, initrd = paths.partition(":")
        self._directory = tempfile.mkdtemp(prefix="qmr-guest-")
        self._path = os.path.join(self._directory, "serial")
        self._socket: socket.socket | None = None
        self._said = b""
        self._uses = 0
        #: For QEMU.
        self.arguments = [
            *("-kernel", kernel, "-initrd", initrd, "-m", _MEMORY),
            # A vhost-user backend wants the guest's memory.
            *("-object", f"memory-backend-memfd,id=qmr-ram,size={_MEMORY},share=on"),
            *("-machine", "memory-backend=qmr-ram"),
            *("-append", "console=ttyS0 quiet tsc_early_khz=2000000 panic=-1 qmr.sh=1"),
            *("-serial", f"unix:{self._path},server=on,wait=off"),
        ]

    def wait(self, vm: Vm) -> None:
        """Wait until the guest has booted.

        :raises TargetError: it did not.
        """
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(self._path)
        if not self._read_until(_READY, _BOOT_S):
            last = self._said[-200:].decode("utf-8", "replace").strip()
            raise TargetError(
                f"the guest did not boot within {_BOOT_S:g} s", last or vm.exit_text()
            )

    def use(self, plugged: Plugged) -> tuple[str, ...]:
        """Have the guest use what was plugged; return the links and disks that it used."""
        assert self._socket is not None
        self._uses += 1
        mark = _USED + f"{self._uses}: ".encode()
        with contextlib.suppress(OSError):
            self._socket.sendall((_USE % self._uses).encode())
            if self._read_until(mark, _USE_S) and self._read_until(b" :", 1.0, after=mark):
                said = self._said.rpartition(mark)[2].partition(b" :")[0]
                return tuple(said.decode("utf-8", "replace").split())
        return ()

    def _read_until(self, wanted: bytes, timeout: float, after: bytes = b"") -> bool:
        assert self._socket is not None
        deadline = time.monotonic() + timeout
        while wanted not in (self._said.rpartition(after)[2] if after else self._said):
            self._socket.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                piece = self._socket.recv(65536)
            except OSError:
                piece = b""
            if not piece or time.monotonic() > deadline:
                return False
            self._said = self._said[-4096:] + piece
        return True

    def close(self) -> None:
        """Release the serial port."""
        if self._socket is not None:
            self._socket.close()
        shutil.rmtree(self._directory, ignore_errors=True)
