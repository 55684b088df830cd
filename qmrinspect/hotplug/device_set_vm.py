"""A VM with a named set of devices
--------------------------------
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ..closing import Closing
from ..errors import TargetError
from ..peers import vhost_user
from ..peers.peer import SocketPeer
from .device_sets import DEVICE_SETS, VHOST_USER, Part, arguments, make_files
from .vm import Vm

__all__ = ["DeviceSetVm", "LeftOut"]

# The guest's memory, with room for the memory devices.
_MEMORY = {"none": "256M", "mixed": "256M,slots=8,maxmem=2G"}


class LeftOut(NamedTuple):
    """A part that this QEMU refused, and what it said."""

    words: str
    reason: str


class DeviceSetVm(Closing):
    """A VM with a set of devices, without those that its QEMU refuses.

    :param device_set: a key of :data:`DEVICE_SETS`.
    :param qemu: the program.
    :param machine: the machine type, with options where wanted.
    :param extra: more arguments for QEMU.
    :param stopped: do not run the virtual CPUs.
    :param unwanted: what was refused before, which is not tried again.
    :raises TargetError: it does not start, whatever is left out.
    """

    def __init__(
        self,
        device_set: str,
        qemu: str = "qemu-system-x86_64",
        machine: str = "pc",
        accel: str = "tcg",
        extra: Iterable[str] = (),
        stopped: bool = True,
        unwanted: Iterable[LeftOut] = (),
    ) -> None:
        #: Where its files are, gone after :meth:`kill`.
        self.directory = Path(tempfile.mkdtemp(prefix="qmr-device-set-"))
        self._vhost_user: SocketPeer | None = None
        #: The parts that its QEMU refused.
        self.left_out = list(unwanted)
        try:
            make_files(self.directory)
            backend = str(self.directory / VHOST_USER)
            self._vhost_user = SocketPeer(vhost_user.vhost_user, backend)
            self.vm = self._start(device_set, qemu, machine, accel, list(extra), stopped)
        except BaseException:
            self._remove()
            raise

    def _start(
        self, device_set: str, qemu: str, machine: str, accel: str, extra: list[str], stopped: bool
    ) -> Vm:
        kind = machine.split(",")[0]
        memory = _MEMORY["none" if kind == "microvm" else device_set]
        gone = {refused.words for refused in self.left_out}
        parts = [p for p in DEVICE_SETS[device_set] if kind in p.machines and p.words not in gone]
        while True:
            words = [word for p in parts for word in arguments(p, kind, self.directory)]
            try:
                return Vm(qemu, machine, accel, ["-m", memory, *words, *extra], stopped, None, 60)
            except TargetError as error:
                refused = _refused(error.text, parts, kind, self.directory)
                if refused is None:
                    raise
                lost = {refused.words, *_dependents(refused, parts)}
                reason = _reason(error.text)
            for part in parts:
                if part.words in lost:
                    why = reason if part is refused else f"needs {refused.words}"
                    self.left_out.append(LeftOut(part.words, why))
            parts = [part for part in parts if part.words not in lost]
            for path in self.directory.iterdir():
                if path.is_socket():
                    path.unlink()

    def wait_for(self, path: Path, text: str, timeout: float) -> bool:
        """Wait until a file has ``text``, for ``timeout`` seconds or until QEMU ends."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and self.vm.alive():
            if path.exists() and text.encode() in path.read_bytes():
                return True
            time.sleep(0.05)
        return False

    def close(self) -> None:
        """End QEMU and remove its files; harmless when repeated."""
        self.vm.close()
        self._remove()

    def _remove(self) -> None:
        if self._vhost_user is not None:
            self._vhost_user.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def _refused(text: str, parts: Iterable[Part], machine: str, directory: Path) -> Part | None:
    """Return the part that QEMU's last message is about: it repeats the option, as a rule."""
    for message in reversed(text.split("; ")):
        for part in parts:
            words = arguments(part, machine, directory)
            signs = (f"{' '.join(words)}:", f"{words[0]}: invalid option", part.sign)
            if any(sign and sign in message for sign in signs):
                return part
    return None


def _dependents(part: Part, parts: Iterable[Part]) -> set[str]:
    """Return the words of all parts that need a part, by the names that it gives."""
    lost = {part.words}
    for other in parts:
        for words in list(lost):
            name = re.search(r"\b(?:id|node-name)=([\w-]+)", words)
            if name and re.search(rf"(?<!\bid)(?<!node-name)={name[1]}\b", other.words):
                lost.add(other.words)
    return lost - {part.words}


def _reason(text: str) -> str:
    """Return the last thing that a QEMU said, without the option that it repeats."""
    said = text.rstrip(")").split("; ")[-1]
    return said.rsplit(": ", 1)[-1][:160]
