"""The monitor of a domain that libvirt runs
-----------------------------------------

libvirt holds the monitor of its domains; commands go through its pass-through
(``virDomainQemuMonitorCommand``) and events come through its event loop.  Such commands
mark the domain as tainted, as libvirt's own documentation says.

This is the one module that imports libvirt-python, the optional extra ``libvirt``.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import threading
from typing import Any

from ..errors import MonitorError, TargetError
from ..target.proc import command_line, pids
from ..text import printable
from .base import Arguments, Event, MonitorLost, QueuedMonitor
from .connecting import closed_error, late_error, reply_error, version_in

__all__ = ["LibvirtMonitor", "domain_pid"]

# virConnectDomainQemuMonitorEventRegister: every event of the domain.
_ALL_EVENTS = None

_loop_lock = threading.Lock()
_loop_runs = False


def _modules() -> tuple[Any, Any]:
    """Return libvirt's two modules, with its event loop running.

    :raises TargetError: they are not installed.
    """
    global _loop_runs
    try:
        libvirt = importlib.import_module("libvirt")
        libvirt_qemu = importlib.import_module("libvirt_qemu")
    except ImportError:
        raise TargetError(
            "a libvirt: target needs libvirt-python",
            "install it: pip install 'qmrinspect[libvirt]'",
        ) from None
    with _loop_lock:
        if not _loop_runs:
            # Failures are raised; libvirt would print them as well.
            libvirt.registerErrorHandler(lambda context, error: None, None)
            libvirt.virEventRegisterDefaultImpl()
            threading.Thread(target=_run_loop, args=(libvirt,), name="libvirt", daemon=True).start()
            _loop_runs = True
    return libvirt, libvirt_qemu


def _run_loop(libvirt: Any) -> None:
    while True:
        with contextlib.suppress(libvirt.libvirtError):
            libvirt.virEventRunDefaultImpl()


def _open(target: str) -> tuple[Any, Any]:
    """Return the connection and the domain of ``libvirt:DOMAIN``.

    :raises TargetError: libvirt cannot be reached, or has no such domain.
    """
    libvirt, _ = _modules()
    name = target.partition(":")[2]
    try:
        # The user's own default: LIBVIRT_DEFAULT_URI, or qemu:///system for root.
        connection = libvirt.open(None)
    except libvirt.libvirtError as error:
        raise TargetError(
            f"libvirt cannot be reached: {_said(error)}", "does libvirtd run, and may you use it?"
        ) from None
    try:
        domain = connection.lookupByName(name)
        if domain.isActive():
            return connection, domain
        hint = f"start it: virsh start {printable(name)}"
        problem = f"the domain {printable(name)} does not run"
    except libvirt.libvirtError:
        with contextlib.suppress(libvirt.libvirtError):
            names = [printable(other.name()) for other in connection.listAllDomains(1)]
        hint = "these run: " + ", ".join(names) if names else "virsh list shows those that run"
        problem = f"libvirt has no domain {printable(name)}"
    connection.close()
    raise TargetError(problem, hint)


def _said(error: Exception) -> str:
    return printable(str(error), 400)


def domain_pid(target: str) -> int:
    """Return the process id of the QEMU of a domain on this host.

    :param target: ``libvirt:DOMAIN``.
    :raises TargetError: there is none.
    """
    connection, domain = _open(target)
    try:
        uuid = str(domain.UUIDString())
    finally:
        connection.close()
    # libvirt has no call for it; each QEMU that it starts is given its domain's UUID.
    for pid in pids():
        words = command_line(pid)
        if "-uuid" in words[:-1] and words[words.index("-uuid") + 1] == uuid:
            return pid
    raise TargetError(
        f"the QEMU of {printable(target)} is no process of this host that qmr can see",
        "run qmr on the host of the domain",
    )


class LibvirtMonitor(QueuedMonitor):
    """The monitor of a domain, through libvirt.

    :param target: ``libvirt:DOMAIN``.
    :raises TargetError: libvirt cannot be reached, or has no such domain.
    :raises MonitorError: it does not let commands through.
    """

    def __init__(self, target: str) -> None:
        super().__init__()
        self._libvirt, self._qemu = _modules()
        self.address = target
        self._connection, self._domain = _open(target)
        libvirt = self._libvirt
        try:
            self._events = self._qemu.qemuMonitorEventRegister(
                self._connection, self._domain, _ALL_EVENTS, self._on_event, None
            )
            self._life = self._connection.domainEventRegisterAny(
                self._domain, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_life, None
            )
            self._connection.registerCloseCallback(self._on_close, None)
        except libvirt.libvirtError as error:
            self._connection.close()
            raise MonitorError(f"libvirt tells no events of {target}: {_said(error)}") from None
        self.version = version_in(self.execute("query-version"))

    def _exchange(
        self, command: str, arguments: Arguments, timeout: float, descriptor: int | None = None
    ) -> object:
        self._check()
        message: dict[str, object] = {"execute": command}
        if arguments:
            message["arguments"] = dict(arguments)
        done: list[object] = []

        def work() -> None:
            try:
                text = self._qemu.qemuMonitorCommand(self._domain, json.dumps(message), 0)
                done.append(json.loads(text))
            except (self._libvirt.libvirtError, ValueError) as error:
                done.append(error)

        # The call has no timeout of its own.
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(timeout)
        if not done:
            raise late_error(self.address, command, timeout)
        reply = done[0]
        if isinstance(reply, Exception):
            raise self._failed(command, reply)
        assert isinstance(reply, dict)
        if "error" in reply:
            raise reply_error(command, reply["error"])
        return reply.get("return")

    def _failed(self, command: str, error: Exception) -> MonitorError:
        try:
            alive = bool(self._domain.isActive())
        except self._libvirt.libvirtError:
            alive = False
        if alive:
            return MonitorError(f"libvirt refused {command}: {_said(error)}")
        lost = MonitorLost(f"the domain of {self.address} has ended during {command}")
        self._queue.fail(lost)
        return lost

    def close(self) -> None:
        self._queue.fail(closed_error(self.address))
        with contextlib.suppress(self._libvirt.libvirtError):
            self._qemu.qemuMonitorEventDeregister(self._connection, self._events)
        with contextlib.suppress(self._libvirt.libvirtError):
            self._connection.domainEventDeregisterAny(self._life)
        with contextlib.suppress(self._libvirt.libvirtError):
            self._connection.unregisterCloseCallback()
        with contextlib.suppress(self._libvirt.libvirtError):
            self._connection.close()

    # Called by libvirt's event loop.

    def _on_event(
        self,
        connection: object,
        domain: object,
        name: str,
        seconds: int,
        micros: int,
        details: str | None,
        opaque: object,
    ) -> None:
        try:
            data = json.loads(details) if details else {}
        except ValueError:
            data = {}
        self._queue.put(Event(str(name), data, seconds * 1_000_000 + micros))

    def _on_life(
        self, connection: object, domain: object, event: int, detail: int, opaque: object
    ) -> None:
        if event == self._libvirt.VIR_DOMAIN_EVENT_STOPPED:
            self._queue.fail(MonitorLost(f"the domain of {self.address} has ended"))

    def _on_close(self, connection: object, reason: int, opaque: object) -> None:
        self._queue.fail(MonitorLost(f"libvirt has closed the connection of {self.address}"))
